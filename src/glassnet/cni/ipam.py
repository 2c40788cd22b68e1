"""Where addresses come from: host-local and static are ours, any other plugin is called as a program, as the specification wants."""

from __future__ import annotations

from typing import Any

from glassnet.cni import host_local, static
from glassnet.cni.effects import Delegate, Steps, ask
from glassnet.cni.errors import CniError
from glassnet.cni.request import Call
from glassnet.cni.result import Result, parse_result

OURS: dict[str, Any] = {"host-local": host_local, "static": static}


def kind(call: Call) -> str:
    """The plugin that gives addresses; "" for a network without."""
    return call.fields.table("ipam").text("type")


def add(call: Call) -> Steps[Result]:
    """ADD of the address plugin: addresses, routes and resolver. Raises CniError."""
    name = kind(call)
    if not name:
        return Result()
    if name in OURS:
        found: Result = yield from OURS[name].add(call)
    else:
        found = parse_result((yield from ask(Delegate(name, "ADD", call.config))), call.version)
    if not found.ips:
        yield from delete(call)
        raise CniError(999, "IPAM plugin returned missing IP config", f"the plugin is {name}")
    return found


def delete(call: Call) -> Steps[None]:
    """DEL of the address plugin."""
    yield from _forward(call, "DEL", "delete")


def check(call: Call) -> Steps[None]:
    """CHECK of the address plugin. Raises CniError."""
    yield from _forward(call, "CHECK", "check")


def status(call: Call) -> Steps[None]:
    """STATUS of the address plugin. Raises CniError."""
    yield from _forward(call, "STATUS", "status")


def collect(call: Call) -> Steps[None]:
    """GC of the address plugin. Raises CniError."""
    yield from _forward(call, "GC", "collect")


def _forward(call: Call, command: str, function: str) -> Steps[None]:
    name = kind(call)
    if name in OURS:
        yield from getattr(OURS[name], function)(call)
    elif name:
        yield from ask(Delegate(name, command, call.config))
