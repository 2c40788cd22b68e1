"""The live part of `glassnet trace`: the very packet is sent, and the kernel's own trace held against the prediction."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import click

from glassnet.cli.worlds import asked_kubeconfig, take_files
from glassnet.net import address
from glassnet.net.errors import LabError, UsageError
from glassnet.tracer.live import Listings, Observation, answers_of, compare, live_report, without_ours
from glassnet.tracer.machine import POD
from glassnet.tracer.trace import Request, Trace
from glassnet.tracer.world import World

_EPHEMERAL = (40000, 60999)


class Live:
    """A world to be looked at now, and a packet to be sent in it."""

    def __init__(self, snapshot: str | None, lab: str | None) -> None:
        if snapshot is not None:
            raise UsageError("--live sends a packet: it needs a running lab or a node, not a --snapshot")
        from glassnet.kernel.nftrace import TABLE
        from glassnet.lab.state import all_labs
        from glassnet.tracer.snapshot import read_world

        running = bool(lab) or any(found.running() for found in all_labs())
        self._lab, self._in_lab = lab, running and asked_kubeconfig() is None
        self.files, name = take_files(lab, asked_kubeconfig())
        self.world: World = read_world(self.files, name)
        without_ours(self.world, TABLE)

    def source_port(self, given: int) -> int:
        """The port asked for, or one that no connection of the table is likely to have: the packet is to be a first one."""
        source = click.get_current_context().get_parameter_source("sport")
        return given if source == click.core.ParameterSource.COMMANDLINE else random.randint(*_EPHEMERAL)

    def send(self, trace: Trace) -> dict[str, Any]:
        """Send the trace's packet; the comparison, for the report. Raises UsageError, LabError."""
        words = self._words(trace.request, trace)
        seen = Observation.read(self._asked(words))
        return live_report(trace, compare(trace, Listings(self.world, self.files), seen), seen)

    def _words(self, request: Request, trace: Trace) -> dict[str, Any]:
        machine = self.world.machines[request.machine]
        own = [a.text for a in machine.stack.addresses if a.scope == "global" and a.bits == request.bits]
        if machine.kind == POD and not own:
            raise UsageError(f"--live: no address of {machine.name} is known")
        pod = own[0] if machine.kind == POD else ""
        if request.entry:  # an address that no machine of the world has: a pod's, where nobody told the API objects
            pod = address.text_of(request.source, request.bits)
        return {
            "machine": machine.node if machine.kind == POD else machine.name,
            "pod": pod,
            "flow": {
                "bits": request.bits, "protocol": request.protocol, "dst": address.text_of(request.dst, request.bits),
                "dport": request.dport, "sport": request.sport, "length": request.length, "answers": answers_of(trace),
            },
        }  # fmt: skip

    def _asked(self, words: dict[str, Any]) -> dict[str, Any]:
        if self._in_lab:
            from glassnet.lab.control import ask
            from glassnet.lab.state import running_lab

            reply = ask(running_lab(self._lab), "live", 60, **words)
            if "error" in reply:
                raise LabError(reply["error"])
            return reply
        return asyncio.run(_on_this_machine(words))


async def _on_this_machine(words: dict[str, Any]) -> dict[str, Any]:
    from glassnet.agent.live_sender import ask_of
    from glassnet.agent.live_trace import send_traced
    from glassnet.kernel.host import HostMachine

    host = HostMachine()
    try:
        return await send_traced({host.name: host}, ask_of(words["flow"]), words["machine"], words["pod"])
    finally:
        host.close()


def show_live(found: dict[str, Any], request: dict[str, Any], echo: Callable[[str], None] = click.echo) -> None:
    """Print what came of it."""
    machines = found["machines"]
    target = address.with_port(request["to"], request["port"]) if request["port"] else request["to"]
    head = f"live: sent {request['protocol']} {found['source']} → {target}: {found['result']}"
    if found["late"] and found["result"] == "connected":
        head += " by a packet sent again, the first had no answer"
    count = f"{found['rules']} rule{'s' * (found['rules'] != 1)} on {len(machines)} machine{'s' * (len(machines) != 1)}"
    echo("")
    if not found["differences"]:
        echo(
            f"{head}; {count}, all as predicted"
            if found["rules"] or not found["untraced"]
            else f"{head}; no trace to compare"
        )
    else:
        echo(f"{head}; the kernel differs from the prediction ({count} as predicted)")
        for each in found["differences"]:
            where = f"{each['machine']}, rule {each['place']} of the {each['direction']}"
            where = (
                where if each["place"] else f"{each['machine']}, {each['direction']}" if each["machine"] else "result"
            )
            echo(f"  {where}")
            echo(f"    predicted  {each['predicted']}")
            echo(f"    kernel     {each['kernel']}")
    for name in found["counters_only"]:
        echo(f"  {name}: legacy tables give no trace here; the counters of their rules were compared")
    for name, why in found["untraced"].items():
        echo(f"  {name}: no trace ({why})")


__all__ = ["Live", "show_live"]
