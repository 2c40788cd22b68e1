"""A canvas for SVG documents (W3C SVG 1.1) whose texts are known to fit: one font of fixed width, so that a text's width follows from its length.

Colours are names ("machine", "pod", "ink", …); the document says what they are on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

ADVANCE = 0.605  # widest advance of the named fonts, in em
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_LIGHT = {
    "paper": "#ffffff", "ink": "#16202c", "faint": "#55647a", "edge": "#93a2b5", "wire": "#3b6fb6",
    "machine": "#f3f6fa", "router": "#e6f0ff", "outside": "#fff6df", "pod": "#e5f5ea", "bridge": "#dde7f5",
    "service": "#f3eafc", "chain": "#ffffff", "mark": "#fff1c9", "change": "#1c4fc4", "changed": "#dfe9ff",
    "good": "#1d7a35", "bad": "#bb1f1f", "open": "#8f5a00", "refused": "#fde6e4",
}  # fmt: skip
_DARK = {
    "paper": "#10161e", "ink": "#e8eef5", "faint": "#a3b1c2", "edge": "#5d6c7f", "wire": "#7fb0f2",
    "machine": "#1a232e", "router": "#17294a", "outside": "#3a2f12", "pod": "#16352a", "bridge": "#22344d",
    "service": "#33234a", "chain": "#10161e", "mark": "#4a3b0d", "change": "#9cc0ff", "changed": "#1d3566",
    "good": "#6fd58a", "bad": "#ff8d85", "open": "#f2c063", "refused": "#4a1d1b",
}  # fmt: skip
_FILLS = ("paper", "machine", "router", "outside", "pod", "bridge", "service", "chain", "mark", "changed", "refused")
_INKS = ("ink", "faint", "change", "good", "bad", "open")
_LINES = ("edge", "wire", "good", "bad", "open")


def width_of(text: str, size: float) -> float:
    """How wide a text is, in pixels, at most."""
    return len(text) * size * ADVANCE


def fit(text: str, room: float, size: float) -> str:
    """The text, shortened in its middle where it is wider than `room` pixels: names of pods differ at their ends."""
    most = max(1, int(room / (size * ADVANCE)))
    if len(text) <= most:
        return text
    head = (most - 1 + 1) // 2
    tail = most - 1 - head
    return f"{text[:head]}…{text[len(text) - tail :] if tail else ''}"


class Canvas:
    """Collects boxes, lines and texts; what is drawn first lies below."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._tips: dict[str, None] = {}
        self.right = self.bottom = 0.0

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, *, tip: str = "", dashed: bool = False, edge: str = "edge", radius: float = 6
    ) -> None:  # fmt: skip
        """A rectangle; `kind` names its colour, `tip` is shown when a pointer rests on it."""
        dash = " stroke-dasharray='5 3'" if dashed else ""
        head = f"<rect class='f-{kind} l-{edge}' x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='{radius:g}'{dash}"
        self._parts.append(f"{head}><title>{escape(tip)}</title></rect>" if tip else f"{head}/>")
        self.right, self.bottom = max(self.right, x + width), max(self.bottom, y + height)

    def text(
        self, x: float, y: float, text: str, *, kind: str = "ink", size: float = 11, bold: bool = False, room: float = 0, anchor: str = "start"
    ) -> float:  # fmt: skip
        """A line of text whose baseline is at y; shortened to `room` pixels, when given, with the whole as its tip. Its width."""
        shown = fit(text, room, size) if room else text
        tip = f"<title>{escape(text)}</title>" if shown != text else ""
        place = "" if anchor == "start" else f" text-anchor='{anchor}'"
        weight = " font-weight='bold'" if bold else ""
        self._parts.append(
            f"<text class='t-{kind}' x='{x:g}' y='{y:g}' font-size='{size:g}'{weight}{place} xml:space='preserve'>{tip}{escape(shown)}</text>"
        )
        width = width_of(shown, size)
        self.right = max(self.right, x + (width if anchor == "start" else width / 2 if anchor == "middle" else 0))
        self.bottom = max(self.bottom, y + size * 0.3)
        return width

    def line(
        self, points: Iterable[tuple[float, float]], kind: str = "wire", *, width: float = 1.6, arrow: bool = False, dashed: bool = False
    ) -> None:  # fmt: skip
        """A line through points, with an arrow head at its end if asked."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        tip = ""
        if arrow:
            self._tips[kind] = None
            tip = f" marker-end='url(#tip-{kind})'"
        dash = " stroke-dasharray='6 4'" if dashed else ""
        self._parts.append(
            f"<polyline class='l-{kind}' points='{path}' fill='none' stroke-width='{width:g}' stroke-linejoin='round'{dash}{tip}/>"
        )

    def document(self, title: str, margin: float = 24) -> str:
        """The whole as an SVG document."""
        width, height = round(self.right + margin), round(self.bottom + margin)
        tips = "".join(
            f"<marker id='tip-{kind}' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
            f"<path class='h-{kind}' d='M0,0 L8,4 L0,8 z'/></marker>"
            for kind in self._tips
        )
        head = (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}' "
            f"font-family={quoteattr(FONT)} role='img'>\n<title>{escape(title)}</title>\n"
            f"<style>{_style(_LIGHT)}\n@media (prefers-color-scheme: dark) {{{_style(_DARK)}}}</style>\n"
        )
        page = f"<rect class='f-paper' width='{width}' height='{height}'/>"
        return f"{head}<defs>{tips}</defs>\n{page}\n" + "\n".join(self._parts) + "\n</svg>"


def _style(colours: dict[str, str]) -> str:
    rules = [f".f-{name}{{fill:{colours[name]}}}" for name in _FILLS]
    rules += [f".t-{name}{{fill:{colours[name]}}}" for name in _INKS]
    rules += [f".l-{name}{{stroke:{colours[name]}}} .h-{name}{{fill:{colours[name]}}}" for name in _LINES]
    return " ".join(rules)
