"""Everything a Service caused on the nodes: chains, rules, elements of sets, ipsets, connections, each with its place and the field behind it.

Raw lines are searched; only what is found is taken apart.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glassnet.net import address
from glassnet.net.errors import UsageError
from glassnet.netstack.parse_conntrack import parse_conntrack_lenient
from glassnet.proxy.naming import Recipe
from glassnet.ruleset.model import NFT, Chain, SetObject, Table
from glassnet.tracer import listing
from glassnet.tracer.explain import Explainer
from glassnet.tracer.listing import Element
from glassnet.tracer.machine import Machine
from glassnet.tracer.objects import EndpointRef, Objects, Port, Reference, service_addresses
from glassnet.tracer.packet import PROTOCOLS
from glassnet.tracer.world import World

CHAIN, RULE, ELEMENT, SET, IPSET, CONNECTION = "chain", "rule", "element", "set", "ipset", "connection"
ERAS = (Recipe(), Recipe(colon_without_port_name=True))
_OWN = re.compile(r"KUBE-(?:SVC|SVL|XLB|FW|EXT|SEP)-([A-Z2-7]{16})").fullmatch
_SEP = re.compile(r"-[jg] (KUBE-SEP-[A-Z2-7]{16})").search
_SAID = re.compile(
    r"-A KUBE-(?:SERVICES|NODEPORTS|EXTERNAL-SERVICES|PROXY-FIREWALL) (?:-d (?P<ip>[0-9a-f.:]+)/\d+ )?.*?-p (?P<protocol>\w+) .*--dport (?P<number>\d+)"
    r'|-A KUBE-SV[CL]-\w+ .*-> (?P<endpoint>[^"]+)"'
).match


@dataclass(frozen=True, slots=True)
class Place:
    """One thing a Service caused. `where` is its chain, set or table, `number` the rule's in its chain."""

    machine: str
    kind: str
    where: str
    text: str
    source: str = ""
    line: int = 0
    number: int = 0
    because: tuple[Reference, ...] = ()

    @property
    def at(self) -> str:
        """`file:line`, or the file where its lines are not known."""
        return f"{self.source}:{self.line}" if self.line else self.source


def find_ports(objects: Objects, text: str, namespace: str = "default") -> list[Port]:
    """The ports that `[svc/][NAMESPACE/]NAME[:PORT]` means. Raises UsageError, with names that are close."""
    kind, _, rest = text.partition("/")
    plain = rest if kind in ("svc", "service", "services") and rest else text
    name, _, port = plain.partition(":")
    space, slash, base = name.rpartition("/")
    found = [key for key in objects.services if key == (space or namespace, base)]
    if not found and not slash:
        found = [key for key in objects.services if key[1] == base]
    if not found:
        near = difflib.get_close_matches(base, [each for _, each in objects.services], 4, 0.5)
        hint = f"; close to it: {', '.join(near)}" if near else ""
        if not objects.services:
            hint = "; the snapshot holds no Services"
        raise UsageError(f"no Service {name!r}{hint}")
    if len(found) > 1:
        raise UsageError(f"svc/{base} is ambiguous: {', '.join(f'svc/{ns}/{n}' for ns, n in sorted(found))}")
    ports = [each for each in objects.ports if (each.namespace, each.name) == found[0]]
    fitting = [each for each in ports if port in (each.port_name, str(each.port))] if port else ports
    if not fitting:
        listed = ", ".join(f"{each.port_name or each.port} ({each.protocol} {each.port})" for each in ports)
        raise UsageError(f"Service {'/'.join(found[0])} has no port {port!r}; it has: {listed or 'none'}")
    return fitting


def where(world: World, objects: Objects, explainer: Explainer, wanted: Port | Sequence[Port]) -> list[Place]:
    """What a port of a Service, or all its ports, caused on every machine."""
    search = _Search(objects, explainer, [wanted] if isinstance(wanted, Port) else wanted)
    return [place for machine in world.machines.values() for place in search.machine(machine)]


class _Search:
    """What to look for, made once for all machines."""

    def __init__(self, objects: Objects, explainer: Explainer, ports: Sequence[Port]) -> None:
        self.objects, self.explainer, self.ports = objects, _narrowed(explainer, ports), ports
        self.digits: dict[str, tuple[Port, EndpointRef | None]] = {}
        self.bases: dict[str, Port] = {}
        self.entries: dict[tuple[str, ...], tuple[Port, str]] = {}
        self.endpoints: dict[tuple[str, str, str], tuple[Port, EndpointRef]] = {}
        self.texts = {port.text: port for port in ports}
        self.services = {f"{port.namespace}/{port.name}": port for port in ports}
        for port in ports:
            self._learn(port)
        names = "|".join(map(re.escape, sorted({*self.texts, *self.services} if self._whole() else self.texts)))
        digits, bases = "|".join(self.digits) or "(?!)", "|".join(map(re.escape, self.bases)) or "(?!)"
        self.found = re.compile(rf'KUBE-[A-Z]{{2,3}}-(?:{digits})|(?<![\w./-])(?:{names}):?(?=["\s\\]|$)|-(?:{bases})(?![\w./-])').search  # fmt: skip
        words = {
            *self.services,
            *(key[0] for key in self.entries if len(key) == 3),
            *(key[0] for key in self.endpoints),
        }
        self.needles = tuple(word.encode() for word in (*words, *(key[1] for key in self.entries if len(key) == 2)))

    def _whole(self) -> bool:
        """True when every port of the Services is asked for: comments that name the Service alone count as well."""
        mine = [p for p in self.objects.ports if f"{p.namespace}/{p.name}" in self.services]
        return len(mine) == len(self.ports)

    def _learn(self, port: Port) -> None:
        base = f"{port.namespace}/{port.name}/{port.protocol.lower()}/{port.port_name}"
        ours = f"{port.text.replace(':', '/')}/{port.protocol.lower()}"
        self.bases.update({base: port, ours: port})
        protocol = port.protocol.lower()
        for recipe in ERAS:
            self.digits[recipe.service("", port.text, port.protocol)[1:]] = (port, None)
        for text, field in service_addresses(port.service):
            self.entries[text, protocol, str(port.port)] = (port, field)
        if port.node_port:
            self.entries[protocol, str(port.node_port)] = (port, "")
        for each in self.explainer.endpoints(port):
            self.endpoints[each.ip, protocol, str(each.port)] = (port, each)
            for recipe in ERAS:
                name = recipe.endpoint(port.text, port.protocol, address.with_port(each.ip, each.port))
                self.digits[name.rpartition("-")[2]] = (port, each)

    # -- one machine

    def machine(self, machine: Machine) -> Iterator[Place]:
        for table in machine.ruleset.tables:
            if table.tool == NFT:
                yield from self._nft(machine, table)
            else:
                yield from self._iptables(machine, table)
        for found in machine.ruleset.ipsets.values():
            yield from self._ipset(machine, found)
        yield from self._connections(machine)

    def _iptables(self, machine: Machine, table: Table) -> Iterator[Place]:
        own = [chain for name, chain in table.chains.items() if (hit := _OWN(name)) and hit[1] in self.digits]
        names = {chain.name for chain in own}
        for chain in list(own):  # endpoints that the API no longer lists: their chains are known by who jumps there
            for text in listing.raw_texts(chain):
                jump = _SEP(text)
                if jump and jump[1] not in names and jump[1] in table.chains:
                    names.add(jump[1])
                    own.append(table.chains[jump[1]])
        found = self.found
        for chain in table.chains.values():
            if chain.name in names or _OWN(chain.name):
                continue
            for index, text in enumerate(listing.raw_texts(chain)):
                if found(text):
                    yield self._rule(machine, chain, index)
        for chain in own:
            yield self._chain(machine, chain)
            yield from (self._rule(machine, chain, index) for index in range(len(chain)))

    def _nft(self, machine: Machine, table: Table) -> Iterator[Place]:
        for found in table.sets.values():
            yield from self._set(machine, table, found)
        for chain in table.chains.values():
            if self._base(chain.name) is not None:
                yield self._chain(machine, chain)
                yield from (self._rule(machine, chain, index) for index in range(len(chain)))
            elif not self._another(chain.name):
                for index, text in enumerate(listing.raw_texts(chain)):
                    if self.found(text):
                        yield self._rule(machine, chain, index)

    def _base(self, name: str) -> Port | None:
        """The port whose own chain or set a name is."""
        named = listing.KUBE_NAME(name)
        if named:
            return self.bases.get(named[3])
        ours = listing.OUR_NAME(name)
        return self.bases.get(ours[2]) if ours else None

    def _another(self, name: str) -> bool:
        return bool(listing.KUBE_NAME(name) or listing.OUR_NAME(name))

    def _chain(self, machine: Machine, chain: Chain) -> Place:
        port, _, role = self.explainer.chain(chain.name)
        port = port or self._base(chain.name)
        hit = _OWN(chain.name)
        if port is None and hit:
            port = self.digits.get(hit[1], (self.ports[0], None))[0]
        because = (port.refer(f"spec.ports[{port.port_name or port.index}]"),) if port else ()
        return Place(machine.name, CHAIN, chain.table.name, f"{chain.name}{f' ({role})' if role else ''}", chain.table.source, chain.line, 0, because)  # fmt: skip

    def _rule(self, machine: Machine, chain: Chain, index: int) -> Place:
        line = listing.line_of(chain, index)
        because = self._precise(line.text) or tuple(self.explainer.rule(chain.rule(index)))
        port = self._base(chain.name) if not because else None
        if port is not None:
            because = (port.refer(f"spec.ports[{port.port_name or port.index}]"),)
        return Place(machine.name, RULE, chain.where, line.text, line.source, line.line, index + 1, because)

    def _precise(self, text: str) -> tuple[Reference, ...]:
        """What a rule's own words say: the address or node port it is for, or the endpoint it leads to."""
        said = _SAID(text)
        if said is None:
            return ()
        ip, protocol, endpoint, number = said["ip"], said["protocol"], said["endpoint"], said["number"]
        if endpoint:
            plain, _, port = endpoint.rpartition(":")
            found = [e for (i, _, n), (_, e) in self.endpoints.items() if (i, n) == (plain.strip("[]"), port)]
            return (found[0].reference,) if found else ()
        entry = self.entries.get((ip, protocol, number)) if ip else None
        if entry is not None:
            return (entry[0].refer(entry[1], ip), entry[0].spec("port"))
        entry = self.entries.get((protocol, number))
        return (entry[0].spec("nodePort"),) if entry is not None else ()

    # -- sets

    def _set(self, machine: Machine, table: Table, found: SetObject) -> Iterator[Place]:
        title = f"{found.kind} {found.name} of {table.family} {table.name}"
        owner = self._base(found.name)
        if owner is not None:
            because = (owner.refer("spec.sessionAffinity", owner.service.get("spec", {}).get("sessionAffinity", "")),)
            yield Place(
                machine.name, SET, f"{table.family} {table.name}", found.name, found.source, found.line, 0, because
            )
            for each in listing.elements(found):
                yield Place(machine.name, ELEMENT, title, each.text, found.source, found.line, 0, because)
            return
        if not listing.mentions(found, self.needles):
            return
        for each in listing.elements(found):
            reason = self._element(found, each)
            if reason is not None:
                yield Place(machine.name, ELEMENT, title, each.text, found.source, found.line, 0, tuple(reason))

    def _element(self, found: SetObject, each: Element) -> list[Reference] | None:
        """Why an element is there, when a port asked for is behind it; None when it is another's."""
        key = each.key
        port = self.texts.get(each.comment)
        target = each.value.rpartition(" ")[2]
        aimed = self._base(target) if each.value.startswith(("goto ", "jump ")) else None
        if each.value and self._another(target) and aimed is None:
            return None
        if each.comment and port is None:
            if each.comment not in self.services:
                return None
            port = self.services[each.comment]
        if len(key) >= 3 and (entry := self.entries.get(key[:3])) and self._may(port, aimed, entry[0]):
            return [entry[0].refer(entry[1], key[0]), entry[0].spec("port"), *self._slot(each, entry[0])]
        if len(key) >= 2 and (entry := self.entries.get(key[:2])) and self._may(port, aimed, entry[0]):
            return [entry[0].spec("nodePort"), *self._slot(each, entry[0])]
        if len(key) == 4 and key[0] == key[1] and (hairpin := self.endpoints.get((key[0], key[2], key[3]))):
            return [hairpin[1].reference]
        if len(key) == 2 and key[0] == key[1]:
            return [e.reference for (ip, _, _), (_, e) in self.endpoints.items() if ip == key[0]][:1] or None
        if len(key) == 1 and found.key_type[:1] in (("ipv4_addr",), ("ipv6_addr",)):
            mine = [(p, field) for (ip, *_), (p, field) in self.entries.items() if ip == key[0]]
            return [mine[0][0].refer(mine[0][1], key[0])] if mine else None
        chosen = port or aimed
        return [chosen.refer(f"spec.ports[{chosen.port_name or chosen.index}]")] if chosen else None

    def _may(self, named: Port | None, aimed: Port | None, port: Port) -> bool:
        """Whether a comment or verdict agrees that an address is this port's."""
        return all(
            other is None or (other.namespace, other.name) == (port.namespace, port.name) for other in (named, aimed)
        )

    def _slot(self, each: Element, port: Port) -> list[Reference]:
        """The endpoint an element of a map from slots leads to."""
        ip, _, number = each.value.partition(" . ")
        found = self.endpoints.get((ip, port.protocol.lower(), number))
        return [found[1].reference] if found else []

    def _ipset(self, machine: Machine, found: SetObject) -> Iterator[Place]:
        for entry, excluded in found.elements or ():
            key, text = ipset_entry(entry)
            reason: list[Reference] = []
            if key[:3] in self.entries:
                port, field = self.entries[key[:3]]
                reason = [port.refer(field, key[0]), port.spec("port")]
            elif key in self.entries and len(key) == 2:
                reason = [self.entries[key][0].spec("nodePort")]
            elif len(key) == 4 and key[:3] in self.endpoints:
                reason = [self.endpoints[key[:3]][1].reference]
            if reason:
                words = text + (" nomatch" if excluded else "")
                yield Place(machine.name, IPSET, found.name, words, found.source, found.line, 0, tuple(reason))

    # -- connections

    def _connections(self, machine: Machine) -> Iterator[Place]:
        """Entries whose first packet went to an address of the Service, or to a node port of it at the node."""
        pattern = _wanted_lines(self.entries)
        for source, data in machine.tables:
            yield from self._table(machine, source, data, pattern)

    def _table(self, machine: Machine, source: str, data: bytes, pattern: Callable[[bytes], object]) -> Iterator[Place]:
        numbers, kept = [], []
        for number, line in enumerate(data.split(b"\n"), 1):
            if pattern(line):
                numbers.append(number)
                kept.append(line)
        own = {item.text for item in machine.stack.addresses}
        entries, _ = parse_conntrack_lenient(b"\n".join(kept).decode(errors="replace"), source)
        for entry in entries:
            to = entry.original
            found = self.entries.get((to.dst, entry.protocol, str(to.dport)))
            because: list[Reference] = []
            if found:
                because = [found[0].refer(found[1], to.dst), found[0].spec("port")]
            elif to.dst in own and (entry.protocol, str(to.dport)) in self.entries:
                because = [self.entries[entry.protocol, str(to.dport)][0].spec("nodePort")]
            if because:
                reached = self.endpoints.get((entry.reply.src, entry.protocol, str(entry.reply.sport)))
                because += [reached[1].reference] if reached else []
                yield Place(machine.name, CONNECTION, "conntrack", entry.text, source, numbers[entry.line - 1], 0, tuple(because))  # fmt: skip


def _narrowed(explainer: Explainer, ports: Sequence[Port]) -> Explainer:
    """An explainer that knows the Services asked for alone: it makes names of chains for them, not for ten thousand."""
    objects = explainer.objects
    names = {(port.namespace, port.name) for port in ports}
    slices = [each for each in objects.of("endpointslices") if _service_of(each) in names]
    services = [dict(objects.services[name]) for name in names]
    return Explainer(Objects({**objects.raw, "services": services, "endpointslices": slices}))


def _service_of(each: Mapping[str, Any]) -> tuple[str, str]:
    meta = each["metadata"]
    return meta.get("namespace", ""), meta.get("labels", {}).get("kubernetes.io/service-name", "")


def _wanted_lines(entries: Mapping[tuple[str, ...], Any]) -> Any:
    words = {re.escape(f"dst={key[0]} ") for key in entries if len(key) == 3}
    words |= {f"dport={key[1]} " for key in entries if len(key) == 2}
    return re.compile("|".join(sorted(words) or ["(?!)"]).encode()).search


_NUMBERS = {number: name for name, number in PROTOCOLS.items()}


def ipset_entry(entry: tuple[Any, ...]) -> tuple[tuple[str, ...], str]:
    """An entry as a key like those of nft's sets, and as ipset prints it."""
    key: list[str] = []
    words: list[str] = []
    for part in entry:
        if isinstance(part, tuple) and len(part) == 3 and part[2] in (32, 128):
            text = address.text_of(part[0], part[2])
            length = part[1].bit_count()
            key.append(text)
            words.append(text if length == part[2] else f"{text}/{length}")
        elif isinstance(part, tuple):
            name = _NUMBERS.get(part[0], str(part[0]))
            key += [name, str(part[1])]
            words.append(f"{name}:{part[1]}" + (f"-{part[2]}" if part[2] != part[1] else ""))
        else:
            words.append(str(part))
    return tuple(key), ",".join(words)
