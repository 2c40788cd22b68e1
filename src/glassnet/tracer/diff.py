"""What changed between two snapshots: objects, and what each machine has, with the object whose doing each change was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glassnet.net import address
from glassnet.net.errors import GlassnetError
from glassnet.netstack.model import Route, RoutingRule
from glassnet.netstack.namespace import NetStack
from glassnet.ruleset.model import NFT, Chain, Ruleset, SetObject, Table
from glassnet.tracer import listing
from glassnet.tracer.explain import Explainer, owner_of
from glassnet.tracer.listing import KUBE_NAME, OUR_NAME, Line
from glassnet.tracer.machine import Machine
from glassnet.tracer.names import Names
from glassnet.tracer.objects import Objects, Reference
from glassnet.tracer.packet import Step
from glassnet.tracer.trace import Request, Trace, Tracer, Way
from glassnet.tracer.world import World

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
NOBODY = Reference("", "", "")
# Kinds and fields that change without anybody's doing.
QUIET_KINDS = frozenset({"leases", "events"})
QUIET_FIELDS = frozenset({
    "metadata.resourceVersion", "metadata.managedFields", "metadata.generation", "metadata.uid", "metadata.selfLink",
    "metadata.annotations.endpoints.kubernetes.io/last-change-trigger-time",
    "metadata.annotations.control-plane.alpha.kubernetes.io/leader",
    "status.observedGeneration", "status.images",
})  # fmt: skip
_QUIET_ENDS = ("lastHeartbeatTime", "lastProbeTime", "lastUpdateTime", "resourceVersion")


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """An object that came, went or changed; `fields` are (path, before, after)."""

    kind: str  # added, removed, changed
    object: Reference
    fields: tuple[tuple[str, Any, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """Something of a machine that came, went or changed. `what` is rule, chain, order, element, set, ipset, route, …; `subject` the object
    whose doing it was (NOBODY when no object is known)."""

    machine: str
    kind: str
    what: str
    where: str
    before: tuple[Line, ...] = ()
    after: tuple[Line, ...] = ()
    subject: Reference = NOBODY


@dataclass(frozen=True, slots=True)
class FlowChange:
    """The same request in both snapshots. `step` is (before, after) where the ways part, `because` the objects behind it."""

    title: str
    before: dict[str, float]
    after: dict[str, float]
    ends: tuple[tuple[str, ...], tuple[str, ...]]
    step: tuple[str, str] = ("", "")
    because: tuple[Reference, ...] = ()
    fault: str = ""

    @property
    def same(self) -> bool:
        """True when nothing on the way changed."""
        return not self.fault and self.before == self.after and self.ends[0] == self.ends[1] and not any(self.step)


@dataclass(slots=True)
class Difference:
    """All that differs. `machines` are (name, added or removed)."""

    objects: list[ObjectChange] = field(default_factory=list)
    machines: list[tuple[str, str]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    flow: FlowChange | None = None

    def __bool__(self) -> bool:
        return bool(self.objects or self.machines or self.changes or (self.flow is not None and not self.flow.same))

    def by_object(self) -> list[tuple[Reference, list[ObjectChange], list[Change]]]:
        """Grouped by the object whose doing it was; those that no object is known for come last."""
        groups: dict[Reference, tuple[list[ObjectChange], list[Change]]] = {}
        for each in self.objects:
            groups.setdefault(_plain(each.object), ([], []))[0].append(each)
        for change in self.changes:
            groups.setdefault(_plain(change.subject), ([], []))[1].append(change)
        ordered = sorted(groups, key=lambda key: (not key.kind, not key.name, key.kind, key.namespace, key.name))
        return [(key, *groups[key]) for key in ordered]


def diff(old: World, new: World, flow: str = "") -> Difference:
    """Compare two worlds; with `flow` ("FROM TO"), trace that request in both. Raises UsageError for names neither knows."""
    before, after = Objects(old.objects), Objects(new.objects)
    finder = _Finder(Explainer(before), Explainer(after))
    out = Difference(list(_objects(old.objects, new.objects)))
    for name in dict.fromkeys((*old.machines, *new.machines)):
        mine, yours = old.machines.get(name), new.machines.get(name)
        if mine is None or yours is None:
            out.machines.append((name, REMOVED if yours is None else ADDED))
        else:
            out.changes += _Machines(mine, yours, finder).changes()
    if flow:
        out.flow = flow_change(old, new, flow)
    return out


def _plain(reference: Reference) -> Reference:
    """The object alone. What slices of a Service do counts as the Service's."""
    return Reference(reference.kind, reference.namespace, reference.name)


# -- objects


def _objects(
    old: Mapping[str, list[dict[str, Any]]], new: Mapping[str, list[dict[str, Any]]]
) -> Iterator[ObjectChange]:
    for kind in sorted(set(old) | set(new)):
        if kind in QUIET_KINDS:
            continue
        before, after = (_by_key(each.get(kind, ())) for each in (old, new))
        for key in dict.fromkeys((*before, *after)):
            one, other = before.get(key), after.get(key)
            body = one or other or {}
            reference = Reference(str(body.get("kind", kind)), *key)
            if one is None or other is None:
                yield ObjectChange(REMOVED if other is None else ADDED, reference)
            elif one != other and (fields := tuple(_fields(one, other, ""))):
                yield ObjectChange(CHANGED, reference, fields)


def _by_key(items: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["metadata"].get("namespace", ""), each["metadata"].get("name", "")): each for each in items}


def _fields(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The fields that differ, as deep as they can be told."""
    if old == new or path in QUIET_FIELDS or path.endswith(_QUIET_ENDS):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            yield from _fields(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _items(old, new, path)
    else:
        yield path, old, new


def _items(old: list[Any], new: list[Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    """Entries of a list: matched by what names them, where something does (names, types, addresses), else by place."""
    names = [_name_of(each) for each in (*old, *new)]
    mine, yours = names[: len(old)], names[len(old) :]
    if all(names) and len(set(mine)) == len(mine) and len(set(yours)) == len(yours):
        before, after = dict(zip(mine, old, strict=True)), dict(zip(yours, new, strict=True))
        for name in dict.fromkeys((*before, *after)):
            yield from _fields(before.get(name), after.get(name), f"{path}[{name}]")
        return
    if len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _fields(one, other, f"{path}[{index}]")
        return
    yield path, old, new


def _name_of(each: Any) -> str:
    if not isinstance(each, dict):
        return ""
    addresses = each.get("addresses")
    if isinstance(addresses, list) and addresses:
        return ", ".join(map(str, addresses))
    for name in ("name", "type", "ip", "address", "containerPort", "port"):
        if each.get(name):
            extra = each.get("address", "") if name == "type" else each.get("protocol", "") if name == "port" else ""
            return f"{each[name]} {extra}".rstrip()
    return ""


# -- machines


class _Finder:
    """The object behind something of a machine, in the snapshot where that thing is."""

    def __init__(self, before: Explainer, after: Explainer) -> None:
        self.before, self.after = before, after

    def of_address(self, texts: Sequence[str], first: Explainer) -> Reference:
        """Who an address belongs to: a pod or Service rather than a node's range."""
        for explainer in (first, self.after if first is self.before else self.before):
            for text in texts:
                found = explainer.objects.find_address(text)
                if found and found[0].kind in ("Pod", "Node", "Service"):
                    return found[0]
        return NOBODY

    def of_chain(self, chain: Chain, first: Explainer) -> Reference:
        """The Service a chain is of, else the program."""
        for explainer in (first, self.after if first is self.before else self.before):
            port, _, _ = explainer.chain(chain.name)
            if port is not None:
                return port.refer()
        return _of_name(chain.name) or Reference("", "", owner_of(chain)[0])

    def of_rule(self, chain: Chain, index: int, first: Explainer) -> Reference:
        """The object behind a rule."""
        rule = chain.rule(index)
        for explainer in (first, self.after if first is self.before else self.before):
            found = explainer.rule(rule)
            if found:
                service = next((each for each in found if each.kind == "Service"), None)
                return service or self._service_of(found[0], explainer)
        return self.of_chain(chain, first)

    def _service_of(self, found: Reference, explainer: Explainer) -> Reference:
        """A slice's Service."""
        if found.kind == "EndpointSlice":
            for (namespace, service), endpoints in explainer.objects.endpoints.items():
                if namespace == found.namespace and any(each.slice == found.name for each in endpoints):
                    return Reference("Service", namespace, service)
        return found

    def of_element(self, name: str, each: listing.Element, first: Explainer) -> Reference:
        """The object behind an element: by its comment, the chain it leads to, the addresses in its key."""
        target = each.value.rpartition(" ")[2]
        named = _of_name(name) or _of_name(target)
        if named is not None:
            return named
        port = first.by_comment(each.comment) if each.comment else None
        if port is not None:
            return port.refer()
        if "/" in each.comment:
            space, _, service = each.comment.partition(":")[0].partition("/")
            return Reference("Service", space, service)
        return self.of_address([text for text in each.key if address.canonical(text)], first)


def _of_name(name: str) -> Reference | None:
    """The Service a chain or set of nft's is named after."""
    found = KUBE_NAME(name)
    base = found[3] if found else ours[2] if (ours := OUR_NAME(name)) else ""
    return Reference("Service", *base.split("/")[:2]) if base.count("/") >= 2 else None


class _Machines:
    """One machine before and after."""

    def __init__(self, old: Machine, new: Machine, finder: _Finder) -> None:
        self.old, self.new, self.finder = old, new, finder
        self.name = new.name

    def changes(self) -> Iterator[Change]:
        """All changes. What only one of the snapshots has a dump of is left out."""
        if self.old.ruleset_known and self.new.ruleset_known:
            yield from self._rules(self.old.ruleset, self.new.ruleset)
        yield from self._stack(self.old.stack, self.new.stack)

    # -- rules

    def _rules(self, old: Ruleset, new: Ruleset) -> Iterator[Change]:
        before, after = ({(t.tool, t.family, t.name): t for t in each.tables} for each in (old, new))
        for key in dict.fromkeys((*before, *after)):
            one, other = before.get(key), after.get(key)
            yield from self._table(one, other)
        for name in dict.fromkeys((*old.ipsets, *new.ipsets)):
            yield from self._ipset(name, old.ipsets.get(name), new.ipsets.get(name))

    def _table(self, old: Table | None, new: Table | None) -> Iterator[Change]:
        chains, sets = (getattr(old, "chains", {}), getattr(new, "chains", {})), (getattr(old, "sets", {}), getattr(new, "sets", {}))  # fmt: skip
        for name in dict.fromkeys((*chains[0], *chains[1])):
            yield from self._chain(chains[0].get(name), chains[1].get(name))
        for name in dict.fromkeys((*sets[0], *sets[1])):
            table = new or old
            assert table is not None
            yield from self._set(table, name, sets[0].get(name), sets[1].get(name))

    def _chain(self, old: Chain | None, new: Chain | None) -> Iterator[Change]:
        chain = old if new is None else new
        assert chain is not None
        where = _title(chain)
        if old is None or new is None:
            explainer = self.finder.before if new is None else self.finder.after
            head = Line(f"chain {chain.name}", chain.table.source, chain.line)
            lines = (head, *listing.lines(chain))
            subject = self.finder.of_chain(chain, explainer)
            yield Change(self.name, REMOVED if new is None else ADDED, "chain", where, lines if new is None else (), lines if old is None else (), subject)  # fmt: skip
            return
        mine, yours = list(listing.raw_texts(old)), list(listing.raw_texts(new))
        if (old.policy, old.hook, old.priority) != (new.policy, new.hook, new.priority):
            texts = [Line(f"hook {c.hook} priority {c.priority} policy {c.policy}", c.table.source, c.line) for c in (old, new)]  # fmt: skip
            yield Change(self.name, CHANGED, "chain", where, (texts[0],), (texts[1],), self.finder.of_chain(new, self.finder.after))  # fmt: skip
        if mine == yours:
            return
        yield from self._lines(where, old, new, listing.lines(old), listing.lines(new))

    def _lines(self, where: str, old: Chain, new: Chain, mine: list[Line], yours: list[Line]) -> Iterator[Change]:
        gone = _beyond(mine, yours)
        more = _beyond(yours, mine)
        groups: dict[Reference, tuple[list[Line], list[Line]]] = {}
        for index in gone:
            groups.setdefault(_plain(self.finder.of_rule(old, index, self.finder.before)), ([], []))[0].append(
                mine[index]
            )
        for index in more:
            groups.setdefault(_plain(self.finder.of_rule(new, index, self.finder.after)), ([], []))[1].append(
                yours[index]
            )
        for subject, (removed, added) in groups.items():
            kind = CHANGED if removed and added else REMOVED if removed else ADDED
            yield Change(self.name, kind, "rule", where, tuple(removed), tuple(added), subject)
        if not groups and [line.text for line in mine] != [line.text for line in yours]:
            subject = self.finder.of_chain(new, self.finder.after)
            if not _shuffled(new):
                yield Change(self.name, CHANGED, "order", where, tuple(mine), tuple(yours), subject)

    # -- sets

    def _set(self, table: Table, name: str, old: SetObject | None, new: SetObject | None) -> Iterator[Change]:
        found = new or old
        assert found is not None
        where = f"{found.kind} {name} of {table.family} {table.name}"
        before = {each.key: each for each in listing.elements(old)} if old is not None else {}
        after = {each.key: each for each in listing.elements(new)} if new is not None else {}
        clients = "dynamic" in found.flags or "timeout" in found.flags
        if old is None or new is None:
            head = (Line(f"{found.kind} {name}", found.source, found.line),)
            subject = _of_name(name) or NOBODY
            yield Change(self.name, REMOVED if new is None else ADDED, "set", where, head if new is None else (), head if old is None else (), subject)  # fmt: skip
        if clients:  # who was a client in the last minutes is nobody's change
            return
        groups: dict[Reference, tuple[list[Line], list[Line]]] = {}
        for key in dict.fromkeys((*before, *after)):
            one, other = before.get(key), after.get(key)
            if one == other:
                continue
            for side, each, explainer, source in (
                (0, one, self.finder.before, old),
                (1, other, self.finder.after, new),
            ):
                if each is not None and source is not None:
                    subject = _plain(self.finder.of_element(name, each, explainer))
                    groups.setdefault(subject, ([], []))[side].append(Line(each.text, source.source, source.line))
        for subject, (removed, added) in groups.items():
            kind = CHANGED if removed and added else REMOVED if removed else ADDED
            yield Change(self.name, kind, "element", where, tuple(removed), tuple(added), subject)

    def _ipset(self, name: str, old: SetObject | None, new: SetObject | None) -> Iterator[Change]:
        before, after = (
            Counter(_entry(e) for e in each.elements) if each is not None else Counter() for each in (old, new)
        )
        found = new or old
        assert found is not None
        removed = tuple(Line(text, found.source) for text in (before - after).elements())
        added = tuple(Line(text, found.source) for text in (after - before).elements())
        if old is None or new is None:
            yield Change(self.name, REMOVED if new is None else ADDED, "ipset", name, removed, added)
        elif removed or added:
            texts = [text for line in (*removed, *added) for text in line.text.split(",") if address.canonical(text)]
            subject = self.finder.of_address(texts[:1], self.finder.after if added else self.finder.before)
            kind = CHANGED if removed and added else REMOVED if removed else ADDED
            yield Change(self.name, kind, "ipset", name, removed, added, _plain(subject))

    # -- network configuration

    def _stack(self, old: NetStack, new: NetStack) -> Iterator[Change]:
        either = old.missing | new.missing
        if "route" not in either:
            yield from self._routes(old.routes, new.routes)
            yield from self._plain(
                "rule of routing", [_rule_text(r) for r in old.rules], [_rule_text(r) for r in new.rules]
            )
        if "addr" not in either:
            mine, yours = ({(a.text, a.length, a.dev) for a in each.addresses} for each in (old, new))
            for one, other, explainer in (
                (mine - yours, (), self.finder.before),
                ((), yours - mine, self.finder.after),
            ):
                for text, length, dev in sorted((*one, *other)):
                    line = Line(f"{text}/{length} dev {dev}")
                    subject = _plain(self.finder.of_address([text], explainer))
                    yield Change(self.name, REMOVED if one else ADDED, "address", dev, (line,) if one else (), (line,) if other else (), subject)  # fmt: skip
        yield from self._links(old, new)
        yield from self._neighbours(old, new)
        if old.sysctls and new.sysctls:
            for name in dict.fromkeys((*old.sysctls, *new.sysctls)):
                values = old.sysctls.get(name), new.sysctls.get(name)
                if values[0] != values[1] and _lasting(name):
                    yield _pair(self.name, "sysctl", name, [f"{name} = {value}" if value is not None else "" for value in values])  # fmt: skip

    def _routes(self, old: list[Route], new: list[Route]) -> Iterator[Change]:
        mine, yours = ({(r.table, r.text): r for r in each} for each in (old, new))
        for key in dict.fromkeys((*mine, *yours)):
            if (key in mine) == (key in yours):
                continue
            gone = key in mine
            route = mine[key] if gone else yours[key]
            line = Line(route.text)
            subject = self._route(route, self.finder.before if gone else self.finder.after)
            yield Change(self.name, REMOVED if gone else ADDED, "route", f"table {route.table}", (line,) if gone else (), () if gone else (line,), subject)  # fmt: skip

    def _route(self, route: Route, explainer: Explainer) -> Reference:
        for name, cidr in explainer.objects.pod_ranges():
            network, mask, bits = address.prefix(cidr)
            if (bits, network, mask.bit_count()) == (route.bits, route.network, route.length):
                return Reference("Node", "", name)
        if route.length == route.bits:
            return _plain(self.finder.of_address([address.text_of(route.network, route.bits)], explainer))
        return NOBODY

    def _links(self, old: NetStack, new: NetStack) -> Iterator[Change]:
        for name in dict.fromkeys((*old.links, *new.links)):
            one, other = old.links.get(name), new.links.get(name)
            texts = ["" if link is None else f"{name}: {link.kind or 'link'}, {'up' if link.up else 'down'}, MTU {link.mtu}{f', port of {link.master}' if link.master else ''}" for link in (one, other)]  # fmt: skip
            if texts[0] != texts[1]:
                yield _pair(self.name, "link", name, texts)

    def _neighbours(self, old: NetStack, new: NetStack) -> Iterator[Change]:
        """Only whether somebody answers: the rest comes and goes by itself."""
        for key in dict.fromkeys((*old.neighbours, *new.neighbours)):
            one, other = old.neighbours.get(key), new.neighbours.get(key)
            failed = [each is not None and each.state in ("FAILED", "INCOMPLETE") for each in (one, other)]
            if failed[0] != failed[1]:
                text = address.text_of(key[0], key[1])
                said = [f"{text} dev {key[2]} {each.state}" if each else "" for each in (one, other)]
                subject = _plain(self.finder.of_address([text], self.finder.after))
                yield _pair(self.name, "neighbour", key[2], said, subject)

    def _plain(self, what: str, old: list[str], new: list[str]) -> Iterator[Change]:
        before, after = Counter(old), Counter(new)
        for text in (before - after).elements():
            yield _pair(self.name, what, "", [text, ""])
        for text in (after - before).elements():
            yield _pair(self.name, what, "", ["", text])


def _pair(machine: str, what: str, where: str, texts: Sequence[str], subject: Reference | None = None) -> Change:
    """A change from one text to another ("" for nothing)."""
    old, new = texts
    kind = CHANGED if old and new else REMOVED if old else ADDED
    return Change(machine, kind, what, where, (Line(old),) if old else (), (Line(new),) if new else (), subject or NOBODY)  # fmt: skip


def _title(chain: Chain) -> str:
    table = chain.table
    tool = f" ({table.tool})" if table.tool != NFT else ""
    return f"{table.family} {table.name} {chain.name}{tool}"


def _beyond(mine: list[Line], yours: list[Line]) -> list[int]:
    """Places of the rules that the other has not, or not so often."""
    left = Counter(line.text for line in yours)
    out = []
    for index, line in enumerate(mine):
        if left[line.text]:
            left[line.text] -= 1
        else:
            out.append(index)
    return out


def _shuffled(chain: Chain) -> bool:
    """True for chains in which the order of rules means nothing: those of all Services."""
    return chain.name in ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL")


def _entry(each: tuple[Any, bool]) -> str:
    from glassnet.tracer.where import ipset_entry

    return ipset_entry(each[0])[1] + (" nomatch" if each[1] else "")


def _rule_text(rule: RoutingRule) -> str:
    return f"{rule.priority}: {rule.text or f'{rule.action} {rule.table}'}"


def _lasting(name: str) -> bool:
    """False for sysctls that count or measure."""
    return not name.endswith(
        ("nf_conntrack_count", "stable_secret", ".retrans_time_ms", "random.entropy_avail", "dentry-state")
    )


# -- a flow


def flow_change(old: World, new: World, flow: str) -> FlowChange:
    """Trace "FROM TO" in both worlds. Raises UsageError when neither knows the names."""
    words = flow.split()
    if len(words) == 3 and words[1] in ("to", ">", "->"):
        del words[1]
    source, target = (*words, "")[:2]
    requests = [_request(world, source, target) for world in (old, new)]
    if all(isinstance(each, GlassnetError) for each in requests):
        raise next(each for each in requests if isinstance(each, GlassnetError))
    traces = [
        Tracer(w).trace(each) if isinstance(each, Request) else None
        for w, each in zip((old, new), requests, strict=True)
    ]
    fault = "; ".join(f"{name}: {each}" for name, each in zip(("before", "after"), requests, strict=True) if isinstance(each, GlassnetError))  # fmt: skip
    results = [_results(each) for each in traces]
    ends = (_ends(traces[0]), _ends(traces[1]))
    step, because = _parting(traces[0], traces[1], (Explainer(Objects(old.objects)), Explainer(Objects(new.objects))))
    return FlowChange(f"{source} > {target}", results[0], results[1], ends, step, because, fault)


def _request(world: World, source: str, target: str) -> Request | GlassnetError:
    try:
        return Names(world, Objects(world.objects)).request(source, target)
    except GlassnetError as error:
        return error


def _results(trace: Trace | None) -> dict[str, float]:
    return {name: round(share, 6) for name, share in sorted(trace.results.items())} if trace is not None else {}


def _ends(trace: Trace | None) -> tuple[str, ...]:
    if trace is None:
        return ()
    return tuple(sorted({f"{way.kind} {way.machine} {way.packet.text}".strip() for way in trace.ways}))


def _parting(
    old: Trace | None, new: Trace | None, explainers: tuple[Explainer, Explainer]
) -> tuple[tuple[str, str], tuple[Reference, ...]]:
    """The first step that differs, between the ways of one snapshot that the other has not, and the objects behind it."""
    if old is None or new is None:
        return ("", ""), ()
    mine, yours = ({_shape(way): way for way in trace.ways} for trace in (old, new))
    gone, more = [mine[k] for k in mine if k not in yours], [yours[k] for k in yours if k not in mine]
    if not gone and not more:
        return ("", ""), ()
    one: Way | None = gone[0] if gone else next(iter(mine.values()), None)
    other: Way | None = more[0] if more else next(iter(yours.values()), None)
    steps = [_all_steps(way) for way in (one, other)]
    for index in range(max(map(len, steps))):
        pair = [each[index] if index < len(each) else None for each in steps]
        words = [_words(step) if step is not None else "" for step in pair]
        if words[0] != words[1]:
            because: list[Reference] = []
            for step, explainer in zip(pair, explainers, strict=True):
                because += explainer.because(step) if step is not None else []
            return (words[0], words[1]), tuple(dict.fromkeys(because))
    return ("", ""), ()


def _all_steps(way: Way | None) -> list[Step]:
    if way is None:
        return []
    return [*way.steps, *(way.reply.steps if way.reply is not None else ())]


def _shape(way: Way) -> tuple[str, ...]:
    return (way.result, way.machine, *map(_words, _all_steps(way)))


def _words(step: Step) -> str:
    """A step without what changes from one listing to the next, such as handles and line numbers."""
    rule = f" [{step.rule.chain.where}]" if step.rule is not None else ""
    return f"{step.machine}: {step.action}{rule}"
