"""Subresources that are not plain writes: scale, binding, eviction, finalize. Functions over ApiServer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassnet.apiserver import lifecycle, schema
from glassnet.apiserver.request import Request, delete_options
from glassnet.apiserver.schema.errors import invalid_value, not_supported, required
from glassnet.apiserver.schema.text import selector_text
from glassnet.apiserver.server import JSON_PATCH, ApiServer, check_unchanged, conflict, decode
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
SCALE = Kind("autoscaling", "v1", "Scale", "scales", True)
BINDING = Kind("", "v1", "Binding", "pods/binding", True)
_CREATED: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
SCALABLE = {kinds.DEPLOYMENT, kinds.REPLICA_SET, kinds.STATEFUL_SET, kinds.REPLICATION_CONTROLLER}


def get_scale(server: ApiServer, kind: Kind, namespace: str, name: str) -> Obj:
    """autoscaling/v1 Scale of a workload."""
    return _scale_of(kind, decode(server.get(kind, namespace, name)))


def _scale_of(kind: Kind, obj: Obj) -> Obj:
    metadata, spec = obj["metadata"], obj["spec"]
    chosen = spec.get("selector") or {}
    text = selector_text({"matchLabels": chosen} if kind is kinds.REPLICATION_CONTROLLER else chosen)
    kept = [f for f in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if f in metadata]
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: metadata[field] for field in kept},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {"replicas": (obj.get("status") or {}).get("replicas", 0), "selector": text},
    }


def put_scale(server: ApiServer, kind: Kind, namespace: str, name: str, body: Any, request: Request) -> Obj:
    """Set the number of replicas. Raises ApiError 409 for an outdated resourceVersion or uid, 422 for a negative number."""
    obj = decode(server.get(kind, namespace, name))
    metadata, wanted = _part(body, "metadata", "Scale"), _part(body, "spec", "Scale").get("replicas", 0)
    if not isinstance(wanted, int) or isinstance(wanted, bool):
        raise schema.bad_request(
            "the object provided is unrecognized (must be of type Scale): spec.replicas is a number"
        )
    if wanted < 0:
        fault = invalid_value("spec.replicas", wanted, "must be greater than or equal to 0")
        raise schema.invalid(SCALE, name, [fault])
    for field in ("resourceVersion", "uid"):
        if metadata.get(field):
            obj["metadata"][field] = metadata[field]
    obj["spec"]["replicas"] = wanted
    return _scale_of(kind, server.update(kind, namespace, name, obj, request, "scale"))


def patch_scale(
    server: ApiServer, kind: Kind, namespace: str, name: str, patch: Any, content_type: str, request: Request
) -> Obj:
    """Patch the Scale object."""
    scale = get_scale(server, kind, namespace, name)
    if content_type != JSON_PATCH and not isinstance(patch, dict):
        raise schema.bad_request("the object provided is unrecognized (must be of type Scale)")
    changed = schema.json_patch(scale, patch) if content_type == JSON_PATCH else schema.merge_patch(scale, patch)
    return put_scale(server, kind, namespace, name, changed, request)


def bind(server: ApiServer, namespace: str, name: str, body: Any, request: Request) -> Obj:
    """pods/binding: put a pod on a node. Raises ApiError 409 when it is on one already."""
    old = decode(server.get(kinds.POD, namespace, name))
    pod = decode(server.get(kinds.POD, namespace, name))
    meta, target = _part(body, "metadata", "Binding"), _part(body, "target", "Binding").get("name")
    if not isinstance(target, str) or not target:
        raise schema.invalid(BINDING, name, [required("target.name")])
    if _part(body, "target", "Binding").get("kind", "Node") not in ("", "Node"):
        raise schema.invalid(BINDING, name, [not_supported("target.kind", body["target"]["kind"], ("Node", "<empty>"))])
    if meta.get("uid") and meta["uid"] != old["metadata"]["uid"]:
        raise _not_bound(
            name, f"the UID in the binding ({meta['uid']}) is not that of the pod ({old['metadata']['uid']})"
        )
    if old["metadata"].get("deletionTimestamp"):
        raise _not_bound(name, f"pod {name} is being deleted, cannot be assigned to a host")
    if old["spec"].get("nodeName"):
        raise _not_bound(name, f'pod {name} is already assigned to node "{old["spec"]["nodeName"]}"')
    pod["spec"]["nodeName"] = target
    if notes := _part(meta, "annotations", "Binding"):
        pod["metadata"]["annotations"] = {**(pod["metadata"].get("annotations") or {}), **notes}
    status = pod.setdefault("status", {})
    others = [c for c in status.get("conditions") or () if c["type"] != "PodScheduled"]
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": lifecycle.stamp(server.now()),
    }
    status["conditions"] = [*others, scheduled]
    server.write(kinds.POD, Key(namespace, name), pod, old, request)
    return dict(_CREATED)


def _not_bound(name: str, why: str) -> ApiError:
    return conflict(BINDING, name, why)


def _part(body: Any, field: str, kind: str) -> Obj:
    """An object within an object, {} when absent. Raises ApiError 400 when it is something else."""
    found = body.get(field) if isinstance(body, Mapping) else body
    if found is None and isinstance(body, Mapping):
        return {}
    if not isinstance(found, dict):
        raise schema.bad_request(f"the object provided is unrecognized (must be of type {kind}): {field} is an object")
    return found


def evict(server: ApiServer, namespace: str, name: str, body: Any, request: Request) -> Obj:
    """pods/eviction: there are no disruption budgets here, so an eviction is a delete."""
    options, dry = delete_options(_part(body, "deleteOptions", "Eviction"))
    request.dry_run = request.dry_run or dry
    server.delete(kinds.POD, namespace, name, options, request)
    return dict(_CREATED)


def finalize(server: ApiServer, name: str, body: Any, request: Request) -> Obj:
    """namespaces/finalize: only spec.finalizers is written; a namespace without any that is marked goes. Raises ApiError 409."""
    old = decode(server.get(kinds.NAMESPACE, "", name))
    obj = decode(server.get(kinds.NAMESPACE, "", name))
    check_unchanged(kinds.NAMESPACE, name, _part(body, "metadata", "Namespace"), old["metadata"])
    left = _part(body, "spec", "Namespace").get("finalizers") or []
    if not isinstance(left, list) or not all(isinstance(word, str) for word in left):
        raise schema.bad_request(
            "the object provided is unrecognized (must be of type Namespace): spec.finalizers is a list of texts"
        )
    obj["spec"] = {**(obj.get("spec") or {}), "finalizers": left}
    if not left:
        del obj["spec"]["finalizers"]
    if lifecycle.may_go(kinds.NAMESPACE, obj):
        return server.remove(kinds.NAMESPACE, Key("", name), obj, request)
    return server.write(kinds.NAMESPACE, Key("", name), obj, old, request)


def unsupported(kind: Kind, subresource: str) -> ApiError:
    """The 404 answer for a subresource a kind does not have."""
    return ApiError(
        404, "NotFound", "the server could not find the requested resource", {"kind": kind.plural, "name": subresource}
    )
