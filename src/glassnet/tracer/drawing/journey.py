"""A trace report as what its picture shows: machine after machine, on each the chains with the rule that matched, changes of addresses, routes.

Chains in which nothing happened are left out: those that were asked and did not match, and the kernel's own that only lead on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from glassnet.tracer.report import WORDS

PLAIN, CHANGE, MARK, BAD, GOOD, OPEN, FAINT = "plain", "change", "mark", "bad", "good", "open", "faint"
_COMMENT = re.compile(r' ?-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+)')
_FILLER = re.compile(r"^-A \S+ ?| ?-m (?!comment)\S+| ?-[jg] .*$| ?--(?:mode random|rsource|reap|mask \S+)")
_CHANCE = re.compile(r"--probability ([0-9.]+)")
_NFT_COMMENT = re.compile(r' ?comment "[^"]*"')
_ROOM = 48  # characters of a reason
_GOOD_ENDS = ("ok", "delivered", "left")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a card; `kind` is one of the names above."""

    text: str
    kind: str = PLAIN


@dataclass(frozen=True, slots=True)
class Card:
    """A chain, a routing decision, or an end: `title`, what kind of thing it is (`note`), what happened there, and the rule as written (`tip`)."""

    title: str
    note: str
    lines: tuple[Line, ...]
    tip: str = ""
    rule: bool = False


@dataclass(slots=True)
class Visit:
    """A machine on the way: its cards, and the packet as it arrived, (source, destination); ("", "") where it began."""

    machine: str
    packet: tuple[str, str] = ("", "")
    cards: list[Card] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Journey:
    """One way there, and the way of its answer; `alike` tells of ways that look the same but end at another endpoint."""

    share: float
    title: str
    there: tuple[Visit, ...]
    back: tuple[Visit, ...]
    good: bool
    alike: tuple[str, ...] = ()


def journeys(report: dict[str, Any]) -> list[Journey]:
    """The ways of a report, those that look alike as one."""
    found: dict[tuple[object, ...], tuple[Journey, list[str]]] = {}
    for way in report["ways"]:
        answer = way.get("answer")
        there = _visits(way["steps"], _end(way))
        back = _visits(answer["steps"], _end(answer, True)) if answer else []
        title = f"{share_text(way['share'])} of the packets: {WORDS.get(way['result'], way['result'])}"
        if way["doubts"]:
            title += f"; {way['doubts'][-1]}"
        made = Journey(way["share"], title, tuple(there), tuple(back), way["result"] in _GOOD_ENDS)
        end = way["end"]
        on = f" on {end['node']}" if end["node"] else ""
        said = (
            f"{share_text(way['share'])} in the same way to {end['machine']}{on}: {end['packet'].rpartition(' > ')[2]}"
        )
        key = (way["result"], _shape(there), _shape(back))
        if key in found and not way["doubts"]:
            found[key][1].append(said)
        else:
            found[key if key not in found else (key, len(found))] = (made, [])
    return [Journey(m.share, m.title, m.there, m.back, m.good, tuple(alike)) for m, alike in found.values()]


def share_text(share: float) -> str:
    """`50%`, `0.25%`."""
    return f"{share:.0%}" if share >= 0.01 else f"{share:.2%}"


def _shape(visits: list[Visit]) -> tuple[object, ...]:
    """What a way looks like without the names of who is on it; whether a machine is met again is part of that."""
    names = list(dict.fromkeys(visit.machine for visit in visits))
    cards = [tuple((card.title.rpartition("-")[0] if card.rule else card.title, card.note, len(card.lines)) for card in visit.cards) for visit in visits]  # fmt: skip
    return tuple((names.index(visit.machine), each) for visit, each in zip(visits, cards, strict=True))


def _end(way: dict[str, Any], answer: bool = False) -> Card:
    """What became of the packet."""
    end, kind = way["end"], way["end"]["kind"]
    good = kind in _GOOD_ENDS
    words = "comes home" if answer and good else WORDS.get(kind, kind)
    ink = GOOD if good else OPEN if kind == "unknown" else BAD
    detail = [] if good or not end["detail"] else [Line(end["detail"], ink)]
    ink = PLAIN if detail else ink
    source, destination = ends(end["packet"])
    lines = [Line(f"from {source}", ink), Line(f"to {destination}", ink)] if destination else [Line(end["packet"], ink)]
    return Card(words, "", (*lines, *detail), end["detail"])


def ends(packet: str) -> tuple[str, str]:
    """Source and destination of a packet's text (`tcp 10.0.0.1:40000 > 10.0.0.2:80`)."""
    source, _, destination = packet.partition(" > ")
    return source.partition(" ")[2], destination.partition(" ")[0]


def _visits(steps: list[dict[str, Any]], end: Card) -> list[Visit]:
    found: list[Visit] = []
    for index, step in enumerate(steps):
        if not found or step["machine"] != found[-1].machine or (step["kind"] == "receive" and found[-1].cards):
            found.append(Visit(step["machine"], ends(step["packet"]) if found else ("", "")))
        for card in _cards(steps, index):
            cards = found[-1].cards
            if cards and card.rule and cards[-1].rule and (cards[-1].title, cards[-1].note) == (card.title, card.note):
                cards[-1] = Card(card.title, card.note, cards[-1].lines + card.lines, f"{cards[-1].tip}\n{card.tip}", True)  # fmt: skip
            else:
                cards.append(card)
    if found:
        found[-1].cards.append(end)
    return found


def _cards(steps: list[dict[str, Any]], index: int) -> Iterator[Card]:
    """What of a step is shown."""
    step = steps[index]
    action, hook = step["action"], step.get("hook", "")
    match step["kind"]:
        case "rule" if _tells(steps, index):
            table, _, chain = step.get("chain", "").rpartition(" ")
            yield Card(
                chain, f"{table} {hook}".strip(), tuple(_lines(step)), step.get("rule", {}).get("text", ""), True
            )
        case "policy":
            table, _, chain = step.get("chain", "").rpartition(" ")
            yield Card(chain, f"{table} {hook}".strip(), (Line(action, BAD),))
        case "nat":
            yield Card("conntrack", hook, (_changed(action),), action)
        case "route" if "is an address of" not in action:
            said = action.partition(": ")[2] or action
            yield Card("route", "", (Line(said), *_because(step)), step.get("route", ""))
        case "bridge" if not action.startswith(("enters", "leaves")):
            yield Card("bridge", step.get("device", ""), (Line(action),))


def _tells(steps: list[dict[str, Any]], index: int) -> bool:
    """Whether a rule did something, or led to one that did."""
    step = steps[index]
    verb, _, target = step["action"].partition(" ")
    if verb in ("jump", "goto"):
        target = target.partition(" ")[0]
        inner = [each for each in steps[index + 1 : index + 2] if each["kind"] == "rule"]
        led = bool(inner) and inner[0].get("chain", "").rpartition(" ")[2] == target
        base = step.get("chain", "").rpartition(" ")[2].lower() in ("prerouting", "input", "forward", "output", "postrouting")  # fmt: skip
        return led and not base
    return not step["action"].startswith(("goes on", "return"))


def _lines(step: dict[str, Any]) -> Iterator[Line]:
    action = step["action"]
    rule = step.get("rule", {})
    yield Line(f"{rule.get('number', '')}. {matched(rule.get('text', ''))}".strip(), FAINT)
    if " becomes " in action:
        yield _changed(action)
    elif action.startswith(("jump", "goto")):
        yield Line(f"→ {action.split()[1]}")
    elif action.startswith("mark"):
        yield Line(action, MARK)
    else:
        yield Line(action, BAD if action.startswith(("drop", "reject")) else PLAIN)
    yield from _because(step)


def _because(step: dict[str, Any]) -> Iterator[Line]:
    """The first reason; without the object's name where that would be too long, as the field says more."""
    for text in step.get("because", ())[:1]:
        kind, _, rest = text.partition(" ")
        short = rest.partition(" ")[2]
        if kind == "EndpointSlice" and ", Pod " in rest:
            short = f"Pod {rest.rpartition(', Pod ')[2]}"
        yield Line(text if len(text) <= _ROOM else short or text, FAINT)


def _changed(action: str) -> Line:
    what, _, new = action.partition(" becomes ")
    side, _, old = what.partition(" ")
    name = {"destination": "DNAT", "source": "SNAT"}.get(side, side)
    new, _, known = new.partition(", as the connection has it")
    if not known and action.endswith("as the connection has it"):
        name = f"un-{name}"
    return Line(f"{name} {old} → {new.partition(' (')[0]}", CHANGE)


def matched(rule: str) -> str:
    """What a rule asks for, without its comment, its chain and its target."""
    text = _FILLER.sub("", _NFT_COMMENT.sub("", _COMMENT.sub("", rule)))
    text = _CHANCE.sub(lambda found: f"probability {float(found[1]):.4g}", text)
    return text.strip() or "every packet"
