"""What a client may not decide: the server's own fields on create and update, per kind.

Source: the registry strategies' documented behaviour (Kubernetes API conventions: spec and status, metadata, generation).
"""

from __future__ import annotations

import copy
from typing import Any

from glassnet.apiserver.schema import admission, service_spec
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

Obj = dict[str, Any]

# the status of a new object, for kinds whose clients may not bring one
_NEW_STATUS: dict[Kind, Obj] = {
    kinds.POD: {"phase": "Pending"},
    kinds.SERVICE: {"loadBalancer": {}},
    kinds.REPLICATION_CONTROLLER: {"replicas": 0},
    kinds.DEPLOYMENT: {},
    kinds.REPLICA_SET: {"replicas": 0},
    kinds.DAEMON_SET: {
        "currentNumberScheduled": 0,
        "desiredNumberScheduled": 0,
        "numberMisscheduled": 0,
        "numberReady": 0,
    },
    kinds.STATEFUL_SET: {"replicas": 0, "availableReplicas": 0},
    kinds.JOB: {},
    kinds.INGRESS: {"loadBalancer": {}},
    kinds.NAMESPACE: {"phase": "Active"},
}
_WITH_STATUS = frozenset({*_NEW_STATUS, kinds.NODE})
_WITH_GENERATION = frozenset(
    {
        kinds.POD, kinds.REPLICATION_CONTROLLER, kinds.DEPLOYMENT, kinds.REPLICA_SET, kinds.DAEMON_SET, kinds.STATEFUL_SET,
        kinds.JOB, kinds.INGRESS, kinds.INGRESS_CLASS, kinds.NETWORK_POLICY, kinds.ENDPOINT_SLICE,
    }
)  # fmt: skip
_SERVER_META = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")
_LABELS_STAY_ON_STATUS = frozenset({kinds.DEPLOYMENT})


def prepare_create(kind: Kind, obj: Obj) -> None:
    """Set the server's own fields of a new, defaulted object in place: no status of the client's, generation 1, admission defaults.

    Name, uid, creationTimestamp and resourceVersion are the caller's to give.
    """
    metadata = obj.setdefault("metadata", {})
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
        metadata.pop(field, None)
    if kind in _WITH_GENERATION:
        metadata["generation"] = 1
    if kind in _NEW_STATUS:
        obj["status"] = copy.deepcopy(_NEW_STATUS[kind])
    elif kind is kinds.NODE:
        obj.setdefault("status", {})
    if kind is kinds.SERVICE:
        service_spec.normalize(obj, None)
    elif kind is kinds.POD:
        admission.admit_pod(obj)
        obj["status"]["qosClass"] = admission.qos_class(obj.get("spec") or {})


def prepare_update(kind: Kind, new: Obj, old: Obj, subresource: str = "") -> None:
    """Carry over in place what this write may not touch, and count the generation.

    A write to the object keeps the old status, one to `status` keeps everything but status and metadata's free part,
    one to `finalize` of a Namespace changes spec.finalizers alone.
    """
    _keep_metadata(new, old)
    if subresource == "status":
        _keep_all_but_status(kind, new, old)
    elif subresource == "finalize":
        finalizers = (new.get("spec") or {}).get("finalizers") or []
        new["spec"] = {**(old.get("spec") or {}), "finalizers": finalizers}
        _keep(new, old, "status")
    else:
        if kind in _WITH_STATUS:
            _keep(new, old, "status")
        if kind is kinds.NAMESPACE:
            _keep(new, old, "spec")
        if kind is kinds.SERVICE:
            service_spec.normalize(new, old)
        if kind in _WITH_GENERATION and _intent(kind, new) != _intent(kind, old):
            new["metadata"]["generation"] = (old.get("metadata") or {}).get("generation", 0) + 1


def _keep(new: Obj, old: Obj, field: str) -> None:
    if field in old:
        new[field] = old[field]
    else:
        new.pop(field, None)


def _keep_metadata(new: Obj, old: Obj) -> None:
    metadata, before = new.setdefault("metadata", {}), old.get("metadata") or {}
    for field in _SERVER_META:
        if field == "uid" and metadata.get("uid"):
            continue  # a uid the client names is a precondition; validation refuses another one
        if field in before:
            metadata[field] = before[field]
        else:
            metadata.pop(field, None)


def _keep_all_but_status(kind: Kind, new: Obj, old: Obj) -> None:
    for field in {*new, *old} - {"apiVersion", "kind", "metadata", "status"}:
        _keep(new, old, field)
    metadata, before = new["metadata"], old.get("metadata") or {}
    if kind is kinds.POD:
        _keep(metadata, before, "ownerReferences")
    elif kind in _LABELS_STAY_ON_STATUS:
        _keep(metadata, before, "labels")


def _intent(kind: Kind, obj: Obj) -> Any:
    """The part of an object whose change counts a generation up."""
    if kind is kinds.ENDPOINT_SLICE:
        return {name: value for name, value in obj.items() if name != "metadata"}
    if kind is kinds.DEPLOYMENT:
        return obj.get("spec"), (obj.get("metadata") or {}).get("annotations") or {}
    return obj.get("spec")
