"""Who reaches which Service: every pod against every Service port, traced through the real rules.

Two pods of a node that no rule tells apart (see `signatures`) get the same treatment, so one of them is traced for both. And what happens to a packet
behind the translation on its first node does not depend on the Service it was sent to, but on the endpoint it was translated to: ten Services
with the same endpoints ask once. An endpoint's own way back to itself is traced for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from glassnet.net import address
from glassnet.ruleset.model import uncollected
from glassnet.tracer import path
from glassnet.tracer.machine import Machine
from glassnet.tracer.objects import Objects, Port, service_addresses
from glassnet.tracer.packet import PROTOCOLS, Branch
from glassnet.tracer.signatures import Signatures
from glassnet.tracer.trace import Request, Trace, Tracer, Way
from glassnet.tracer.world import World

LETTERS = {"ok": "●", "refused": "×", "rejected": "×", "dropped": "○", "no-answer": "○", "unknown": "?", "mixed": "◐"}


@dataclass(frozen=True, slots=True)
class Cell:
    """The outcome of one pod and one Service port: a result of a trace, or "mixed" when packets fare differently; `shares` says how."""

    result: str
    shares: tuple[tuple[str, float], ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows are pods, columns Service ports (`namespace/name[:port]`). `traced` is how many ways behind a translation were followed."""

    pods: tuple[str, ...]
    ports: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    traced: int

    def counts(self) -> dict[str, int]:
        """Result -> number of pairs."""
        found: dict[str, int] = {}
        for row in self.cells:
            for cell in row:
                found[cell.result] = found.get(cell.result, 0) + 1
        return found


class Outcome(NamedTuple):
    """How a share of the packets fares. `destination` is where the first node's translation sent them (0: it did not come to that)."""

    share: float
    result: str
    why: str
    doubts: tuple[str, ...]
    destination: int = 0


def reach(world: World, objects: Objects, tracer: Tracer, pods: Iterable[Machine], ports: Iterable[Port]) -> Matrix:
    """Trace every pod against every Service port with an address."""
    rows, columns = list(pods), [port for port in ports if _address(port)]
    with uncollected():
        work = _Work(world, objects, tracer, rows)
        cells = tuple(tuple(work.cell(pod, port) for port in columns) for pod in rows)
    return Matrix(tuple(p.name for p in rows), tuple(p.text for p in columns), cells, work.followed)


class _Work:
    """Outcomes, each found once."""

    def __init__(self, world: World, objects: Objects, tracer: Tracer, pods: list[Machine]) -> None:
        self.world, self.objects, self.tracer, self.pods = world, objects, tracer, pods
        signatures = Signatures(world)
        numbers: dict[Any, int] = {}
        self.classes = {pod.name: numbers.setdefault(signatures.of(pod), len(numbers)) for pod in pods}
        self.known: dict[int, tuple[list[Outcome], Cell]] = {}
        self.own = {pod.name: {a.value for a in pod.stack.addresses} for pod in pods}
        self.endpoints: dict[Any, set[int]] = {}
        self.by_class: dict[Any, list[Outcome] | None] = {}
        self.behind: dict[Any, list[Outcome]] = {}
        self.followed = 0

    def cell(self, pod: Machine, port: Port) -> Cell:
        """The pair's cell; one for all pairs that share their outcomes."""
        outcomes = self.outcomes(pod, port)
        found = self.known.get(id(outcomes))
        if found is None:
            found = self.known[id(outcomes)] = (outcomes, _cell(outcomes))
        return found[1]

    def outcomes(self, pod: Machine, port: Port) -> list[Outcome]:
        """How packets of a pod to a Service port fare."""
        own, endpoints = self.own[pod.name], self._endpoints(port)
        like = self._of_class(pod, port)
        if like is None:
            return self._trace(pod, port, lambda dst: True)
        if not own & endpoints:
            return like
        mine = [each for each in like if each.destination not in own]
        if len(mine) == len(like):
            return like
        return mine + [o for o in self._trace(pod, port, lambda dst: dst in own) if o.destination in own]

    def _endpoints(self, port: Port) -> set[int]:
        key = (port.namespace, port.name)
        found = self.endpoints.get(key)
        if found is None:
            found = self.endpoints[key] = {address.number(e.ip) for e in self.objects.endpoints.get(key, ()) if e.ip}
        return found

    def _of_class(self, pod: Machine, port: Port) -> list[Outcome] | None:
        """The outcomes of a pod that no rule tells from this one, and that is no endpoint of the Service; None when there is none."""
        key = (self.classes[pod.name], port.text, port.protocol)
        if key not in self.by_class:
            endpoints = self._endpoints(port)
            other = next(
                (p for p in self.pods if self.classes[p.name] == key[0] and not self.own[p.name] & endpoints), None
            )
            self.by_class[key] = self._trace(other, port, lambda dst: True) if other is not None else None
        return self.by_class[key]

    def _trace(self, pod: Machine, port: Port, wanted: Callable[[int], bool]) -> list[Outcome]:
        """Trace a pair; behind the first translation, ways that are known are not followed again, and those not `wanted` not at all."""
        text = _address(port)
        request = Request(
            pod.name, 128 if ":" in text else 32, PROTOCOLS[port.protocol.lower()], address.number(text), port.port
        )
        node = self.world.machines.get(pod.node)
        found: list[Outcome] = []
        if node is None:
            return [_outcome(way) for way in self.tracer.trace(request, recorded=False).ways]
        passage = self.tracer.passage(node)

        def gate(branch: Branch, onward: Callable[[], Iterator[path.Result]]) -> Iterator[path.Result]:
            packet = branch.packet
            if not wanted(packet.dst):
                return
            source = pod.name if packet.dst in self.own[pod.name] else self.classes[pod.name]
            key = (
                source,
                packet.dst,
                packet.dport,
                packet.protocol,
                packet.mark,
                packet.bits,
                packet.dst == request.dst and port.text,
            )
            if key not in self.behind:
                self.followed += 1
                self.behind[key] = self._follow(node, passage, branch, onward, request)
            for each in self.behind[key]:
                found.append(each._replace(share=each.share * branch.weight, doubts=(*branch.doubts, *each.doubts)))
            yield from ()

        passage.gate = gate
        try:
            found += [_outcome(way) for way in self.tracer.trace(request, recorded=False).ways]
        finally:
            passage.gate = None
        return found

    def _follow(
        self,
        node: Machine,
        passage: path.Passage,
        branch: Branch,
        onward: Callable[[], Iterator[path.Result]],
        request: Request,
    ) -> list[Outcome]:
        """What comes behind the translation, there and back, for one packet of a share of 1."""
        gate, passage.gate = passage.gate, None
        weight, doubts, branch.weight, branch.doubts = branch.weight, branch.doubts, 1.0, ()
        destination = branch.packet.dst
        try:
            return [
                _outcome(way)._replace(destination=destination) for way in self.tracer.follow(onward(), node, request)
            ]
        finally:
            passage.gate, branch.weight, branch.doubts = gate, weight, doubts


def _outcome(way: Way) -> Outcome:
    return Outcome(way.weight, way.result, way.detail if way.result != "ok" else "", way.doubts)


def _address(port: Port) -> str:
    return next((text for text, where in service_addresses(port.service) if where == "spec.clusterIP"), "")


def _cell(outcomes: list[Outcome]) -> Cell:
    """One word for a pair."""
    results: dict[str, float] = {}
    for each in outcomes:
        results[each.result] = results.get(each.result, 0.0) + each.share
    shares = tuple((name, round(share, 9)) for name, share in sorted(results.items()))
    why = next((each.why for each in outcomes if each.result != "ok"), "")
    doubts = [doubt for each in outcomes for doubt in each.doubts]
    if "unknown" in results or (doubts and len(results) > 1):
        return Cell("unknown", shares, why or doubts[0])
    return Cell(shares[0][0] if len(shares) == 1 else "mixed", shares, why)


def cell_of(trace: Trace) -> Cell:
    """The cell of a pair that was traced whole."""
    return _cell([_outcome(way) for way in trace.ways])
