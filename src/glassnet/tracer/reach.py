"""Who reaches which Service: every pod against every Service port, traced through the real rules.

Two pods of a node whose addresses no rule tells apart (they lie in the same ranges of all rules, and the rules that name them are alike)
get the same treatment, so one of them is traced for both. A pod that is an endpoint of the Service is traced for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from glassnet.net import address
from glassnet.ruleset.model import NFT, Chain
from glassnet.tracer.machine import POD, Machine
from glassnet.tracer.objects import Objects, Port, service_addresses
from glassnet.tracer.packet import PROTOCOLS
from glassnet.tracer.trace import Request, Trace, Tracer
from glassnet.tracer.world import World

_PREFIX = re.compile(r"\d+\.\d+\.\d+\.\d+/\d+|[0-9a-f]*:[0-9a-f:]+/\d+")
_JSON_PREFIX = re.compile(rb'"addr": ?"([0-9a-f.:]+)", ?"len": ?(\d+)')
_SERVICE_CHAIN = re.compile(r"KUBE-(?:SEP|SVC|SVL|EXT|FW|XLB)-").match
_OWN = ("glassnet", "kube-proxy")
_HASHED = re.compile(r"CNI-[0-9a-f]{24}")
_COMMENT = re.compile(r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?')
LETTERS = {"ok": "●", "refused": "×", "rejected": "×", "dropped": "○", "no-answer": "○", "unknown": "?", "mixed": "◐"}


@dataclass(frozen=True, slots=True)
class Cell:
    """The outcome of one pod and one Service port: a result of a trace, or "mixed" when packets fare differently; `shares` says how."""

    result: str
    shares: tuple[tuple[str, float], ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows are pods, columns Service ports (`namespace/name[:port]`). `traced` is how many pairs were traced, the others being like one of them."""

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


def reach(world: World, objects: Objects, tracer: Tracer, pods: Iterable[Machine], ports: Iterable[Port]) -> Matrix:
    """Trace every pod against every Service port with an address."""
    rows, columns = list(pods), [port for port in ports if _address(port)]
    signatures = Signatures(world)
    classes = {pod.name: signatures.of(pod) for pod in rows}
    endpoints = {port.text: _endpoint_addresses(objects, port) for port in columns}
    known: dict[tuple[Any, ...], Cell] = {}
    cells = []
    for pod in rows:
        own = {a.text for a in pod.stack.addresses}
        line = []
        for port in columns:
            key = (
                (pod.name, port.text, port.protocol)
                if own & endpoints[port.text]
                else (classes[pod.name], port.text, port.protocol)
            )
            cell = known.get(key)
            if cell is None:
                cell = known[key] = _cell(tracer, pod, port)
            line.append(cell)
        cells.append(tuple(line))
    return Matrix(tuple(p.name for p in rows), tuple(p.text for p in columns), tuple(cells), len(known))


def _address(port: Port) -> str:
    return next((text for text, where in service_addresses(port.service) if where == "spec.clusterIP"), "")


def _endpoint_addresses(objects: Objects, port: Port) -> set[str]:
    return {e.ip for e in objects.endpoints.get((port.namespace, port.name), ())}


def _cell(tracer: Tracer, pod: Machine, port: Port) -> Cell:
    text = _address(port)
    request = Request(
        pod.name, 128 if ":" in text else 32, PROTOCOLS[port.protocol.lower()], address.number(text), port.port
    )
    return cell_of(tracer.trace(request, recorded=False))


def cell_of(trace: Trace) -> Cell:
    """One word for a trace."""
    shares = tuple(sorted(trace.results.items()))
    why = next((way.detail for way in trace.ways if way.result != "ok"), "")
    if not trace.certain:
        return Cell("unknown", shares, why or next((d for way in trace.ways for d in way.doubts), ""))
    return Cell(shares[0][0] if len(shares) == 1 else "mixed", shares, why)


class Signatures:
    """What the rules of a world can tell a pod's address by."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._prefixes: dict[str, list[tuple[int, int, int]]] = {}
        self._lines: dict[str, dict[str, list[str]]] = {}
        own = {a.text for pod in world.of_kind(POD) for a in pod.stack.addresses if a.scope == "global"}
        for machine in world.machines.values():
            if machine.kind != POD:
                self._prefixes[machine.name], self._lines[machine.name] = _scan(machine, own)

    def of(self, pod: Machine) -> tuple[Any, ...]:
        """Equal for pods that no rule tells apart."""
        found: list[Any] = [pod.node, bool(pod.ruleset.count()) and pod.name]
        for item in pod.stack.addresses:
            if item.scope != "global":
                continue
            for name, prefixes in self._prefixes.items():
                inside = tuple(
                    i
                    for i, (network, mask, bits) in enumerate(prefixes)
                    if bits == item.bits and item.value & mask == network
                )
                found.append((name, inside, tuple(sorted(self._lines[name].get(item.text, ())))))
            found.append(
                tuple(
                    sorted(
                        f"{m.name} {t}"
                        for m in self.world.of_kind("node")
                        for t, held in m.recent.items()
                        if item.value in held
                    )
                )
            )
        return tuple(found)


def _scan(machine: Machine, own: set[str]) -> tuple[list[tuple[int, int, int]], dict[str, list[str]]]:
    """(ranges that rules know, pod address -> the rules that name it, with their names made alike) of one machine."""
    prefixes: set[tuple[int, int, int]] = set()
    named: dict[str, list[str]] = {}
    for table in machine.ruleset.tables:
        for chain in table.chains.values():
            shared = not (_SERVICE_CHAIN(chain.name) or (table.tool == NFT and table.name in _OWN))
            for text in _texts(chain):
                _note(text, shared, own, prefixes, named, table.chains)
        for each in table.sets.values():
            elements = bytes(each.elements) if not isinstance(each.elements, list) else repr(each.elements).encode()
            _note_elements(
                each.name, elements, table.name in _OWN and not each.name.startswith("affinity"), own, prefixes, named
            )
    for each in machine.ruleset.ipsets.values():
        _note_elements(each.name, repr(each.elements).encode(), False, own, prefixes, named)
    return sorted(prefixes), named


def _texts(chain: Chain) -> Iterator[str]:
    """The rules of a chain as text or JSON, without taking them apart."""
    if chain.table.tool != NFT:
        lines = chain.make.__self__.lines  # type: ignore[union-attr]
        for index in chain.raw:
            yield lines[index]
    else:
        for item in chain.raw:
            yield item.text or bytes(item.expr).decode("utf-8", "replace")


_WORD = re.compile(r"\d+\.\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f:]*:[0-9a-f:]*")


def _note(
    text: str,
    shared: bool,
    own: set[str],
    prefixes: set[tuple[int, int, int]],
    named: dict[str, list[str]],
    chains: dict[str, Chain],
) -> None:
    for found in _PREFIX.findall(text):
        try:
            network, mask, bits = address.prefix(found)
        except ValueError:
            continue  # a chain's name: `…__10.200.0.5/8081`
        if mask != (1 << bits) - 1:
            prefixes.add((network, mask, bits))
    for host, length in _JSON_PREFIX.findall(text.encode()):
        prefixes.add(address.prefix(f"{host.decode()}/{int(length)}"))
    if not shared:
        return
    for word in set(_WORD.findall(text)) & own:
        said = _COMMENT.sub("", text.replace(word, "@"))
        for chain in _HASHED.findall(said):
            inner = (
                " | ".join(_COMMENT.sub("", line).replace(chain, "CNI") for line in _texts(chains[chain]))
                if chain in chains
                else ""
            )
            said = said.replace(chain, f"CNI({inner})")
        named.setdefault(word, []).append(said)


def _note_elements(
    name: str,
    elements: bytes,
    services: bool,
    own: set[str],
    prefixes: set[tuple[int, int, int]],
    named: dict[str, list[str]],
) -> None:
    for host, length in _JSON_PREFIX.findall(elements):
        prefixes.add(address.prefix(f"{host.decode()}/{int(length)}"))
    if services:
        return
    for word in set(_WORD.findall(elements.decode("utf-8", "replace"))) & own:
        named.setdefault(word, []).append(f"set {name}")
