"""What the server answers to one question, by which rule and on behalf of which object. Why nothing is answered: `absence`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from glassnet.dns import compute, names, upstream
from glassnet.dns.model import NOTHING, V4_ZONE, V6_ZONE, Answer, DnsSettings, Record, Server
from glassnet.kube import kinds
from glassnet.kube.view import Key, View
from glassnet.net import address

MOST_ALIASES = 8  # names of type ExternalName that stand for each other
NOERROR, NODATA, NXDOMAIN, SERVFAIL, REFUSED, FORWARDED = "NOERROR", "NODATA", "NXDOMAIN", "SERVFAIL", "REFUSED", "FORWARDED"  # fmt: skip
TYPES = ("A", "AAAA", "SRV", "PTR", "TXT", "CNAME", "MX", "NS")


class Reply(NamedTuple):
    """The answer to one question.

    `code` is a response code, NODATA for NOERROR without an answer, or FORWARDED: `servers` are asked, the first that lives of them, and None
    are servers that are not known. `data` are "TYPE DATA" of the records; `causes` the objects they come from, Kind NAMESPACE/NAME and more.
    """

    code: str
    data: tuple[str, ...] = ()
    rule: str = ""
    causes: tuple[str, ...] = ()
    servers: tuple[Server, ...] | None = ()


class Names:
    """The names of a cluster. `upstreams_known`: the upstreams and stub domains of `settings` are those that there are."""

    def __init__(self, view: View, settings: DnsSettings, *, upstreams_known: bool = True) -> None:
        self.view, self.settings, self._known = view, settings, upstreams_known
        self.aliases: dict[str, str] = {}
        self._records: dict[str, list[tuple[Record, Key | None]]] = {}
        self._exist: set[str] = set()
        self._zones: set[str] = set(settings.zones)
        self._take_in()

    def _take_in(self) -> None:
        self._put(None, compute.apex(self.settings))
        for namespace in self.view.all(kinds.NAMESPACE):
            self._put(None, compute.namespace(namespace.metadata.name, self.settings))
        for key in self.view.services:
            answer = self.of_service(key)
            self._put(key, answer)
            if (alias := compute.alias(answer)) is not None:
                self.aliases[alias.owner] = alias.data

    def of_service(self, key: Key) -> Answer:
        """What a Service gives, with what is wrong about it; nothing for one that is not there."""
        service = self.view.services.get(key)
        return compute.service(service, self.view.slices_of(key), self.settings) if service else NOTHING

    def _put(self, source: Key | None, answer: Answer) -> None:
        for record in answer.records:
            self._zones.add(record.zone)
            if record.owner.startswith("*."):
                continue
            self._records.setdefault(record.owner, []).append((record, source))
            name = record.owner
            while name not in self._exist:  # RFC 4592, 2.2.2: what is above a name exists, up to its zone
                self._exist.add(name)
                if name == record.zone:
                    break
                name = name.partition(".")[2]

    def exists(self, name: str) -> bool:
        """Whether an absolute name in lower case has a place in a zone of ours, with records or without."""
        return name in self._exist

    def ask(self, name: str, kind: str) -> Reply:
        """The answer to a question for an absolute name. Source of the codes: RFC 2308; docs/design/dns.md."""
        name = name.lower()
        if not names.fits(name) and name != ".":
            return Reply(NXDOMAIN)  # no message can carry it, so it is not even sent
        zone = self._zone(name)
        if not zone:
            return self._forwarded(name)
        if name in self.aliases:
            return self._through(name, kind)
        found = sorted(pair for pair in self._records.get(name, ()) if pair[0].type == kind)
        if found:
            return self._answered(found)
        if zone == self.settings.pod_zone and not self.exists(name):
            return self._pod(name, kind)
        if self.exists(name):
            return Reply(NODATA)
        if zone.endswith((V4_ZONE, V6_ZONE)) and (self.settings.upstreams or not self._known):
            return self._forwarded(name)
        return Reply(NXDOMAIN)

    def _zone(self, name: str) -> str:
        """The closest zone of ours that a name is in; "" when there is none, or when a stub domain is closer."""
        stubs = {each.domain for each in self.settings.stubs}
        above = name
        while above:
            if above in stubs:
                return ""
            if above in self._zones:
                return above
            above = above.partition(".")[2]
        return ""

    def _forwarded(self, name: str) -> Reply:
        if not self._known:
            return Reply(FORWARDED, servers=None)
        servers = upstream.for_name(name, self.settings.upstreams, self.settings.stubs)
        return Reply(FORWARDED, servers=servers) if servers else Reply(REFUSED)

    def _through(self, name: str, kind: str) -> Reply:
        """Names that stand for others, and what these are (2.5)."""
        data: list[str] = []
        causes: list[str] = []
        target: str | None = name
        while target is not None and target in self.aliases:
            if len(data) == MOST_ALIASES:
                return Reply(SERVFAIL, tuple(data), "2.5", tuple(causes))
            causes += [self._cause(record, source) for record, source in self._records[target]]
            target = self.aliases[target]
            data.append(f"CNAME {target}")
        if kind not in ("A", "AAAA"):
            return Reply(NOERROR, tuple(data[:1]), "2.5", tuple(causes[:1]))
        end = self.ask(target or "", kind)
        if end.code == REFUSED:
            end = end._replace(code=SERVFAIL)  # nobody to look the name up
        return end._replace(data=(*data, *end.data), rule=" ".join(filter(None, ("2.5", end.rule))), causes=(*causes, *end.causes))  # fmt: skip

    def _answered(self, found: list[tuple[Record, Key | None]]) -> Reply:
        data = tuple(dict.fromkeys(f"{record.type} {record.data}" for record, _ in found))
        causes = dict.fromkeys(self._cause(record, source) for record, source in found)
        rules = dict.fromkeys(self._rule(record, source) for record, source in found)
        return Reply(NOERROR, data, " ".join(rules), tuple(causes))

    def _rule(self, record: Record, source: Key | None) -> str:
        """The section of the specification that a record comes by."""
        if source is None:
            return "2.2" if record.type == "TXT" else ""
        service = self.view.services[source]
        if record.type == "CNAME":
            return "2.5"
        section = {"SRV": 2, "PTR": 3}.get(record.type, 1)
        return f"2.4.{section}" if service.spec.cluster_ip == "None" else f"2.3.{section}"

    def _cause(self, record: Record, source: Key | None) -> str:
        if source is None:
            return "the cluster itself"
        text = f"Service {source}"
        service = self.view.services[source]
        if record.type == "CNAME":
            return f"{text} spec.externalName: {service.spec.external_name}"
        if service.spec.cluster_ip != "None":
            if record.type == "SRV":
                return f"{text} spec.ports[{record.owner.split('.')[0][1:]}].port: {record.data.split()[2]}"
            return f"{text} spec.clusterIPs: {', '.join(service.spec.cluster_ips or (service.spec.cluster_ip,))}"
        ends = list(self._endpoints_of(source, record))
        return f"{text}, {'; '.join(ends)}" if ends else text

    def _endpoints_of(self, key: Key, record: Record) -> Iterator[str]:
        """The endpoints of a headless Service that a record comes from."""
        owner = record.data.rpartition(" ")[2] if record.type in ("SRV", "PTR") else record.owner
        same = owner if record.type in ("SRV", "PTR") else record.data
        name = compute.service_name(key.namespace, key.name, self.settings)
        for piece in self.view.slices_of(key):
            for endpoint in piece.endpoints:
                for text in endpoint.addresses:
                    ip = address.canonical(text)
                    label = endpoint.hostname.lower() or names.address_label(ip)
                    if same in (ip, f"{label}.{name}") and owner in (name, f"{label}.{name}"):
                        pod = f" (Pod {endpoint.target_ref.name})" if endpoint.target_ref else ""
                        yield f"EndpointSlice {piece.metadata.name}: {ip}{pod}"

    def _pod(self, name: str, kind: str) -> Reply:
        """A name made of an address: pods insecure, as CoreDNS calls it."""
        labels = name.removesuffix(f".{self.settings.pod_zone}").split(".")
        if self.view.get(kinds.NAMESPACE, Key("", labels[-1])) is None or len(labels) < 2:
            return Reply(NXDOMAIN)
        ip = pod_address(labels[0])
        if not ip:
            return Reply(NXDOMAIN)
        family = "A" if address.family(ip) == address.IPV4 else "AAAA"
        if kind != family:
            return Reply(NODATA)
        return Reply(NOERROR, (f"{family} {ip}",), "pods insecure", (f"the name itself, as Namespace {labels[-1]} exists",))  # fmt: skip


def pod_address(label: str) -> str:
    """The address that a label such as 10-1-2-3 or fd00--1 stands for; "" when it is none."""
    text = label.replace("-", ".") if label.count("-") == 3 and label.replace("-", "").isdecimal() else label.replace("-", ":")  # fmt: skip
    return address.canonical(text)
