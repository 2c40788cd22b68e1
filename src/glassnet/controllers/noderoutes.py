"""Whether the pods of each Node can be reached: its `NetworkUnavailable` condition, and who claims which pod range.

Source: Kubernetes documentation, "Nodes" (conditions), k8s.io/cloud-provider controllers/route (reason RouteCreated). A Node whose
condition is True gets no pods: kube-controller-manager taints it node.kubernetes.io/network-unavailable.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from glassnet.controllers.result import NOTHING, Result, record, time_text
from glassnet.kube import kinds
from glassnet.kube.change import Change, Patch
from glassnet.kube.types import Node
from glassnet.net import address

CONDITION, SOURCE = "NetworkUnavailable", "glassnet-controller"
CREATED, NO_POD_CIDR, NO_ADDRESS, OVERLAP = "RouteCreated", "NoPodCIDR", "NoAddress", "PodCIDROverlap"


class _Range(NamedTuple):
    """A range as numbers, in the order of addresses; what contains comes before what it contains."""

    bits: int
    first: int
    length: int  # of the prefix
    seniority: tuple[float, str]  # the older Node first, then by name
    text: str

    @property
    def last(self) -> int:
        return self.first | ((1 << self.bits - self.length) - 1)


class Claim(NamedTuple):
    """A range of another Node that overlaps one of ours."""

    own: str
    range: str
    node: str


class Ranges:
    """The pod ranges of all Nodes, by address: a Node is compared with those it overlaps alone, not with all."""

    def __init__(self) -> None:
        self._sorted: dict[int, list[tuple[int, int, tuple[float, str], str]]] = {32: [], 128: []}
        self._lengths: dict[int, dict[int, int]] = {32: {}, 128: {}}  # how many ranges have this length
        self._of: dict[str, tuple[_Range, ...]] = {}

    def put(self, node: Node) -> set[str]:
        """Take in a Node as it is now; the names of the others whose overlaps that may change."""
        since = node.metadata.creation_timestamp
        seniority = (since.timestamp() if since else float("inf"), node.metadata.name)
        return self._replace(node.metadata.name, tuple(_ranges(pod_cidrs(node), seniority)))

    def remove(self, name: str) -> set[str]:
        """A Node has gone; the names of the others whose overlaps that may change."""
        return self._replace(name, ())

    def claims(self, name: str) -> list[Claim]:
        """Ranges of older Nodes that overlap one of this Node's. The oldest keeps its range: its pods are there already."""
        found = [
            Claim(own.text, other.text, other.seniority[1])
            for own in self._of.get(name, ())
            for other in self._overlapping(own)
            if other.seniority < own.seniority
        ]
        return sorted(found)

    def free(self, text: str) -> bool:
        """Whether nobody has any of a range."""
        return all(next(self._overlapping(each), None) is None for each in _ranges([text], (0.0, "")))

    def _replace(self, name: str, new: tuple[_Range, ...]) -> set[str]:
        old = self._of.get(name, ())
        if old == new:
            return set()
        affected = {other.seniority[1] for each in old for other in self._overlapping(each)}
        for each in old:
            rows = self._sorted[each.bits]
            del rows[bisect_left(rows, _row(each))]
            self._count(each, -1)
        for each in new:
            insort(self._sorted[each.bits], _row(each))
            self._count(each, 1)
        if new:
            self._of[name] = new
        else:
            self._of.pop(name, None)
        affected |= {other.seniority[1] for each in new for other in self._overlapping(each)}
        return affected - {name}

    def _count(self, each: _Range, step: int) -> None:
        counts = self._lengths[each.bits]
        counts[each.length] = counts.get(each.length, 0) + step
        if not counts[each.length]:
            del counts[each.length]

    def _overlapping(self, one: _Range) -> Iterator[_Range]:
        """Prefixes are nested or apart: those that begin within `one`, and those shorter ones that `one` begins within."""
        rows = self._sorted[one.bits]
        place = bisect_left(rows, (one.first, 0))
        while place < len(rows) and rows[place][0] <= one.last:
            yield from self._other(one, rows[place])
            place += 1
        for length in list(self._lengths[one.bits]):
            first = one.first >> one.bits - length << one.bits - length
            if length < one.length and first != one.first:
                place = bisect_left(rows, (first, length))
                while place < len(rows) and rows[place][:2] == (first, length):
                    yield from self._other(one, rows[place])
                    place += 1

    def _other(self, one: _Range, row: tuple[int, int, tuple[float, str], str]) -> Iterator[_Range]:
        if row[2][1] != one.seniority[1]:
            yield _Range(one.bits, *row)


def _row(each: _Range) -> tuple[int, int, tuple[float, str], str]:
    return (each.first, each.length, each.seniority, each.text)


def _ranges(texts: Iterable[str], seniority: tuple[float, str]) -> Iterator[_Range]:
    for text in texts:
        try:
            first, mask, bits = address.prefix(text)
        except ValueError:
            continue  # the API lets none through; a Node without a range that can be read counts as one without
        yield _Range(bits, first & mask, mask.bit_count(), seniority, text)


def pod_cidrs(node: Node) -> tuple[str, ...]:
    """A Node's pod ranges, those of both families."""
    return node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


class Verdict(NamedTuple):
    """What a Node's condition should say."""

    status: str
    reason: str
    message: str


def verdict(node: Node, ranges: Ranges) -> Verdict:
    """Whether the Node's pods can be reached from other Nodes, and why not."""
    cidrs = pod_cidrs(node)
    if not cidrs:
        return Verdict("True", NO_POD_CIDR, "Node has no spec.podCIDRs: nothing allocates them (kube-controller-manager --allocate-node-cidrs=true, or glassnet controller --allocate-pod-cidrs), or the cluster's range is used up")  # fmt: skip
    if not node.internal_ips():
        return Verdict("True", NO_ADDRESS, "Node has no InternalIP in status.addresses: other nodes cannot reach its pods (kubelet --node-ip sets it)")  # fmt: skip
    if claims := ranges.claims(node.metadata.name):
        said = "; ".join(f"{each.own} overlaps {each.range} of the older Node {each.node}" for each in claims[:3])
        return Verdict("True", OVERLAP, f"{said}: give one of them another range (spec.podCIDRs of a Node cannot be changed: delete it and let it register anew)")  # fmt: skip
    return Verdict("False", CREATED, f"pods {', '.join(cidrs)} are reached by way of {', '.join(node.internal_ips())}")


def reconcile(node: Node, ranges: Ranges, now: datetime) -> Result:
    """The patch and the Event that make a Node's condition right; nothing when it is.

    The first RouteCreated of a Node has no Event, as that is what everybody expects. The patch holds only for the Node as it was seen.
    """
    wanted = verdict(node, ranges)
    old = next((each for each in node.status.conditions if each.type == CONDITION), None)
    if node.metadata.deletion_timestamp or (old is not None and (old.status, old.reason, old.message) == wanted):
        return NOTHING
    same = old is not None and old.status == wanted.status
    moved = old.last_transition_time if same and old is not None and old.last_transition_time else now
    body = {
        "type": CONDITION,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "lastHeartbeatTime": time_text(now),
        "lastTransitionTime": time_text(moved),
    }
    meta = node.metadata
    patch = {"status": {"conditions": [body]}}
    changes: list[Change] = [
        Patch(kinds.NODE, "", meta.name, patch, "status", resource_version=meta.resource_version, strategic=True)
    ]
    if wanted.status == "True" or old is not None:
        kind = "Warning" if wanted.status == "True" else "Normal"
        changes.append(record(kinds.NODE, meta, wanted.reason, wanted.message, SOURCE, kind))
    return Result(changes)
