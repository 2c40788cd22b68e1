"""A trace as a picture: machines as columns from the client to where the packet ends, each way a line through them, translations on the line."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from glassnet.tracer.report import WORDS, headline

_GOOD, _BAD, _OPEN, _INK, _PALE = "#2e7d32", "#c62828", "#b26a00", "#1f2933", "#8492a6"
_LEFT, _TOP, _COLUMN, _LINE, _BOX = 24, 92, 276, 15, 236
_FONT = "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"
_MOST_WAYS = 24


def picture(report: dict[str, Any]) -> str:
    """An SVG document of a trace report."""
    ways = report["ways"][:_MOST_WAYS]
    rows, y = [], _TOP
    width = _LEFT * 2 + _COLUMN
    for way in ways:
        text, height, right = _row(way, y)
        rows.append(text)
        y += height + 18
        width = max(width, right + _LEFT)
    request = report["request"]
    port = f":{request['port']}" if request["port"] else ""
    title = f"{request['protocol']} {request['from']} → {request['to']}{port}"
    whose = request["whose"][0] if request["whose"] else ""
    left_out = len(report["ways"]) - len(ways)
    foot = f"{left_out} more ways are not drawn" if left_out else ""
    head = [
        f"<text x='{_LEFT}' y='34' {_FONT} font-size='18' font-weight='bold' fill='{_INK}'>{escape(title)}</text>",
        f"<text x='{_LEFT}' y='54' {_FONT} font-size='12' fill='{_PALE}'>{escape(whose)}</text>",
        f"<text x='{_LEFT}' y='76' {_FONT} font-size='13' fill='{_colour_of(report)}'>{escape(headline(report))}</text>",
        f"<text x='{_LEFT}' y='{y}' {_FONT} font-size='11' fill='{_PALE}'>{escape(foot)}</text>",
    ]
    width = max(width, _LEFT * 2 + len(title) * 11)
    body = "\n".join([*head, *rows])
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{y + 20}' viewBox='0 0 {width} {y + 20}'>\n"
        f"<rect width='100%' height='100%' fill='white'/>\n"
        f"<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0,0 L8,4 L0,8 z' fill='{_PALE}'/></marker></defs>\n{body}\n</svg>"
    )


def _colour_of(report: dict[str, Any]) -> str:
    if not report["certain"]:
        return _OPEN
    return _GOOD if set(report["results"]) <= {"ok", "delivered", "left"} else _BAD


def _colour(result: str) -> str:
    return _GOOD if result in ("ok", "delivered", "left") else _OPEN if result == "unknown" else _BAD


def _row(way: dict[str, Any], y: int) -> tuple[str, int, int]:
    """(drawing, height, right edge) of one way."""
    stops = _stops(way["steps"])
    tallest = max((len(lines) for _, lines in stops), default=0)
    height = 34 + max(1, tallest) * _LINE + 26
    parts = []
    share = f"{way['share']:.0%}" if way["share"] >= 0.01 else f"{way['share']:.2%}"
    for index, (machine, lines) in enumerate(stops):
        x = _LEFT + index * _COLUMN
        parts.append(_box(x, y, height, machine, lines, index == 0, share))
        if index + 1 < len(stops):
            middle = y + height // 2
            parts.append(
                f"<line x1='{x + _BOX}' y1='{middle}' x2='{x + _COLUMN - 2}' y2='{middle}' stroke='{_PALE}' stroke-width='1.6' marker-end='url(#tip)'/>"
            )
    x = _LEFT + len(stops) * _COLUMN - (_COLUMN - _BOX) + 14
    colour = _colour(way["result"])
    said = WORDS.get(way["result"], way["result"])
    parts.append(f"<circle cx='{x}' cy='{y + height // 2}' r='6' fill='{colour}'/>")
    parts.append(_text(x + 14, y + height // 2 - 2, said, 12, colour, bold=True))
    detail = way["end"]["packet"] if way["result"] == "ok" else way["end"]["detail"] or way["end"]["packet"]
    if way["result"] == "no-answer" and "answer" in way:
        detail = f"{way['answer']['end']['machine']}: {way['answer']['end']['detail']}"
    parts.append(_text(x + 14, y + height // 2 + 14, detail, 11, _PALE))
    return "\n".join(parts), height, x + 14 + max(len(said) * 8, min(len(detail), 90) * 6)


def _box(x: int, y: int, height: int, machine: str, lines: list[tuple[str, str]], first: bool, share: str) -> str:
    parts = [
        f"<rect x='{x}' y='{y}' width='{_BOX}' height='{height}' rx='8' fill='#f6f8fa' stroke='{_PALE}'/>",
        _text(x + 12, y + 20, _short(machine, 24), 13, _INK, bold=True),
    ]
    for index, (text, colour) in enumerate(lines):
        parts.append(_text(x + 12, y + 40 + index * _LINE, _short(text, 36), 11, colour, title=text))
    if first:
        parts.append(_text(x + 12, y + height - 8, f"{share} of the packets", 10, _PALE))
    return "\n".join(parts)


def _text(x: int, y: int, text: str, size: int, colour: str, bold: bool = False, title: str = "") -> str:
    weight = " font-weight='bold'" if bold else ""
    hint = f"<title>{escape(title)}</title>" if title else ""
    return f"<text x='{x}' y='{y}' {_FONT} font-size='{size}' fill='{colour}'{weight}>{hint}{escape(text)}</text>"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _stops(steps: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Machine after machine, each with what happened there that matters."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    for step in steps:
        if not found or found[-1][0] != step["machine"]:
            found.append((step["machine"], []))
        line = _line(step)
        if line is not None:
            found[-1][1].append(line)
    return found


def _line(step: dict[str, Any]) -> tuple[str, str] | None:
    action = step["action"]
    if "becomes" in action:
        what, _, new = action.partition(" becomes ")
        return f"{'DNAT' if what.startswith('destination') else 'SNAT'} → {new.partition(' (')[0]}", "#1d4ed8"
    if step["kind"] == "route" and "route" in step and "is an address of" not in action:
        return f"route {action.rpartition(': ')[2]}", _PALE
    if step["kind"] == "policy" or action.startswith(("drop", "reject")):
        return f"{step.get('chain', '')}: {action}", _BAD
    if step["kind"] == "bridge":
        return action, _PALE
    because = str(step.get("because", ("",))[0])
    if step["kind"] == "rule" and action.startswith(("jump", "goto")) and because.startswith("Service"):
        return " ".join(because.split()[:2]), "#6b21a8"
    return None
