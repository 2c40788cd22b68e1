"""Subresources that are not plain writes: scale, binding, eviction, finalize. Functions over ApiServer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassnet.apiserver import lifecycle, schema
from glassnet.apiserver.request import DeleteOptions, Request
from glassnet.apiserver.schema.text import selector_text
from glassnet.apiserver.server import ApiServer, conflict, decode
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
SCALABLE = {kinds.DEPLOYMENT, kinds.REPLICA_SET, kinds.STATEFUL_SET, kinds.REPLICATION_CONTROLLER}


def get_scale(server: ApiServer, kind: Kind, namespace: str, name: str) -> Obj:
    """autoscaling/v1 Scale of a workload."""
    return _scale_of(kind, decode(server.get(kind, namespace, name)))


def _scale_of(kind: Kind, obj: Obj) -> Obj:
    metadata, spec = obj["metadata"], obj["spec"]
    chosen = spec.get("selector") or {}
    text = selector_text({"matchLabels": chosen} if kind is kinds.REPLICATION_CONTROLLER else chosen)
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: metadata[field] for field in kept},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {"replicas": (obj.get("status") or {}).get("replicas", 0), "selector": text},
    }


def put_scale(
    server: ApiServer, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], request: Request
) -> Obj:
    """Set the number of replicas. Raises ApiError 409 for an outdated resourceVersion, 422 for a negative number."""
    obj = decode(server.get(kind, namespace, name))
    version = (body.get("metadata") or {}).get("resourceVersion")
    if version and version != obj["metadata"]["resourceVersion"]:
        raise conflict(
            kind, name, "the object has been modified; please apply your changes to the latest version and try again"
        )
    replicas = (body.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        raise schema.invalid(
            kind,
            name,
            [
                schema.FieldError(
                    "FieldValueInvalid",
                    f"Invalid value: {replicas}: must be greater than or equal to 0",
                    "spec.replicas",
                )
            ],
        )
    obj["spec"]["replicas"] = replicas
    return _scale_of(kind, server.update(kind, namespace, name, obj, request))


def patch_scale(
    server: ApiServer, kind: Kind, namespace: str, name: str, patch: Any, content_type: str, request: Request
) -> Obj:
    """Patch the Scale object."""
    scale = get_scale(server, kind, namespace, name)
    changed = schema.json_patch(scale, patch) if "json-patch" in content_type else schema.merge_patch(scale, patch)
    return put_scale(server, kind, namespace, name, changed, request)


def bind(server: ApiServer, namespace: str, name: str, body: Mapping[str, Any], request: Request) -> Obj:
    """pods/binding: put a pod on a node. Raises ApiError 409 when it is on one already."""
    pod = decode(server.get(kinds.POD, namespace, name))
    wanted = (body.get("metadata") or {}).get("uid")
    if wanted and wanted != pod["metadata"]["uid"]:
        raise conflict(kinds.POD, name, "the uid in the binding is not the pod's")
    if pod["spec"].get("nodeName"):
        raise conflict(kinds.POD, name, f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"')
    if pod["metadata"].get("deletionTimestamp"):
        raise conflict(kinds.POD, name, f"pod {name} is being deleted, cannot be assigned to a host")
    target = (body.get("target") or {}).get("name")
    if not target:
        raise schema.invalid(
            kinds.POD, name, [schema.FieldError("FieldValueRequired", "Required value", "target.name")]
        )
    old = dict(pod)
    pod = {**pod, "spec": {**pod["spec"], "nodeName": target}, "metadata": dict(pod["metadata"])}
    status = dict(pod.get("status") or {})
    others = [c for c in status.get("conditions") or () if c["type"] != "PodScheduled"]
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": lifecycle.stamp(server.now()),
    }
    pod["status"] = {**status, "conditions": [*others, scheduled]}
    server.write(kinds.POD, Key(namespace, name), pod, old, request)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def evict(server: ApiServer, namespace: str, name: str, body: Mapping[str, Any], request: Request) -> Obj:
    """pods/eviction: there are no disruption budgets here, so an eviction is a delete."""
    options = body.get("deleteOptions") or {}
    server.delete(kinds.POD, namespace, name, DeleteOptions(grace=options.get("gracePeriodSeconds")), request)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def finalize(server: ApiServer, name: str, body: Mapping[str, Any], request: Request) -> Obj:
    """namespaces/finalize: only spec.finalizers is written; a namespace without any that is marked goes."""
    obj = decode(server.get(kinds.NAMESPACE, "", name))
    obj["spec"] = {**(obj.get("spec") or {}), "finalizers": list((body.get("spec") or {}).get("finalizers") or [])}
    if lifecycle.may_go(kinds.NAMESPACE, obj):
        return server.remove(kinds.NAMESPACE, Key("", name), obj, request)
    return server.write(kinds.NAMESPACE, Key("", name), obj, decode(server.get(kinds.NAMESPACE, "", name)), request)


def unsupported(kind: Kind, subresource: str) -> ApiError:
    """The 404 answer for a subresource a kind does not have."""
    return ApiError(
        404, "NotFound", "the server could not find the requested resource", {"kind": kind.plural, "name": subresource}
    )
