"""A map of a network as text: a tree from outside to the pods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from glassnet.tracer.drawing.network import Box, Bridge, Entry, Network, Pod, Segment

MOST_PODS, MOST_ROUTES, MOST_ENTRIES = 12, 8, 40


def map_text(found: Network) -> str:
    """The map, lines of text that end with a line feed."""
    lines: list[str] = []
    for segment in found.others:
        lines.append(_title(segment))
        seats = [box for box in found.outside if _on(box, segment)]
        lines += _tree([_machine(box) for box in seats])
        lines.append("")
    for router in found.routers:
        lines += [*_machine(router), ""]
    if found.own:
        lines.append(_title(found.own))
    lines += _tree([_machine(box) for box in (*found.hosts, *found.nodes)])
    lines += ["", *_entries(found.entries)]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n"


def _title(segment: Segment) -> str:
    return f"network {segment.range}" + (f", bridge {segment.bridge}" if segment.bridge else "")


def _on(box: Box, segment: Segment) -> bool:
    return any(seat.machine == box.name for seat in segment.seats)


def _tree(items: list[list[str]]) -> Iterator[str]:
    """Items under a trunk, each a head and what belongs to it."""
    for index, (head, *rest) in enumerate(items):
        last = index + 1 == len(items)
        yield f"{'└─' if last else '├─'} {head}"
        yield from (f"{'   ' if last else '│  '}{line}" for line in rest)


def _machine(box: Box) -> list[str]:
    words = [*box.addresses, *(f"public {text}" for text in box.public), *filter(None, [box.zone])]
    lines = [f"{box.name}  {', '.join(words)}"]
    lines += [f"  route {where} via {via}" for where, via in box.routes[:MOST_ROUTES]]
    if len(box.routes) > MOST_ROUTES:
        lines.append(f"  … {len(box.routes) - MOST_ROUTES} more routes")
    for bridge in box.bridges:
        lines += _bridge(bridge)
    if box.host_pods:
        lines.append(f"  {counted(box.host_pods, 'pod')} on the host's network")
    return lines


def _bridge(bridge: Bridge) -> Iterator[str]:
    yield (
        f"  bridge {bridge.name} {', '.join(bridge.addresses)}".rstrip()
        if bridge.name
        else "  pods by routes of their own"
    )
    shown = bridge.pods[:MOST_PODS]
    wide = max((len(pod.port) for pod in shown), default=0)
    far = max((len(_address(pod)) for pod in shown), default=0)
    for pod in shown:
        yield f"    {pod.port:<{wide}} ─ {_address(pod):<{far}}  {pod.namespace}/{pod.name}"
    if len(bridge.pods) > MOST_PODS:
        yield f"    … {len(bridge.pods) - MOST_PODS} more pods"


def _address(pod: Pod) -> str:
    return ", ".join(pod.addresses)


def _entries(entries: Iterable[Entry]) -> Iterator[str]:
    rows = [entry_words(each) for each in entries]
    if not rows:
        return
    yield "Services"
    widths = [max(len(row[column]) for row in rows[:MOST_ENTRIES]) for column in range(3)]
    for row in rows[:MOST_ENTRIES]:
        cells = [f"{text:<{width}}" for text, width in zip(row, widths, strict=False)]
        yield f"  {'  '.join([*cells, row[3]])}".rstrip()
    if len(rows) > MOST_ENTRIES:
        yield f"  … {len(rows) - MOST_ENTRIES} more"


def entry_words(entry: Entry) -> tuple[str, str, str, str]:
    """An address of a Service in words: address, kind, Service, what is behind it."""
    behind = f"{counted(entry.endpoints, 'endpoint')}" + (f" of {entry.total} ready" if entry.endpoints != entry.total else "")  # fmt: skip
    words = [behind]
    if entry.kind == "ClusterIP" and entry.node_port:
        words.append(f"node port {entry.node_port}")
    if entry.local:
        words.append("policy Local")
    return entry.text, entry.kind, entry.service, ", ".join(words)


def counted(number: int, word: str) -> str:
    """`1 node`, `3 nodes`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
