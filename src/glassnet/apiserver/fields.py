"""Field selectors: which fields of which kind may be asked for, and how they are read (pkg/registry strategies of Kubernetes)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from glassnet.apiserver.schema.errors import bad_request
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

_EVERYWHERE = ("metadata.name", "metadata.namespace")
_MORE: dict[Kind, tuple[str, ...]] = {
    kinds.POD: ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"),
    kinds.EVENT: (
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid", "involvedObject.apiVersion",
        "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type",
    ),
    kinds.NODE: ("spec.unschedulable",),
    kinds.SECRET: ("type",),
    kinds.SERVICE: ("spec.clusterIP", "spec.type"),
    kinds.NAMESPACE: ("status.phase",),
    kinds.REPLICA_SET: ("status.replicas",),
    kinds.REPLICATION_CONTROLLER: ("status.replicas",),
    kinds.JOB: ("status.successful",),
}  # fmt: skip


def field_reader(kind: Kind, paths: Iterable[str]) -> Callable[[dict[str, Any], str], str]:
    """A function (object, path) -> text. Raises ApiError 400 for a path the kind does not offer."""
    known = (*_EVERYWHERE, *_MORE.get(kind, ()))
    for path in paths:
        if path not in known:
            raise bad_request(f"field label not supported: {path}")
    return _read


def _read(obj: dict[str, Any], path: str) -> str:
    value: Any = obj
    if path == "source":
        return str((obj.get("source") or {}).get("component", ""))
    if path == "status.successful":
        path = "status.succeeded"
    for step in path.split("."):
        value = (value or {}).get(step)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return (
            "false"
            if path in ("spec.unschedulable", "spec.hostNetwork")
            else "0"
            if path.startswith("status.") and path.endswith(("replicas", "succeeded"))
            else ""
        )
    return str(value)
