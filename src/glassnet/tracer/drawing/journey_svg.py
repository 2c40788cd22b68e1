"""A trace as a picture for a runbook: a column a machine, chains as cards with the rule that matched, the packet's addresses on every arrow.

Above the packets on their way there, from left to right; below their answers, from right to left. An address that is not the one the client
used is set off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glassnet.tracer.drawing.journey import BAD, CHANGE, FAINT, GOOD, MARK, OPEN, Card, Journey, Line, Visit, journeys
from glassnet.tracer.drawing.svg import Canvas
from glassnet.tracer.report import headline

_LEFT, _TOP, _LINE, _PAD = 28, 24, 14, 10
_WIDE, _NARROW, _GAP = 336, 284, 158  # of a machine with rules, of another one, between them
_LANE_TOP, _CARD_GAP, _BAND = 34, 12, 30
_MOST = 6  # ways drawn
_FILLS = {CHANGE: "changed", MARK: "mark", BAD: "refused"}
_INKS = {CHANGE: "change", BAD: "bad", GOOD: "good", OPEN: "open", FAINT: "faint"}


@dataclass(slots=True)
class _Lane:
    """A column: a machine on the way, where the packet is there and where its answer is."""

    machine: str
    there: Visit | None = None
    back: Visit | None = None
    x: float = 0

    @property
    def width(self) -> int:
        cards = [card for visit in (self.there, self.back) if visit for card in visit.cards]
        return _WIDE if any(card.rule for card in cards) else _NARROW


def journey_svg(report: dict[str, Any]) -> str:
    """An SVG document of a trace report."""
    canvas, request = Canvas(), report["request"]
    port = f":{request['port']}" if request["port"] else ""
    title = f"{request['protocol']} {request['from']} → {request['to']}{port}"
    canvas.text(_LEFT, _TOP + 10, title, size=17, bold=True)
    whose = request["whose"][0] if request["whose"] else ""
    canvas.text(_LEFT, _TOP + 30, whose, kind="faint", size=11)
    canvas.text(_LEFT, _TOP + 50, headline(report), kind=_headline_ink(report), size=12, bold=True)
    y, found = _TOP + 84.0, journeys(report)
    for journey in found[:_MOST]:
        y = _Drawing(canvas, journey).draw(y) + 34
    if len(found) > _MOST:
        canvas.text(_LEFT, y, f"{len(found) - _MOST} more ways are not drawn", kind="faint")
    return canvas.document(f"Trace of {title}")


def _headline_ink(report: dict[str, Any]) -> str:
    if not report["certain"]:
        return "open"
    return "good" if set(report["results"]) <= {"ok", "delivered", "left"} else "bad"


def _lanes(journey: Journey) -> list[_Lane]:
    """A column for each machine in the order of the way there; the answer goes back through the same ones, as far as it does."""
    lanes = [_Lane(visit.machine, visit) for visit in journey.there]
    place = len(lanes) - 1
    for visit in journey.back:
        near = [
            index for index in range(place, -1, -1) if lanes[index].machine == visit.machine and not lanes[index].back
        ]
        if near:
            place = near[0]
        else:  # a machine that the way there did not pass
            place = max(place, 0)
            lanes.insert(place, _Lane(visit.machine))
        lanes[place].back = visit
    x = float(_LEFT)
    for lane in lanes:
        lane.x = x
        x += lane.width + _GAP
    return lanes


class _Drawing:
    """One journey on a canvas."""

    def __init__(self, canvas: Canvas, journey: Journey) -> None:
        self.canvas, self.journey, self.lanes = canvas, journey, _lanes(journey)
        self.first = self._first(journey.there)
        self.answer = self._first(journey.back)

    @staticmethod
    def _first(visits: tuple[Visit, ...]) -> tuple[str, str]:
        """The addresses the sender used: as the packet was when it first arrived somewhere."""
        return next((visit.packet for visit in visits if visit.packet != ("", "")), ("", ""))

    def draw(self, y: float) -> float:
        """Draw it from y down; where it ends."""
        canvas, journey = self.canvas, self.journey
        canvas.text(_LEFT, y, journey.title, kind="good" if journey.good else "bad", size=12, bold=True)
        for text in journey.alike:
            y += 16
            canvas.text(_LEFT, y, text, kind="faint", size=10.5)
        top = y + 14
        row = top + _LANE_TOP
        tall = max(self._stack(lane.there) for lane in self.lanes)
        back = row + tall + _BAND
        bottom = back + max((self._stack(lane.back) for lane in self.lanes), default=0) + 4 if journey.back else row + tall + 6  # fmt: skip
        for lane in self.lanes:
            canvas.box(lane.x, top, lane.width, bottom - top, "machine", radius=10, tip=lane.machine)
            canvas.text(lane.x + _PAD, top + 21, lane.machine, size=12.5, bold=True, room=lane.width - 2 * _PAD)
        self._arrows(row, True)
        if journey.back:
            last = self.lanes[-1]
            canvas.line([(_LEFT + 6, back - _BAND / 2), (last.x + last.width - 6, back - _BAND / 2)], "edge", width=1, dashed=True)  # fmt: skip
            canvas.text(_LEFT + _PAD, back - 4, "answer", kind="faint", size=9.5)
            self._arrows(back, False)
        for lane in self.lanes:
            self._cards(lane, lane.there, row)
            self._cards(lane, lane.back, back)
        return bottom

    # -- cards

    def _height(self, card: Card) -> float:
        return 24 + sum(_LINE + (6 if line.kind in _FILLS else 0) for line in card.lines) + 4

    def _stack(self, visit: Visit | None) -> float:
        return sum(self._height(card) + _CARD_GAP for card in visit.cards) if visit else 0

    def _cards(self, lane: _Lane, visit: Visit | None, y: float) -> None:
        """Cards below one another, joined by short lines."""
        if visit is None:
            return
        for index, card in enumerate(visit.cards):
            height = self._height(card)
            if index:
                middle = lane.x + 30
                self.canvas.line([(middle, y - _CARD_GAP), (middle, y - 1)], "wire", width=1.3, arrow=True)
            self._card(card, lane.x + _PAD, y, lane.width - 2 * _PAD, height)
            y += height + _CARD_GAP

    def _card(self, card: Card, x: float, y: float, width: float, height: float) -> None:
        canvas, room = self.canvas, width - 16
        end = next((line.kind for line in card.lines if line.kind in (GOOD, BAD, OPEN)), "") if not card.rule else ""
        canvas.box(x, y, width, height, "chain", tip=card.tip, edge=_INKS.get(end, "edge"), radius=5)
        noted = canvas.text(x + width - 8, y + 16, card.note, kind="faint", size=9, anchor="end") if card.note else 0
        canvas.text(x + 8, y + 16, card.title, kind=_INKS.get(end, "ink"), size=11, bold=True, room=room - noted - 8)
        y += 24
        for line in card.lines:
            y = self._line(line, x + 8, y, room)

    def _line(self, line: Line, x: float, y: float, room: float) -> float:
        size = 9.5 if line.kind == FAINT else 10.5
        fill = _FILLS.get(line.kind)
        if fill:
            self.canvas.box(x - 3, y, room + 6, _LINE + 4, fill, edge=_INKS.get(line.kind, "edge"), radius=3)
            y += 2
        self.canvas.text(x, y + 11, line.text, kind=_INKS.get(line.kind, "ink"), size=size, bold=line.kind == CHANGE, room=room)  # fmt: skip
        return y + _LINE + (4 if fill else 0)

    # -- arrows

    def _arrows(self, y: float, there: bool) -> None:
        """From each machine's last card to the next one's first, with the packet's addresses."""
        lanes = [lane for lane in self.lanes if (lane.there if there else lane.back)]
        order = self.journey.there if there else self.journey.back
        by_visit = {id(lane.there if there else lane.back): lane for lane in lanes}
        path = [by_visit[id(visit)] for visit in order]
        for before, after, visit in zip(path, path[1:], order[1:], strict=False):
            leaving = y + self._stack(before.there if there else before.back) - _CARD_GAP - 14
            level = y + 30
            if abs(leaving - level) < 16:
                leaving = level  # a card or two: the line need not bend
            rightward = after.x > before.x
            start = before.x + before.width - _PAD if rightward else before.x + _PAD
            turn = before.x + before.width + 12 if rightward else before.x - 12
            tip = after.x + _PAD - 2 if rightward else after.x + after.width - _PAD + 2
            self.canvas.line([(start, leaving), (turn, leaving), (turn, level), (tip, level)], "wire", width=1.8, arrow=True)  # fmt: skip
            gap = after.x - _GAP if rightward else after.x + after.width
            self._addresses(visit.packet, gap + (18 if rightward else 4), level, there)

    def _addresses(self, packet: tuple[str, str], x: float, level: float, there: bool) -> None:
        """Source above the arrow, destination below; what is not as the sender wrote it is set off."""
        known = self.first if there else self.answer
        for text, original, y in zip(packet, known, (level - 8, level + 16), strict=True):
            if text:
                new = text != original
                self.canvas.text(x, y, text, kind="change" if new else "ink", size=9.5, bold=new, room=_GAP - 24)
