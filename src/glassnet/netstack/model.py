"""The network configuration of one namespace as values: links, addresses, routes, rules, neighbours, sysctls, listening sockets.

Addresses are numbers in network order, `bits` (32 or 128) tells their family. Source of the meanings: ip-link(8), ip-address(8),
ip-route(8), ip-rule(8), ip-neighbour(8), bridge(8), ss(8).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from glassnet.net import address


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. `peer` is the other end's index where the kernel tells it (veth: in the other namespace)."""

    index: int
    name: str
    mtu: int = 0
    up: bool = True
    kind: str = ""
    master: str = ""
    peer: int = 0
    hardware: str = ""
    alias: str = ""
    info: dict[str, object] = field(default_factory=dict, hash=False, compare=False)
    carrier: bool = True
    promiscuous: bool = False
    all_multicast: bool = False
    queue: int = 0  # packets (txqueuelen)


@dataclass(frozen=True, slots=True)
class Shaper:
    """A qdisc that holds back: `rate` in bytes a second, `buffer` in ticks of 64 ns, `limit` in bytes (tc-tbf(8), tc-htb(8)).

    Of an htb these are those of its default class, `default`.
    """

    kind: str
    rate: int = 0
    buffer: int = 0
    limit: int = 0
    default: int = 0


@dataclass(frozen=True, slots=True)
class Shaping:
    """How a link's packets are held back: its root qdisc (None: it does not), and where what comes in is redirected to."""

    root: Shaper | None = None
    redirected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link; `length` is its prefix's. Of IPv6: `tentative` until it is known that nobody else has it, `duplicate` when somebody has."""

    value: int
    bits: int
    length: int
    dev: str
    scope: str = "global"
    tentative: bool = False
    duplicate: bool = False

    @property
    def text(self) -> str:
        return address.text_of(self.value, self.bits)


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where a route goes: a gateway (None: on the link itself) and a device. `weight` as in ip-route(8), from 1."""

    dev: str
    gateway: int | None = None
    weight: int = 1
    alive: bool = True
    gateway_bits: int = 0  # another family than the route's (RFC 5549): its bits


@dataclass(frozen=True, slots=True)
class Route:
    """A route. `type` is unicast, local, broadcast, unreachable, blackhole, prohibit, throw, …; `text` as ip prints it."""

    network: int
    length: int
    bits: int
    table: str = "main"
    type: str = "unicast"
    hops: tuple[NextHop, ...] = ()
    source: int | None = None
    metric: int = 0
    scope: str = "global"
    protocol: str = ""
    mtu: int = 0
    tos: int = 0

    @property
    def text(self) -> str:
        """As `ip route` prints it."""
        where = "default" if not self.length else f"{address.text_of(self.network, self.bits)}/{self.length}"
        if self.length == self.bits:
            where = address.text_of(self.network, self.bits)
        words = [where] if self.type == "unicast" else [self.type, where]
        for hop in self.hops:
            if len(self.hops) > 1:
                words.append("nexthop")
            if hop.gateway is not None:
                words += ["via", address.text_of(hop.gateway, hop.gateway_bits or self.bits)]
            if hop.dev:
                words += ["dev", hop.dev]
            if len(self.hops) > 1:
                words += ["weight", str(hop.weight)]
        if self.source is not None:
            words += ["src", address.text_of(self.source, self.bits)]
        if self.metric:
            words += ["metric", str(self.metric)]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """A rule of the routing policy database. Prefixes are (network, mask); None matches all."""

    priority: int
    bits: int
    table: str = ""
    action: str = "lookup"
    source: tuple[int, int] | None = None
    destination: tuple[int, int] | None = None
    iif: str = ""
    oif: str = ""
    mark: int = 0
    mask: int = 0
    protocol: str = ""
    ports: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None)
    inverted: bool = False
    suppress_length: int = -1
    goto: int = 0
    text: str = ""
    unknown: str = ""  # a selector that is not understood, as it stands


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the neighbour table; `state` in capitals (REACHABLE, FAILED, …)."""

    value: int
    bits: int
    dev: str
    hardware: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class BridgePort:
    """A port of a bridge, as `bridge link` shows it."""

    name: str
    master: str
    state: str = "forwarding"
    hairpin: bool = False
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that waits for packets: `address` 0 is any; `dual` says that an IPv6 socket takes IPv4 as well."""

    protocol: str
    value: int
    bits: int
    port: int
    dual: bool = False
    process: str = ""


@dataclass(slots=True)
class NetStack:
    """All of one network namespace. `missing` names the parts nobody dumped: what depends on them is unknown."""

    links: dict[str, Link] = field(default_factory=dict)
    addresses: list[Address] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    rules: list[RoutingRule] = field(default_factory=list)
    neighbours: dict[tuple[int, int, str], Neighbour] = field(default_factory=dict)
    ports: dict[str, BridgePort] = field(default_factory=dict)
    fdb: dict[tuple[str, str], str] = field(default_factory=dict)  # (bridge, MAC) -> port
    sysctls: dict[str, str] = field(default_factory=dict)
    listeners: list[Listener] | None = None
    missing: set[str] = field(default_factory=set)

    def sysctl(self, name: str, default: str = "0") -> str:
        """The value of a sysctl by its dotted name."""
        return self.sysctls.get(name, default)

    def has(self, value: int, bits: int) -> Address | None:
        """The address entry with this value."""
        return next((a for a in self.addresses if a.value == value and a.bits == bits), None)
