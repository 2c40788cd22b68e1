"""kube-proxy's chains over time: what one node was last given, and the input of iptables-restore that leads to what is wanted now.

Pure. A Service's chains are spelled again from what it was and from what it is; those that differ are written whole, and in the shared chains
single rules come and go. When the input is refused the caller starts over with `reconcile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from glassnet.kube.view import Key
from glassnet.proxy.backends import iptables_layouts as layouts
from glassnet.proxy.backends.iptables import (
    EXTERNAL,
    FIREWALL,
    NODE_PORTS,
    PREFIXES,
    PROXY_FIREWALL,
    SERVICES,
    TOP,
    Piece,
    Place,
)
from glassnet.proxy.model import Rules, ServicePort

Ports = tuple[ServicePort, ...]
LARGE = 1000  # endpoints: above this kube-proxy leaves comments out
_NOTHING = Piece()
_OF_SERVICES = (SERVICES, EXTERNAL, NODE_PORTS, PROXY_FIREWALL)
_KUBELET = "KUBE-KUBELET-CANARY"
Saved = dict[str, dict[str, list[str]]]  # table -> chain -> lines


def parse_save(text: str) -> Saved:
    """The chains and rules of iptables-save's output, counters left out."""
    tables: Saved = {}
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            chains[line.split(" ", 2)[1]].append(line.rstrip())
        elif line.startswith(":"):
            chains[line[1:].split(" ", 1)[0]] = []
        elif line.startswith("*"):
            chains = tables.setdefault(line[1:].strip(), {})
    return tables


@dataclass(slots=True)
class _Table:
    """The lines of one table of the input, in iptables-restore's order: chains first."""

    declared: dict[str, None] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    def whole(self, chain: str, lines: Iterable[str]) -> None:
        """Write a chain anew: to name it empties it."""
        self.declared[chain] = None
        self.rules += lines

    def text(self, name: str) -> str:
        if not (self.declared or self.rules or self.deleted):
            return ""
        lines = [f"*{name}", *(f":{chain} - [0:0]" for chain in self.declared), *self.rules]
        return "\n".join([*lines, *(f"-X {chain}" for chain in self.deleted), "COMMIT\n"])


class State:
    """What one node's chains hold in one IP family."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._spelling = layouts.spelling(rules)
        self._ports: dict[Key, Ports] = {}
        self._endpoints = 0
        self.lines = {"filter": 0, "nat": 0}  # rules of ours
        self.written = {"filter": 0, "nat": 0}  # rules in the last input

    def set_ports(self, changed: Mapping[Key, Ports | None]) -> None:
        """Take in what is wanted without a word about how to get there; `reconcile` comes next."""
        for key, ports in changed.items():
            self._put(key, ports or ())

    def _put(self, key: Key, ports: Ports) -> None:
        self._endpoints -= sum(len(port.cluster) for port in self._ports.get(key, ()))
        self._endpoints += sum(len(port.cluster) for port in ports)
        if ports:
            self._ports[key] = ports
        else:
            self._ports.pop(key, None)

    def adopt(self, rules: Rules) -> None:
        """Other rules for the whole node; `reconcile` comes next."""
        self.rules = rules
        self._spelling = layouts.spelling(rules)

    def update(self, changed: Mapping[Key, Ports | None]) -> str:
        """Input for the Services that changed (None: gone); "" when nothing differs."""
        tables = {name: _Table() for name in TOP}
        nat = tables["nat"]
        gone: dict[Place, dict[str, None]] = {}
        fresh: dict[Place, dict[str, None]] = {}
        dropped: dict[str, None] = {}
        for key, ports in changed.items():
            before = self._ports.get(key, ())
            if before == (ports or ()):
                continue
            old = self._spelling.piece(before) if before else _NOTHING
            self._put(key, ports or ())
            self._spelling.comments = self._endpoints <= LARGE
            new = self._spelling.piece(ports) if ports else _NOTHING
            self._count(old, new)
            for chain, lines in new.chains.items():
                dropped.pop(chain, None)
                if old.chains.get(chain) != lines:
                    nat.whole(chain, lines)
            dropped.update(dict.fromkeys(chain for chain in old.chains if chain not in new.chains))
            for place in {**old.top, **new.top}:
                was, now = old.top.get(place, []), new.top.get(place, [])
                if was != now and self._in_pairs(place):
                    gone.setdefault(place, {}).update(dict.fromkeys(was))
                    fresh.setdefault(place, {}).update(dict.fromkeys(now))
                elif was != now:
                    gone.setdefault(place, {}).update(dict.fromkeys(line for line in was if line not in now))
                    fresh.setdefault(place, {}).update(dict.fromkeys(line for line in now if line not in was))
        self._top_changes(tables, gone, fresh)
        for chain in dropped:
            nat.declared[chain] = None
            nat.deleted.append(chain)
        self._measure(tables)
        return "".join(table.text(name) for name, table in tables.items())

    def _top_changes(
        self,
        tables: Mapping[str, _Table],
        gone: Mapping[Place, dict[str, None]],
        fresh: Mapping[Place, dict[str, None]],
    ) -> None:
        """Single rules of shared chains. In KUBE-SERVICES of `nat` new ones go in front, as its last rule has to stay the last."""
        for (table, chain), lines in gone.items():
            stays = {} if self._in_pairs((table, chain)) else fresh.get((table, chain), {})
            tables[table].rules += [f"-D {line[3:]}" for line in lines if line not in stays]
        for (table, chain), lines in fresh.items():
            before = {} if self._in_pairs((table, chain)) else gone.get((table, chain), {})
            wanted = [line[3:] for line in lines if line not in before]
            front = (table, chain) == ("nat", SERVICES)  # from the back to the front, they come out in their order
            tables[table].rules += [f"-I {rule}" for rule in reversed(wanted)] if front else [f"-A {rule}" for rule in wanted]  # fmt: skip

    def _in_pairs(self, place: Place) -> bool:
        """Whether a Service's rules in a shared chain go and come together, as one of them may have to stand before another."""
        return self._spelling.pairs and place in (("nat", SERVICES), ("nat", NODE_PORTS))

    def _count(self, old: Piece, new: Piece) -> None:
        for piece, sign in ((old, -1), (new, 1)):
            self.lines["nat"] += sign * sum(map(len, piece.chains.values()))
            for (table, _), lines in piece.top.items():
                self.lines[table] += sign * len(lines)

    def _measure(self, tables: Mapping[str, _Table]) -> None:
        for name in self.written:
            self.written[name] = sum(1 for line in tables[name].rules if not line.startswith("-D"))

    # -- against what is there

    def fixed(self) -> dict[Place, list[str]]:
        """Rules that no Service asks for."""
        return self._spelling.fixed()

    def wanted(self) -> tuple[dict[Place, list[str]], dict[str, list[str]]]:
        """Every shared chain and every Service's own."""
        self._spelling.comments = self._endpoints <= LARGE
        top: dict[Place, list[str]] = {
            (table, chain): [] for table, chains in self._spelling.top.items() for chain in chains
        }
        for place, lines in self._spelling.fixed().items():
            top[place] += lines
        own: dict[str, list[str]] = {}
        for key in sorted(self._ports):
            piece = self._spelling.piece(self._ports[key])
            own.update(piece.chains)
            for place, lines in piece.top.items():
                top[place] += lines
        top["nat", SERVICES] += self._spelling.last()
        return top, own

    def reconcile(self, saved: Saved) -> str:
        """Input that makes the node's tables what they should be, whoever wrote what is there (iptables-save's output, parsed); "" when they are."""
        tables = {name: _Table() for name in TOP}
        top, own = self.wanted()
        for (table, chain), lines in top.items():
            there = saved.get(table, {}).get(chain)
            if there is None or not self._alike(table, chain, there, lines):
                tables[table].whole(chain, lines)
        nat = saved.get("nat", {})
        for chain, lines in own.items():
            if nat.get(chain) != lines:
                tables["nat"].whole(chain, lines)
        for table, chain, rule in self._spelling.jumps:
            if f"-A {chain} {rule}" not in saved.get(table, {}).get(chain, ()):
                tables[table].rules.append(f"-I {chain} {rule}")
        for chain in nat:
            if chain.startswith(PREFIXES) and chain not in own:
                tables["nat"].declared[chain] = None
                tables["nat"].deleted.append(chain)
        self._other_layouts(saved, tables, top)
        self.lines = {
            name: sum(len(lines) for (table, _), lines in top.items() if table == name) for name in self.lines
        }
        self.lines["nat"] += sum(map(len, own.values()))
        self._measure(tables)
        return "".join(table.text(name) for name, table in tables.items())

    def _other_layouts(self, saved: Saved, tables: Mapping[str, _Table], top: Mapping[Place, list[str]]) -> None:
        """Take away what only another layout has."""
        kubelet = _KUBELET in saved.get("mangle", {})
        for table, chain, rule in layouts.jumps():
            found = f"-A {chain} {rule}" in saved.get(table, {}).get(chain, ())
            if found and (table, chain, rule) not in self._spelling.jumps:
                tables[table].rules.append(f"-D {chain} {rule}")
        for table in TOP:
            there = saved.get(table, {})
            for chain in layouts.chains(table):
                ours = (table, chain) not in top and layouts.is_ours(table, chain, kubelet)
                if chain in there and ours and not layouts.used_by_others(table, chain, there):
                    tables[table].declared[chain] = None
                    tables[table].deleted.append(chain)
        if not kubelet:  # what another one dropped by its mark is the kubelet's business where there is one
            lines = saved.get("filter", {}).get(FIREWALL, [])
            spare = [
                line for line in layouts.firewall(self.rules) if line in lines and line not in top["filter", FIREWALL]
            ]
            if FIREWALL not in tables["filter"].declared:
                tables["filter"].rules += [f"-D {line[3:]}" for line in spare]

    def _alike(self, table: str, chain: str, there: list[str], wanted: list[str]) -> bool:
        """Whether a shared chain is as it should be. Among rules of Services order means nothing; KUBE-FIREWALL is the kubelet's too."""
        if chain == FIREWALL:
            return all(line in there for line in wanted)
        if chain not in _OF_SERVICES:
            return there == wanted
        end = len(self._spelling.last()) if (table, chain) == ("nat", SERVICES) else 0
        if self._in_pairs((table, chain)) and not layouts.in_pairs(there):
            return False
        return sorted(there) == sorted(wanted) and (not end or there[-end:] == wanted[-end:])

    def services(self) -> Iterable[Key]:
        """The Services the chains are for."""
        return self._ports.keys()

    def ports(self, key: Key) -> Ports:
        """What the chains have for a Service."""
        return self._ports.get(key, ())


def sweep(saved: Saved, firewall: Iterable[str] = ()) -> str:
    """Input that removes every chain of ours and the jumps to them. KUBE-FIREWALL is the kubelet's too: where there is one, only our rules
    in it (`firewall`) go."""
    text = ""
    kubelet = _KUBELET in saved.get("mangle", {})
    for table in reversed(TOP):
        chains = saved.get(table, {})
        ours = [name for name in chains if layouts.is_ours(table, name, kubelet)]
        rules = [f"-D {line[3:]}" for line in firewall if kubelet and line in chains.get(FIREWALL, ())]
        rules += [
            f"-D {chain} {rule}"
            for where, chain, rule in layouts.jumps()
            if where == table
            and not (kubelet and chain != "FORWARD" and rule.endswith(FIREWALL))
            and f"-A {chain} {rule}" in chains.get(chain, ())
        ]
        if ours or rules:
            lines = [f"*{table}", *(f":{name} - [0:0]" for name in ours), *rules, *(f"-X {name}" for name in ours)]
            text += "\n".join([*lines, "COMMIT\n"])
    return text
