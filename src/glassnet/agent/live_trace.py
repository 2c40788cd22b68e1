"""Sends one packet with the kernel's trace on in every machine, and tells which rules it matched: the kernel's side of `glassnet trace --live`.

nf_tables (also behind iptables-nft) tell each rule. The legacy tables log their trace to a place that no namespace but the host's reads, so
there the counters of rules before and after the packet stand in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from glassnet.agent.live_sender import Flow, Sender
from glassnet.kernel.api import Host, NetNs
from glassnet.kernel.iptables import legacy_tables
from glassnet.kernel.netns import KernelNetNs
from glassnet.kernel.nftrace import ANSWER, PACKET, Event, PacketTrace
from glassnet.net.errors import KernelError, LabError
from glassnet.tracer.live import risen

_FIRST = 0.9  # seconds: TCP sends its first packet again after one
_GRACE = 0.05
_NAMES = {False: PACKET, True: ANSWER}


async def send_traced(machines: Mapping[str, Host], flow: Flow, machine: str, pod: str = "") -> dict[str, Any]:
    """Send `flow` from a machine, or from the pod on it that has the address `pod`; plain values for `tracer.live.Observation`.

    Raises LabError when there is no such machine or pod, KernelError when nothing could be sent.
    """
    host = machines.get(machine)
    if host is None:
        raise LabError(f"a packet can be sent from machines that run here ({', '.join(machines)}), not from {machine}")
    sender = Sender(flow)
    with _pod(host, pod, flow.bits) if pod else contextlib.nullcontext(host.netns) as netns:
        before = await _counters(machines, flow.bits)
        with contextlib.ExitStack() as stack:
            traces, untraced = _start(stack, machines, sender)
            sending = asyncio.create_task(sender.send(netns))
            done, _ = await asyncio.wait([sending], timeout=_FIRST)
            await asyncio.sleep(_GRACE)
            events = {name: trace.read() for name, trace in traces.items()}
        after = await _counters(machines, flow.bits)
        result = await sending
    untraced |= {name: "events of the kernel were lost" for name, found in events.items() if found is None}
    return {
        "source": sender.source,
        "result": result,
        "late": not done,
        "events": {name: _by_direction(found) for name, found in events.items() if found},
        "traced": [name for name in traces if name not in untraced],
        "untraced": untraced,
        "counters": {name: risen(text, after[name]) for name, text in before.items() if name in after},
    }


def _start(
    stack: contextlib.ExitStack, machines: Mapping[str, Host], sender: Sender
) -> tuple[dict[str, PacketTrace], dict[str, str]]:
    """Traces on all machines that can do it, and why others cannot."""
    traces: dict[str, PacketTrace] = {}
    untraced: dict[str, str] = {}
    for name, host in machines.items():
        try:
            traces[name] = PacketTrace(host.netns, sender.flow.bits, sender.marks)
            stack.callback(traces[name].close)
        except KernelError as error:
            untraced[name] = str(error)
    return traces, untraced


def _by_direction(events: list[Event]) -> dict[str, list[tuple[str, str, str, int]]]:
    """Rules by the direction of the packet that met them: each packet's events follow an event of our own table, which tells it.

    A direction whose packet never came by is not there.
    """
    found: dict[str, list[tuple[str, str, str, int]]] = {}
    answers: dict[int, bool] = {}
    last = False
    for event in events:
        if event.start:
            last = answers[event.packet] = event.answer
            found.setdefault(_NAMES[last], [])
        else:
            name = _NAMES[answers.get(event.packet, last)]
            found.setdefault(name, []).append((event.family, event.table, event.chain, event.handle))
    return found


async def _counters(machines: Mapping[str, Host], bits: int) -> dict[str, str]:
    """The legacy tables with their counters, of machines that use them."""
    command = "iptables-legacy-save" if bits == 32 else "ip6tables-legacy-save"
    used = {name: host for name, host in machines.items() if legacy_tables(host.netns)}
    texts = await asyncio.gather(*(host.run([command, "-c"]) for host in used.values()), return_exceptions=True)
    return {name: text.decode() for name, text in zip(used, texts, strict=True) if isinstance(text, bytes)}


@contextlib.contextmanager
def _pod(host: Host, text: str, bits: int) -> Iterator[NetNs]:
    """The named network namespace of a machine that has an address. Raises LabError."""
    place = host.root / "run/netns"
    try:
        names = sorted(os.listdir(place))
    except OSError:
        names = []
    for name in names:
        try:
            netns = KernelNetNs(name, os.open(place / name, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:  # it went away while we looked
            continue
        try:
            if _holds(netns, text, bits):
                yield netns
                return
        finally:
            netns.close()
    raise LabError(f"nobody on {host.name} can send from {text}: no network namespace under /run/netns there has it")


def _holds(netns: NetNs, text: str, bits: int) -> bool:
    try:
        with netns.socket(socket.AF_INET if bits == 32 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((text, 0))
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL):  # EINVAL: the name is no namespace
            return False
        raise LabError(f"{netns.name}: {error.strerror}") from None
    except KernelError:
        return False
    return True
