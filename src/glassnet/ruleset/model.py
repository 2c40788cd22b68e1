"""Rules: matches, targets, comments. Sources: iptables-extensions(8), nft(8)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """Source address in a range."""

    cidr: str
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """Destination address in a range."""

    cidr: str
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    """Transport protocol: tcp, udp, sctp."""

    name: str


@dataclass(frozen=True, slots=True)
class Dport:
    """Destination port of a transport protocol."""

    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class CtState:
    """Connection state is one of these."""

    states: tuple[str, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Packet mark under a mask."""

    value: int
    mask: int
    negate: bool = False


@dataclass(frozen=True, slots=True)
class AddressType:
    """Type of the source or destination address in the routing table, e.g. LOCAL."""

    side: str  # src | dst
    kind: str = "LOCAL"


@dataclass(frozen=True, slots=True)
class Probability:
    """True for this share of packets, at random."""

    share: float


@dataclass(frozen=True, slots=True)
class Recent:
    """The `recent` list `name`: set the source, or check that it was set within `seconds` (0: set)."""

    name: str
    seconds: int = 0


@dataclass(frozen=True, slots=True)
class Unknown:
    """A match we do not understand, as its tool spells it."""

    text: str


Match = Source | Destination | Protocol | Dport | CtState | Mark | AddressType | Probability | Recent | Unknown


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on in a chain; come back at its end."""

    chain: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """ACCEPT, DROP, RETURN, or REJECT (icmp-port-unreachable)."""

    name: str


@dataclass(frozen=True, slots=True)
class Dnat:
    """Translate the destination to address:port."""

    to: str


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Translate the source to the outgoing interface's address."""

    random_fully: bool = True


@dataclass(frozen=True, slots=True)
class SetMark:
    """Set (`or`) or flip (`xor`) bits of the packet mark."""

    operation: str  # or | xor
    bits: int


Target = Jump | Verdict | Dnat | Masquerade | SetMark


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `target` None only counts (and, with `Recent`, remembers)."""

    matches: tuple[Match, ...]
    target: Target | None
    comment: str = ""
