"""What the server keeps and drops of what a client sends: the registry strategies of Kubernetes."""

from __future__ import annotations

from typing import Any

from glassnet.apiserver.schema import service_spec
from glassnet.apiserver.schema.quantity import amount
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

Obj = dict[str, Any]
# fields of metadata that only the server writes
_SERVER = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")
# kinds whose spec has a generation
_GENERATIONS = {kinds.POD, kinds.DEPLOYMENT, kinds.REPLICA_SET, kinds.DAEMON_SET, kinds.STATEFUL_SET, kinds.REPLICATION_CONTROLLER, kinds.JOB,
                kinds.INGRESS, kinds.NETWORK_POLICY, kinds.ENDPOINT_SLICE, kinds.INGRESS_CLASS}  # fmt: skip
WITH_STATUS = {kinds.NAMESPACE, kinds.NODE, kinds.POD, kinds.SERVICE, kinds.REPLICATION_CONTROLLER, kinds.DEPLOYMENT, kinds.REPLICA_SET,
               kinds.DAEMON_SET, kinds.STATEFUL_SET, kinds.JOB, kinds.INGRESS, kinds.SERVICE_CIDR}  # fmt: skip


def prepare_create(kind: Kind, obj: Obj) -> None:
    """A new object has no history and no status but its first one."""
    metadata = obj.setdefault("metadata", {})
    for field in (*_SERVER, "resourceVersion"):
        metadata.pop(field, None)
    if kind in WITH_STATUS and kind is not kinds.NODE:
        obj["status"] = {}
    if kind is kinds.POD:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(obj.get("spec") or {})}
    elif kind in (kinds.SERVICE, kinds.INGRESS):
        obj["status"] = {"loadBalancer": {}}
    elif kind in (kinds.REPLICA_SET, kinds.REPLICATION_CONTROLLER):
        obj["status"] = {"replicas": 0}
    elif kind is kinds.STATEFUL_SET:
        obj["status"] = {"replicas": 0, "availableReplicas": 0}
    elif kind is kinds.DAEMON_SET:
        obj["status"] = {
            "currentNumberScheduled": 0,
            "desiredNumberScheduled": 0,
            "numberMisscheduled": 0,
            "numberReady": 0,
        }
    if kind in _GENERATIONS:
        metadata["generation"] = 1


def prepare_update(kind: Kind, new: Obj, old: Obj, subresource: str = "") -> None:
    """Spec writes keep the old status, status writes the old spec; the generation counts changes of what is asked for."""
    after, before = new.setdefault("metadata", {}), old["metadata"]
    for field in _SERVER:
        if field in before:
            after[field] = before[field]
        else:
            after.pop(field, None)
    if subresource == "status":
        for field in [name for name in old if name not in ("metadata", "status")]:
            new[field] = old[field]
        for field in [name for name in new if name not in old and name != "status"]:
            del new[field]
        for field in ("labels", "ownerReferences", "finalizers"):
            if field in before:
                after[field] = before[field]
        return
    if kind is kinds.SERVICE:
        service_spec.normalize(new, old)
    if kind in WITH_STATUS:
        if "status" in old:
            new["status"] = old["status"]
        else:
            new.pop("status", None)
    if kind in _GENERATIONS and asked(new) != asked(old):
        after["generation"] = before.get("generation", 0) + 1


def asked(obj: Obj) -> Obj:
    """The part of an object that says what is wanted."""
    return {name: value for name, value in obj.items() if name not in ("metadata", "status", "kind", "apiVersion")}


def qos_class(spec: Obj) -> str:
    """Quality of service of a pod: Guaranteed, Burstable or BestEffort."""
    every = (spec.get("containers") or []) + (spec.get("initContainers") or [])
    asked = [(_amounts(container, "requests"), _amounts(container, "limits")) for container in every]
    if not any(requests or limits for requests, limits in asked):
        return "BestEffort"
    full = all({"cpu", "memory"} <= limits.keys() and {**limits, **requests} == limits for requests, limits in asked)
    return "Guaranteed" if full else "Burstable"


def _amounts(container: Obj, field: str) -> Obj:
    """The processor time and memory a container asks for; 0 counts as nothing."""
    found = ((container.get("resources") or {}).get(field) or {}).items()
    return {name: amount(value) for name, value in found if name in ("cpu", "memory") and amount(value)}
