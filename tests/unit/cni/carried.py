"""Calls of plugins with their effects carried out by a function of the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from glassnet.cni import effects as e
from glassnet.cni.request import Call, read_call
from glassnet.net.errors import GlassnetError

T = TypeVar("T")
ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}


def call(conf: Mapping[str, Any], plugin: str = "x", command: str = "ADD", **environment: str) -> Call:
    """A call of a plugin for container c1."""
    variables = {**ENVIRONMENT, "CNI_COMMAND": command, **environment}
    whole = {"cniVersion": "1.1.0", "name": "net", **conf}
    return read_call(plugin, variables, json.dumps(whole), pod=7)


class Carried:
    """Carries effects out: each by the function for its type; `seen` are those that came. A function may raise a GlassnetError."""

    def __init__(self, answers: Mapping[type, Callable[[Any], Any]] | None = None) -> None:
        self.answers, self.seen = dict(answers or {}), list[e.Effect[Any]]()

    def run(self, steps: e.Steps[T]) -> T:
        """Drive a plugin to its end; its answer."""
        send: Callable[[Any], e.Effect[Any]] = steps.send
        value: Any = None
        while True:
            try:
                effect = send(value)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            self.seen.append(effect)
            try:
                value, send = self.answers[type(effect)](effect), steps.send
            except GlassnetError as error:
                value, send = error, steps.throw
