"""The table's frame: sets, maps and chains whose number does not depend on the cluster, as nf_tables messages.

A Service with N endpoints sits in the set `services-N` (or, when N is large or clients stay with an endpoint, in the map `services`) and so
leads to chain `pick-N`, which draws a slot below N and looks the endpoint up in one map for all. Sets are used, not verdicts, because the
kernel walks all verdicts of a table whenever one is added (nf_tables_api.c, nft_table_validate).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from glassnet.net import address
from glassnet.proxy.model import Rules
from glassnet.ruleset import nft_expressions as x
from glassnet.ruleset import nft_messages as m
from glassnet.ruleset.nft_messages import Message

TABLE = "glassnet"
SMALL = 8  # Services with so many endpoints at most are in sets by number
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)
_ADDRESS4, _ADDRESS6, _PROTO, _SERVICE, _INTEGER = 7, 8, 12, 13, 4
_PROTOCOLS = {"TCP": b"\6\0\0\0", "UDP": b"\x11\0\0\0", "SCTP": b"\x84\0\0\0"}
_PICKS = {  # chain prefix -> whether the key has an address, and the map with its slots
    "pick": (True, "endpoints"),
    "local": (True, "local-endpoints"),
    "node-port-pick": (False, "node-port-endpoints"),
    "node-port-local": (False, "node-port-local-endpoints"),
}


_NOTES = {
    "by-number": "an address of a Service leads to a chain that picks one of so many endpoints",
    "services": "all new connections; known addresses are looked up twice, in case the table changed in between",
    "external-local": "policy Local: pods and the node may have any endpoint, others one of this node",
    "node-ports": "what no address matched may be a node port",
    "node-port-external-local": "policy Local of a node port",
    "firewall": "loadBalancerSourceRanges, before translation",
    "refuse": "Services without an endpoint, or without one for their policy",
    "refuse-node-ports": "node ports without an endpoint, or without one for their policy",
    "unused-cluster-ips": "what was not translated: other ports of a ClusterIP, and addresses that are none",
}


@dataclass(frozen=True)
class Family:
    """What differs between `table ip` and `table ip6`."""

    name: str

    @property
    def number(self) -> int:
        """AF_INET or AF_INET6."""
        return m.FAMILIES[self.name]

    @cached_property
    def v4(self) -> bool:
        return self.name == address.IPV4

    @property
    def length(self) -> int:
        """Bytes of an address."""
        return 4 if self.v4 else 16

    @property
    def table(self) -> str:
        """How nft names the table."""
        return f"{'ip' if self.v4 else 'ip6'} {TABLE}"

    def packed(self, text: str) -> bytes:
        """An address as bytes."""
        return address.packed(text)

    def entry(self, ip: str, protocol: str, port: int) -> bytes:
        """Key of an address, protocol and port; without the address for a node port ("")."""
        return (address.packed(ip) if ip else b"") + _PROTOCOLS[protocol] + port.to_bytes(2, "big") + b"\0\0"

    # -- loading keys: each part takes registers of 4 bytes, counted from 8

    def load_address(self, destination: bool, register: int = 8) -> bytes:
        """`ip saddr` or `ip daddr`."""
        offset = (16 if destination else 12) if self.v4 else (24 if destination else 8)
        return x.payload(x.NETWORK, offset, self.length, register)

    def load_entry(self, with_address: bool) -> tuple[list[bytes], int]:
        """`ip daddr . meta l4proto . th dport`, or without the address, and the next free register."""
        out, register = [], 8
        if with_address:
            out.append(self.load_address(True))
            register += self.length // 4
        out += [x.meta(x.L4PROTO, register), x.payload(x.TRANSPORT, 2, 2, register + 1)]
        return out, register + 2

    @property
    def _address_type(self) -> int:
        return _ADDRESS4 if self.v4 else _ADDRESS6

    def key_type(self, with_address: bool, *more: int) -> tuple[int, int]:
        """nft's number of the type of an entry, and its length."""
        parts = [self._address_type] if with_address else []
        parts += [_PROTO, _SERVICE, *more]
        return concat(parts), sum(self.length if part == self._address_type else 4 for part in parts)

    def slots_user_data(self, with_address: bool) -> bytes:
        """What tells nft the parts of a map from a slot to an endpoint."""
        ip = m.payload_type(12, 12) if self.v4 else m.payload_type(13, 9)
        port = m.payload_type(11, 2)
        key = ([ip] if with_address else []) + [m.meta_type(x.L4PROTO), port, m.numgen_type(65536)]
        return m.typeof(m.concat_type(*key), m.concat_type(ip, port))


def concat(types: Iterable[int]) -> int:
    """nft's number of a concatenation: 6 bits for each part."""
    number = 0
    for each in types:
        number = number << 6 | each
    return number


FAMILIES = {name: Family(name) for name in (address.IPV4, address.IPV6)}


class Layout:
    """The frame for one set of Rules. `frame()` makes it anew; `chains()` writes the rules of its chains into a table that is there."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.family = rules, FAMILIES[rules.family]
        self._f = self.family.number
        self._ids: dict[str, int] = {}
        self._anonymous = 0

    # -- sets

    def sets(self) -> list[Message]:
        """Every set and map."""
        family, out = self.family, []
        self._ids.clear()
        plain = (self.family.key_type(True)[0] >> 12, family.length)
        entry, number = family.key_type(True), family.key_type(False)
        order = m.udata(0, x.u32(2))  # keys are in network order: nft must know for ranges and for sets that rules fill

        def make(name: str, key: tuple[int, int], **more: object) -> None:
            self._ids[name] = len(self._ids) + 1
            out.append(m.new_set(self._f, TABLE, name, self._ids[name], key=key, **more))  # type: ignore[arg-type]

        make("cluster-ips", plain)
        make("service-cidrs", plain, flags=m.SET_INTERVAL, user_data=order)
        make("node-port-ips", plain)
        make("hairpins", (concat([plain[0]] * 2), 2 * family.length))
        make("restricted", entry)
        ranges, length = family.key_type(True, plain[0])
        fields = [family.length, 1, 2, family.length]
        make("allowed-sources", (ranges, length), flags=m.SET_INTERVAL | m.SET_CONCAT, fields=fields)
        for number_ in range(1, SMALL + 1):
            make(f"services-{number_}", entry)
        for prefix, key, with_address in (("", entry, True), ("node-port-", number, False)):
            make(f"{prefix}services", key, data=m.VERDICT_TYPE)
            make(f"{prefix}local", key, data=m.VERDICT_TYPE)
            for name in ("external", "external-local", "no-endpoints", "no-local-endpoints"):
                make(prefix + name, key)
            for name in ("endpoints", "local-endpoints"):
                slots = family.key_type(with_address, _INTEGER)
                data = (concat([plain[0], _SERVICE]), family.length + 4)
                make(prefix + name, slots, data=data, user_data=family.slots_user_data(with_address))
        return out

    def look(self, name: str, with_address: bool = True, into: int | None = None) -> list[bytes]:
        """Look an entry up in a set, or in a verdict map (`into` 0)."""
        load, _ = self.family.load_entry(with_address)
        return [*load, x.lookup(name, self._ids.get(name, 0), 8, into)]

    # -- rules

    def mark(self) -> list[bytes]:
        """`meta mark set meta mark | BIT`."""
        bit = self.rules.mark
        return [x.meta(x.MARK), x.bits(x.u32(~bit & 0xFFFFFFFF), x.u32(bit)), x.set_mark()]

    def from_pods(self, negate: bool) -> list[bytes]:
        """Traffic of local pods, or all other."""
        detector = self.rules.detector
        assert detector is not None
        operator = x.NEQ if negate else x.EQ
        if detector.kind == "source":
            network = ipaddress.ip_network(detector.value, strict=False)
            masked = [x.bits(network.netmask.packed, bytes(self.family.length))]
            full = network.prefixlen == network.max_prefixlen
            return [
                self.family.load_address(False),
                *([] if full else masked),
                x.compare(operator, network.network_address.packed),
            ]
        name = detector.value.encode()
        wanted = name if detector.kind == "prefix" else name + bytes(16 - len(name))
        return [x.meta(x.IIFNAME), x.compare(operator, wanted)]

    def from_node(self) -> list[bytes]:
        """`fib saddr type local`."""
        return [x.fib(1, 0), x.compare(x.EQ, x.u32(2))]

    def to_node_port(self) -> list[bytes]:
        """Addresses that serve node ports."""
        if self.rules.node_port_addresses is not None:
            return [self.family.load_address(True), x.lookup("node-port-ips", self._ids.get("node-port-ips", 0), 8)]
        if self.family.v4:
            loopback = [x.payload(x.NETWORK, 16, 1), x.compare(x.NEQ, b"\x7f")]
        else:
            loopback = [self.family.load_address(True), x.compare(x.NEQ, bytes(15) + b"\1")]
        return [x.fib(2, 0), x.compare(x.EQ, x.u32(2)), *loopback]

    def pick(self, chain: str) -> list[Message]:
        """The chain `PREFIX-N`, anew: for entries with N endpoints. Where the slot drawn has just gone, the first one is still there."""
        prefix, _, count = chain.rpartition("-")
        out = [m.new_chain(self._f, TABLE, chain), m.flush_chain(self._f, TABLE, chain)]
        return [*out, *self._draw(chain, prefix, int(count)), *(self._draw(chain, prefix, 1) if count != "1" else ())]

    def _draw(self, chain: str, prefix: str, count: int) -> list[Message]:
        """A rule that translates to the endpoint in a slot below `count`, and the set of protocols it begins with."""
        with_address, slots = _PICKS[prefix]
        load, register = self.family.load_entry(with_address)
        self._anonymous += 1
        transports = 1000 + self._anonymous
        translate = [
            x.meta(x.L4PROTO),
            x.lookup("__set%d", transports, 8),
            *load,
            x.numgen(count, register),
            x.lookup(slots, self._ids.get(slots, 0), 8, 8),
            x.dnat(self._f, 8, 8 + self.family.length // 4),
        ]
        described = m.typeof_key(m.meta_type(x.L4PROTO))
        numbers = (m.nest(1, m.nest(1, m.value(bytes([n])))) for n in (6, 17, 132))
        elements = m.text(1, TABLE) + m.text(2, "__set%d") + m.number(4, transports) + m.nest(3, *numbers)
        flags = m.SET_ANONYMOUS | m.SET_CONSTANT
        return [
            m.new_set(self._f, TABLE, "__set%d", transports, key=(_PROTO, 1), flags=flags, size=3, user_data=described),
            m.message(m.ELEMENTS, self._f, elements, m.CREATE),
            m.new_rule(self._f, TABLE, chain, translate),
        ]

    def _shared_chains(self) -> dict[str, list[list[bytes]]]:
        """The chains that base chains jump to."""
        rules = self.rules
        outside: list[list[bytes]] = []
        masquerade: list[list[bytes]] = []
        to_cluster_ip = [self.family.load_address(True), x.lookup("cluster-ips", self._ids.get("cluster-ips", 0), 8)]
        if rules.masquerade_all:
            masquerade = [[*to_cluster_ip, *self.mark()]]
        elif rules.detector:
            masquerade = [[*to_cluster_ip, *self.from_pods(negate=True), *self.mark()]]
        if rules.detector:
            outside = [[*self.from_pods(negate=False), x.goes(m.RETURN)]]
        outside += [[*self.from_node(), *self.mark()], [*self.from_node(), x.goes(m.RETURN)]]
        unused = [self.family.load_address(True), x.lookup("service-cidrs", self._ids.get("service-cidrs", 0), 8)]
        restricted, register = self.family.load_entry(True)
        allowed = [
            *self.look("restricted"),
            *restricted,
            self.family.load_address(False, register),
            x.lookup("allowed-sources", self._ids.get("allowed-sources", 0), 8, negate=True),
            x.goes(m.DROP),
        ]
        return {
            "external-local": [*outside, self.look("local", into=0), [x.goes(m.ACCEPT)]],
            "node-port-external-local": [*outside, self.look("node-port-local", False, 0), [x.goes(m.ACCEPT)]],
            "node-ports": [
                [*self.look("node-port-external", False), *self.mark()],
                [*self.look("node-port-external-local", False), x.goes(m.JUMP, "node-port-external-local")],
                self.look("node-port-services", False, 0),
            ],
            "by-number": [
                *([*self.look(f"services-{n}"), x.goes(m.GOTO, f"pick-{n}")] for n in range(1, SMALL + 1)),
                self.look("services", into=0),
            ],
            "services": [
                *masquerade,
                [*self.look("external"), *self.mark()],
                [*self.look("external-local"), x.goes(m.JUMP, "external-local")],
                [x.goes(m.JUMP, "by-number")],
                # a transaction between two of these lookups may hide a Service from both: then look again
                [*to_cluster_ip, x.goes(m.JUMP, "by-number")],
                [*self.look("external"), x.goes(m.JUMP, "by-number")],
                [*self.to_node_port(), x.goes(m.GOTO, "node-ports")],
            ],
            "firewall": [allowed],
            "refuse": [
                [*self.look("no-endpoints"), x.reject(self._f)],
                [*self.look("no-local-endpoints"), x.goes(m.DROP)],
            ],
            "refuse-node-ports": [
                [*self.to_node_port(), *self.look("node-port-no-endpoints", False), x.reject(self._f)],
                [*self.to_node_port(), *self.look("node-port-no-local-endpoints", False), x.goes(m.DROP)],
            ],
            "unused-cluster-ips": [[*to_cluster_ip, x.reject(self._f)], [*unused, x.goes(m.DROP)]],
        }

    def _base_chains(self) -> dict[tuple[str, str, int, int], list[list[bytes]]]:
        """(name, type, hook, priority) of the chains the kernel calls, and their rules."""
        new = [
            x.ct(x.CT_STATE),
            x.bits(x.u32(x.NEW), x.u32(0)),
            x.compare(x.NEQ, x.u32(0)),
        ]
        firewall = [[*new, x.goes(m.JUMP, "firewall")]]
        services = [[x.goes(m.JUMP, "services")]]
        refuse = [[*new, x.goes(m.JUMP, "refuse")]]
        unused = [[*new, x.goes(m.JUMP, "unused-cluster-ips")]]
        bit = self.rules.mark
        marked = [
            x.meta(x.MARK),
            x.bits(x.u32(bit), x.u32(0)),
            x.compare(x.NEQ, x.u32(0)),
            x.meta(x.MARK),
            x.bits(x.u32(0xFFFFFFFF), x.u32(bit)),
            x.set_mark(),
            x.masquerade(),
        ]
        hairpin = [
            x.ct(x.CT_STATUS),
            x.bits(x.u32(x.STATUS_DNAT), x.u32(0)),
            x.compare(x.NEQ, x.u32(0)),
            self.family.load_address(False),
            self.family.load_address(True, 8 + self.family.length // 4),
            x.lookup("hairpins", self._ids.get("hairpins", 0), 8),
            x.masquerade(),
        ]
        return {
            ("firewall-prerouting", "filter", PREROUTING, -110): firewall,
            ("firewall-output", "filter", OUTPUT, -110): firewall,
            ("prerouting", "nat", PREROUTING, -100): services,
            ("output", "nat", OUTPUT, -100): services,
            ("postrouting", "nat", POSTROUTING, 100): [marked, hairpin],
            ("filter-input", "filter", INPUT, 0): [[*new, x.goes(m.JUMP, "refuse-node-ports")], *refuse],
            ("filter-forward", "filter", FORWARD, 0): [*refuse, *unused],
            ("filter-output", "filter", OUTPUT, 0): [*refuse, *unused],
        }

    def chains(self) -> list[Message]:
        """Make every chain of the frame that is missing, and write the rules of all anew."""
        f, out, rules = self._f, [], []
        for chain in (f"{prefix}-{n}" for prefix in ("pick",) for n in range(1, SMALL + 1)):
            out += self.pick(chain)
        for name, content in self._shared_chains().items():
            out += [m.new_chain(f, TABLE, name, _NOTES[name]), m.flush_chain(f, TABLE, name)]
            rules += [m.new_rule(f, TABLE, name, each) for each in content]
        for (name, kind, hook, priority), content in self._base_chains().items():
            out += [m.base_chain(f, TABLE, name, kind, hook, priority), m.flush_chain(f, TABLE, name)]
            rules += [m.new_rule(f, TABLE, name, each) for each in content]
        return out + rules

    def names(self) -> frozenset[str]:
        """The chains that are there whatever the Services."""
        picks = {f"pick-{n}" for n in range(1, SMALL + 1)}
        return frozenset(picks | self._shared_chains().keys() | {name for name, *_ in self._base_chains()})

    def set_names(self) -> frozenset[str]:
        """The sets and maps that are there whatever the Services."""
        if not self._ids:
            self.sets()
        return frozenset(self._ids)

    def digest(self) -> str:
        """Tells frames whose sets differ: another one cannot take over the elements that are there."""
        return hashlib.sha256(b"".join(self.sets())).hexdigest()[:8]

    def note(self) -> str:
        """The table's comment."""
        return f"glassnet {self.digest()}: Services of the cluster"

    def frame(self) -> list[Message]:
        """The table anew, empty of elements, in place of whatever was there."""
        f = self._f
        return [
            m.new_table(f, TABLE),
            m.delete_table(f, TABLE),
            m.new_table(f, TABLE, self.note()),
            *self.sets(),
            *self.chains(),
        ]
