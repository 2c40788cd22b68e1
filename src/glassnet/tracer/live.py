"""The kernel's own account of a packet against the prediction: rule by rule, on each machine, there and back.

Of the ways a packet may take, the one that fits the kernel's account is the one it took. Rules of nf_tables are compared in their order;
the legacy tables give no order: every rule of theirs that the prediction names must have counted a packet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from glassnet.net.errors import ParseError
from glassnet.ruleset.model import LEGACY, NFT, Rule
from glassnet.ruleset.nft_print import rule_text
from glassnet.ruleset.parse_nft import expressions, parse_nft_json
from glassnet.tracer import path
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import Step
from glassnet.tracer.trace import Trace, Way
from glassnet.tracer.world import World

PACKET, ANSWER = "packet", "answer"
AGREED, DIFFERS, UNTRACED = "agreed", "differs", "no trace"
_MOST_ANSWERS = 256
_NO_PROTOCOL = {"enoprotoopt", "eproto"}  # ICMP: the other end has no such protocol
_UNREACHED = {"timeout", "unanswered", "enetunreach", "ehostunreach", "eacces", "eperm", "einval"}
_TOLD: dict[str, set[str]] = {  # result of a way -> what a sender may be told then
    "ok": {"connected", "answered"},
    "refused": {"refused"},
    "rejected": {"refused", *_UNREACHED},
}


class Seen(NamedTuple):
    """A rule that the kernel says a packet matched."""

    family: str
    table: str
    chain: str
    handle: int

    @property
    def text(self) -> str:
        return f"{self.table} {self.chain}: handle {self.handle}"


@dataclass(slots=True)
class Observation:
    """What happened to a packet that was sent. `rules`: machine -> direction -> rules in their order, for machines it came by; `risen`: machine -> rules of the legacy
    tables that counted packets, as (table, rule as written); `traced`: machines with the trace on; `untraced`: machine -> why the kernel gave no trace there; `late`: what the sender was told, it was told by when TCP had sent again."""

    source: str
    result: str
    rules: dict[str, dict[str, list[Seen]]] = field(default_factory=dict)
    risen: dict[str, set[tuple[str, str]] | None] = field(default_factory=dict)
    traced: set[str] = field(default_factory=set)
    untraced: dict[str, str] = field(default_factory=dict)
    late: bool = False

    @classmethod
    def read(cls, words: Mapping[str, Any]) -> Observation:
        """Out of the plain values that whoever sent it gives."""
        rules = {
            name: {direction: [Seen(*each) for each in found] for direction, found in by.items()}
            for name, by in words["events"].items()
        }
        counted = {
            name: None if found is None else {(t, r) for t, r in found} for name, found in words["counters"].items()
        }
        return cls(
            words["source"],
            words["result"],
            rules,
            counted,
            set(words["traced"]),
            dict(words["untraced"]),
            words["late"],
        )


class Difference(NamedTuple):
    """One place where prediction and kernel part: `place` counts rules on the machine from 1 (0: not a rule)."""

    machine: str
    direction: str
    place: int
    predicted: str
    kernel: str


@dataclass(slots=True)
class Comparison:
    """`way` is the one the packet took, by its number; `rules` of how many were as predicted, `machines` where."""

    way: int
    rules: int = 0
    machines: set[str] = field(default_factory=set)
    differences: list[Difference] = field(default_factory=list)
    untraced: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.differences:
            return DIFFERS
        return AGREED if self.rules or not self.untraced else UNTRACED


class Listings:
    """Handles of rules, from the nft listings of a snapshot: those of iptables' tables stand in them in the order of iptables-save."""

    def __init__(self, world: World, files: Mapping[str, bytes]) -> None:
        self.world, self._files = world, files
        self._handles: dict[str, dict[tuple[str, str, str], list[int]]] = {}

    def handle(self, machine: str, rule: Rule) -> int:
        """The rule's handle; 0 when it is not known."""
        if rule.handle:
            return rule.handle
        table = rule.chain.table
        found = self._of(machine).get((table.family, table.name, rule.chain.name), [])
        return found[rule.number - 1] if rule.number <= len(found) else 0

    def text(self, machine: str, seen: Seen) -> str:
        """The rule as written, where the snapshot has it."""
        rule = self._rule(self.world.machines.get(machine), machine, seen)
        return f"{seen.table} {seen.chain}: {_written(rule)}" if rule else f"{seen.text}, which is not in the snapshot"

    def _rule(self, machine: Machine | None, name: str, seen: Seen) -> Rule | None:
        for table in machine.ruleset.tables if machine else ():
            chain = table.chains.get(seen.chain)
            if (table.family, table.name) != (seen.family, seen.table) or chain is None or table.tool == LEGACY:
                continue
            if table.tool == NFT:
                return next((rule for rule in chain.rules() if rule.handle == seen.handle), None)
            places = self._of(name).get((seen.family, seen.table, seen.chain), [])
            if seen.handle in places and places.index(seen.handle) < len(chain):
                return chain.rule(places.index(seen.handle))
        return None

    def _of(self, machine: str) -> dict[tuple[str, str, str], list[int]]:
        if machine not in self._handles:
            held = self.world.machines.get(machine)
            folder = f"{held.source}/" if held and held.source else ""
            self._handles[machine] = _handles(self._files.get(f"{folder}nft-ruleset.json", b""))
        return self._handles[machine]


def _handles(listing: bytes) -> dict[tuple[str, str, str], list[int]]:
    try:
        tables = parse_nft_json(listing)
    except ParseError:
        return {}
    return {(t.family, t.name, c.name): [each.handle for each in c.raw] for t in tables for c in t.chains.values()}


def _written(rule: Rule) -> str:
    if not rule.text and rule.chain.table.tool == NFT:
        try:
            rule.text = rule_text(expressions(rule), rule.comment)
        except ParseError:
            return f"rule {rule.number}"
    return rule.text


# -- before sending


def answers_of(trace: Trace) -> list[tuple[int, int, int, int]]:
    """Addresses and ports that answers may have anywhere on the way: (source, port, destination, port or 0 for any)."""
    found: dict[tuple[int, int, int, int], None] = {}
    for way in trace.ways:
        last = way.packet
        found[last.dst, last.dport, last.src, 0] = None
        for entries in way.connections.values():
            for c in entries:
                found[c.reply_src, c.reply_sport, c.reply_dst, 0 if c.random_port else c.reply_dport] = None
    return list(found)[:_MOST_ANSWERS]


def without_ours(world: World, table: str) -> None:
    """Take the tables of a live trace that died out of a world: they decide nothing."""
    for machine in world.machines.values():
        machine.ruleset.tables = [each for each in machine.ruleset.tables if each.name != table]


# -- the legacy tables

_COUNTED = re.compile(r"\[(\d+):\d+\] (-A .*)").match


def risen(before: str, after: str) -> list[tuple[str, str]] | None:
    """Rules (table, text) whose packet counters rose between two listings of iptables-save -c; None when the rules are not the same."""
    first, second = list(_counts(before)), list(_counts(after))
    if [each[:2] for each in first] != [each[:2] for each in second]:
        return None
    return [old[:2] for old, new in zip(first, second, strict=True) if new[2] > old[2]]


def _counts(text: str) -> Iterator[tuple[str, str, int]]:
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif found := _COUNTED(line):
            yield table, found[2], int(found[1])


# -- the comparison


def compare(trace: Trace, listings: Listings, seen: Observation) -> Comparison:
    """Hold the kernel's account against each way of the prediction; the one that fits best. A trace without ways agrees with nothing."""
    best: Comparison | None = None
    for number, way in enumerate(trace.ways):
        found = _Side(listings, seen, number).compare(way)
        if best is None or _rank(found) < _rank(best):
            best = found
        if not found.differences:
            break
    return best or Comparison(-1, differences=[Difference("", PACKET, 0, "nothing", seen.result)])


def _rank(found: Comparison) -> tuple[int, int]:
    return len(found.differences), -found.rules


def _passes(step: Step, first: bool) -> bool:
    """Whether a step tells that the packet went through the first hook of its machine: routed after prerouting, or sent from here."""
    return step.kind == "route" and (step.hook == "prerouting" or first)


class _Side:
    """One way against the kernel's account."""

    def __init__(self, listings: Listings, seen: Observation, number: int) -> None:
        self.listings, self.seen = listings, seen
        self.result = Comparison(number)

    def compare(self, way: Way) -> Comparison:
        self._direction(PACKET, way.steps)
        if way.reply is not None and self._answered(way):
            self._direction(ANSWER, way.reply.steps)
        self._sender(way)
        return self.result

    def _answered(self, way: Way) -> bool:
        """False when the packet had no answer of its protocol: an application need not give one, and some refusals are ICMP errors."""
        if self.seen.result in _NO_PROTOCOL or (self.seen.result == "refused" and way.packet.protocol == 17):
            return False
        told = "timeout" if self.seen.late else self.seen.result
        return told not in ("timeout", "unanswered") or any(by.get(ANSWER) for by in self.seen.rules.values())

    def _direction(self, direction: str, steps: Iterable[Step]) -> None:
        by_machine: dict[str, list[Rule]] = {}
        passed: set[str] = set()
        for place, step in enumerate(steps):
            if _passes(step, place == 0):
                passed.add(step.machine)
            rules = by_machine.setdefault(step.machine, [])
            if step.kind == "rule" and step.rule is not None:
                rules.append(step.rule)
        for name in [*by_machine, *(other for other in self.seen.rules if other not in by_machine)]:
            rules = by_machine.get(name, [])
            self._legacy(name, direction, [each for each in rules if each.chain.table.tool == LEGACY])
            plain = [each for each in rules if each.chain.table.tool != LEGACY]
            if name in self.seen.untraced:
                if plain:
                    self.result.untraced[name] = self.seen.untraced[name]
            elif name in passed & self.seen.traced and direction not in self.seen.rules.get(name, {}):
                self.result.differences.append(Difference(name, direction, 0, "it comes by", "it never came"))
            else:
                self._rules(name, direction, plain)
                if name in passed & self.seen.traced:
                    self.result.machines.add(name)

    def _rules(self, machine: str, direction: str, rules: list[Rule]) -> None:
        events = self.seen.rules.get(machine, {}).get(direction, [])
        for place in range(max(len(rules), len(events))):
            rule = rules[place] if place < len(rules) else None
            event = events[place] if place < len(events) else None
            if rule is not None and event is not None and self._same(machine, rule, event):
                self.result.rules += 1
                self.result.machines.add(machine)
                continue
            predicted = f"{rule.chain.where}: {_written(rule)}" if rule else "no more rules"
            kernel = self.listings.text(machine, event) if event else "no more rules"
            self.result.differences.append(Difference(machine, direction, place + 1, predicted, kernel))
            return

    def _same(self, machine: str, rule: Rule, event: Seen) -> bool:
        table = rule.chain.table
        if (table.family, table.name, rule.chain.name) != event[:3]:
            return False
        handle = self.listings.handle(machine, rule)
        return not handle or handle == event.handle  # without a listing of handles the chain is all there is to compare

    def _legacy(self, machine: str, direction: str, rules: list[Rule]) -> None:
        if not rules:
            return
        counted = self.seen.risen.get(machine)
        if counted is None:
            self.result.untraced[machine] = "legacy tables give no trace, and their counters could not be compared"
            return
        for rule in rules:
            if (rule.chain.table.name, rule.text) in counted:
                self.result.rules += 1
                self.result.machines.add(machine)
            else:
                words = f"{rule.chain.where}: {_written(rule)}"
                self.result.differences.append(
                    Difference(machine, direction, rule.number, words, "its counter did not rise")
                )
                return

    def _sender(self, way: Way) -> None:
        again = self.seen.late and way.packet.protocol == 6  # the first packet, which this is about, had no answer
        told, predicted = "timeout" if again else self.seen.result, way.result
        if told not in _allowed(way, predicted):
            self.result.differences.append(Difference("", PACKET, 0, f"the sender is told: {predicted}", told))


def _allowed(way: Way, predicted: str) -> set[str]:
    """What the sender may be told when a way ends so."""
    everything = {"connected", "answered", "refused", *_UNREACHED}
    if predicted in (path.UNKNOWN, path.LEFT, path.DELIVERED) or way.kind == path.LEFT:
        return everything
    found = set(_TOLD.get(predicted, _UNREACHED))
    if predicted == "ok" and "not part of the dump" in way.detail:
        found.add("refused")
    if way.packet.protocol != 6:  # an application need not answer, and errors by ICMP are rationed
        found |= {"timeout", "unanswered"}
    if way.packet.protocol == 132 and predicted in ("ok", "refused"):
        found |= {"refused", *_NO_PROTOCOL}
    return found


def live_report(trace: Trace, found: Comparison, seen: Observation) -> dict[str, Any]:
    """The comparison as plain values."""
    request = trace.request
    return {
        "from": request.machine,
        "source": seen.source,
        "result": seen.result,
        "late": seen.late,
        "verdict": found.verdict,
        "way": found.way,
        "rules": found.rules,
        "machines": sorted(found.machines),
        "differences": [each._asdict() for each in found.differences],
        "untraced": found.untraced,
        "counters_only": sorted(name for name in found.machines if seen.risen.get(name)),
    }


__all__ = [
    "Comparison",
    "Difference",
    "Listings",
    "Observation",
    "Seen",
    "answers_of",
    "compare",
    "live_report",
    "risen",
    "without_ours",
]
