"""The plugins by name, and one call of one of them from its environment to its answer."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from glassnet.cni.effects import Steps
from glassnet.cni.errors import INVALID_ENVIRONMENT, CniError
from glassnet.cni.fields import shown
from glassnet.cni.request import Call, read_call
from glassnet.cni.result import VERSIONS, render_result

PLUGINS = {  # by name: the module of this package, loaded when it is called first
    "bandwidth": "bandwidth",
    "bridge": "bridge",
    "glassnet": "node",
    "host-local": "host_local",
    "loopback": "loopback",
    "portmap": "portmap",
    "ptp": "ptp",
    "routed": "routed",
    "static": "static",
    "tuning": "tuning",
}
VERSION_ANSWER = {"cniVersion": VERSIONS[-1], "supportedVersions": list(VERSIONS)}
_FUNCTIONS = {"ADD": "add", "DEL": "delete", "CHECK": "check", "STATUS": "status", "GC": "collect"}


def plugin_module(name: str) -> Any:
    """The module of a plugin: a program that works alone loads the one it is. Raises KeyError."""
    return importlib.import_module(f"glassnet.cni.{PLUGINS[name]}")


def answer(
    plugin: str, environment: Mapping[str, str], text: str, pod: int = -1, absent: str = ""
) -> Steps[dict[str, Any] | None]:
    """Carry out one call: what the plugin prints, None for nothing. `pod` and `absent` as in Call. Raises CniError and what effects raise."""
    if plugin not in PLUGINS:
        raise CniError(INVALID_ENVIRONMENT, f'there is no plugin "{plugin}"; want one of {", ".join(PLUGINS)}')
    if environment.get("CNI_COMMAND") == "VERSION":
        return VERSION_ANSWER
    call = read_call(plugin, environment, text, pod, absent)
    return (yield from perform(call))


def perform(call: Call) -> Steps[dict[str, Any] | None]:
    """Carry out a call that is understood. Raises CniError and what effects raise."""
    if call.command in ("ADD", "CHECK") and call.pod < 0:
        why = call.absent or "no such file or directory"
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS: failed to open netns {shown(call.netns)}: {why}")
    found = yield from getattr(plugin_module(call.plugin), _FUNCTIONS[call.command])(call)
    return render_result(found, call.version) if found is not None else None
