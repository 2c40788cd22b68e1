"""Line charts with two logarithmic axes as SVG: small, readable as text, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 230, 44, 50
COLOURS = ("#0b6e99", "#c4571b", "#5b7f2b", "#777777", "#a33f6f")


class Line(NamedTuple):
    """A named series of (x, y), both above 0."""

    name: str
    points: Sequence[tuple[float, float]]


def chart(path: str, title: str, across: str, up: str, lines: Sequence[Line]) -> None:
    """Write the chart to a file."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x0, x1 = (_floor(min(xs)), _ceiling(max(xs)))
    y0, y1 = (_floor(min(ys)), _ceiling(max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (math.log10(x) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (math.log10(y) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
        )

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15" fill="#222">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle" fill="#444">{escape(across)}</text>',
        f'<text x="14" y="{TOP - 8}" fill="#444">{escape(up)}</text>',
    ]
    for power in range(x0, x1 + 1):
        x, _ = place(10**power, 10**y0)
        out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        out.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#444">{10**power:,}</text>'
        )
    for power in range(y0, y1 + 1):
        _, y = place(10**x0, 10.0**power)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{10.0**power:,g}</text>')
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        spots = [place(x, y) for x, y in sorted(line.points)]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in spots)}"/>')  # fmt: skip
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in spots]
        height = TOP + 16 + 22 * index
        out.append(f'<circle cx="{WIDTH - RIGHT + 22}" cy="{height - 4}" r="5" fill="{colour}"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 34}" y="{height}" fill="#222">{escape(line.name)}</text>')
    Path(path).write_text("\n".join([*out, "</svg>"]) + "\n")


def _floor(value: float) -> int:
    return math.floor(math.log10(value))


def _ceiling(value: float) -> int:
    return max(math.ceil(math.log10(value)), _floor(value) + 1)
