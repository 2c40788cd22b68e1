"""Pods that belong to somebody: which count, which go first, how one is made from a template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from glassnet.controllers.result import owner_reference, record
from glassnet.kube import kinds, selectors
from glassnet.kube.change import Change, Create, Patch
from glassnet.kube.kinds import Kind
from glassnet.kube.types import Meta, Pod
from glassnet.kube.view import Key, View

# who says so when a pod was made; a StatefulSet's Events have words of their own
_SOURCES: dict[Kind, str] = {
    kinds.REPLICA_SET: "replicaset-controller",
    kinds.REPLICATION_CONTROLLER: "replication-controller",
    kinds.DAEMON_SET: "daemonset-controller",
    kinds.JOB: "job-controller",
}


def from_template(kind: Kind, meta: Meta, template: dict[str, Any], **metadata: Any) -> Create:
    """A new pod of an owner; `metadata` (name, labels, annotations) goes over the template's."""
    own = dict(template.get("metadata") or {})
    own.pop("creationTimestamp", None)
    body_meta = {**own, "generateName": f"{meta.name}-", "ownerReferences": [owner_reference(kind, meta)]}
    for field, value in metadata.items():
        body_meta[field] = {**(own.get(field) or {}), **value} if isinstance(value, dict) else value
    if "name" in metadata:
        body_meta.pop("generateName")
    announce = None
    if source := _SOURCES.get(kind):
        announce = record(kind, meta, "SuccessfulCreate", "Created pod: {name}", source)
    return Create(kinds.POD, meta.namespace, {"metadata": body_meta, "spec": template.get("spec") or {}}, announce)


def active(pods: Iterable[Pod]) -> list[Pod]:
    """Pods that are neither finished nor being deleted."""
    return [pod for pod in pods if not pod.finished() and pod.metadata.deletion_timestamp is None]


def ready_since(pod: Pod) -> datetime | None:
    """When the pod became Ready; None when it is not."""
    found = next((c for c in pod.status.conditions if c.type == "Ready" and c.status == "True"), None)
    return found.last_transition_time if found else None


def available(pod: Pod, min_ready_seconds: int, now: datetime) -> bool:
    """Ready for at least `min_ready_seconds`."""
    if not pod.ready():
        return False
    since = ready_since(pod)
    return not min_ready_seconds or since is None or now - since >= timedelta(seconds=min_ready_seconds)


def until_available(pods: Iterable[Pod], min_ready_seconds: int, now: datetime) -> float | None:
    """In how many seconds the next of the pods that are ready becomes available; None when none waits."""
    if not min_ready_seconds:
        return None
    waits = [min_ready_seconds - (now - since).total_seconds() for pod in pods if (since := ready_since(pod))]
    return min((max(wait, 0.05) for wait in waits if wait > 0), default=None)


def deletion_order(pods: list[Pod]) -> list[Pod]:
    """The order in which surplus pods go: unassigned, pending, not ready, crowded on a node, cheaper, lately ready, restarted, newer.

    Source: Kubernetes documentation, ReplicaSet, "Scaling a ReplicaSet".
    """
    crowd = Counter(pod.spec.node_name for pod in pods)
    phases = {"Pending": 0, "Unknown": 1}

    def rank(pod: Pod) -> tuple[Any, ...]:
        cost = int(pod.metadata.annotations.get("controller.kubernetes.io/pod-deletion-cost", "0"))
        restarts = max((s.restart_count for s in pod.status.container_statuses), default=0)
        since, made = ready_since(pod), pod.metadata.creation_timestamp
        return (
            bool(pod.spec.node_name),
            phases.get(pod.status.phase, 2),
            pod.ready(),
            cost,
            -crowd[pod.spec.node_name],
            -since.timestamp() if since else 0,
            -restarts,
            -made.timestamp() if made else 0,
            pod.metadata.name,
        )

    return sorted(pods, key=rank)


def claim(view: View, kind: Kind, meta: Meta, selector: selectors.Selector) -> tuple[list[Pod], list[Change]]:
    """Pods that an owner controls, after adopting orphans its selector matches and releasing pods it no longer matches."""
    mine: list[Pod] = []
    changes: list[Change] = []
    for pod in view.controlled_by(meta.uid, kinds.POD):
        if selectors.matches(selector, pod.metadata.labels):
            mine.append(pod)
        elif pod.metadata.deletion_timestamp is None:
            others = [_as_dict(ref) for ref in pod.metadata.owner_references if ref.uid != meta.uid]
            changes.append(
                Patch(kinds.POD, meta.namespace, pod.metadata.name, {"metadata": {"ownerReferences": others or None}})
            )
    if meta.deletion_timestamp is None and selector:
        for pod in view.pods_matching(meta.namespace, selector):
            if pod.metadata.controller() is None and pod.metadata.deletion_timestamp is None:
                references = [*(_as_dict(ref) for ref in pod.metadata.owner_references), owner_reference(kind, meta)]
                changes.append(
                    Patch(
                        kinds.POD,
                        meta.namespace,
                        pod.metadata.name,
                        {"metadata": {"uid": pod.metadata.uid, "ownerReferences": references}},
                    )
                )
                mine.append(pod)
    return mine, changes


def _as_dict(ref: Any) -> dict[str, Any]:
    return {
        "apiVersion": ref.api_version, "kind": ref.kind, "name": ref.name, "uid": ref.uid, "controller": ref.controller,
        "blockOwnerDeletion": ref.block_owner_deletion,
    }  # fmt: skip


def key_of(obj: Any) -> Key:
    """Namespace and name of an object."""
    return Key(obj.metadata.namespace, obj.metadata.name)
