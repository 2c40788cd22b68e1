"""The network configuration of one namespace as values: links, addresses, routes, rules, neighbours, sysctls, listening sockets.

Addresses are numbers in network order, `bits` (32 or 128) tells their family. Source of the meanings: ip-link(8), ip-address(8),
ip-route(8), ip-rule(8), ip-neighbour(8), bridge(8), ss(8).
"""

from __future__ import annotations

from glassnet.net import address
from glassnet.net.values import Value


class Link(Value):
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
    carrier: bool = True
    promiscuous: bool = False
    all_multicast: bool = False
    queue: int = 0  # packets (txqueuelen)


class Shaper(Value):
    """A qdisc that holds back: `rate` in bytes a second, `buffer` in ticks of 64 ns, `limit` in bytes (tc-tbf(8), tc-htb(8)).

    Of an htb these are those of its default class, `default`.
    """

    kind: str
    rate: int = 0
    buffer: int = 0
    limit: int = 0
    default: int = 0


class Shaping(Value):
    """How a link's packets are held back: its root qdisc (None: it does not), and where what comes in is redirected to."""

    root: Shaper | None = None
    redirected: tuple[str, ...] = ()


class Address(Value):
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


class OwnAddress(Value):
    """An address of a machine's own as the rest of a network sees it: `network` is what can be reached on the link `dev` without a router.

    `address` is text without, `network` text with a prefix length; they lie apart on a point-to-point link. `mtu` is the link's, in bytes.
    """

    address: str
    network: str
    dev: str
    index: int
    mtu: int


class Vxlan(Value):
    """A VXLAN link as it is: `local` is the outer source ("0.0.0.0", "::": by the routes); `addresses` have prefix lengths. RFC 7348."""

    name: str
    vni: int
    port: int
    local: str
    learning: bool
    hardware: str
    mtu: int
    up: bool
    alias: str
    index: int = 0
    rp_filter: int = 0
    addresses: tuple[str, ...] = ()


class NextHop(Value):
    """Where a route goes: a gateway (None: on the link itself) and a device. `weight` as in ip-route(8), from 1."""

    dev: str
    gateway: int | None = None
    weight: int = 1
    alive: bool = True
    gateway_bits: int = 0  # another family than the route's (RFC 5549): its bits


class Route(Value):
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


class RoutingRule(Value):
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


class Neighbour(Value):
    """An entry of the neighbour table; `state` in capitals (REACHABLE, FAILED, …)."""

    value: int
    bits: int
    dev: str
    hardware: str = ""
    state: str = ""


class BridgePort(Value):
    """A port of a bridge, as `bridge link` shows it."""

    name: str
    master: str
    state: str = "forwarding"
    hairpin: bool = False
    isolated: bool = False


class Listener(Value):
    """A socket that waits for packets: `address` 0 is any; `dual` says that an IPv6 socket takes IPv4 as well."""

    protocol: str
    value: int
    bits: int
    port: int
    dual: bool = False
    process: str = ""
