"""Whether the pods of each Node can be reached: its `NetworkUnavailable` condition, and who claims which pod range.

Source: Kubernetes documentation, "Nodes" (conditions), k8s.io/cloud-provider controllers/route (reason RouteCreated). A Node whose
condition is True gets no pods: kube-controller-manager taints it node.kubernetes.io/network-unavailable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from glassnet.controllers.result import NOTHING, Result, record, time_text
from glassnet.kube import kinds
from glassnet.kube.change import Change, Patch
from glassnet.kube.types import Node
from glassnet.routes.prefixes import Block, Prefixes, block, overlap

CONDITION, SOURCE = "NetworkUnavailable", "glassnet-controller"
CREATED, NO_POD_CIDR, NO_ADDRESS, OVERLAP = "RouteCreated", "NoPodCIDR", "NoAddress", "PodCIDROverlap"


class Claim(NamedTuple):
    """A range of another Node that overlaps one of ours."""

    own: str
    range: str
    node: str


class _Holder(NamedTuple):
    """A Node with ranges: the older Node first, then by name."""

    seniority: tuple[float, str]
    ranges: tuple[tuple[Block, str], ...]


_NOBODY = _Holder((0.0, ""), ())


class Ranges:
    """The pod ranges of all Nodes, by address: a Node is compared with those it overlaps alone, not with all."""

    def __init__(self) -> None:
        self._prefixes = Prefixes()
        self._of: dict[str, _Holder] = {}

    def put(self, node: Node) -> set[str]:
        """Take in a Node as it is now; the names of the others whose overlaps that may change."""
        since, name = node.metadata.creation_timestamp, node.metadata.name
        seniority = (since.timestamp() if since else float("inf"), name)
        return self._replace(name, _Holder(seniority, tuple(_ranges(pod_cidrs(node)))))

    def remove(self, name: str) -> set[str]:
        """A Node has gone; the names of the others whose overlaps that may change."""
        return self._replace(name, _NOBODY)

    def claims(self, name: str) -> list[Claim]:
        """Ranges of older Nodes that overlap one of this Node's. The oldest keeps its range: its pods are there already."""
        mine = self._of.get(name, _NOBODY)
        found = [
            Claim(text, theirs, other)
            for own, text in mine.ranges
            for other in self._prefixes.overlapping(own)
            if self._of[other].seniority < mine.seniority
            for their, theirs in self._of[other].ranges
            if overlap(own, their)
        ]
        return sorted(found)

    def free(self, text: str) -> bool:
        """Whether nobody has any of a range."""
        return not any(self._prefixes.overlapping(place) for place, _ in _ranges([text]))

    def _replace(self, name: str, new: _Holder) -> set[str]:
        old = self._of.pop(name, _NOBODY)
        for place, _ in old.ranges:
            self._prefixes.remove(place, name)
        for place, _ in new.ranges:
            self._prefixes.add(place, name)
        if new.ranges:
            self._of[name] = new
        if old.ranges == new.ranges and (old.seniority == new.seniority or not new.ranges):
            return set()
        around = (self._prefixes.overlapping(place) for place, _ in (*old.ranges, *new.ranges))
        return set().union(*around) - {name}


def _ranges(texts: Iterable[str]) -> Iterator[tuple[Block, str]]:
    for text in texts:
        with suppress(
            ValueError
        ):  # the API lets none through; a Node without a range that can be read counts as one without
            yield block(text), text


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
