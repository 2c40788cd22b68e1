"""What the evaluator says of a probe, in the words of the kernel's outcome, and whether the two fit."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz_trace.node import Outcome
from tests.fuzz_trace.probes import ICMP, ICMP6, TCP, Probe
from tests.fuzz_trace.scene import INTERNAL

from glassnet.net import address
from glassnet.tracer import path
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import Branch, Packet
from glassnet.tracer.trace import Tracer
from glassnet.tracer.world import World

_ANY_PORT = -1
_XT = {
    "icmp-net-unreachable": "3/0", "icmp-host-unreachable": "3/1", "icmp-proto-unreachable": "3/2", "icmp-port-unreachable": "3/3",
    "icmp-net-prohibited": "3/9", "icmp-host-prohibited": "3/10", "icmp-admin-prohibited": "3/13", "icmp6-no-route": "1/0",
    "icmp6-adm-prohibited": "1/1", "icmp6-addr-unreachable": "1/3", "icmp6-port-unreachable": "1/4", "icmp6-policy-fail": "1/5",
    "icmp6-reject-route": "1/6", "tcp-reset": "reset",
}  # fmt: skip
_NFT = {
    "icmp": {"net-unreachable": "3/0", "host-unreachable": "3/1", "prot-unreachable": "3/2", "port-unreachable": "3/3", "net-prohibited": "3/9", "host-prohibited": "3/10", "admin-prohibited": "3/13"},
    "icmpv6": {"no-route": "1/0", "admin-prohibited": "1/1", "addr-unreachable": "1/3", "port-unreachable": "1/4", "policy-fail": "1/5", "reject-route": "1/6"},
}  # fmt: skip
_ICMPX = {
    "port-unreachable": ("3/3", "1/4"), "admin-prohibited": ("3/13", "1/1"), "no-route": ("3/0", "1/0"), "host-unreachable": ("3/1", "1/3"),
}  # fmt: skip


class Evaluated:
    """The evaluator's answers for one reading of the dumps."""

    def __init__(self, machine: Machine) -> None:
        world = World()
        world.add(machine)
        self.machine, self.tracer = machine, Tracer(world)

    def outcomes(self, probe: Probe) -> tuple[list[Outcome], float, bool]:
        """All it holds possible, the sum of their probabilities, and whether nothing was unknown."""
        packet = Packet(
            probe.bits, probe.protocol, probe.src, probe.dst, probe.sport, probe.dport, icmp_type=0, icmp_code=0,
            flags=probe.flags if probe.protocol == TCP else 0, length=len(probe.build()), ttl=probe.ttl, dscp=probe.dscp,
        )  # fmt: skip
        if probe.protocol in (ICMP, ICMP6):
            packet.icmp_type, packet.icmp_code = probe.icmp_type, probe.icmp_code
        branch = Branch(packet)
        passage = self.tracer.passage(self.machine)
        results = passage.receive(branch, probe.origin, probe.dst) if probe.origin else passage.send(branch)
        found, total, sure = [], 0.0, True
        for result in results:
            found.append(_outcome(result))
            total += result.branch.weight
            sure = sure and not result.branch.doubts
        return found, total, sure

    def steps(self, probe: Probe) -> Iterator[str]:
        """How it comes to its answers, for a person."""
        packet = Packet(probe.bits, probe.protocol, probe.src, probe.dst, probe.sport, probe.dport, flags=probe.flags if probe.protocol == TCP else 0, icmp_type=probe.icmp_type, ttl=probe.ttl, dscp=probe.dscp, length=len(probe.build()))  # fmt: skip
        branch = Branch(packet)
        passage = self.tracer.passage(self.machine)
        results = passage.receive(branch, probe.origin, probe.dst) if probe.origin else passage.send(branch)
        for number, result in enumerate(results):
            yield f"  way {number}: {_outcome(result)}"
            if number < 4 and result.branch.trail:
                for step in result.branch.trail.steps():
                    rule = f"   [{step.chain}: {step.rule.text}]" if step.rule else f"   {step.chain}"
                    yield f"    {step.hook or '-'}: {step.action}{rule}"


def _outcome(result: path.Result) -> Outcome:
    packet = result.branch.packet
    connection = packet.connection
    sport = _ANY_PORT if connection is not None and connection.random_port else packet.sport
    if isinstance(result, path.Departure):
        return Outcome(
            "forward", result.dev, packet.src, sport, packet.dst, packet.dport, packet.ttl, packet.dscp, packet.mark
        )
    if result.kind in (path.DELIVERED, path.REFUSED):
        return Outcome("deliver", "", packet.src, sport, packet.dst, packet.dport, packet.ttl, packet.dscp, packet.mark)
    if result.kind == path.REJECTED:
        return Outcome("reject", src=packet.src, error=_error(result.detail, packet.bits))
    if result.kind == path.DROPPED:
        return Outcome("drop")
    return Outcome(result.kind, error=result.detail)


def _error(detail: str, bits: int) -> str:
    if detail in _XT:
        return _XT[detail]
    kind, _, word = detail.partition(" ")
    if kind == "icmpx":
        return _ICMPX[word][bits == 128]
    return _NFT[kind][word]


def fits(kernel: Outcome, said: Outcome, probe: Probe) -> bool:
    """Whether an answer of the evaluator is what the kernel did."""
    if (
        said.kind in ("reject", path.EXPIRED, path.NO_ROUTE, path.UNREACHABLE)
        and kernel.kind == "drop"
        and _unanswered(probe)
    ):
        return True
    if said.kind == "reject":  # the answer to a source that was translated before may get lost
        return kernel == said._replace(src=0) or (kernel.kind == "drop" and said.src != probe.src)
    if said.kind in ("forward", "deliver"):
        same = said._replace(sport=kernel.sport) if said.sport == _ANY_PORT else said
        return same._replace(mark=kernel.mark if said.kind == "forward" else same.mark) == kernel
    if said.kind == "drop":
        return kernel.kind == "drop"
    if said.kind == path.EXPIRED:
        return kernel.error in ("11/0", "3/0")
    if said.kind in (path.NO_ROUTE, path.UNREACHABLE):
        return kernel.kind == "drop" or kernel.error in ("3/0", "3/1", "3/13", "1/0", "1/1", "1/3")
    return False


def _unanswered(probe: Probe) -> bool:
    """Packets that get no answer: errors themselves, broadcasts, those from 127.0.0.1 or, by a device, from an address of the node's own or to
    127.0.0.0/8: a reset would have to leave the node with that address as its source.
    """
    if probe.protocol == ICMP and probe.icmp_type in (3, 4, 5, 11, 12):
        return True
    if probe.protocol == ICMP6 and probe.icmp_type < 128:
        return True
    if probe.bits == 32 and probe.dst & 255 == 255:
        return True
    if probe.bits == 32 and probe.origin and probe.dst >> 24 == 127:
        return True
    source = address.text_of(probe.src, probe.bits)
    return source == "127.0.0.1" or (bool(probe.origin) and source in INTERNAL.values())
