"""The scheduler: a node for every pod that has none. Source: Kubernetes documentation, "Scheduling, Preemption and Eviction".

Whatever depends on other pods is gathered once for a pod; asking a node costs the same however many pods there are.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from glassnet.controllers import placement
from glassnet.controllers.neighbours import Neighbours
from glassnet.controllers.result import NOTHING, Result, record, time_text
from glassnet.kube import kinds
from glassnet.kube.change import Bind, Patch
from glassnet.kube.types import Node, Pod
from glassnet.kube.view import Key, View

SOURCE = "default-scheduler"


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """One pod: bind it, or say why no node takes it."""
    pod = view.pods.get(key)
    if (
        pod is None
        or pod.spec.node_name
        or pod.metadata.deletion_timestamp
        or pod.finished()
        or pod.spec.scheduler_name != SOURCE
        or pod.spec.scheduling_gates
    ):
        return NOTHING
    neighbours = Neighbours(view, pod)
    reasons: Counter[str] = Counter()
    candidates = []
    for node in view.nodes.values():
        if why := _refusal(pod, node) or neighbours.refusal(node):
            reasons[why] += 1
        else:
            candidates.append(node)
    if not candidates:
        return _unschedulable(pod, reasons, len(view.nodes), now)
    best = min(candidates, key=lambda node: (*_cost(view, pod, node, neighbours), node.metadata.name))
    meta = pod.metadata
    text = f"Successfully assigned {meta.namespace}/{meta.name} to {best.metadata.name}"
    return Result(
        [
            Bind(meta.namespace, meta.name, meta.uid, best.metadata.name),
            record(kinds.POD, meta, "Scheduled", text, SOURCE),
        ]
    )


def _refusal(pod: Pod, node: Node) -> str:
    """Why a node does not take the pod, other pods aside, in the scheduler's words; "" when it does."""
    taint = placement.untolerated(pod, node)
    if taint == placement.UNSCHEDULABLE:
        return "node(s) were unschedulable"
    if taint is None and not placement.ready(node):
        tolerated = any(placement.tolerates(t, placement.NOT_READY) for t in pod.spec.tolerations)
        taint = None if tolerated else placement.NOT_READY
    if taint:
        return f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
    if not placement.selected(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


def _cost(view: View, pod: Pod, node: Node, neighbours: Neighbours) -> tuple[int, ...]:
    """Lower is better: soft spread, preferred affinity, few pods of the same owner, few pods at all."""
    name = node.metadata.name
    return (
        neighbours.soft_spread(node),
        -placement.preference(pod, node),
        neighbours.of_same_owner(name),
        view.pod_count(name),
    )


def _unschedulable(pod: Pod, reasons: Counter[str], nodes: int, now: datetime) -> Result:
    parts = ", ".join(sorted(f"{count} {why}" for why, count in reasons.items()))
    text = f"0/{nodes} nodes are available: {parts}." if nodes else "no nodes available to schedule pods"
    before = next((c for c in pod.status.conditions if c.type == "PodScheduled"), None)
    if before and before.status == "False" and before.message == text:
        return NOTHING
    moved = now if before is None or before.status != "False" else before.last_transition_time or now
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": text,
        "lastTransitionTime": time_text(moved),
    }
    others = [{"type": c.type, "status": c.status} for c in pod.status.conditions if c.type != "PodScheduled"]
    return Result(
        [
            Patch(
                kinds.POD,
                pod.metadata.namespace,
                pod.metadata.name,
                {"status": {"conditions": [*others, condition]}},
                "status",
            ),
            record(kinds.POD, pod.metadata, "FailedScheduling", text, SOURCE, "Warning"),
        ]
    )
