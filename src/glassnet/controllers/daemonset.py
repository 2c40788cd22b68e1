"""DaemonSet: one pod on every node that fits. Source: Kubernetes documentation, "DaemonSet"."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from glassnet.controllers import placement
from glassnet.controllers.deployment import share
from glassnet.controllers.pods import available, claim, from_template, until_available
from glassnet.controllers.result import NOTHING, Result, status_patch, template_hash
from glassnet.kube import kinds, selectors, types
from glassnet.kube.change import Change, Delete
from glassnet.kube.types import Node, Pod, Workload
from glassnet.kube.view import Key, View

REVISION = "controller-revision-hash"
# what every node may be without chasing its daemons away
_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """One DaemonSet."""
    owner = view.get(kinds.DAEMON_SET, key)
    if owner is None or owner.metadata.deletion_timestamp:
        return NOTHING
    digest = template_hash(owner.spec.template)
    mine, changes = claim(view, kinds.DAEMON_SET, owner.metadata, selectors.of(owner.spec.selector))
    template = _template(owner)
    probe = types.decode(kinds.POD, msgspec.json.encode({"metadata": {"name": "x"}, "spec": template["spec"]}))
    on: dict[str, list[Pod]] = {}
    for pod in mine:
        on.setdefault(placement.pinned_node(pod) or pod.spec.node_name, []).append(pod)
    wanted = [node for node in view.nodes.values() if placement.fits(probe, node, ignore_unschedulable=True)]
    names = {node.metadata.name for node in wanted}
    for node in wanted:
        changes += _place(owner, template, digest, node, on.get(node.metadata.name, []))
    for name, pods in on.items():
        if name not in names and not _may_stay(probe, view.nodes.get(Key("", name))):
            changes += [_gone(pod) for pod in pods if pod.metadata.deletion_timestamp is None]
    changes += _roll(owner, digest, [node.metadata.name for node in wanted], on, now)
    after = until_available(mine, owner.spec.min_ready_seconds, now)
    return Result([*changes, *_status(owner, digest, wanted, on, now)], after)


def _may_stay(probe: Pod, node: Node | None) -> bool:
    """A daemon that is there already stays through taints that only keep newcomers away."""
    return (
        node is not None
        and placement.selected(probe, node)
        and placement.untolerated(probe, node, ignore_unschedulable=True, effects=("NoExecute",)) is None
    )


def _template(owner: Workload) -> dict[str, Any]:
    spec = dict(owner.spec.template.get("spec") or {})
    tolerations = list(spec.get("tolerations") or [])
    tolerations += [{"key": key, "operator": "Exists", "effect": effect} for key, effect in _TOLERATED]
    if spec.get("hostNetwork"):
        tolerations.append(
            {"key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule"}
        )
    spec["tolerations"] = tolerations
    return {**owner.spec.template, "spec": spec}


def _pinned(template: dict[str, Any], node: str) -> dict[str, Any]:
    """The template with a node affinity for one node, by its name: the scheduler binds it."""
    spec = dict(template["spec"])
    affinity = dict(spec.get("affinity") or {})
    affinity["nodeAffinity"] = {
        **(affinity.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
        },
    }
    return {**template, "spec": {**spec, "affinity": affinity}}


def _place(owner: Workload, template: dict[str, Any], digest: str, node: Node, pods: list[Pod]) -> list[Change]:
    living = [pod for pod in pods if not pod.finished()]
    changes: list[Change] = [
        _gone(pod) for pod in pods if pod.status.phase == "Failed" and pod.metadata.deletion_timestamp is None
    ]
    if not living:
        labels = {REVISION: digest, "pod-template-generation": str(owner.metadata.generation)}
        changes.append(
            from_template(kinds.DAEMON_SET, owner.metadata, _pinned(template, node.metadata.name), labels=labels)
        )
    elif len(living) > 1:
        surplus = sorted(living, key=lambda pod: (not pod.ready(), pod.metadata.name))[1:]
        changes += [_gone(pod) for pod in surplus if pod.metadata.deletion_timestamp is None]
    return changes


def _roll(owner: Workload, digest: str, nodes: list[str], on: dict[str, list[Pod]], now: datetime) -> list[Change]:
    """Replace pods of an older template, no more at a time than may be unavailable."""
    if owner.spec.update_strategy.get("type") == "OnDelete":
        return []
    rolling = owner.spec.update_strategy.get("rollingUpdate") or {}
    most = max(1, share(rolling.get("maxUnavailable", 1), len(nodes), up=True))
    down = [
        name
        for name in nodes
        if not any(
            available(p, owner.spec.min_ready_seconds, now) and p.metadata.deletion_timestamp is None
            for p in on.get(name, [])
        )
    ]
    old = [
        pod
        for name in nodes
        for pod in on.get(name, [])
        if pod.metadata.labels.get(REVISION) != digest and pod.metadata.deletion_timestamp is None
    ]
    sick = [pod for pod in old if pod.spec.node_name in down or not pod.ready()]
    well = [pod for pod in old if pod not in sick]
    return [_gone(pod) for pod in [*sick, *well[: max(0, most - len(down))]]]


def _gone(pod: Pod) -> Delete:
    return Delete(kinds.POD, pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)


def _status(owner: Workload, digest: str, wanted: list[Node], on: dict[str, list[Pod]], now: datetime) -> list[Change]:
    names = [node.metadata.name for node in wanted]
    chosen = [next((p for p in on.get(name, []) if p.metadata.deletion_timestamp is None), None) for name in names]
    pods = [pod for pod in chosen if pod is not None]
    up = sum(available(pod, owner.spec.min_ready_seconds, now) for pod in pods)
    status = {
        "observedGeneration": owner.metadata.generation,
        "currentNumberScheduled": len(pods),
        "desiredNumberScheduled": len(names),
        "numberMisscheduled": sum(bool(pods) for name, pods in on.items() if name not in names),
        "numberReady": sum(pod.ready() for pod in pods),
        "updatedNumberScheduled": sum(pod.metadata.labels.get(REVISION) == digest for pod in pods),
        "numberAvailable": up,
        "numberUnavailable": len(names) - up,
    }
    return status_patch(
        kinds.DAEMON_SET,
        owner.metadata,
        owner.status,
        status,
        ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"),
    )
