"""ServicePorts as elements of the table's sets and maps (see `nftables_layout` for the frame they go into).

Only Services with session affinity have chains of their own: one that looks for the client's last endpoint first, and one per endpoint that
remembers the client. Everything else is elements. Sources: nft(8); KEP-3866 for what kube-proxy's nftables mode does.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from glassnet.net import address
from glassnet.proxy.backends.nftables_layout import SMALL, TABLE, Family
from glassnet.proxy.model import Endpoint, ServicePort
from glassnet.ruleset import nft_expressions as x
from glassnet.ruleset import nft_messages as m

LONGEST_NAME = 230  # the kernel allows 255 characters, prefixes included

Element = tuple[str, bytes]  # set or map, key
Slots = tuple[Endpoint, ...]  # an endpoint's place is its slot
SlotKey = tuple[str, str]  # service port's name with its protocol, "cluster" or "local"


@dataclass(slots=True)
class OwnChain:
    """A chain of one Service: the rules' expressions, and the chains it leads to and the sets it uses, which must be there before."""

    rules: tuple[tuple[bytes, ...], ...]


@dataclass(slots=True)
class Elements:
    """What one Service adds: elements (-> what follows the key), chains and sets (-> timeout in seconds) of its own, ready chains it needs,
    and the addresses that may come back to themselves."""

    of: dict[Element, bytes] = field(default_factory=dict)
    chains: dict[str, OwnChain] = field(default_factory=dict)
    sets: dict[str, int] = field(default_factory=dict)
    picks: set[str] = field(default_factory=set)
    hairpins: set[str] = field(default_factory=set)


def place(old: Slots, wanted: tuple[Endpoint, ...]) -> Slots:
    """Slots for the endpoints that are wanted, with as few moves as can be: the last ones fill the holes."""
    if not old or old == wanted:
        return wanted
    left = {each.text: each for each in wanted}
    slots: list[Endpoint | None] = [left.pop(each.text, None) for each in old]
    fresh = list(left.values())
    for index, there in enumerate(slots):
        if there is None and fresh:
            slots[index] = fresh.pop(0)
    slots += fresh
    while None in slots:
        last = slots.pop()
        if last is not None:
            slots[slots.index(None)] = last
    return tuple(each for each in slots if each is not None)


def place_all(old: Mapping[SlotKey, Slots], ports: Iterable[ServicePort]) -> dict[SlotKey, Slots]:
    """Slots of all endpoints of a Service. Those in plain order are left out: it is what a Service gets that never changed."""
    out: dict[SlotKey, Slots] = {}
    for port in ports:
        for kind, wanted in (("cluster", port.cluster), ("local", port.local)):
            name = (f"{port.name}/{port.protocol}", kind)
            before = old.get(name)
            if before is not None and wanted:
                slots = place(before, wanted)
                if slots != wanted:
                    out[name] = slots
    return out


def slots_of(ports: Iterable[ServicePort], moved: Mapping[SlotKey, Slots]) -> dict[SlotKey, Slots]:
    """Every endpoint's slot, as it is now."""
    return {
        name: moved.get(name, wanted)
        for port in ports
        for name, wanted in (
            ((f"{port.name}/{port.protocol}", "cluster"), port.cluster),
            ((f"{port.name}/{port.protocol}", "local"), port.local),
        )
        if wanted
    }


def elements(ports: Iterable[ServicePort], family: Family, slots: Mapping[SlotKey, Slots] | None = None) -> Elements:
    """The elements of one Service's ports."""
    out = Elements()
    for port in ports:
        _Speller(out, port, family, slots or {}).spell()
    return out


class _Speller:
    """Spells one ServicePort."""

    def __init__(self, out: Elements, port: ServicePort, family: Family, slots: Mapping[SlotKey, Slots]) -> None:
        self.out, self.port, self.family, self.slots = out, port, family, slots
        self.note = m.attr(6, m.comment(port.name))

    def spell(self) -> None:
        port, of, family = self.port, self.out.of, self.family
        service = port.name.partition(":")[0]
        of["cluster-ips", family.packed(port.cluster_ip)] = m.attr(6, m.comment(service))
        key = family.entry(port.cluster_ip, port.protocol, port.port)
        chosen = port.internal
        if chosen:
            self.choice("", "", key, chosen, "local" if port.internal_local else "cluster")
        else:
            self.refuse("", key)
        if port.externally_accessible:
            for ip in (*port.external_ips, *port.load_balancer_ips):
                self.external("", family.entry(ip, port.protocol, port.port))
            if port.node_port:
                self.external("node-port-", family.entry("", port.protocol, port.node_port))
            for ip in port.load_balancer_ips if port.source_ranges else ():
                self.restricted(family.entry(ip, port.protocol, port.port))
        for endpoint in port.reachable:
            if endpoint.local:
                self.out.hairpins.add(endpoint.ip)

    def refuse(self, prefix: str, key: bytes) -> None:
        """Refused when there is no endpoint anywhere, dropped when there is only none for this policy."""
        name = "no-local-endpoints" if self.port.any_endpoints else "no-endpoints"
        self.out.of[prefix + name, key] = self.note

    def external(self, prefix: str, key: bytes) -> None:
        """One entry from outside. With policy Local, pods and the node itself still reach all endpoints, the node with its address as source."""
        port, of = self.port, self.out.of
        if not port.external:
            self.refuse(prefix, key)
        if not port.any_endpoints:
            return
        if port.cluster:
            self.choice(prefix, "", key, port.cluster, "cluster")
        if not port.external_local:
            of[f"{prefix}external", key] = self.note
            return
        of[f"{prefix}external-local", key] = self.note
        if port.local:
            self.choice(prefix, "local", key, port.local, "local")

    def choice(self, prefix: str, policy: str, key: bytes, endpoints: tuple[Endpoint, ...], kind: str) -> None:
        """What leads an entry to one of several endpoints. `policy` "local": traffic from outside under externalTrafficPolicy Local."""
        out, count, note = self.out, len(endpoints), self.note
        verdicts = f"{prefix}{policy or 'services'}"
        if self.port.affinity_seconds:
            out.of[verdicts, key] = m.tail(m.verdict(m.GOTO, self.sticky(endpoints, kind)), self.comment)
            return
        ordered = self.slots.get((f"{self.port.name}/{self.port.protocol}", kind), endpoints)
        if prefix or policy or count > SMALL:
            chain = f"{prefix}{policy or 'pick'}-{count}"
            out.of[verdicts, key] = m.tail(m.verdict(m.GOTO, chain), self.comment)
            out.picks.add(chain)
        else:
            out.of[f"services-{count}", key] = note
        name = f"{prefix}{policy}-endpoints" if policy else f"{prefix}endpoints"
        of, pack = out.of, self.target
        for slot, endpoint in enumerate(ordered):
            of[name, key + slot.to_bytes(4, sys.byteorder)] = pack(endpoint) + note

    @property
    def comment(self) -> bytes:
        return m.comment(self.port.name)

    @property
    def target(self) -> Callable[[Endpoint], bytes]:
        """How an endpoint is packed as the data of a map."""
        return _target4 if self.family.v4 else _target6

    def sticky(self, endpoints: tuple[Endpoint, ...], kind: str) -> str:
        """Chains that look for the client's last endpoint first. Which endpoint a client has is shared by all addresses of the port."""
        out, family, port = self.out, self.family, self.port
        base = f"{port.name.replace(':', '/')}/{port.protocol.lower()}"
        chain = _name(f"sticky-{kind}-", base)
        if chain in out.chains:
            return chain
        source = family.load_address(False)
        rules: list[tuple[bytes, ...]] = []
        names = [_name("endpoint-", f"{base}__{e.ip.replace(':', '.')}/{e.port}") for e in endpoints]
        for endpoint, name in zip(endpoints, names, strict=True):
            clients = name.replace("endpoint-", "affinity-", 1)
            out.sets[clients] = port.affinity_seconds
            protocol = {"TCP": 6, "UDP": 17, "SCTP": 132}[port.protocol]
            translate = (
                source,
                x.remember(clients, 0, 8),
                x.meta(x.L4PROTO),
                x.compare(x.EQ, bytes([protocol])),
                x.constant(family.packed(endpoint.ip), 1),
                x.constant(endpoint.port.to_bytes(2, "big"), 2),
                x.dnat(family.number, 1, 2, flags=2),
            )
            out.chains[name] = OwnChain((translate,))
            rules.append((source, x.lookup(clients, 0, 8), x.goes(m.GOTO, name)))
        for index, name in enumerate(names):  # the n-th of those left is taken with probability 1/n
            left = len(names) - index
            chance = (x.numgen(left, 8), x.compare(x.EQ, x.u32(0))) if left > 1 else ()
            rules.append((*chance, x.goes(m.GOTO, name)))
        out.chains[chain] = OwnChain(tuple(rules))
        return chain

    def restricted(self, key: bytes) -> None:
        """loadBalancerSourceRanges: the ranges as one interval set, overlaps put together as the kernel asks for."""
        of, note = self.out.of, self.note
        of["restricted", key] = note
        networks = [ipaddress.ip_network(text) for text in self.port.source_ranges]
        for network in ipaddress.collapse_addresses(networks):  # type: ignore[type-var]
            first = key + network.network_address.packed
            of["allowed-sources", first] = m.nest(10, m.value(key + network.broadcast_address.packed)) + note


def _target4(endpoint: Endpoint) -> bytes:
    # data nest, value, 4 bytes of address, 2 of port, padding
    return _HEAD4 + address.packed(endpoint.ip) + endpoint.port.to_bytes(2, "big") + b"\0\0"


def _target6(endpoint: Endpoint) -> bytes:
    return _HEAD6 + address.packed(endpoint.ip) + endpoint.port.to_bytes(2, "big") + b"\0\0"


_HEAD4 = m.nest(2, m.value(bytes(8)))[:8]
_HEAD6 = m.nest(2, m.value(bytes(20)))[:8]


def _name(prefix: str, base: str) -> str:
    """A readable name, made different from all others by a hash where it had to be cut."""
    if len(base) > LONGEST_NAME:
        digest = base64.b32encode(hashlib.sha256(base.encode()).digest()).decode()[:8].lower()
        base = f"{base[: LONGEST_NAME - 12]}...{digest}"
    return prefix + base


def chain_messages(family: Family, name: str, chain: OwnChain) -> list[m.Message]:
    """The rules of a Service's own chain."""
    return [m.new_rule(family.number, TABLE, name, rule) for rule in chain.rules]
