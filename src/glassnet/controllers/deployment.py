"""Deployment: ReplicaSets of one template each, rolled from one to the next.

Source: Kubernetes documentation, "Deployments" (rolling update, proportional scaling, conditions, revision history).
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from glassnet.controllers.result import (
    NOTHING,
    Result,
    condition,
    owner_reference,
    record,
    same_conditions,
    status_patch,
    template_hash,
)
from glassnet.kube import kinds
from glassnet.kube.change import Change, Create, Delete, Patch
from glassnet.kube.types import Workload
from glassnet.kube.view import Key, View

HASH, REVISION = "pod-template-hash", "deployment.kubernetes.io/revision"
DESIRED, MAXIMUM = "deployment.kubernetes.io/desired-replicas", "deployment.kubernetes.io/max-replicas"
SOURCE = "deployment-controller"


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """One Deployment."""
    deployment = view.get(kinds.DEPLOYMENT, key)
    if deployment is None or deployment.metadata.deletion_timestamp:
        return NOTHING
    sets = sorted(
        view.controlled_by(deployment.metadata.uid, kinds.REPLICA_SET), key=lambda rs: (_revision(rs), rs.metadata.name)
    )
    new = next((rs for rs in sets if _same_template(rs, deployment)), None)
    old = [rs for rs in sets if rs is not new]
    changes: list[Change] = []
    if not deployment.spec.paused:
        changes += _ensure_new(view, deployment, new, old)
        if new is None and changes:
            return Result(changes)
    sizes = _sizes(deployment, new, old)
    for rs in sets:
        wanted = sizes.get(rs.metadata.name, _size(rs))
        if wanted != _size(rs):
            changes += _resize(deployment, rs, wanted)
    if new is not None and not changes:
        changes += _clean_up(deployment, old)
    return _with_status(deployment, new, sets, changes, now)


def _same_template(rs: Workload, deployment: Workload) -> bool:
    """Equal but for the hash label."""
    template = dict(rs.spec.template)
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH}
    template["metadata"] = metadata
    wanted = deployment.spec.template
    wanted_meta = {**(wanted.get("metadata") or {}), "labels": (wanted.get("metadata") or {}).get("labels") or {}}
    return template == {**wanted, "metadata": wanted_meta}


def _revision(rs: Workload) -> int:
    return int(rs.metadata.annotations.get(REVISION, "0"))


def _size(rs: Workload) -> int:
    return 1 if rs.spec.replicas is None else rs.spec.replicas


def _replicas(deployment: Workload) -> int:
    return 1 if deployment.spec.replicas is None else deployment.spec.replicas


def _limits(deployment: Workload) -> tuple[int, int]:
    """(maxSurge rounded up, maxUnavailable rounded down); never both 0."""
    if deployment.spec.strategy.get("type") == "Recreate":
        return 0, _replicas(deployment)
    rolling = deployment.spec.strategy.get("rollingUpdate") or {}
    surge = share(rolling.get("maxSurge", "25%"), _replicas(deployment), up=True)
    unavailable = share(rolling.get("maxUnavailable", "25%"), _replicas(deployment), up=False)
    return surge, (unavailable if surge or unavailable else 1)


def share(value: Any, total: int, up: bool) -> int:
    """A number of pods given as number or as percentage of `total`, rounded up or down."""
    if isinstance(value, str):
        part = int(value.rstrip("%")) * total / 100
        return math.ceil(part) if up else math.floor(part)
    return int(value)


def _ensure_new(view: View, deployment: Workload, new: Workload | None, old: list[Workload]) -> list[Change]:
    revision = str(max((_revision(rs) for rs in old), default=0) + 1)
    changes: list[Change] = []
    if new is None:
        made, collided = _new_set(view, deployment, old, revision)
        if collided:
            return [
                Patch(
                    kinds.DEPLOYMENT,
                    deployment.metadata.namespace,
                    deployment.metadata.name,
                    {"status": {"collisionCount": deployment.status.collision_count + 1}},
                    "status",
                )
            ]
        size = made.body["spec"]["replicas"]
        changes.append(made)
        changes.append(
            record(
                kinds.DEPLOYMENT,
                deployment.metadata,
                "ScalingReplicaSet",
                f"Scaled up replica set {made.body['metadata']['name']} from 0 to {size}",
                SOURCE,
            )
        )
    elif _revision(new) < int(revision):
        changes.append(
            Patch(
                kinds.REPLICA_SET,
                new.metadata.namespace,
                new.metadata.name,
                {"metadata": {"annotations": {REVISION: revision}}},
            )
        )
    else:
        revision = str(_revision(new))
    if deployment.metadata.annotations.get(REVISION) != revision:
        changes.append(
            Patch(
                kinds.DEPLOYMENT,
                deployment.metadata.namespace,
                deployment.metadata.name,
                {"metadata": {"annotations": {REVISION: revision}}},
            )
        )
    return changes


def _new_set(view: View, deployment: Workload, old: list[Workload], revision: str) -> tuple[Create, bool]:
    meta, spec = deployment.metadata, deployment.spec
    digest = template_hash(spec.template, deployment.status.collision_count)
    name = f"{meta.name}-{digest}"
    template = {**spec.template, "metadata": {**(spec.template.get("metadata") or {})}}
    template["metadata"]["labels"] = {**(template["metadata"].get("labels") or {}), HASH: digest}
    selector: dict[str, Any] = {"matchLabels": {**spec.selector.match_labels, HASH: digest}}
    if spec.selector.match_expressions:
        selector["matchExpressions"] = [
            {"key": e.key, "operator": e.operator, **({"values": list(e.values)} if e.values else {})}
            for e in spec.selector.match_expressions
        ]
    surge, _ = _limits(deployment)
    wanted = _replicas(deployment)
    if spec.strategy.get("type") == "Recreate":
        size = 0 if any(_size(rs) or rs.status.replicas for rs in old) else wanted
    else:
        size = min(wanted, max(0, wanted + surge - sum(_size(rs) for rs in old)))
    body = {
        "metadata": {
            "name": name,
            "labels": template["metadata"]["labels"],
            "annotations": {
                **_copied(meta.annotations),
                REVISION: revision,
                DESIRED: str(wanted),
                MAXIMUM: str(wanted + surge),
            },
            "ownerReferences": [owner_reference(kinds.DEPLOYMENT, meta)],
        },
        "spec": {
            "replicas": size,
            "selector": selector,
            "template": template,
            "minReadySeconds": spec.min_ready_seconds,
        },
    }
    return Create(kinds.REPLICA_SET, meta.namespace, body), view.get(
        kinds.REPLICA_SET, Key(meta.namespace, name)
    ) is not None


def _copied(annotations: dict[str, str]) -> dict[str, str]:
    """A deployment's annotations that its ReplicaSets show too."""
    skipped = {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        DESIRED,
        MAXIMUM,
        "deprecated.deployment.rollback.to",
    }
    return {key: value for key, value in annotations.items() if key not in skipped}


def _sizes(deployment: Workload, new: Workload | None, old: list[Workload]) -> dict[str, int]:
    """How big each ReplicaSet should be now."""
    wanted = _replicas(deployment)
    surge, unavailable = _limits(deployment)
    live = [rs for rs in old if _size(rs)]
    if deployment.spec.paused or (new is not None and _scaling(deployment, [new, *live])):
        return _proportional(
            deployment,
            [rs for rs in ([new] if new else []) + live if _size(rs)] or ([new] if new else []),
            wanted,
            surge,
        )
    if new is None:
        return {}
    if deployment.spec.strategy.get("type") == "Recreate":
        sizes = {rs.metadata.name: 0 for rs in live}
        if not live and not any(rs.status.replicas for rs in old):
            sizes[new.metadata.name] = wanted
        return sizes
    return _rolling(new, live, wanted, surge, unavailable)


def _scaling(deployment: Workload, sets: list[Workload]) -> bool:
    """True when the number of replicas asked for has changed since the ReplicaSets were last sized."""
    return any(
        _size(rs)
        and DESIRED in rs.metadata.annotations
        and int(rs.metadata.annotations[DESIRED]) != _replicas(deployment)
        for rs in sets
    )


def _proportional(deployment: Workload, sets: list[Workload], wanted: int, surge: int) -> dict[str, int]:
    if len(sets) == 1:
        return {sets[0].metadata.name: wanted}
    total = sum(_size(rs) for rs in sets)
    allowed = wanted + (surge if wanted else 0)
    left = allowed - total
    sizes: dict[str, int] = {}
    for rs in sorted(sets, key=lambda rs: (-_size(rs), rs.metadata.name)):
        part = round(_size(rs) * allowed / total) - _size(rs) if total else 0
        part = max(min(part, left), 0) if left > 0 else min(max(part, left), 0)
        sizes[rs.metadata.name] = max(0, _size(rs) + part)
        left -= part
    if sets and left:
        first = max(sets, key=_size).metadata.name
        sizes[first] = max(0, sizes[first] + left)
    return sizes


def _rolling(new: Workload, live: list[Workload], wanted: int, surge: int, unavailable: int) -> dict[str, int]:
    total = _size(new) + sum(_size(rs) for rs in live)
    sizes: dict[str, int] = {}
    if _size(new) > wanted:
        sizes[new.metadata.name] = wanted
    elif _size(new) < wanted and total < wanted + surge:
        sizes[new.metadata.name] = min(wanted, _size(new) + wanted + surge - total)
        return sizes
    spare = total - (wanted - unavailable) - (_size(new) - new.status.available_replicas)
    if spare <= 0:
        return sizes
    left = {rs.metadata.name: _size(rs) for rs in live}
    for rs in live:  # the sick ones first: they serve nobody
        sick = min(max(0, _size(rs) - rs.status.available_replicas), spare)
        left[rs.metadata.name] -= sick
        spare -= sick
    fit = sum(min(left[rs.metadata.name], rs.status.available_replicas) for rs in live) + new.status.available_replicas
    spare = min(spare, fit - (wanted - unavailable))
    for rs in live:
        part = min(left[rs.metadata.name], max(0, spare))
        left[rs.metadata.name] -= part
        spare -= part
    return {**sizes, **left}


def _resize(deployment: Workload, rs: Workload, size: int) -> list[Change]:
    surge, _ = _limits(deployment)
    notes = {DESIRED: str(_replicas(deployment)), MAXIMUM: str(_replicas(deployment) + surge)}
    verb = "up" if size > _size(rs) else "down"
    return [
        Patch(
            kinds.REPLICA_SET,
            rs.metadata.namespace,
            rs.metadata.name,
            {"metadata": {"annotations": notes}, "spec": {"replicas": size}},
        ),
        record(
            kinds.DEPLOYMENT,
            deployment.metadata,
            "ScalingReplicaSet",
            f"Scaled {verb} replica set {rs.metadata.name} from {_size(rs)} to {size}",
            SOURCE,
        ),
    ]


def _clean_up(deployment: Workload, old: list[Workload]) -> list[Change]:
    """ReplicaSets beyond the history that is to be kept."""
    empty = [
        rs
        for rs in old
        if not _size(rs)
        and not rs.status.replicas
        and rs.status.observed_generation >= rs.metadata.generation
        and rs.metadata.deletion_timestamp is None
    ]
    surplus = len(empty) - deployment.spec.revision_history_limit
    return [
        Delete(kinds.REPLICA_SET, rs.metadata.namespace, rs.metadata.name, rs.metadata.uid)
        for rs in empty[: max(0, surplus)]
    ]


def _with_status(
    deployment: Workload, new: Workload | None, sets: list[Workload], changes: list[Change], now: datetime
) -> Result:
    meta, old = deployment.metadata, deployment.status
    wanted = _replicas(deployment)
    _, unavailable = _limits(deployment)
    available = sum(rs.status.available_replicas for rs in sets)
    status: dict[str, Any] = {
        "observedGeneration": meta.generation,
        "replicas": sum(rs.status.replicas for rs in sets),
        "updatedReplicas": new.status.replicas if new else 0,
        "readyReplicas": sum(rs.status.ready_replicas for rs in sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(_size(rs) for rs in sets) - available),
    }
    complete = bool(new) and status["updatedReplicas"] == wanted == status["replicas"] == available
    conditions = [
        condition(
            old.conditions, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now
        )
        if available >= wanted - unavailable
        else condition(
            old.conditions,
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
            now,
        )
    ]
    after = None
    progress = _progress(deployment, new, status, complete, now)
    if progress is not None:
        conditions.append(progress[0])
        after = progress[1]
    out = status_patch(kinds.DEPLOYMENT, meta, old, status, ())
    if not same_conditions(old.conditions, conditions):
        body = dict(out[0].body["status"]) if out and isinstance(out[0], Patch) else {}
        out = [
            Patch(kinds.DEPLOYMENT, meta.namespace, meta.name, {"status": {**body, "conditions": conditions}}, "status")
        ]
    return Result([*changes, *out], after)


def _progress(
    deployment: Workload, new: Workload | None, status: dict[str, Any], complete: bool, now: datetime
) -> tuple[dict[str, Any], float | None] | None:
    """The Progressing condition and when to look at its deadline."""
    old, name = deployment.status, new.metadata.name if new else deployment.metadata.name
    before = next((c for c in old.conditions if c.type == "Progressing"), None)
    if deployment.spec.paused:
        return condition(
            old.conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now
        ), None
    if new is None:
        return None
    if complete:
        return condition(
            old.conditions,
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            f'ReplicaSet "{name}" has successfully progressed.',
            now,
        ), None
    moved = (
        status["updatedReplicas"] > old.updated_replicas
        or status["readyReplicas"] > old.ready_replicas
        or status["availableReplicas"] > old.available_replicas
        or status["replicas"] - status["updatedReplicas"] < old.replicas - old.updated_replicas
    )
    if before is None or before.reason in ("NewReplicaSetAvailable", "DeploymentPaused") or moved:
        reason = "ReplicaSetUpdated" if before is not None else "NewReplicaSetCreated"
        text = f'ReplicaSet "{name}" is progressing.' if before is not None else f'Created new replica set "{name}"'
        return condition(old.conditions, "Progressing", "True", reason, text, now, touch=moved), float(
            deployment.spec.progress_deadline_seconds
        )
    since = before.last_update_time or before.last_transition_time or now
    left = deployment.spec.progress_deadline_seconds - (now - since).total_seconds()
    if before.reason == "ProgressDeadlineExceeded" or left <= 0:
        return condition(
            old.conditions,
            "Progressing",
            "False",
            "ProgressDeadlineExceeded",
            f'ReplicaSet "{name}" has timed out progressing.',
            now,
        ), None
    return condition(old.conditions, "Progressing", before.status, before.reason, before.message, now), left
