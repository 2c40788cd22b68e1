"""Routing decisions: rules, tables, longest prefix, metric, multipath, source selection, reverse path.

Source: ip-rule(8), ip-route(8); net/ipv4/{fib_frontend,fib_semantics,fib_trie,devinet,route}.c, net/core/fib_rules.c of Linux.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from glassnet.net import address
from glassnet.net.tristate import Unknown
from glassnet.netstack.model import Address, NextHop, Route, RoutingRule
from glassnet.netstack.namespace import NetStack
from glassnet.tracer.packet import PROTOCOLS, Packet

_DEFAULT_RULES = ((0, "local"), (32766, "main"), (32767, "default"))
_GONE = frozenset(("unreachable", "blackhole", "prohibit"))


class Decision(NamedTuple):
    """Where a packet goes. `type` is the route's (unicast, local, …), or "none"; `share` the part of flows that take this hop."""

    type: str
    route: Route | None = None
    hop: NextHop | None = None
    rule: RoutingRule | None = None
    share: float = 1.0
    unknown: Unknown | None = None

    @property
    def dev(self) -> str:
        return self.hop.dev if self.hop else ""


@dataclass(frozen=True, slots=True)
class Question:
    """What a routing decision is made for."""

    bits: int
    dst: int
    src: int = 0
    iif: str = ""
    oif: str = ""
    mark: int = 0
    protocol: int = 0
    sport: int = 0
    dport: int = 0

    @classmethod
    def of(cls, packet: Packet, iif: str = "", oif: str = "") -> Question:
        """The question for a packet as it stands."""
        return cls(
            packet.bits, packet.dst, packet.src, iif, oif, packet.mark, packet.protocol, packet.sport, packet.dport
        )


class Fib:
    """The routing tables of one namespace, indexed."""

    def __init__(self, stack: NetStack) -> None:
        self.stack = stack
        self._tables: dict[tuple[int, str], dict[int, dict[int, list[Route]]]] = {}
        for route in stack.routes:
            lengths = self._tables.setdefault((route.bits, route.table), {})
            lengths.setdefault(route.length, {}).setdefault(route.network, []).append(route)
        for key, lengths in self._tables.items():
            self._tables[key] = dict(sorted(lengths.items(), reverse=True))
            for networks in lengths.values():
                for routes in networks.values():
                    routes.sort(key=lambda route: route.metric)
        self._rules = {bits: self._rules_of(bits) for bits in (32, 128)}
        if not any(route.table == "local" for route in stack.routes):
            self._local_from_addresses()
        self.local_types: dict[tuple[int, int, str], str] = {}

    def _rules_of(self, bits: int) -> list[RoutingRule]:
        rules = [rule for rule in self.stack.rules if rule.bits == bits]
        if rules:
            return rules
        return [
            RoutingRule(priority, bits, table, text=f"{priority}: from all lookup {table}")
            for priority, table in _DEFAULT_RULES
        ]

    def _local_from_addresses(self) -> None:
        """`ip route` without `table all` shows no local table: addresses tell it."""
        for item in self.stack.addresses:
            full = item.bits
            entries = [(item.value, full, "local")]
            if item.value >> (item.bits - 8) == 127 and item.bits == 32:
                entries.append((127 << 24, 8, "local"))
            for network, length, kind in entries:
                route = Route(network, length, full, "local", kind, (NextHop(item.dev),), scope="host")
                lengths = self._tables.setdefault((full, "local"), {})
                lengths.setdefault(length, {}).setdefault(network, []).append(route)
        for key in ((32, "local"), (128, "local")):
            self._tables[key] = dict(sorted(self._tables.get(key, {}).items(), reverse=True))

    def lookup(self, question: Question) -> list[Decision]:
        """The decision, or several where a multipath route spreads flows. Never empty."""
        rules = self._rules[question.bits]
        jump = 0
        for rule in rules:
            if rule.priority < jump:
                continue
            verdict = _applies(rule, question)
            if isinstance(verdict, Unknown):
                return [Decision("none", rule=rule, unknown=verdict)]
            if not verdict:
                continue
            if rule.action == "goto" or rule.goto:
                jump = rule.goto
                continue
            if rule.action in _GONE:
                return [Decision(rule.action, rule=rule)]
            found = self._table(rule, question)
            if found:
                return found
        return [Decision("none")]

    def _table(self, rule: RoutingRule, question: Question) -> list[Decision]:
        for route in self.matches(rule.table, question.dst, question.bits):
            if route.length <= rule.suppress_length or (question.oif and not _leaves_by(route, question.oif)):
                continue
            if route.type == "throw":
                return []
            if route.tos:
                continue
            if route.type in _GONE or route.type in ("local", "broadcast", "multicast", "anycast"):
                return [Decision(route.type, route, route.hops[0] if route.hops else None, rule)]
            hops = [hop for hop in route.hops if self._usable(hop) and (not question.oif or hop.dev == question.oif)]
            if not hops:
                continue
            total = sum(hop.weight for hop in hops)
            return [Decision("unicast", route, hop, rule, hop.weight / total) for hop in hops]
        return []

    def matches(self, table: str, dst: int, bits: int) -> Iterator[Route]:
        """Routes of a table that hold an address: longest prefix first, then by metric."""
        for length, networks in self._tables.get((bits, table), {}).items():
            yield from networks.get(dst >> (bits - length) << (bits - length) if length else 0, ())

    def _usable(self, hop: NextHop) -> bool:
        link = self.stack.links.get(hop.dev)
        return hop.alive and (link is None or link.up)

    def type_of(self, value: int, bits: int, dev: str = "") -> str:
        """The type of an address, as `addrtype` and `fib daddr type` see it: local, unicast, broadcast, multicast, unreachable, …"""
        key = (value, bits, dev)
        found = self.local_types.get(key)
        if found is None:
            found = self.local_types[key] = self._type_of(value, bits, dev)
        return found

    def _type_of(self, value: int, bits: int, dev: str) -> str:
        if bits == 32 and (value == 0xFFFFFFFF or value >> 24 == 0):
            return "broadcast"  # inet_addr_type: also 0.0.0.0/8
        if value >> (bits - (4 if bits == 32 else 8)) == (0xE if bits == 32 else 0xFF):
            return "multicast"
        for route in self.matches("local", value, bits):
            if not dev or any(hop.dev == dev for hop in route.hops):
                return route.type
        if bits == 32:
            return "unicast"  # __inet_dev_addr_type asks the local table only
        decision = self.lookup(Question(bits, value))[0]
        if decision.type == "none":
            return "unreachable"
        return "unicast" if dev and decision.type == "local" else decision.type

    def is_of_types6(self, value: int, dev: str, wanted: set[str]) -> bool:
        """xt_addrtype's match_type6: kinds that the address itself tells must all be so; of those that routes tell, one."""
        multicast = value >> 120 == 0xFF
        if ("multicast" in wanted and not multicast) or ("unicast" in wanted and (multicast or not value)):
            return False
        if "unspec" in wanted and value:
            return False
        by_route = wanted & {"local", "anycast", "unreachable"}
        return not by_route or self.type_of(value, 128, dev) in by_route

    def source_for(self, decision: Decision, dst: int, bits: int) -> int | None:
        """The address a new packet of this machine gets: the route's, or one of the device's (inet_select_addr)."""
        if decision.route is not None and decision.route.source is not None:
            return decision.route.source
        if decision.type == "local":
            return dst
        hop = decision.hop
        # IPv4 looks for one near the gateway, IPv6 for one that suits the destination (ip6_route_get_saddr): gateways are link-local there
        target = hop.gateway if hop and hop.gateway is not None and bits == 32 else dst
        return self.select_address(decision.dev, target, bits)

    def select_address(self, dev: str, target: int, bits: int) -> int | None:
        """The address of `dev` for packets to `target`: one whose subnet holds it, else its first, else another device's.

        IPv6 has rules of its own: see `select_address6`.
        """
        if bits == 128:
            return select_address6([a for a in self.stack.addresses if a.bits == 128], dev, target)
        own = [a for a in self.stack.addresses if a.dev == dev and a.bits == bits and a.scope in ("global", "site")]
        for item in own:
            if not (item.value ^ target) >> (bits - item.length):
                return item.value
        if own:
            return own[0].value
        others = (a for a in self.stack.addresses if a.bits == bits and a.scope in ("global", "site"))
        return next((a.value for a in others), None)

    def reverse_path(self, packet: Packet, dev: str, local: bool = False) -> tuple[bool, bool]:
        """(some route leads back to the source by `dev`, some route leads back at all): fib_validate_source.

        `local`: an address of the machine itself on that device counts, as it does where accept_local lets it in.
        """
        kinds = ("unicast", "local") if local else ("unicast",)
        answers = [d for d in self.lookup(Question(packet.bits, packet.src, packet.dst)) if d.type in kinds]
        return any(_has_hop(d, dev) for d in answers), bool(answers)


def _has_hop(decision: Decision, dev: str) -> bool:
    return decision.route is not None and any(hop.dev == dev for hop in decision.route.hops)


# Labels of RFC 6724 as the kernel has them (net/ipv6/addrlabel.c), longest prefix first.
_LABELS = tuple((address.prefix(text)[0], address.prefix(text)[1], label) for text, label in (
    ("::1/128", 0), ("::/96", 3), ("2001::/32", 6), ("2001:10::/28", 7), ("2002::/16", 2), ("3ffe::/16", 12),
    ("fec0::/10", 11), ("fc00::/7", 5), ("::/0", 1),
))  # fmt: skip


def _label(value: int) -> int:
    return next(label for network, mask, label in _LABELS if value & mask == network)


def _scope(value: int) -> int:
    return 2 if value == 1 or value >> 118 == 0x3FA else 14


def select_address6(own: list[Address], dev: str, target: int) -> int | None:
    """The source for an IPv6 destination (ipv6_dev_get_saddr, RFC 6724): of all devices' addresses, the first of the best."""
    wanted, label = _scope(target), _label(target)

    def rank(item: Address) -> tuple[object, ...]:
        scope = _scope(item.value)
        common = min(128 - (item.value ^ target).bit_length(), item.length)
        return (
            item.value == target,
            -scope if scope >= wanted else scope - 128,
            item.dev == dev,
            _label(item.value) == label,
            common,
        )

    if wanted == 2 and target != 1:
        own = [item for item in own if item.dev == dev]
    return max(own, key=rank).value if own else None


def _leaves_by(route: Route, dev: str) -> bool:
    return any(hop.dev == dev for hop in route.hops) or not route.hops


def _applies(rule: RoutingRule, question: Question) -> bool | Unknown:
    if rule.unknown:
        return Unknown(f"ip rule {rule.text}", f"selector {rule.unknown!r} is not understood")
    tests: list[Callable[[], bool]] = []
    if rule.source:
        network, mask = rule.source
        tests.append(lambda: question.src & mask == network)
    if rule.destination:
        network_d, mask_d = rule.destination
        tests.append(lambda: question.dst & mask_d == network_d)
    if rule.iif:
        tests.append(lambda: question.iif == rule.iif or (rule.iif == "lo" and not question.iif))
    if rule.oif:
        tests.append(lambda: question.oif == rule.oif)
    if rule.mask or rule.mark:
        tests.append(lambda: question.mark & rule.mask == rule.mark)
    if rule.protocol:
        tests.append(lambda: str(PROTOCOLS.get(rule.protocol, rule.protocol)) == str(question.protocol))
    for ports, value in zip(rule.ports, (question.sport, question.dport), strict=True):
        if ports:
            low, high = ports
            tests.append(lambda low=low, high=high, value=value: low <= value <= high)  # type: ignore[misc]
    return all(test() for test in tests) != rule.inverted


def hop_text(decision: Decision, bits: int) -> str:
    """`via 10.0.0.1 dev eth0`."""
    hop = decision.hop
    if hop is None:
        return ""
    via = f"via {address.text_of(hop.gateway, hop.gateway_bits or bits)} " if hop.gateway is not None else ""
    return f"{via}dev {hop.dev}"
