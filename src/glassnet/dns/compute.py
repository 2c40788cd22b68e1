"""One object -> its records, by the rules of the Kubernetes DNS specification 1.1.0; a rule's number is its section there.

What the specification leaves open is as CoreDNS's plugin `kubernetes` does it, in its mode `pods insecure`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from glassnet.dns import names
from glassnet.dns.model import MARK, NOTHING, SCHEMA, Answer, DnsSettings, Problem, Record
from glassnet.kube.types import EndpointSlice, Service, SliceEndpoint
from glassnet.net import address

TIMES = "7200 1800 86400"  # refresh, retry, expire: for whoever has the zone by transfer
_TYPES = {address.IPV4: "A", address.IPV6: "AAAA"}
_PROTOCOLS = ("TCP", "UDP", "SCTP")


def service_name(namespace: str, name: str, settings: DnsSettings) -> str:
    """The name of a Service."""
    return f"{name}.{settings.namespace_zone(namespace)}"


def apex(settings: DnsSettings) -> Answer:
    """What there is in every cluster: the version (2.2), name servers, the places of Services and pods. SOA records are `soa`'s."""
    zone = settings.zone
    records = [
        Record(zone, f"dns-version.{zone}", "TXT", f'"{SCHEMA}"'),
        Record(zone, f"svc.{zone}", MARK, "\\# 0"),
        *(Record(each, each, "NS", f"ns.dns.{zone}") for each in settings.zones),
        Record(zone, f"ns.dns.{zone}", MARK, "\\# 0"),
    ]
    if pods := settings.pod_zone:
        # The server makes a pod's name out of nothing, in any namespace. The wildcard stands in the way where there is no namespace: by way of
        # a name that does not exist, hence NXDOMAIN. A namespace has its own record, and no wildcard reaches below that (RFC 4592, 2.2.1).
        records += [
            Record(pods, f"_none.{pods}", MARK, "\\# 0"),
            Record(pods, f"*.{pods}", "CNAME", f"no-namespace._none.{pods}"),
        ]
    return Answer(frozenset(records))


def soa(serial: int, settings: DnsSettings) -> str:
    """The data of the SOA record, the same in all zones; negative answers may be kept as long as others (RFC 2308)."""
    return f"ns.dns.{settings.zone} hostmaster.{settings.zone} {serial} {TIMES} {settings.ttl}"


def namespace(name: str, settings: DnsSettings) -> Answer:
    """A namespace: its names exist, whether or not there is a Service in it. Its Services are in a zone of its own, delegated to ourselves:
    a change of records takes the server time in proportion to the zone."""
    own, server = settings.namespace_zone(name), f"ns.dns.{settings.zone}"
    records = [Record(settings.zone, own, "NS", server), Record(own, own, "NS", server)]
    if pods := settings.pod_zone:
        records.append(Record(pods, f"{name}.{pods}", MARK, "\\# 0"))
    return _kept(_Builder(records))


def service(service: Service, slices: Iterable[EndpointSlice], settings: DnsSettings) -> Answer:
    """A Service with its EndpointSlices. Never raises: what cannot be had is among the problems."""
    spec = service.spec
    owner = service_name(service.metadata.namespace, service.metadata.name, settings)
    if spec.type == "ExternalName":
        return _external(service, owner, settings)
    if spec.cluster_ip == "None":
        return _headless(service, owner, slices, settings)
    return _cluster_ips(service, owner, settings) if spec.cluster_ip else NOTHING


def alias(answer: Answer) -> Record | None:
    """The CNAME record of a Service of type ExternalName; None for all others."""
    if len(answer.records) == 1:
        (record,) = answer.records
        return record if record.type == "CNAME" else None
    return None


class _Builder:
    """Records and problems as they are found."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records: set[Record] = set(records)
        self.problems: list[Problem] = []

    def wrong(self, reason: str, message: str) -> None:
        """Note a problem, once."""
        problem = Problem(reason, message)
        if problem not in self.problems:
            self.problems.append(problem)


def _kept(found: _Builder) -> Answer:
    """What was found, without names that DNS cannot carry."""
    if all(len(record.owner) < 64 and len(record.data) < 200 for record in found.records):
        return Answer(frozenset(found.records), tuple(found.problems))
    good = set()
    for record in sorted(found.records):
        long = [name for name in _names(record) if not names.fits(name)]
        for name in long:
            found.wrong("NameTooLong", f"{name} is longer than DNS allows (255 octets, 63 a label) and has no {record.type} record")  # fmt: skip
        if not long:
            good.add(record)
    return Answer(frozenset(good), tuple(found.problems))


def _names(record: Record) -> Iterator[str]:
    yield record.owner
    if record.type in ("SRV", "PTR", "CNAME"):
        yield record.data.rpartition(" ")[2]


# -- ClusterIPs: 2.3.1 A and AAAA, 2.3.2 SRV, 2.3.3 PTR


def _cluster_ips(service: Service, owner: str, settings: DnsSettings) -> Answer:
    found, spec = _Builder(), service.spec
    zone = settings.namespace_zone(service.metadata.namespace)
    own = f"{service.metadata.namespace}/{service.metadata.name}" == settings.own_service
    for text in spec.cluster_ips or (spec.cluster_ip,):
        if not (ip := address.canonical(text)):
            found.wrong("NoAddress", f"{text!r} is no IP address and has no record")
            continue
        kind = _TYPES[address.family(ip)]
        found.records.add(Record(zone, owner, kind, ip))
        if own:
            found.records.add(Record(settings.zone, f"ns.dns.{settings.zone}", kind, ip))
        back, name = names.reverse(ip)
        found.records.add(Record(back, name, "PTR", owner))
    if found.records:
        for port in spec.ports:
            if port.name and port.protocol in _PROTOCOLS:
                found.records.add(_srv(zone, port.name, port.protocol, port.port, owner, owner))
    return _kept(found)


def _srv(zone: str, port: str, protocol: str, number: int, owner: str, target: str) -> Record:
    """All targets have one priority and one weight: none is better than another."""
    return Record(zone, f"_{port}._{protocol.lower()}.{owner}", "SRV", f"0 100 {number} {target}")


# -- headless Services: 2.4.1 A and AAAA, of endpoints too; 2.4.2 SRV; 2.4.3 PTR


class _Claims:
    """Who has which hostname: two endpoints of one family that are not the same pod may share it, and somebody should know."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell, self._owners = tell, dict[tuple[str, str], tuple[str, str]]()

    def claim(self, hostname: str, family: str, endpoint: SliceEndpoint) -> None:
        """An endpoint uses a hostname."""
        target = endpoint.target_ref
        who = (target.uid or target.name, target.name) if target else (endpoint.addresses[0], endpoint.addresses[0])
        before = self._owners.setdefault((hostname, family), who)
        if before[0] != who[0]:
            self._tell("DuplicateHostname", f"hostname {hostname!r} is that of {before[1]} and of {who[1]}: its name has the addresses of both")  # fmt: skip


def _headless(service: Service, owner: str, slices: Iterable[EndpointSlice], settings: DnsSettings) -> Answer:
    found, zone = _Builder(), settings.namespace_zone(service.metadata.namespace)
    claims = _Claims(found.wrong)
    for piece in sorted(slices, key=lambda each: each.metadata.name):
        if piece.address_type not in _TYPES:
            continue  # FQDN: names, which no record of a Service can have for data
        ports = [port for port in piece.ports or () if port.name and port.port and (port.protocol or "TCP") in _PROTOCOLS]  # fmt: skip
        for endpoint in piece.endpoints:
            if endpoint.conditions.ready is False and not service.spec.publish_not_ready_addresses:
                continue
            for host in _endpoint(found, claims, (zone, owner), endpoint, piece.address_type):
                for port in ports:
                    found.records.add(_srv(zone, port.name or "", port.protocol or "TCP", port.port or 0, owner, host))
    return _kept(found)


def _endpoint(
    found: _Builder, claims: _Claims, service: tuple[str, str], endpoint: SliceEndpoint, family: str
) -> Iterator[str]:
    """Records of one endpoint of a Service (its zone and name); the names the endpoint has of its own."""
    zone, owner = service
    hostname = endpoint.hostname.lower()
    if hostname and not names.is_label(hostname):
        found.wrong("BadHostname", f"hostname {endpoint.hostname!r} is no label of DNS: the endpoint has no name of its own")  # fmt: skip
    elif hostname and endpoint.addresses:
        claims.claim(hostname, family, endpoint)
    for text in endpoint.addresses:
        ip = address.canonical(text)
        if not ip or address.family(ip) != family:
            found.wrong("NoAddress", f"{text!r} is no {family} address and has no record")
            continue
        found.records.add(Record(zone, owner, _TYPES[family], ip))
        if hostname and not names.is_label(hostname):
            continue
        host = f"{hostname or names.address_label(ip)}.{owner}"
        found.records.add(Record(zone, host, _TYPES[family], ip))
        back, name = names.reverse(ip)
        found.records.add(Record(back, name, "PTR", host))
        yield host


# -- ExternalName: 2.5


def _external(service: Service, owner: str, settings: DnsSettings) -> Answer:
    found, target = _Builder(), service.spec.external_name
    name = target.lower().rstrip(".")
    if not name or not names.is_name(name):
        found.wrong("BadExternalName", f"externalName {target!r} is no name of DNS: there is no record")
    elif address.canonical(name):
        found.wrong("BadExternalName", f"externalName {target!r} is an address, and a CNAME record takes a name: there is no record; a headless Service with an EndpointSlice can have addresses")  # fmt: skip
    elif f"{name}." == owner:
        found.wrong("BadExternalName", f"externalName {target!r} is the Service itself: there is no record")
    else:
        found.records.add(Record(settings.namespace_zone(service.metadata.namespace), owner, "CNAME", f"{name}."))
    return _kept(found)
