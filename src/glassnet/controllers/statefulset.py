"""StatefulSet: pods with names that last, made and ended in order. Source: Kubernetes documentation, "StatefulSets"."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from glassnet.controllers.pods import available, claim, from_template, until_available
from glassnet.controllers.result import NOTHING, Result, record, status_patch, template_hash
from glassnet.kube import kinds, selectors
from glassnet.kube.change import Change, Delete
from glassnet.kube.types import Pod, Workload
from glassnet.kube.view import Key, View

REVISION, NAME, INDEX = "controller-revision-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"
SOURCE = "statefulset-controller"


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """One StatefulSet."""
    owner = view.get(kinds.STATEFUL_SET, key)
    if owner is None or owner.metadata.deletion_timestamp:
        return NOTHING
    mine, changes = claim(view, kinds.STATEFUL_SET, owner.metadata, selectors.of(owner.spec.selector))
    update = f"{owner.metadata.name}-{template_hash(owner.spec.template)}"
    start = (owner.spec.ordinals or {}).get("start", 0)
    size = 1 if owner.spec.replicas is None else owner.spec.replicas
    by_index = {index: pod for pod in mine if (index := _ordinal(owner, pod)) is not None}
    wanted = range(start, start + size)
    steps = _step(view, owner, by_index, wanted, update, now)
    changes += steps
    after = until_available(by_index.values(), owner.spec.min_ready_seconds, now)
    return Result([*changes, *_status(owner, by_index, wanted, update, now)], after)


def _ordinal(owner: Workload, pod: Pod) -> int | None:
    match = re.fullmatch(re.escape(owner.metadata.name) + r"-(\d+)", pod.metadata.name)
    return int(match[1]) if match else None


def _pod(owner: Workload, index: int, revision: str) -> Change:
    name = f"{owner.metadata.name}-{index}"
    template = {
        **owner.spec.template,
        "spec": {**(owner.spec.template.get("spec") or {}), "hostname": name, "subdomain": owner.spec.service_name},
    }
    if not owner.spec.service_name:
        del template["spec"]["subdomain"]
    labels = {NAME: name, INDEX: str(index), REVISION: revision}
    return from_template(kinds.STATEFUL_SET, owner.metadata, template, name=name, labels=labels)


def _step(view: View, owner: Workload, pods: dict[int, Pod], wanted: range, update: str, now: datetime) -> list[Change]:
    """What may be done now: everything at once in Parallel, one thing at a time in order otherwise."""
    ordered = owner.spec.pod_management_policy != "Parallel"
    out: list[Change] = []
    for index in wanted:
        pod = pods.get(index)
        if pod is None:
            if view.pods.get(Key(owner.metadata.namespace, f"{owner.metadata.name}-{index}")) is None:
                out.append(_pod(owner, index, update))
                out.append(
                    record(
                        kinds.STATEFUL_SET,
                        owner.metadata,
                        "SuccessfulCreate",
                        f"create Pod {owner.metadata.name}-{index} in StatefulSet {owner.metadata.name} successful",
                        SOURCE,
                    )
                )
            if ordered:
                return out
        elif pod.finished() and pod.metadata.deletion_timestamp is None:
            out.append(_gone(pod))
            if ordered:
                return out
        elif ordered and (not available(pod, owner.spec.min_ready_seconds, now) or pod.metadata.deletion_timestamp):
            return out
    surplus = sorted((index for index in pods if index not in wanted), reverse=True)
    for index in surplus:
        if pods[index].metadata.deletion_timestamp is None:
            out.append(_gone(pods[index]))
        if ordered:
            return out
    return out or _roll(owner, pods, wanted, update, now)


def _roll(owner: Workload, pods: dict[int, Pod], wanted: range, update: str, now: datetime) -> list[Change]:
    """Replace the highest pod of an older template; wait for what has been replaced."""
    strategy = owner.spec.update_strategy
    if strategy.get("type") == "OnDelete":
        return []
    partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
    for index in reversed(wanted):
        pod = pods.get(index)
        if pod is None or index < partition:
            continue
        if pod.metadata.labels.get(REVISION) != update and pod.metadata.deletion_timestamp is None:
            return [_gone(pod)]
        if not available(pod, owner.spec.min_ready_seconds, now) or pod.metadata.deletion_timestamp:
            return []
    return []


def _gone(pod: Pod) -> Delete:
    return Delete(kinds.POD, pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)


def _status(owner: Workload, pods: dict[int, Pod], wanted: range, update: str, now: datetime) -> list[Change]:
    living = [pod for pod in pods.values() if pod.metadata.deletion_timestamp is None and not pod.finished()]
    updated = sum(pod.metadata.labels.get(REVISION) == update for pod in living)
    done = updated == len(wanted) == len(living) and all(pod.ready() for pod in living)
    current = update if done or not owner.status.current_revision else owner.status.current_revision
    status: dict[str, Any] = {
        "observedGeneration": owner.metadata.generation,
        "replicas": len(living),
        "readyReplicas": sum(pod.ready() for pod in living),
        "availableReplicas": sum(available(pod, owner.spec.min_ready_seconds, now) for pod in living),
        "currentReplicas": sum(pod.metadata.labels.get(REVISION) == current for pod in living),
        "updatedReplicas": updated,
        "currentRevision": current,
        "updateRevision": update,
    }
    return status_patch(kinds.STATEFUL_SET, owner.metadata, owner.status, status, ("replicas", "availableReplicas"))
