"""The scheduler: a node for every pod that has none. Source: Kubernetes documentation, "Scheduling, Preemption and Eviction"."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from glassnet.controllers import placement
from glassnet.controllers.result import NOTHING, Result, record, time_text
from glassnet.kube import kinds, selectors
from glassnet.kube.change import Bind, Patch
from glassnet.kube.types import Node, Pod, TopologySpread
from glassnet.kube.view import Key, View

SOURCE, HOST = "default-scheduler", "kubernetes.io/hostname"


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """One pod: bind it, or say why no node takes it."""
    pod = view.pods.get(key)
    if (
        pod is None
        or pod.spec.node_name
        or pod.metadata.deletion_timestamp
        or pod.finished()
        or pod.spec.scheduler_name != SOURCE
    ):
        return NOTHING
    if pod.spec.scheduling_gates:
        return NOTHING
    reasons: Counter[str] = Counter()
    candidates = []
    for node in view.nodes.values():
        if why := _refusal(view, pod, node):
            reasons[why] += 1
        else:
            candidates.append(node)
    if not candidates:
        return _unschedulable(pod, reasons, len(view.nodes), now)
    best = max(candidates, key=lambda node: (*_score(view, pod, node), _reverse(node.metadata.name)))
    meta = pod.metadata
    text = f"Successfully assigned {meta.namespace}/{meta.name} to {best.metadata.name}"
    return Result(
        [
            Bind(meta.namespace, meta.name, meta.uid, best.metadata.name),
            record(kinds.POD, meta, "Scheduled", text, SOURCE),
        ]
    )


def _reverse(name: str) -> tuple[int, ...]:
    """Sorts names backwards, so that the first name wins a tie."""
    return tuple(-ord(char) for char in name)


def _refusal(view: View, pod: Pod, node: Node) -> str:
    """Why a node does not take the pod, in the scheduler's words; "" when it does."""
    if not any(c.type == "Ready" and c.status == "True" for c in node.status.conditions):
        return "node(s) were not ready"
    if taint := placement.untolerated(pod, node):
        if taint == placement.UNSCHEDULABLE:
            return "node(s) were unschedulable"
        return f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
    if not placement.selected(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    if _port_conflict(view, pod, node):
        return "node(s) didn't have free ports for the requested pod ports"
    return _affinity_refusal(view, pod, node) or _spread_refusal(view, pod, node)


def _port_conflict(view: View, pod: Pod, node: Node) -> bool:
    wanted = {(p.host_port, p.protocol) for c in pod.spec.containers for p in c.ports if p.host_port}
    if not wanted:
        return False
    taken = {
        (p.host_port, p.protocol)
        for other in view.pods_on(node.metadata.name)
        if not other.finished()
        for c in other.spec.containers
        for p in c.ports
        if p.host_port
    }
    return bool(wanted & taken)


def _terms(pod: Pod, kind: str) -> list[dict[str, Any]]:
    return list(((pod.spec.affinity or {}).get(kind) or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ())


def _affinity_refusal(view: View, pod: Pod, node: Node) -> str:
    for term in _terms(pod, "podAntiAffinity"):
        if _neighbours(view, pod, term, node):
            return "node(s) didn't match pod anti-affinity rules"
    for term in _terms(pod, "podAffinity"):
        selector = placement.label_selector(term.get("labelSelector"))
        first = selectors.matches(selector, pod.metadata.labels) and not any(
            other.spec.node_name and selectors.matches(selector, other.metadata.labels)
            for other in view.all(kinds.POD, pod.metadata.namespace)
        )
        if not first and not _neighbours(view, pod, term, node):
            return "node(s) didn't match pod affinity rules"
    for other in view.pods_on(node.metadata.name):
        for term in _terms(other, "podAntiAffinity"):
            if term.get("topologyKey") == HOST and _term_matches(term, other, pod):
                return "node(s) didn't satisfy existing pods anti-affinity rules"
    return ""


def _term_matches(term: dict[str, Any], owner: Pod, pod: Pod) -> bool:
    namespaces = term.get("namespaces") or [owner.metadata.namespace]
    return pod.metadata.namespace in namespaces and selectors.matches(
        placement.label_selector(term.get("labelSelector")), pod.metadata.labels
    )


def _neighbours(view: View, pod: Pod, term: dict[str, Any], node: Node) -> bool:
    """True when a pod that the term selects runs in the same domain as `node`."""
    key = term.get("topologyKey") or HOST
    domain = node.metadata.labels.get(key)
    if domain is None:
        return False
    nodes = [node] if key == HOST else [n for n in view.nodes.values() if n.metadata.labels.get(key) == domain]
    return any(
        _term_matches(term, pod, other) and not other.finished()
        for n in nodes
        for other in view.pods_on(n.metadata.name)
    )


def _spread(view: View, pod: Pod, constraint: TopologySpread) -> Counter[str]:
    """Pods that a constraint counts, by domain; every domain of an eligible node is there."""
    selector = selectors.of(constraint.label_selector) if constraint.label_selector else ()
    counts: Counter[str] = Counter()
    for node in view.nodes.values():
        domain = node.metadata.labels.get(constraint.topology_key)
        if domain is None or not placement.selected(pod, node):
            continue
        counts[domain] += sum(
            other.metadata.namespace == pod.metadata.namespace
            and other.metadata.deletion_timestamp is None
            and not other.finished()
            and selectors.matches(selector, other.metadata.labels)
            for other in view.pods_on(node.metadata.name)
        )
    return counts


def _spread_refusal(view: View, pod: Pod, node: Node) -> str:
    for constraint in pod.spec.topology_spread_constraints:
        if constraint.when_unsatisfiable != "DoNotSchedule":
            continue
        counts = _spread(view, pod, constraint)
        domain = node.metadata.labels.get(constraint.topology_key)
        if domain is None or counts[domain] + 1 - min(counts.values()) > constraint.max_skew:
            return "node(s) didn't match pod topology spread constraints"
    return ""


def _score(view: View, pod: Pod, node: Node) -> tuple[int, ...]:
    """Higher is better: soft spread, preferred affinity, few pods of the same owner, few pods at all."""
    soft = 0
    for constraint in pod.spec.topology_spread_constraints:
        if constraint.when_unsatisfiable == "ScheduleAnyway":
            soft -= _spread(view, pod, constraint)[node.metadata.labels.get(constraint.topology_key, "")]
    owner = pod.metadata.controller()
    here = list(view.pods_on(node.metadata.name))
    same = sum(1 for other in here if owner and (ref := other.metadata.controller()) and ref.uid == owner.uid)
    return soft, placement.preference(pod, node), -same, -len(here)


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
