"""kube-proxy's own nftables table against what the API asks for.

Source: kube-proxy 1.36, nftables mode: names of chains (`HASH-namespace/name/protocol/port`, the hash the first eight base32 digits of the
name's SHA-256), sets, maps and rules; compared with listings of real nodes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from glassnet.kube.view import Key
from glassnet.net import address
from glassnet.proxy.model import Endpoint, ServicePort
from glassnet.ruleset.model import Table
from glassnet.tracer import listing
from glassnet.tracer.drift_model import (
    EXTRA,
    KUBE_PROXY,
    MISSING,
    Cluster,
    Comparer,
    Deviation,
    Ports,
)
from glassnet.tracer.drift_sets import SetComparer, normal
from glassnet.tracer.listing import KUBE_NAME, Element, Line
from glassnet.tracer.objects import Reference

TABLE = "kube-proxy"
FAMILIES = {"ip": address.IPV4, "ip6": address.IPV6}
LONGEST = 240  # a name's part behind its kind; longer ones are cut
_SOURCE = re.compile(r"(ip6? saddr (?:!= )?|iifname (?:!= )?)(\S+) (?:goto service-|meta mark set)").search
_MARK = re.compile(r"meta mark set meta mark \| (0x[0-9a-f]+)").search
_GOES = re.compile(r"(?:goto|jump) (\S+)").search
_DROPS = re.compile(r"ip6? daddr .* drop")
SETS = ("hairpin-connections", "cluster-ips")
MAPS = ("no-endpoint-services", "no-endpoint-nodeports", "firewall-ips", "service-ips", "service-nodeports")


def chain_base(name: str, protocol: str, endpoint: Endpoint | None = None) -> str:
    """What kube-proxy names the chains of a Service port (`namespace/name[:port]`), or of one of its endpoints, behind the kind."""
    service, _, port = name.partition(":")
    text = f"{service}/{protocol.lower()}/{port}"
    if endpoint is not None:
        text += f"__{endpoint.ip.replace(':', '.')}/{endpoint.port}"
    digits = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:8]
    full = f"{digits}-{text}"
    return full if len(full) <= LONGEST else full[: LONGEST - 3] + "..."


@dataclass(frozen=True, slots=True)
class Options:
    """What a table shows of kube-proxy's options. `source` is the condition on local pods ("ip saddr 10.200.0.0/16", with `!= ` for others)."""

    source: str = ""
    mark: str = "0x4000"
    masquerade_all: bool = False
    node_ports_anywhere: bool = False
    full_random: bool = True


def options(table: Table) -> Options:
    """The options, where several rules tell one by their majority."""
    sources: Counter[str] = Counter()
    marks: Counter[str] = Counter()
    every = False
    for chain in table.chains.values():
        if chain.name != "services" and not chain.name.startswith("external-"):
            continue
        for line in listing.lines(chain):
            found = _SOURCE(line.text)
            if found:
                sources[f"{found[1].replace('!= ', '')}{{}}{found[2]}"] += 1
            elif chain.name == "services" and line.text.startswith(("ip daddr @cluster-ips meta mark", "ip6 daddr @cluster-ips meta mark")):  # fmt: skip
                every = True
            if mark := _MARK(line.text):
                marks[mark[1]] += 1
    masquerading = table.chains.get("masquerading")
    plain = masquerading is not None and any(
        line.text.endswith("masquerade") for line in listing.lines(masquerading) if "masquerade" in line.text
    )
    return Options(
        sources.most_common(1)[0][0] if sources else "",
        marks.most_common(1)[0][0] if marks else "0x4000",
        every,
        "nodeport-ips" not in table.sets,
        not plain,
    )


@dataclass(slots=True)
class _Expected:
    """What should be in the table."""

    elements: dict[str, dict[tuple[str, ...], tuple[str, Reference]]] = field(default_factory=dict)
    chains: dict[str, tuple[list[str], Reference]] = field(default_factory=dict)
    affinity: dict[str, Reference] = field(default_factory=dict)

    def put(self, name: str, key: tuple[str, ...], value: str, subject: Reference) -> None:
        self.elements[name].setdefault(key, (value, subject))


class _Speller:
    """Spells one Service port."""

    def __init__(self, out: _Expected, port: ServicePort, subject: Reference, family: str, how: Options) -> None:
        self.out, self.port, self.subject, self.how = out, port, subject, how
        self.ip = "ip" if family == address.IPV4 else "ip6"
        self.protocol = port.protocol.lower()
        self.base = chain_base(port.name, port.protocol)

    def spell(self) -> None:
        port, out = self.port, self.out
        service = Reference("Service", self.subject.namespace, self.subject.name)
        out.put("cluster-ips", (port.cluster_ip,), "", service)
        key = (port.cluster_ip, self.protocol, str(port.port))
        if port.internal:
            kind = "local" if port.internal_local else "service"
            out.put("service-ips", key, f"goto {kind}-{self.base}", self.subject)
        else:
            out.put("no-endpoint-services", key, self._verdict(), self.subject)
        if port.externally_accessible:
            self._external()
        if port.uses_cluster and port.cluster:
            self._balance("service", port.cluster)
        if port.uses_local and port.local:
            self._balance("local", port.local)
        for endpoint in port.reachable:
            if endpoint.local:
                entry = (endpoint.ip, endpoint.ip, self.protocol, str(endpoint.port))
                out.put("hairpin-connections", entry, "", self.subject)

    def _verdict(self) -> str:
        return "drop" if self.port.any_endpoints else "goto reject-chain"

    def _external(self) -> None:
        port, out, there = self.port, self.out, f"goto external-{self.base}"
        for ip in (*port.external_ips, *port.load_balancer_ips):
            key = (ip, self.protocol, str(port.port))
            if port.any_endpoints:
                out.put("service-ips", key, there, self.subject)
            if not port.external:
                out.put("no-endpoint-services", key, self._verdict(), self.subject)
        if port.node_port:
            number = (self.protocol, str(port.node_port))
            if port.any_endpoints:
                out.put("service-nodeports", number, there, self.subject)
            if not port.external:
                out.put("no-endpoint-nodeports", number, self._verdict(), self.subject)
        if port.any_endpoints:
            out.chains[f"external-{self.base}"] = (self._external_rules(), self.subject)
        if port.source_ranges and port.load_balancer_ips:
            for ip in port.load_balancer_ips:
                out.put("firewall-ips", (ip, self.protocol, str(port.port)), f"goto firewall-{self.base}", self.subject)
            rule = f"{self.ip} saddr != {{ {', '.join(port.source_ranges)} }} drop"
            out.chains[f"firewall-{self.base}"] = ([rule], self.subject)

    def _external_rules(self) -> list[str]:
        port, cluster = self.port, f"service-{self.base}"
        mark = f"meta mark set meta mark | {self.how.mark}"
        if not port.external_local:
            return [f'{mark} comment "masquerade"', *([f"goto {cluster}"] if port.cluster else [])]
        rules = []
        if self.how.source:
            rules.append(f'{self.how.source.format("")} goto {cluster} comment "short-circuit pod traffic"')
        rules.append(f'fib saddr type local {mark} comment "masquerade local traffic"')
        rules.append(f'fib saddr type local goto {cluster} comment "short-circuit local traffic"')
        return [*rules, *([f"goto local-{self.base}"] if port.local else [])]

    def _balance(self, kind: str, endpoints: tuple[Endpoint, ...]) -> None:
        port, count = self.port, len(endpoints)
        if not port.affinity_seconds:
            slots = ", ".join(f"{n} : {each.ip} . {each.port}" for n, each in enumerate(endpoints))
            rule = f"meta l4proto {self.protocol} dnat {self.ip} to numgen random mod {count} map {{ {slots} }}"
            self.out.chains[f"{kind}-{self.base}"] = ([rule], self.subject)
            return
        names = [chain_base(port.name, port.protocol, each) for each in endpoints]
        rules = [f"{self.ip} saddr @affinity-{name} goto endpoint-{name}" for name in names]
        slots = ", ".join(f"{n} : goto endpoint-{name}" for n, name in enumerate(names))
        rules.append(f"numgen random mod {count} vmap {{ {slots} }}")
        self.out.chains[f"{kind}-{self.base}"] = (rules, self.subject)
        for endpoint, name in zip(endpoints, names, strict=True):
            self.out.affinity[f"affinity-{name}"] = self.subject
            translate = f"meta l4proto {self.protocol} dnat to {endpoint.ip}:{endpoint.port}"
            update = f"update @affinity-{name} {{ {self.ip} saddr }}"
            self.out.chains[f"endpoint-{name}"] = ([update, translate], self.subject)


class Comparison:
    """One table of one machine."""

    def __init__(self, machine: str, table: Table, cluster: Cluster, how: Options, ports: Mapping[Key, Ports]) -> None:
        self.machine, self.table, self.cluster, self.how = machine, table, cluster, how
        self.family = FAMILIES[table.family]
        self.ip = table.family
        self.wanted = _Expected({name: {} for name in (*SETS, *MAPS)})
        for each in ports.values():
            for port in each:
                subject = cluster.subject(port.name, port.protocol)
                _Speller(self.wanted, port, subject, self.family, how).spell()
        self.bases = {name.partition("-")[2]: subject for name, (_, subject) in self.wanted.chains.items()}

    def run(self) -> list[Deviation]:
        """All deviations."""
        sets = SetComparer(self.machine, self.table, self.cluster, self._owner)
        out: list[Deviation] = []
        for name, asked in self.wanted.elements.items():
            out += sets.compare(name, asked, "map" if name in MAPS else "set", KUBE_PROXY)
        if not self.how.node_ports_anywhere:
            out += sets.compare("nodeport-ips", self._node_port_addresses(), "set", KUBE_PROXY)
        for name, subject in self.wanted.affinity.items():
            if name not in self.table.sets:
                out.append(Deviation(self.machine, MISSING, sets.title(name), subject, (name,), note="the set is not there"))  # fmt: skip
        for name, there in self.table.sets.items():
            if name.startswith("affinity-") and name not in self.wanted.affinity:
                subject = self._of_name(name) or Reference("", "", "somebody else")
                out.append(Deviation(self.machine, EXTRA, sets.title(name), subject, (), (Line(f"set {name}", there.source, there.line),)))  # fmt: skip
        return out + self._chains()

    def _node_port_addresses(self) -> dict[tuple[str, ...], tuple[str, Reference]]:
        """The set's own content as far as it can be right: addresses of the node; without any, those of the Node object."""
        mine = set(self.cluster.facts(self.machine).addresses)
        there = {each.key[0] for each in listing.elements(self.table.sets["nodeport-ips"])}
        primary = {ip for ip in mine if address.family(ip) == self.family}
        return {(ip,): ("", KUBE_PROXY) for ip in (there & primary or primary)}

    def _chains(self) -> list[Deviation]:
        compare = Comparer(self.machine, self.table, self.cluster, normal, self._subject_of)
        out: list[Deviation] = []
        frame = self._frame()
        for name, (rules, subject) in self.wanted.chains.items():
            chain = self.table.chains.get(name)
            there = listing.lines(chain) if chain is not None else None
            out += compare.chain(name, [(rule, subject) for rule in rules], there, ordered="affinity" not in rules[0])
        for name, rules in frame.items():
            chain = self.table.chains.get(name)
            there = listing.lines(chain) if chain is not None else None
            out += compare.chain(name, [(rule, KUBE_PROXY) for rule in self._known(name, rules, there)], there, True)
        for name, chain in self.table.chains.items():
            if name not in frame and name not in self.wanted.chains:
                out.append(compare.stray(chain, listing.lines(chain), self._of_name(name)))
        return out

    def _known(self, name: str, rules: list[str], there: list[Line] | None) -> list[str]:
        """Without ServiceCIDR objects the rule against unallocated addresses is taken as it is."""
        if name == "cluster-ips-check" and there is not None and not self.cluster.objects.of("servicecidrs"):
            return [*rules, *(line.text for line in there if _DROPS.match(line.text))]
        return rules

    def _frame(self) -> dict[str, list[str]]:
        """The chains that no Service asks for."""
        ip, how, v4 = self.ip, self.how, self.family == address.IPV4
        new, where = "ct state new jump", f"{ip} daddr . meta l4proto . th dport vmap"
        node = f"{ip} daddr @nodeport-ips"
        if how.node_ports_anywhere:
            loopback = "ip daddr != 127.0.0.0/8" if v4 else "ip6 daddr != ::1"
            node = f"fib daddr type local {loopback}"
        masquerade = "masquerade fully-random" if how.full_random else "masquerade"
        to_ip, note = f"{ip} daddr @cluster-ips", 'comment "masquerade clusterIP traffic'
        mark = f"meta mark set meta mark | {how.mark}"
        services = []
        if how.masquerade_all:
            services = [f'{to_ip} {mark} {note}"']
        elif how.source:
            services = [f'{to_ip} {how.source.format("!= ")} {mark} {note} from outside cluster"']
        refuse = [f'{to_ip} reject comment "Reject traffic to invalid ports of ClusterIPs"']
        cidrs = self.cluster.service_cidrs(self.family)
        if cidrs:
            words = cidrs[0] if len(cidrs) == 1 else f"{{ {', '.join(cidrs)} }}"
            refuse.append(f'{ip} daddr {words} drop comment "Drop traffic to unallocated ClusterIPs"')
        check_node = f"{node} meta l4proto . th dport vmap"
        if how.node_ports_anywhere:
            check = (f"{ip} daddr != {'127.0.0.0/8' if v4 else '::1'} meta l4proto . th dport vmap @no-endpoint-nodeports",)  # fmt: skip
            there = self.table.chains.get("nodeport-endpoints-check")
            if there is not None and any("fib daddr" in line.text for line in listing.lines(there)):
                check = (f"{check_node} @no-endpoint-nodeports",)
        else:
            check = (f"{check_node} @no-endpoint-nodeports",)
        firewall = [f"{new} firewall-check"]
        return {
            "filter-prerouting-pre-dnat": firewall,
            "filter-output-pre-dnat": firewall,
            "filter-input": [f"{new} nodeport-endpoints-check", f"{new} service-endpoints-check"],
            "filter-forward": [f"{new} service-endpoints-check", f"{new} cluster-ips-check"],
            "filter-output": [f"{new} service-endpoints-check", f"{new} cluster-ips-check"],
            "nat-prerouting": ["jump services"],
            "nat-output": ["jump services"],
            "nat-postrouting": ["jump masquerading"],
            "nodeport-endpoints-check": list(check),
            "service-endpoints-check": [f"{where} @no-endpoint-services"],
            "firewall-check": [f"{where} @firewall-ips"],
            "services": [*services, f"{where} @service-ips", f"{check_node} @service-nodeports"],
            "masquerading": [
                f"meta mark & {how.mark} != 0 meta mark set meta mark ^ {how.mark} {masquerade}",
                f"ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections {masquerade}",
            ],
            "cluster-ips-check": refuse,
            "reject-chain": ["reject"],
        }

    # -- whose something is

    def _of_name(self, name: str) -> Reference | None:
        """The Service port a chain or set is named after, whether it is there or not any more."""
        named = KUBE_NAME(name)
        if not named:
            return None
        space, service, protocol, port = (*named[3].split("/"), "", "", "")[:4]
        return self.cluster.subject(f"{space}/{service}:{port}" if port else f"{space}/{service}", protocol.upper())

    def _subject_of(self, text: str) -> Reference | None:
        found = _GOES(text)
        return self._of_name(found[1]) if found else None

    def _owner(self, name: str, each: Element) -> Reference | None:
        """Whose an element is that nobody asked for."""
        found = _GOES(each.value)
        if found and (subject := self._of_name(found[1])):
            return subject
        if each.comment and (subject := self.cluster.named(each.comment)):
            return subject
        if name == "cluster-ips" and (subject := self._by_address(each.key[0])):
            return subject
        ports = self.cluster.objects.by_address.get(each.key[0], ())
        if ports and name != "nodeport-ips":
            return ports[0][0].refer()
        if name == "hairpin-connections":
            return self._endpoint_of(each)
        return KUBE_PROXY if name == "nodeport-ips" else None

    def _by_address(self, ip: str) -> Reference | None:
        """The Service that has an address, as the table's other elements say."""
        for name in ("service-ips", "no-endpoint-services"):
            there = self.table.sets.get(name)
            for each in listing.elements(there) if there is not None else ():
                if each.key[0] == ip and (subject := self._owner(name, each)):
                    return Reference("Service", subject.namespace, subject.name, "", subject.value)
        return None

    def _endpoint_of(self, each: Element) -> Reference | None:
        """The Service port that leads to an endpoint: by the chains that are there, then by the API."""
        plain = re.escape(each.key[0])
        leads = re.compile(rf"(?<![\w.:])\[?{plain}\]?(?: \. |:){each.key[3]}(?!\d)").search
        for chain in self.table.chains.values():
            subject = self._of_name(chain.name)
            if subject is not None and any(leads(text) for text in map(_text, listing.lines(chain))):
                return subject
        for port in self.cluster.objects.ports:
            for endpoint in self.cluster.explainer.endpoints(port):
                if (endpoint.ip, str(endpoint.port)) == (each.key[0], each.key[3]):
                    return self.cluster.subject(port.text, port.protocol)
        return None


def _text(line: Line) -> str:
    return line.text
