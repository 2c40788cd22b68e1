"""Our own nftables table against what the API asks for: elements as the nftables backend spells them, chains as nft shows the frame's rules."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from glassnet.kube.view import Key
from glassnet.net import address
from glassnet.proxy.backends import nftables
from glassnet.proxy.backends.nftables_layout import FAMILIES as LAYOUTS
from glassnet.proxy.backends.nftables_layout import SMALL, Layout
from glassnet.proxy.model import Rules, ServicePort
from glassnet.ruleset import nft_reader as reader
from glassnet.ruleset.model import Table
from glassnet.tracer import listing
from glassnet.tracer.drift_model import EXTRA, MISSING, Cluster, Comparer, Deviation, Ports
from glassnet.tracer.drift_sets import SetComparer, normal
from glassnet.tracer.listing import OUR_NAME, Element, Line
from glassnet.tracer.objects import Reference

TABLE = "glassnet"
GLASSNET = Reference("", "", "glassnet")
FAMILIES = {"ip": address.IPV4, "ip6": address.IPV6}
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_PODS = re.compile(r"(?:^|@cluster-ips )(ip6? saddr|iifname) (?:!= )?(\S+) (?:return|meta mark set)").search
_MARK = re.compile(r"meta mark set meta mark \| (0x[0-9a-f]+)").search
_PICK = re.compile(r"(pick|local|node-port-pick|node-port-local)-(\d+)").fullmatch
_SLOTS = {"pick": (True, "endpoints"), "local": (True, "local-endpoints"), "node-port-pick": (False, "node-port-endpoints"), "node-port-local": (False, "node-port-local-endpoints")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """What a table shows of the proxy's options. `source`: the condition on local pods, with `{}` where `!= ` goes."""

    source: str = ""
    mark: str = "0x4000"
    masquerade_all: bool = False
    node_ports_anywhere: bool = False


def options(table: Table) -> Options:
    """The options, where several rules tell one by their majority."""
    sources: Counter[str] = Counter()
    marks: Counter[str] = Counter()
    anywhere: Counter[bool] = Counter()
    every = False
    for name in ("services", "external-local", "node-port-external-local", "node-ports", "refuse-node-ports"):
        chain = table.chains.get(name)
        for line in listing.lines(chain) if chain is not None else ():
            if found := _PODS(line.text):
                sources[f"{found[1]} {{}}{found[2]}"] += 1
            elif "@cluster-ips meta mark" in line.text:
                every = True
            if mark := _MARK(line.text):
                marks[mark[1]] += 1
            if "goto node-ports" in line.text or name == "refuse-node-ports":
                anywhere["@node-port-ips" not in line.text] += 1
    return Options(
        sources.most_common(1)[0][0] if sources else "",
        marks.most_common(1)[0][0] if marks else "0x4000",
        every,
        bool(anywhere) and anywhere.most_common(1)[0][0],
    )


class Comparison:
    """One table of one machine."""

    def __init__(self, machine: str, table: Table, cluster: Cluster, how: Options, ports: Mapping[Key, Ports]) -> None:
        self.machine, self.table, self.cluster, self.how = machine, table, cluster, how
        self.ip = table.family
        self.family = LAYOUTS[FAMILIES[table.family]]
        self.asked: dict[str, dict[tuple[str, ...], tuple[str, Reference]]] = {
            name: {} for name in Layout(Rules(family=self.family.name)).set_names()
        }
        self.chains: dict[str, tuple[list[str] | None, Reference]] = {}
        self.sets: dict[str, Reference] = {}
        self.picks: dict[str, Reference] = {f"pick-{n}": GLASSNET for n in range(1, SMALL + 1)}
        for each in ports.values():
            for port in each:
                self._spell(port, cluster.subject(port.name, port.protocol))

    def _spell(self, port: ServicePort, subject: Reference) -> None:
        mine = nftables.elements((port,), self.family)
        service = Reference("Service", subject.namespace, subject.name)
        for (name, key), rest in mine.of.items():
            whose = service if name == "cluster-ips" else subject
            self.asked[name].setdefault(self._key(name, key, rest), (self._value(rest), whose))
        for ip in mine.hairpins:
            self.asked["hairpins"].setdefault((ip, ip), ("", subject))
        self.sets.update(dict.fromkeys(mine.sets, subject))
        for name in mine.picks:
            self.picks.setdefault(name, subject)
        rules = self._sticky(port)
        self.chains.update({name: (rules.get(name), subject) for name in mine.chains})

    # -- bytes of the backend, as nft shows them

    def _key(self, name: str, key: bytes, rest: bytes) -> tuple[str, ...]:
        length = self.family.length
        if name == "cluster-ips":
            return (_address(key),)
        parts: list[str] = []
        if not name.startswith("node-port-"):
            parts.append(_address(key[:length]))
            key = key[length:]
        parts += [_PROTOCOLS[key[0]], str(int.from_bytes(key[4:6], "big"))]
        if name == "allowed-sources":
            end = reader.attributes(reader.attributes(rest)[10])[1]
            first, last = ipaddress.ip_address(key[8:]), ipaddress.ip_address(end[-length:])
            (network,) = ipaddress.summarize_address_range(first, last)
            parts.append(str(first) if first == last else str(network))
        elif key[8:]:
            parts.append(str(int.from_bytes(key[8:12], sys.byteorder)))
        return tuple(parts)

    def _value(self, rest: bytes) -> str:
        data = reader.attributes(rest).get(2)
        if not data:
            return ""
        content = reader.attributes(data)
        if 2 in content:
            return f"goto {reader.string(reader.attributes(content[2])[2])}"
        raw, length = content[1], self.family.length
        return f"{_address(raw[:length])} . {int.from_bytes(raw[length : length + 2], 'big')}"

    def _sticky(self, port: ServicePort) -> dict[str, list[str]]:
        """Rules of the chains that session affinity needs. Names that had to be cut are left out: then only the chains are looked for."""
        base = f"{port.name.replace(':', '/')}/{port.protocol.lower()}"
        found: dict[str, list[str]] = {}
        for kind, endpoints in (("cluster", port.cluster), ("local", port.local)):
            names = [f"{base}__{each.ip.replace(':', '.')}/{each.port}" for each in endpoints]
            rules = [f"{self.ip} saddr @affinity-{name} goto endpoint-{name}" for name in names]
            for index, (name, each) in enumerate(zip(names, endpoints, strict=True)):
                left = len(names) - index
                rules.append(f"{f'numgen random mod {left} 0 ' if left > 1 else ''}goto endpoint-{name}")
                update = f"update @affinity-{name} {{ {self.ip} saddr }}"
                found[f"endpoint-{name}"] = [
                    f"{update} meta l4proto {port.protocol.lower()} dnat to {each.ip}:{each.port}"
                ]
            found[f"sticky-{kind}-{base}"] = rules
        return found

    # -- comparing

    def run(self) -> list[Deviation]:
        """All deviations."""
        sets = SetComparer(self.machine, self.table, self.cluster, self._owner)
        out: list[Deviation] = []
        self._globals()
        for name, asked in sorted(self.asked.items()):
            kind = (
                "map"
                if name.endswith(("services", "local")) or name in {slots for _, slots in _SLOTS.values()}
                else "set"
            )
            out += sets.compare(name, self._seated(name, asked), kind, GLASSNET)
        for name, subject in self.sets.items():
            if name not in self.table.sets:
                out.append(Deviation(self.machine, MISSING, sets.title(name), subject, (name,), note="the set is not there"))  # fmt: skip
        for name, there in self.table.sets.items():
            if name not in self.asked and name not in self.sets:
                subject = self._of_name(name) or Reference("", "", "somebody else")
                out.append(Deviation(self.machine, EXTRA, sets.title(name), subject, (), (Line(f"set {name}", there.source, there.line),)))  # fmt: skip
        return out + self._chains()

    def _globals(self) -> None:
        """Elements that no Service asks for."""
        listed = {name: {e.key for e in listing.elements(self.table.sets[name])} for name in ("service-cidrs", "node-port-ips") if name in self.table.sets}  # fmt: skip
        cidrs = {(text,) for text in self.cluster.service_cidrs(self.family.name)}
        networks = [ipaddress.ip_network(key[0], strict=False) for key in cidrs | listed.get("service-cidrs", set())]
        covered = {(str(each),) for each in ipaddress.collapse_addresses(networks)}  # type: ignore[type-var]
        self.asked["service-cidrs"] = dict.fromkeys(covered, ("", GLASSNET))
        if not self.how.node_ports_anywhere:
            mine = {
                (ip,) for ip in self.cluster.facts(self.machine).addresses if address.family(ip) == self.family.name
            }
            wanted = (listed.get("node-port-ips", set()) & mine) or mine
            self.asked["node-port-ips"] = dict.fromkeys(wanted, ("", GLASSNET))

    def _seated(
        self, name: str, asked: dict[tuple[str, ...], tuple[str, Reference]]
    ) -> dict[tuple[str, ...], tuple[str, Reference]]:
        """Maps of slots: which endpoint has which slot is history and means nothing, so those that are there keep theirs."""
        if name not in {slots for _, slots in _SLOTS.values()} or name not in self.table.sets:
            return asked
        there: dict[tuple[str, ...], dict[str, str]] = {}
        for each in listing.elements(self.table.sets[name]):
            there.setdefault(each.key[:-1], {})[each.key[-1]] = each.value
        groups: dict[tuple[str, ...], list[tuple[str, tuple[str, Reference]]]] = {}
        for key, wanted in asked.items():
            groups.setdefault(key[:-1], []).append((key[-1], wanted))
        out = {}
        for entry, group in groups.items():
            left = {value: (value, subject) for _, (value, subject) in group}
            listed = there.get(entry, {})
            seats = {slot: left.pop(listed[slot]) for slot, _ in group if listed.get(slot) in left}
            rest = iter(left.values())
            for slot, _ in group:
                out[*entry, slot] = seats[slot] if slot in seats else next(rest)
        return out

    def _chains(self) -> list[Deviation]:
        compare = Comparer(self.machine, self.table, self.cluster, normal, self._subject_of)
        out: list[Deviation] = []
        wanted: dict[str, tuple[list[str] | None, Reference]] = {
            **{name: (rules, GLASSNET) for name, rules in self._frame().items()},
            **{name: (self._pick(name), subject) for name, subject in self.picks.items()},
            **self.chains,
        }
        for name, (rules, subject) in wanted.items():
            chain = self.table.chains.get(name)
            there = listing.lines(chain) if chain is not None else None
            if rules is not None or there is None:
                out += compare.chain(name, [(rule, subject) for rule in rules or [name]], there, True)
        for name, chain in self.table.chains.items():
            if name not in wanted:
                subject_ = self._of_name(name) or self._picker(name)
                out.append(compare.stray(chain, listing.lines(chain), subject_))
        return out

    def _pick(self, name: str) -> list[str]:
        prefix, _, count = name.rpartition("-")
        with_address, slots = _SLOTS[prefix]
        entry = f"{self.ip} daddr . meta l4proto . th dport" if with_address else "meta l4proto . th dport"
        counts = (count,) if count == "1" else (count, "1")
        return [
            f"meta l4proto {{ tcp, udp, sctp }} dnat {self.ip} to {entry} . numgen random mod {n} map @{slots}"
            for n in counts
        ]

    def _frame(self) -> dict[str, list[str]]:
        """The chains that are there whatever the Services."""
        ip, how = self.ip, self.how
        entry, number, new = f"{ip} daddr . meta l4proto . th dport", "meta l4proto . th dport", "ct state new jump"
        mark, to_cluster_ip = f"meta mark set meta mark | {how.mark}", f"{ip} daddr @cluster-ips"
        local = ["fib saddr type local " + mark, "fib saddr type local return"]
        outside = [f"{how.source.format('')} return", *local] if how.source else local
        masquerade = []
        if how.masquerade_all:
            masquerade = [f"{to_cluster_ip} {mark}"]
        elif how.source:
            masquerade = [f"{to_cluster_ip} {how.source.format('!= ')} {mark}"]
        node = f"{ip} daddr @node-port-ips"
        if how.node_ports_anywhere:
            node = f"fib daddr type local {ip} daddr != {'127.0.0.0/8' if self.family.v4 else '::1'}"
        refuse, unused = f"{new} refuse", f"{new} unused-cluster-ips"
        return {
            "external-local": [*outside, f"{entry} vmap @local", "accept"],
            "node-port-external-local": [*outside, f"{number} vmap @node-port-local", "accept"],
            "node-ports": [
                f"{number} @node-port-external {mark}",
                f"{number} @node-port-external-local jump node-port-external-local",
                f"{number} vmap @node-port-services",
            ],
            "by-number": [*(f"{entry} @services-{n} goto pick-{n}" for n in range(1, SMALL + 1)), f"{entry} vmap @services"],
            "services": [
                *masquerade, f"{entry} @external {mark}", f"{entry} @external-local jump external-local", "jump by-number",
                f"{to_cluster_ip} jump by-number", f"{entry} @external jump by-number", f"{node} goto node-ports",
            ],
            "firewall": [f"{entry} @restricted {entry} . {ip} saddr != @allowed-sources drop"],
            "refuse": [f"{entry} @no-endpoints reject", f"{entry} @no-local-endpoints drop"],
            "refuse-node-ports": [
                f"{node} {number} @node-port-no-endpoints reject", f"{node} {number} @node-port-no-local-endpoints drop",
            ],
            "unused-cluster-ips": [f"{to_cluster_ip} reject", f"{ip} daddr @service-cidrs drop"],
            "firewall-prerouting": [f"{new} firewall"], "firewall-output": [f"{new} firewall"],
            "prerouting": ["jump services"], "output": ["jump services"],
            "postrouting": [
                f"meta mark & {how.mark} != 0 meta mark set meta mark ^ {how.mark} masquerade fully-random",
                f"ct status dnat {ip} saddr . {ip} daddr @hairpins masquerade fully-random",
            ],
            "filter-input": [f"{new} refuse-node-ports", refuse],
            "filter-forward": [refuse, unused], "filter-output": [refuse, unused],
        }  # fmt: skip

    # -- whose something is

    def _of_name(self, name: str) -> Reference | None:
        named = OUR_NAME(name)
        if not named:
            return None
        space, service, *port, protocol = named[2].split("/")
        return self.cluster.subject(f"{space}/{service}:{port[0]}" if port else f"{space}/{service}", protocol.upper())

    def _picker(self, name: str) -> Reference | None:
        """Whose a ready chain is that nobody asks for: of a Service whose elements lead there."""
        if not _PICK(name):
            return None
        for found in ("services", "local", "node-port-services", "node-port-local"):
            there = self.table.sets.get(found)
            for each in listing.elements(there) if there is not None else ():
                if each.value == f"goto {name}" and (subject := self.cluster.named(each.comment)):
                    return subject
        return GLASSNET

    def _subject_of(self, text: str) -> Reference | None:
        """Rules of ours have no comments; nothing but a jump to a Service's chain tells whose one is."""
        found = re.search(r"(?:goto|jump) (\S+)", text)
        return self._of_name(found[1]) if found else None

    def _owner(self, name: str, each: Element) -> Reference | None:
        if each.comment and (subject := self.cluster.named(each.comment)):
            return subject
        if name in ("service-cidrs", "node-port-ips"):
            return GLASSNET
        if name == "hairpins":
            endpoints = self.table.sets.get("endpoints")
            for other in listing.elements(endpoints) if endpoints is not None else ():
                if other.value.startswith(f"{each.key[0]} . "):
                    return self.cluster.named(other.comment)
        return None


def _address(raw: bytes) -> str:
    return str(ipaddress.ip_address(raw))
