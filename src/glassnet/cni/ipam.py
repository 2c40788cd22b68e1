"""Where addresses come from: host-local and static are ours, any other plugin is called as a program, as the specification wants."""

from __future__ import annotations

from typing import Any

from glassnet.cni import host_local, static
from glassnet.cni.effects import Delegate, Steps, ask
from glassnet.cni.errors import OTHER, CniError
from glassnet.cni.request import Call
from glassnet.cni.result import Result, parse_result
from glassnet.net.errors import GlassnetError

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
        found = yield from _asked(call, name)
    if not found.ips:
        yield from _tried(delete(call))
        raise CniError(OTHER, "IPAM plugin returned missing IP config", f"the plugin is {name}")
    return found


def _asked(call: Call, name: str) -> Steps[Result]:
    """The answer of a plugin that is not ours. One that fails, or cannot be understood, is called with DEL (SPEC.md, section 4)."""
    try:
        answer = yield from ask(Delegate(name, "ADD", call.config))
        if isinstance(
            ips := answer.get("ips"), list
        ):  # a number of an interface says nothing here: the caller makes the interfaces
            answer = {**answer, "ips": [{**one, "interface": None} if isinstance(one, dict) else one for one in ips]}
        return parse_result(answer, call.version, f"the answer of {name}")
    except GlassnetError:
        yield from _tried(delete(call))
        raise


def _tried(steps: Steps[None]) -> Steps[None]:
    try:
        yield from steps
    except GlassnetError:
        return


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
