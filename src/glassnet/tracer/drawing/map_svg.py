"""A map of a network as a picture: outside, routers, the nodes' network as a bus, nodes with their bridges and pods, the addresses of Services.

Positions depend on the network alone. Nodes stand in rows; with more of them boxes become narrower and name fewer pods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glassnet.tracer.drawing.map_text import counted, entry_words
from glassnet.tracer.drawing.network import Box, Bridge, Network, Pod, Segment
from glassnet.tracer.drawing.svg import Canvas, width_of

_LEFT, _TOP, _GAP, _PAD, _LINE = 56, 28, 18, 10, 16
_TRUNK, _STUB = 32, 24  # where the line runs that joins rows of nodes; from a bus to a box
_HOST, _VIRTUAL, _ROUTE = 214, 300, 264
_MOST_ROUTES, _MOST_VIRTUAL, _MOST_HOSTS, _MOST_ENTRIES = 12, 4, 12, 24


@dataclass(frozen=True, slots=True)
class Scale:
    """How nodes are drawn: how many in a row, how wide (pixels), how many pods are named, in which size; `ports`: with the node's ends of
    their links."""

    columns: int
    width: int
    pods: int
    size: float
    ports: bool


def scale(nodes: int) -> Scale:
    """The scale for so many nodes."""
    if nodes <= 6:
        return Scale(max(1, min(3, nodes)), 400, 8, 11, True)
    if nodes <= 12:
        return Scale(4, 310, 5, 10.5, False)
    return Scale(min(8, math.ceil(math.sqrt(nodes) * 1.1)), 226, 3, 10, False)


def map_svg(found: Network) -> str:
    """An SVG document."""
    return _Drawing(found).draw()


class _Drawing:
    def __init__(self, found: Network) -> None:
        self.found, self.canvas, self.scale = found, Canvas(), scale(len(found.nodes))
        columns = self.scale.columns
        self.width = max(860, columns * self.scale.width + (columns - 1) * _GAP)
        self.middle = _LEFT + self.width / 2
        self.buses: dict[str, tuple[float, float]] = {}  # where lines down from a network begin, by its range

    def draw(self) -> str:
        """All of it, from the top to the bottom."""
        found = self.found
        pods = sum(len(node.pods) for node in found.nodes)
        title = f"{counted(len(found.nodes), 'node')}, {counted(pods, 'pod')}"
        self.canvas.text(_TRUNK, _TOP + 4, title, size=15, bold=True)
        y = self._routers(self._outside(_TOP + 22))
        if found.own:
            y = self._own(found.own, max(y, _TOP + 44))
        self._services(y)
        return self.canvas.document(f"Map of a network: {title}")

    def _bus(self, left: float, right: float, y: float) -> None:
        self.canvas.line([(left, y), (right, y)], width=4)

    # -- outside and routers

    def _outside(self, y: float) -> float:
        """Networks the nodes are not on, side by side: who is on them, and a bus below."""
        groups = [
            (each, [b for b in self.found.outside if any(s.machine == b.name for s in each.seats)])
            for each in self.found.others
        ]
        if not groups:
            return y
        widths = [max(280, len(boxes) * (_HOST + _GAP) - _GAP) for _, boxes in groups]
        tallest = max((self._host_height(box) for _, boxes in groups for box in boxes), default=0)
        x, bus = max(_LEFT, self.middle - (sum(widths) + _GAP * (len(groups) - 1)) / 2), y + tallest + _STUB
        for (segment, boxes), width in zip(groups, widths, strict=True):
            start = x + (width - (len(boxes) * (_HOST + _GAP) - _GAP)) / 2
            for index, box in enumerate(boxes):
                left = start + index * (_HOST + _GAP)
                self.canvas.line([(left + _HOST / 2, y + tallest), (left + _HOST / 2, bus)])
                self._host(box, left, y, tallest, "outside")
            self._bus(x, x + width, bus)
            self.canvas.text(x, bus + 17, segment.range, kind="change", bold=True, room=width / 2 - 12)
            self.buses[segment.range] = (x + width / 2, bus)
            x += width + _GAP
        return bus + _STUB + 8

    def _host_height(self, box: Box) -> float:
        return 26 + _LINE * len([*box.addresses, *box.public]) + _LINE * min(1, len(box.routes)) + 4

    def _host(self, box: Box, x: float, y: float, height: float, kind: str) -> None:
        canvas, room = self.canvas, _HOST - 2 * _PAD
        canvas.box(x, y, _HOST, height, kind, tip=box.name)
        canvas.text(x + _PAD, y + 19, box.name, size=12, bold=True, room=room)
        lines = [(text, "ink") for text in box.addresses] + [(f"public {text}", "ink") for text in box.public]
        lines += [(f"{where} via {_hop(via)}", "faint") for where, via in box.routes[:1]]
        for index, (text, colour) in enumerate(lines):
            canvas.text(x + _PAD, y + 37 + index * _LINE, text, kind=colour, size=10.5, room=room)

    def _routers(self, y: float) -> float:
        """Routers side by side, each joined with the networks above and the nodes' below; what clients outside call stands beside them."""
        found, own = self.found, self.found.own
        plans = [self._router_plan(box) for box in found.routers]
        virtual = self._virtual_height()
        if not plans and not virtual:
            return y
        height = max([*(plan[1] for plan in plans), virtual])
        total = sum(plan[0] for plan in plans) + _GAP * max(0, len(plans) - 1)
        x, below = max(_LEFT, self.middle - total / 2), y + height + _STUB + 10
        for box, (width, _, columns) in zip(found.routers, plans, strict=True):
            centre = x + width / 2
            for segment in found.others:
                if any(seat.machine == box.name for seat in segment.seats):
                    top, bus = self.buses[segment.range]
                    self.canvas.line([(top, bus), (top, y - 8), (centre, y - 8), (centre, y)])
            if own and any(seat.machine == box.name for seat in own.seats):
                self.canvas.line([(centre, y + height), (centre, below)])
            self._router(box, (x, y, width, height), columns)
            x += width + _GAP
        if virtual:
            left = x if plans else _LEFT
            if own:
                self.canvas.line([(left + _VIRTUAL / 2, y + height), (left + _VIRTUAL / 2, below)], "edge", dashed=True)
            self._virtual(left, y, height)
        return below

    def _router_plan(self, box: Box) -> tuple[float, float, int]:
        """(width, height, columns of routes)."""
        shown = min(len(box.routes), _MOST_ROUTES)
        columns = 1 if shown <= 4 else 2 if shown <= 8 else 3
        rows = math.ceil(shown / columns)
        more = _LINE if len(box.routes) > _MOST_ROUTES else 0
        return columns * _ROUTE + 2 * _PAD, 30 + _LINE * (rows + 1) + more + (6 if shown else 0), columns

    def _router(self, box: Box, place: tuple[float, float, float, float], columns: int) -> None:
        (x, y, width, height), canvas = place, self.canvas
        canvas.box(x, y, width, height, "router", tip=box.name)
        canvas.text(x + _PAD, y + 19, box.name, size=12, bold=True, room=width - 2 * _PAD)
        canvas.text(x + _PAD, y + 37, ", ".join(box.addresses), size=10.5, room=width - 2 * _PAD)
        shown = box.routes[:_MOST_ROUTES]
        rows = max(1, math.ceil(len(shown) / columns))
        for index, (where, via) in enumerate(shown):
            left, top = x + _PAD + index // rows * _ROUTE, y + 58 + index % rows * _LINE
            canvas.text(left, top, f"{where} via {via}", kind="faint", size=9.5, room=_ROUTE - 8)
        if len(box.routes) > _MOST_ROUTES:
            words = f"… {len(box.routes) - _MOST_ROUTES} more routes"
            canvas.text(x + _PAD, y + 58 + rows * _LINE, words, kind="faint", size=9.5)

    def _virtual_height(self) -> float:
        count = len(self.found.virtual)
        return 28 + 2 * _LINE * min(count, _MOST_VIRTUAL) + (_LINE if count > _MOST_VIRTUAL else 0) + 6 if count else 0

    def _virtual(self, x: float, y: float, height: float) -> None:
        """Addresses of Services for clients outside: no machine's, every node answers for them by its rules."""
        canvas, entries, room = self.canvas, self.found.virtual, _VIRTUAL - 2 * _PAD
        canvas.box(x, y, _VIRTUAL, height, "service", dashed=True)
        canvas.text(x + _PAD, y + 19, "virtual addresses", size=12, bold=True)
        for index, entry in enumerate(entries[:_MOST_VIRTUAL]):
            top = y + 38 + index * 2 * _LINE
            words = entry_words(entry)
            canvas.text(x + _PAD, top, f"{words[0]}  {words[1]}", size=10.5, room=room)
            canvas.text(x + _PAD + 12, top + 14, f"{words[2]}, {words[3]}", kind="faint", size=9.5, room=room - 12)
        if len(entries) > _MOST_VIRTUAL:
            top = y + 38 + _MOST_VIRTUAL * 2 * _LINE
            canvas.text(x + _PAD, top, f"… {len(entries) - _MOST_VIRTUAL} more", kind="faint", size=10)

    # -- the nodes' network

    def _own(self, segment: Segment, y: float) -> float:
        """The bus, other hosts on it, then rows of nodes; a trunk at the left joins the rows."""
        words = segment.range + (f", bridge {segment.bridge}" if segment.bridge else "")
        self.canvas.text(_LEFT, y - 8, words, kind="change", bold=True, room=self.width / 3)
        first = last = y
        self._bus(_TRUNK, _LEFT + self.width, y)
        hosts = self.found.hosts
        if hosts:
            y = self._hosts(hosts[:_MOST_HOSTS], y) + 12
            if len(hosts) > _MOST_HOSTS:
                self.canvas.text(_LEFT, y, f"… {len(hosts) - _MOST_HOSTS} more machines", kind="faint", size=10)
                y += _LINE
        columns = self.scale.columns
        for start in range(0, len(self.found.nodes), columns):
            if start or hosts:
                y, last = y + 4, y + 4
                row = min(columns, len(self.found.nodes) - start)
                self._bus(_TRUNK, self._left(row - 1) + self.scale.width / 2 + 2, y)
            y = self._row(self.found.nodes[start : start + columns], y)
        if last > first:
            self.canvas.line([(_TRUNK, first), (_TRUNK, last)], width=4)
        return y

    def _hosts(self, hosts: Sequence[Box], y: float) -> float:
        per_row = max(1, int((self.width + _GAP) // (_HOST + _GAP)))
        tallest = max(map(self._host_height, hosts))
        for start in range(0, len(hosts), per_row):
            row = hosts[start : start + per_row]
            x = _LEFT + (self.width - (len(row) * (_HOST + _GAP) - _GAP)) / 2
            for index, box in enumerate(row):
                left = x + index * (_HOST + _GAP)
                if not start:
                    self.canvas.line([(left + _HOST / 2, y), (left + _HOST / 2, y + _STUB)])
                self._host(box, left, y + _STUB, tallest, "machine")
            y += _STUB + tallest
        return y

    def _left(self, column: int) -> float:
        """Where a column of nodes begins."""
        step = self.scale.width + _GAP
        return _LEFT + (self.width - (self.scale.columns * step - _GAP)) / 2 + column * step

    def _row(self, nodes: Sequence[Box], y: float) -> float:
        width = self.scale.width
        tallest = max(map(self._node_height, nodes))
        for index, node in enumerate(nodes):
            left = self._left(index)
            self.canvas.line([(left + width / 2, y), (left + width / 2, y + _STUB)])
            self._node(node, left, y + _STUB, tallest)
        return y + _STUB + tallest + _GAP

    def _facts(self, node: Box) -> list[tuple[str, str]]:
        """Lines below a node's name, (text, colour)."""
        lines = [(text, "ink") for text in node.addresses] + [(f"public {text}", "ink") for text in node.public]
        if self.scale.ports:
            lines += [(f"{where} via {via}", "faint") for where, via in node.routes[:3]]
            if len(node.routes) > 3:
                lines.append((f"… {len(node.routes) - 3} more routes", "faint"))
        elif (
            len(lines) == 2 and width_of(f"{lines[0][0]}  {lines[1][0]}", self.scale.size) < self.scale.width - 2 * _PAD
        ):
            lines = [(f"{lines[0][0]}  {lines[1][0]}", "ink")]
        if node.host_pods:
            lines.append((f"{counted(node.host_pods, 'pod')} on the host's network", "faint"))
        return lines

    def _shown(self, bridge: Bridge) -> int:
        """How many of its pods are named: never all but one, as a line says how many are not."""
        return len(bridge.pods) if len(bridge.pods) <= self.scale.pods + 1 else self.scale.pods

    def _bridge_height(self, bridge: Bridge) -> float:
        shown = self._shown(bridge)
        return 22 + 21 * shown + (_LINE if len(bridge.pods) > shown else 0) + 4

    def _node_height(self, node: Box) -> float:
        inner = sum(self._bridge_height(bridge) + 8 for bridge in node.bridges)
        return 28 + _LINE * len(self._facts(node)) + inner + 6

    def _node(self, node: Box, x: float, y: float, height: float) -> None:
        canvas, size = self.canvas, self.scale.size
        room = self.scale.width - 2 * _PAD
        canvas.box(x, y, self.scale.width, height, "machine", tip=node.name)
        right = width_of(node.zone, size - 1)
        canvas.text(x + _PAD, y + 19, node.name, size=size + 1.5, bold=True, room=room - right - 12)
        if node.zone:
            canvas.text(x + _PAD + room - right, y + 19, node.zone, kind="faint", size=size - 1)
        y += 37
        for text, colour in self._facts(node):
            canvas.text(x + _PAD, y, text, kind=colour, size=size, room=room)
            y += _LINE
        y -= 8
        for bridge in node.bridges:
            tall = self._bridge_height(bridge)
            self._bridge(bridge, x + _PAD, y, tall)
            y += tall + 8

    def _bridge(self, bridge: Bridge, x: float, y: float, height: float) -> None:
        canvas, size, width = self.canvas, self.scale.size, self.scale.width - 2 * _PAD
        words = f"{bridge.name}  {', '.join(bridge.addresses)}" if bridge.name else "pods by routes of their own"
        canvas.box(x, y, width, height, "bridge", dashed=not bridge.name, tip=bridge.name)
        canvas.text(x + 8, y + 15, words, size=size, room=width - 16)
        shown = bridge.pods[: self._shown(bridge)]
        wide = max((width_of(pod.port, size - 1.5) for pod in shown), default=0) if self.scale.ports else 0
        for index, pod in enumerate(shown):
            self._pod(pod, (x + 8, y + 22 + index * 21, width - 16), wide)
        if len(bridge.pods) > len(shown):
            more = f"… {len(bridge.pods) - len(shown)} more pods"
            canvas.text(x + 8, y + 22 + len(shown) * 21 + 11, more, kind="faint", size=size - 0.5)

    def _pod(self, pod: Pod, place: tuple[float, float, float], wide: float) -> None:
        (x, y, width), canvas, size = place, self.canvas, self.scale.size
        left = x
        if wide:
            canvas.text(x, y + 13, pod.port, kind="faint", size=size - 1.5)
            left = x + wide + 18
            canvas.line([(x + wide + 4, y + 9), (left, y + 9)], width=1.2)
        room = x + width - left
        canvas.box(left, y, room, 18, "pod", radius=4, tip=f"{pod.namespace}/{pod.name} {', '.join(pod.addresses)}")
        used = canvas.text(left + 6, y + 13, ", ".join(pod.addresses), size=size - 1, room=room - 12)
        if room - used > 60:
            canvas.text(left + 14 + used, y + 13, pod.name, kind="faint", size=size - 1, room=room - used - 20)

    # -- Services

    def _services(self, y: float) -> None:
        entries = self.found.entries
        if not entries:
            return
        rows = [entry_words(each) for each in entries[:_MOST_ENTRIES]]
        canvas, top = self.canvas, y + 8
        height = 30 + _LINE * len(rows) + (_LINE if len(entries) > len(rows) else 0) + 6
        canvas.box(_LEFT, top, self.width, height, "service")
        canvas.text(_LEFT + _PAD, top + 20, "Services", size=12, bold=True)
        widths = [max(width_of(row[column], 10.5) for row in rows) + 22 for column in range(3)]
        room = self.width - 2 * _PAD
        for index, row in enumerate(rows):
            x: float = _LEFT + _PAD
            for column, text in enumerate(row):
                left = _LEFT + _PAD + room - x
                if left > 40:
                    canvas.text(x, top + 40 + index * _LINE, text, kind="faint" if column in (1, 3) else "ink", size=10.5, room=left)  # fmt: skip
                x += widths[column] if column < 3 else 0
        if len(entries) > len(rows):
            words = f"… {len(entries) - len(rows)} more"
            canvas.text(_LEFT + _PAD, top + 40 + len(rows) * _LINE, words, kind="faint", size=10.5)


def _hop(via: str) -> str:
    """The name of a next hop, where it is known, else its address."""
    return via.partition("(")[2].rstrip(")") or via
