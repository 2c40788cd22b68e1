"""What holds for every picture: boxes are nested or apart, texts lie inside the box they begin in, no two of them on one another."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import NamedTuple

from glassnet.tracer.drawing.svg import ADVANCE

_SVG = "{http://www.w3.org/2000/svg}"
_SLACK = 0.51


class Area(NamedTuple):
    """A rectangle, and what it is."""

    left: float
    top: float
    right: float
    bottom: float
    what: str

    def apart(self, other: Area) -> bool:
        return (
            self.right <= other.left + _SLACK
            or other.right <= self.left + _SLACK
            or self.bottom <= other.top + _SLACK
            or other.bottom <= self.top + _SLACK
        )

    def inside(self, other: Area) -> bool:
        return (
            self.left >= other.left - _SLACK
            and self.right <= other.right + _SLACK
            and self.top >= other.top - _SLACK
            and self.bottom <= other.bottom + _SLACK
        )

    def holds(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.top <= y <= self.bottom


def boxes(document: ET.Element) -> list[Area]:
    """All boxes, the page first."""
    found = []
    for each in document.iter(f"{_SVG}rect"):
        x, y = float(each.get("x", 0)), float(each.get("y", 0))
        found.append(
            Area(x, y, x + float(each.get("width", 0)), y + float(each.get("height", 0)), each.get("class", ""))
        )
    return found


def texts(document: ET.Element) -> list[Area]:
    """All texts, as wide as they can be in any of the fonts."""
    found = []
    for each in document.iter(f"{_SVG}text"):
        shown = "".join(piece for piece in [each.text, *(child.tail for child in each)] if piece)
        size, x, y = float(each.get("font-size", 0)), float(each.get("x", 0)), float(each.get("y", 0))
        width = len(shown) * size * ADVANCE
        left = x - {"start": 0, "middle": width / 2, "end": width}[each.get("text-anchor", "start")]
        found.append(Area(left, y - size * 0.75, left + width, y + size * 0.2, shown))
    return found


def check(svg: str) -> ET.Element:
    """Assert what holds for every picture; the document."""
    document = ET.fromstring(svg)
    rects, words = boxes(document), texts(document)
    page = rects[0]
    assert (page.right, page.bottom) == (float(document.get("width", 0)), float(document.get("height", 0)))
    for index, box in enumerate(rects):
        for other in rects[index + 1 :]:
            assert box.apart(other) or other.inside(box) or box.inside(other), f"{box} overlaps {other}"
    for text in words:
        around = [box for box in rects if box.holds(text.left + _SLACK, (text.top + text.bottom) / 2)]
        home = min(around, key=lambda box: (box.right - box.left) * (box.bottom - box.top))
        assert text.inside(home), f"{text} leaves {home}"
    rows = sorted(words, key=lambda text: text.top)
    for index, text in enumerate(rows):
        for other in rows[index + 1 :]:
            if other.top >= text.bottom:
                break
            assert text.apart(other), f"{text} lies on {other}"
    return document


def said(document: ET.Element) -> list[str]:
    """All texts, as shown."""
    return [text.what for text in texts(document)]
