"""What the rules of a world can tell a pod by: two pods of a node with the same signature get the same treatment.

Rules tell addresses apart by ranges, and by naming one. A pod's signature is the ranges that hold its address, and the rules that name its address
or its device, with the names made alike. Chains of single Services are left out: they name a pod as an endpoint, which `reach` looks at itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from glassnet.net import address
from glassnet.ruleset.model import NFT, Chain
from glassnet.tracer.machine import POD, Machine
from glassnet.tracer.world import World

_PREFIX = re.compile(r"\d+\.\d+\.\d+\.\d+/\d+|[0-9a-f]*:[0-9a-f:]+/\d+")
_JSON_PREFIX = re.compile(rb'"addr": ?"([0-9a-f.:]+)", ?"len": ?(\d+)')
_SERVICE_CHAIN = re.compile(r"KUBE-(?:SEP|SVC|SVL|EXT|FW|XLB)-").match
_OWN = ("glassnet", "kube-proxy")
_HASHED = re.compile(r"CNI-[0-9a-f]{24}")
_COMMENT = re.compile(r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+) ?')
_WORD = re.compile(r"[A-Za-z0-9_.:@-]+")


class Signatures:
    """What the rules of a world can tell a pod's address by."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._prefixes: dict[str, list[tuple[int, int, int]]] = {}
        self._lines: dict[str, dict[str, list[str]]] = {}
        pods = world.of_kind(POD)
        own = {a.text for pod in pods for a in pod.stack.addresses if a.scope == "global"}
        own |= {world.port_of(pod) for pod in pods} - {""}
        for machine in world.machines.values():
            if machine.kind != POD:
                self._prefixes[machine.name], self._lines[machine.name] = _scan(machine, own)

    def of(self, pod: Machine) -> tuple[Any, ...]:
        """Equal for pods that no rule tells apart."""
        found: list[Any] = [pod.node, bool(pod.ruleset.count()) and pod.name, *self._inside(pod)]
        port = self.world.port_of(pod)
        found += [(name, tuple(sorted(lines.get(port, ())))) for name, lines in self._lines.items() if port]
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

    def _inside(self, pod: Machine) -> Iterator[Any]:
        """The pod's own routes and links, and its end on the node, with its address left out."""
        own = {a.text for a in pod.stack.addresses}
        yield tuple(
            sorted(" ".join("@" if word in own else word for word in route.text.split()) for route in pod.stack.routes)
        )
        yield tuple(sorted((link.name, link.up, link.mtu) for link in pod.stack.links.values()))
        node, port = self.world.machines.get(pod.node), self.world.port_of(pod)
        link, facts = (node.link(port), node.stack.ports.get(port)) if node is not None else (None, None)
        yield (
            link is not None and (link.up, link.mtu, link.master),
            facts is not None and (facts.state, facts.hairpin, facts.isolated),
        )


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
