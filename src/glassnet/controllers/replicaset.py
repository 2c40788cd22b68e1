"""ReplicaSet and ReplicationController: as many pods as asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from glassnet.controllers.pods import active, available, claim, deletion_order, from_template, until_available
from glassnet.controllers.result import NOTHING, Result, record, status_patch
from glassnet.kube import kinds, selectors
from glassnet.kube.change import Change, Delete
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key, View

BURST = 500


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """One ReplicaSet."""
    return _reconcile(view, kinds.REPLICA_SET, view.get(kinds.REPLICA_SET, key), now, "replicaset-controller")


def reconcile_controller(view: View, key: Key, now: datetime) -> Result:
    """One ReplicationController."""
    return _reconcile(
        view, kinds.REPLICATION_CONTROLLER, view.get(kinds.REPLICATION_CONTROLLER, key), now, "replication-controller"
    )


def _reconcile(view: View, kind: Kind, owner: Any, now: datetime, source: str) -> Result:
    if owner is None:
        return NOTHING
    meta, spec = owner.metadata, owner.spec
    selector = selectors.of(spec.selector)
    mine, changes = claim(view, kind, meta, selector)
    pods = active(mine)
    wanted = 1 if spec.replicas is None else spec.replicas
    if meta.deletion_timestamp is None:
        changes += _scale(kind, owner, pods, wanted, source)
    labels = (spec.template.get("metadata") or {}).get("labels") or {}
    new = {
        "replicas": len(pods),
        "fullyLabeledReplicas": sum(labels.items() <= pod.metadata.labels.items() for pod in pods),
        "readyReplicas": sum(pod.ready() for pod in pods),
        "availableReplicas": sum(available(pod, spec.min_ready_seconds, now) for pod in pods),
        "observedGeneration": meta.generation,
    }
    changes += status_patch(kind, meta, owner.status, new)
    return Result(changes, until_available(pods, spec.min_ready_seconds, now))


def _scale(kind: Kind, owner: Any, pods: list[Any], wanted: int, source: str) -> list[Change]:
    meta, changes = owner.metadata, []
    missing = wanted - len(pods)
    if missing > 0:
        changes = [from_template(kind, meta, owner.spec.template) for _ in range(min(missing, BURST))]
        return list(changes)
    out: list[Change] = []
    for pod in deletion_order(pods)[: max(0, -missing)]:
        out.append(Delete(kinds.POD, meta.namespace, pod.metadata.name, pod.metadata.uid))
        out.append(record(kind, meta, "SuccessfulDelete", f"Deleted pod: {pod.metadata.name}", source))
    return out
