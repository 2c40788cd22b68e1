"""The matrix of who reaches which Service as a picture."""

from __future__ import annotations

from xml.sax.saxutils import escape

from glassnet.tracer.reach import Matrix

_COLOURS = {"ok": "#2e7d32", "mixed": "#f9a825", "unknown": "#9e9e9e", "refused": "#c62828", "rejected": "#c62828"}
_OTHER = "#6d1b1b"
_CELL, _FONT = 14, "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"


def picture(matrix: Matrix) -> str:
    """An SVG document: pods down, Service ports across, a square each; its tooltip says how."""
    left = 16 + 7 * max(map(len, matrix.pods))
    top = 30 + 6 * max(map(len, matrix.ports))
    parts = []
    for column, port in enumerate(matrix.ports):
        x, y = left + column * _CELL + 11, top - 8
        parts.append(
            f"<text x='{x}' y='{y}' {_FONT} font-size='10' fill='#333' transform='rotate(-60 {x} {y})'>{escape(port)}</text>"
        )
    for row, (pod, line) in enumerate(zip(matrix.pods, matrix.cells, strict=True)):
        y = top + row * _CELL
        parts.append(f"<text x='8' y='{y + 11}' {_FONT} font-size='10' fill='#333'>{escape(pod)}</text>")
        for column, (port, cell) in enumerate(zip(matrix.ports, line, strict=True)):
            colour = _COLOURS.get(cell.result, _OTHER)
            hint = escape(f"{pod} → {port}: {cell.result}{' (' + cell.why + ')' if cell.why else ''}")
            parts.append(
                f"<rect x='{left + column * _CELL}' y='{y}' width='{_CELL - 2}' height='{_CELL - 2}' rx='2' fill='{colour}'><title>{hint}</title></rect>"
            )
    bottom = top + len(matrix.pods) * _CELL + 26
    x = 8
    for name, count in sorted(matrix.counts().items()):
        parts.append(
            f"<rect x='{x}' y='{bottom - 12}' width='10' height='10' rx='2' fill='{_COLOURS.get(name, _OTHER)}'/>"
        )
        parts.append(
            f"<text x='{x + 14}' y='{bottom - 3}' {_FONT} font-size='11' fill='#333'>{escape(name)} {count}</text>"
        )
        x += 40 + 8 * len(f"{name} {count}")
    width = max(left + len(matrix.ports) * _CELL + 6 * max(map(len, matrix.ports)) // 2 + 16, x)
    body = "\n".join(parts)
    return f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{bottom + 10}'>\n<rect width='100%' height='100%' fill='white'/>\n{body}\n</svg>"
