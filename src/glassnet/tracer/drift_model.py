"""What a comparison of nodes with the API is made of: deviations, the Service ports a node should serve, and chains compared line by line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from glassnet.kube.types import EndpointSlice, Node, Service, without_nulls
from glassnet.kube.view import SERVICE_NAME_LABEL, Key
from glassnet.net import address
from glassnet.proxy import compute
from glassnet.proxy.claims import Claims
from glassnet.proxy.model import NodeFacts, ServicePort
from glassnet.ruleset.model import Chain, Table
from glassnet.tracer.explain import Explainer, owner_of
from glassnet.tracer.listing import Line
from glassnet.tracer.objects import Objects, Reference

MISSING, EXTRA, CHANGED, INTRUDER = "missing", "extra", "changed", "intruder"
ZONE = "topology.kubernetes.io/zone"
Ports = tuple[ServicePort, ...]
KUBE_PROXY = Reference("", "", "kube-proxy")
_NAMED = re.compile(r"(?<![\w./-])([a-z0-9.-]+)/([a-z0-9.-]+)(?::([a-z0-9-]*))?(?![\w./-])")
_TARGET = re.compile(r"(?:-[jg] |\b(?:jump|goto) )(\S+)").search


@dataclass(frozen=True, slots=True)
class Deviation:
    """One difference between what the API asks for and what a machine has.

    `where` is the chain, set or table, `subject` the object (or program) whose doing is wrong, `expected` what should be there, `found` what
    is there in its place or beyond it. `kind` INTRUDER: a rule of somebody else's, `owner` its program where that is known. `note` says more.
    """

    machine: str
    kind: str
    where: str
    subject: Reference
    expected: tuple[str, ...] = ()
    found: tuple[Line, ...] = ()
    owner: str = ""
    note: str = ""


class Cluster:
    """The objects a Service proxy looks at, read once. `notes` name those that cannot be read."""

    def __init__(self, objects: Objects) -> None:
        self.objects, self.explainer = objects, Explainer(objects)
        self.notes: list[str] = []
        self.services: dict[Key, Service] = {}
        self.slices: dict[Key, list[EndpointSlice]] = {}
        for each in self._read(objects.of("services"), Service):
            self.services[Key(each.metadata.namespace, each.metadata.name)] = each
        for piece in self._read(objects.of("endpointslices"), EndpointSlice):
            name = piece.metadata.labels.get(SERVICE_NAME_LABEL, "")
            self.slices.setdefault(Key(piece.metadata.namespace, name), []).append(piece)
        self.nodes: dict[str, Node] = {each.metadata.name: each for each in self._read(objects.of("nodes"), Node)}
        self.subjects = {(p.text, p.protocol): p.refer(f"spec.ports[{p.port_name or p.index}]") for p in objects.ports}

    def _read(self, bodies: Iterable[Mapping[str, Any]], struct: type[Any]) -> list[Any]:
        found = []
        for body in bodies:
            try:
                found.append(_convert(body, struct))
            except msgspec.ValidationError as error:
                meta = body["metadata"]
                name = f"{meta.get('namespace', '')}/{meta.get('name', '')}".lstrip("/")
                self.notes.append(f"{struct.__name__} {name} cannot be read and is left out: {error}")
        return found

    def facts(self, node: str) -> NodeFacts:
        """What of a node its rules depend on."""
        found = self.nodes.get(node)
        if found is None:
            return NodeFacts(node)
        ips = tuple(ip for ip in map(address.canonical, found.internal_ips()) if ip)
        return NodeFacts(node, found.metadata.labels.get(ZONE, ""), ips)

    def ports(self, node: str, family: str) -> dict[Key, Ports]:
        """Every Service's ports as a node must serve them, each address with the one who has it."""
        facts, claims = self.facts(node), Claims()
        asked: dict[Key, Ports] = {}
        for key, service in self.services.items():
            asked[key] = compute.service_ports(service, self.slices.get(key, ()), facts, family)
            made = service.metadata.creation_timestamp
            claims.update(key, made.isoformat() if made else "", (), asked[key])
        return {key: granted for key, ports in asked.items() if (granted := claims.granted(key, ports)[0])}

    def service_cidrs(self, family: str) -> tuple[str, ...]:
        """The ranges of ClusterIPs of a family."""
        found = {cidr for each in self.objects.of("servicecidrs") for cidr in each.get("spec", {}).get("cidrs", ())}
        return tuple(sorted(cidr for cidr in found if address.family(cidr) == family))

    def subject(self, name: str, protocol: str) -> Reference:
        """The Service port of a name `namespace/name[:port]`."""
        found = self.subjects.get((name.removesuffix(":"), protocol))
        return found or self.named(name) or Reference("Service", "", name)

    def named(self, text: str) -> Reference | None:
        """The Service a text names, whether there is one or not any more."""
        for found in _NAMED.finditer(text):
            plain = found[0].removesuffix(":")
            for protocol in ("TCP", "UDP", "SCTP"):
                if (plain, protocol) in self.subjects:
                    return self.subjects[plain, protocol]
            if Key(found[1], found[2]) in self.services:
                return Reference("Service", found[1], found[2])
            if not found[1].replace(".", "").isdigit():
                return Reference("Service", found[1], found[2], f"spec.ports[{found[3]}]" if found[3] else "", "there is no such object")  # fmt: skip
        return None


def _convert(body: Mapping[str, Any], struct: type[Any]) -> Any:
    try:
        return msgspec.convert(body, struct)
    except msgspec.ValidationError:  # a null where nothing should be
        return msgspec.convert(without_nulls(dict(body)), struct)


Wanted = Sequence[tuple[str, Reference]]


@dataclass(slots=True)
class Comparer:
    """Compares the chains of one table of a machine. `normal` brings a rule into the spelling both sides share."""

    machine: str
    table: Table
    cluster: Cluster
    normal: Callable[[str], str]
    subject_of: Callable[[str], Reference | None]  # whose a line is that nobody asked for; None: a foreign one

    def title(self, chain: str) -> str:
        """How a chain is called in a report."""
        family = "" if self.table.family == "ip" else f"{self.table.family} "
        return f"{family}{self.table.name} {chain}".rstrip()

    def chain(self, name: str, wanted: Wanted, there: Sequence[Line] | None, ordered: bool) -> list[Deviation]:
        """One chain. With `ordered` the order of its rules counts."""
        where = self.title(name)
        if there is None:
            return [
                Deviation(self.machine, MISSING, where, subject, tuple(texts), note="the chain is not there")
                for subject, texts in _by_subject(wanted).items()
            ]
        if [text for text, _ in wanted] == [line.text for line in there]:
            return []
        asked = [(self.normal(text), text, subject) for text, subject in wanted]
        have = [(self.normal(line.text), line) for line in there]
        left = Counter(text for text, _ in have)
        missing: list[tuple[str, Reference]] = []
        for plain, text, subject in asked:
            if left[plain]:
                left[plain] -= 1
            else:
                missing.append((text, subject))
        wants = Counter(plain for plain, _, _ in asked)
        extra: list[Line] = []
        for plain, line in have:
            if wants[plain]:
                wants[plain] -= 1
            else:
                extra.append(line)
        if missing or extra:
            return self._differences(where, wanted, missing, extra)
        if ordered and [plain for plain, _, _ in asked] != [plain for plain, _ in have]:
            subject = wanted[0][1]
            return [Deviation(self.machine, CHANGED, where, subject, tuple(t for t, _ in wanted), tuple(there), note="the rules are in another order")]  # fmt: skip
        return []

    def _differences(self, where: str, wanted: Wanted, missing: Wanted, extra: Sequence[Line]) -> list[Deviation]:
        owners = {subject for _, subject in wanted}
        only = next(iter(owners)) if len(owners) == 1 else None
        expected = _by_subject(missing)
        found: dict[Reference, list[Line]] = {}
        foreign: list[Line] = []
        for line in extra:
            subject = self.subject_of(line.text)
            if subject is None and only is not None and only in expected:
                subject = only  # a rule put in the place of another
            if subject is None:
                foreign.append(line)
            else:
                same = only if only is not None and (subject.namespace, subject.name) == (only.namespace, only.name) else subject  # fmt: skip
                found.setdefault(same, []).append(line)
        out = []
        for subject in dict.fromkeys((*expected, *found)):
            gone, more = tuple(expected.get(subject, ())), tuple(found.get(subject, ()))
            kind = CHANGED if gone and more else MISSING if gone else EXTRA
            out.append(Deviation(self.machine, kind, where, subject, gone, more))
        out += [self.intruder(where, line, only) for line in foreign]
        return out

    def intruder(self, where: str, line: Line, subject: Reference | None = None) -> Deviation:
        """A rule that nobody who owns the chain wrote."""
        target = _TARGET(line.text)
        aim = self.table.chains.get(target[1]) if target else None
        program = owner_of(aim)[0] if aim is not None else ""
        chosen = subject or self.cluster.named(line.text) or Reference("", "", program or "somebody else")
        return Deviation(self.machine, INTRUDER, where, chosen, (), (line,), program, f"a rule of {program or 'an unknown program'}")  # fmt: skip

    def stray(self, chain: Chain, there: Sequence[Line], subject: Reference | None) -> Deviation:
        """A chain that should not be there."""
        program, _ = owner_of(chain)
        kind = EXTRA if subject is not None else INTRUDER
        header = Line(f"chain {chain.name}", chain.table.source, chain.line)
        chosen = subject or Reference("", "", program or "somebody else")
        return Deviation(self.machine, kind, self.title(chain.name), chosen, (), (header, *there), program, "no object asks for this chain")  # fmt: skip


def _by_subject(wanted: Wanted) -> dict[Reference, list[str]]:
    found: dict[Reference, list[str]] = {}
    for text, subject in wanted:
        found.setdefault(subject, []).append(text)
    return found
