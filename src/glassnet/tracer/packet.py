"""A packet and its connection as values, and the steps it takes.

A packet belongs to one branch of a trace; `copy` before changing one that others hold.
"""

from __future__ import annotations

import copy as _copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from glassnet.net import address
from glassnet.ruleset.model import Rule

PROTOCOLS = {
    "tcp": 6,
    "udp": 17,
    "sctp": 132,
    "icmp": 1,
    "icmpv6": 58,
    "dccp": 33,
    "udplite": 136,
    "esp": 50,
    "ah": 51,
    "gre": 47,
    "ipip": 4,
}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
PORTED = frozenset((6, 17, 132, 33, 136))
SYN, ACK, RST, FIN = 0x02, 0x10, 0x04, 0x01


@dataclass(slots=True)
class Connection:
    """An entry of one machine's connection table, as `conntrack -L` shows it: the original tuple and the one replies must have.

    `dnat` and `snat` tell whether either translation was decided (also when it was decided that nothing changes).
    """

    bits: int
    protocol: int
    src: int
    sport: int
    dst: int
    dport: int
    reply_src: int
    reply_sport: int
    reply_dst: int
    reply_dport: int
    dnat: bool = False
    snat: bool = False
    mark: int = 0
    zone: int = 0
    replied: bool = False
    assured: bool = False
    random_port: bool = False  # the source port is the kernel's choice
    known: bool = False  # taken from a dump of the table

    def copy(self) -> Connection:
        """One of its own for another branch."""
        return _copy.copy(self)

    @property
    def translates_destination(self) -> bool:
        return (self.reply_src, self.reply_sport) != (self.dst, self.dport)

    @property
    def translates_source(self) -> bool:
        return (self.reply_dst, self.reply_dport) != (self.src, self.sport) or self.random_port

    @property
    def text(self) -> str:
        """As conntrack(8) prints it, without counters and timeouts."""
        name = PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        if self.protocol not in PORTED:
            return (
                f"{name} src={address.text_of(self.src, self.bits)} dst={address.text_of(self.dst, self.bits)} "
                f"src={address.text_of(self.reply_src, self.bits)} dst={address.text_of(self.reply_dst, self.bits)}"
                + (f" mark={self.mark}" if self.mark else "")
            )
        port = "(random)" if self.random_port else str(self.reply_dport)
        return (
            f"{name} src={address.text_of(self.src, self.bits)} dst={address.text_of(self.dst, self.bits)} sport={self.sport} dport={self.dport} "
            f"src={address.text_of(self.reply_src, self.bits)} dst={address.text_of(self.reply_dst, self.bits)} sport={self.reply_sport} dport={port}"
            + (f" mark={self.mark}" if self.mark else "")
        )


@dataclass(slots=True)
class Packet:
    """The fields that rules look at. `reply` is the direction in its connection, `state` what ct state says of it on this machine."""

    bits: int
    protocol: int
    src: int
    dst: int
    sport: int = 0
    dport: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    flags: int = 0
    length: int = 60
    ttl: int = 64
    mark: int = 0
    iif: str = ""
    oif: str = ""
    physin: str = ""
    physout: str = ""
    hook: str = ""
    bridged: bool = False
    connection: Connection | None = None
    state: str = "invalid"
    reply: bool = False
    local_socket: bool = False  # a TPROXY rule gave it to a socket of this machine
    dscp: int = 0
    hardware_source: str = ""
    hardware_destination: str = ""
    next_hop: int = 0

    def copy(self) -> Packet:
        return _copy.copy(self)

    @property
    def name(self) -> str:
        """The protocol's name."""
        return PROTOCOL_NAMES.get(self.protocol, str(self.protocol))

    @property
    def source(self) -> str:
        return self._end(self.src, self.sport)

    @property
    def destination(self) -> str:
        return self._end(self.dst, self.dport)

    @property
    def text(self) -> str:
        """`tcp 10.0.0.1:40000 > 10.32.0.10:80`."""
        return f"{self.name} {self.source} > {self.destination}"

    def _end(self, value: int, port: int) -> str:
        text = address.text_of(value, self.bits)
        return address.with_port(text, port) if self.protocol in PORTED else text


class Step(NamedTuple):
    """One thing that happened to the packet.

    `kind`: send, receive, route, conntrack, rule, policy, nat, bridge, neighbour, note, end. `action` is what happened, in words,
    `packet` the packet after it, in words.
    """

    kind: str
    machine: str
    hook: str
    device: str
    action: str
    at: tuple[int, int, int, int, int, int]  # bits, protocol, source, its port, destination, its port
    rule: Rule | None = None
    chain: str = ""
    fact: Any = None

    @property
    def packet(self) -> str:
        """`tcp 10.0.0.1:40000 > 10.32.0.10:80`: in words only when somebody asks."""
        bits, protocol, src, sport, dst, dport = self.at
        return Packet(bits, protocol, src, dst, sport, dport).text


DOUBTS = (("if it matches: ", "if it does not match: "), ("if: ", "unless: "))


def complementary(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """True when two branches differ in the answer to one question alone."""
    if len(one) != len(other) or not one or one[:-1] != other[:-1]:
        return False
    for yes, no in DOUBTS:
        for first, second in ((one[-1], other[-1]), (other[-1], one[-1])):
            if first.startswith(yes) and second.startswith(no) and first[len(yes) :] == second[len(no) :]:
                return True
    return False


class Trail(NamedTuple):
    """Steps as a chain of links: branches share what they have in common."""

    before: Trail | None
    step: Step

    def steps(self) -> list[Step]:
        """From the first to the last."""
        found: list[Step] = []
        place: Trail | None = self
        while place is not None:
            found.append(place.step)
            place = place.before
        return found[::-1]


@dataclass(slots=True)
class Branch:
    """One way a packet may take: its state so far.

    With `recorded` off no steps are noted. `weight` is the probability of the known chances on the way; `doubts` what had to be assumed where something is not known.
    """

    packet: Packet
    weight: float = 1.0
    doubts: tuple[str, ...] = ()
    trail: Trail | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    recorded: bool = True

    def fork(self, weight: float = 1.0, doubt: str = "") -> Branch:
        """A copy with a packet of its own."""
        packet = self.packet.copy()
        if packet.connection is not None:
            packet.connection = packet.connection.copy()
        return Branch(
            packet,
            self.weight * weight,
            (*self.doubts, doubt) if doubt else self.doubts,
            self.trail,
            dict(self.changes),
            self.recorded,
        )

    def add(
        self, kind: str, machine: str, action: str, rule: Rule | None = None, chain: str = "", fact: Any = None
    ) -> None:
        """Note a step, unless nobody will look."""
        if not self.recorded:
            return
        packet = self.packet
        device = packet.oif if packet.hook in ("output", "postrouting") else packet.iif
        at = (packet.bits, packet.protocol, packet.src, packet.sport, packet.dst, packet.dport)
        self.trail = Trail(self.trail, Step(kind, machine, packet.hook, device, action, at, rule, chain, fact))
