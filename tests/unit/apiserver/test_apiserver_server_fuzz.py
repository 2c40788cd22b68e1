"""Whatever a client sends: an answer of the API's kind, never a fault of ours, and what was stored is readable to all who read it."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glassnet.apiserver import subresources
from glassnet.apiserver.listing import ListOptions
from glassnet.apiserver.local import feed
from glassnet.apiserver.request import Request
from glassnet.apiserver.server import APPLY, JSON_PATCH, MERGE_PATCH, STRATEGIC, ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube import kinds, types
from glassnet.kube.kinds import Kind
from glassnet.kube.view import View
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_LABELS = {"app": "x"}
_PORT = {"name": "http", "containerPort": 80, "protocol": "TCP", "hostPort": 80}
_PROBE = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3}
_CONTAINER = {
    "name": "c", "image": "nginx:1", "ports": [_PORT], "env": [{"name": "A", "value": "b"}], "readinessProbe": _PROBE, "command": ["x"],
    "resources": {"requests": {"cpu": "1"}}, "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}, "securityContext": {"privileged": True},
}  # fmt: skip
_POD = {
    "containers": [_CONTAINER], "initContainers": [{**_CONTAINER, "name": "i", "ports": []}], "nodeSelector": {"a": "b"}, "volumes": [{"name": "v", "emptyDir": {}}],
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute"}], "affinity": {}, "nodeName": "n",
}  # fmt: skip
_TEMPLATE = {"metadata": {"labels": _LABELS}, "spec": {**_POD, "nodeName": ""}}
_WORKLOAD = {"replicas": 2, "selector": {"matchLabels": _LABELS, "matchExpressions": []}, "template": _TEMPLATE}
_JOB_TEMPLATE = {"metadata": {"labels": _LABELS}, "spec": {**_POD, "nodeName": "", "restartPolicy": "Never"}}
_PEER = {
    "podSelector": {"matchLabels": _LABELS},
    "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
}
_BACKEND = {"service": {"name": "s", "port": {"number": 80}}}
_ROLE: Obj = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
BODIES: dict[Kind, Obj] = {
    kinds.NAMESPACE: {"spec": {"finalizers": ["kubernetes"]}},
    kinds.NODE: {"spec": {"podCIDR": "10.200.0.0/24", "podCIDRs": ["10.200.0.0/24"], "taints": [{"key": "a", "effect": "NoSchedule"}]},
                 "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]}},
    kinds.POD: {"spec": _POD},
    kinds.SERVICE: {"spec": {"type": "NodePort", "selector": _LABELS, "ports": [{"name": "a", "port": 80, "targetPort": "http", "nodePort": 30080}],
                             "externalIPs": ["1.2.3.4"], "sessionAffinity": "ClientIP", "clusterIP": "10.32.0.9", "ipFamilies": ["IPv4"]}},
    kinds.ENDPOINTS: {"subsets": [{"addresses": [{"ip": "10.200.0.1", "nodeName": "n"}], "ports": [{"port": 80}]}]},
    kinds.REPLICATION_CONTROLLER: {"spec": {**_WORKLOAD, "selector": _LABELS}},
    kinds.CONFIG_MAP: {"data": {"a": "b"}, "binaryData": {"c": "aGk="}},
    kinds.SECRET: {"data": {"a": "aGk="}, "stringData": {"b": "c"}, "type": "Opaque"},
    kinds.SERVICE_ACCOUNT: {"secrets": [{"name": "s"}]},
    kinds.EVENT: {"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "R", "count": 1, "source": {"component": "k"}},
    kinds.DEPLOYMENT: {"spec": {**_WORKLOAD, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}}},
    kinds.REPLICA_SET: {"spec": _WORKLOAD},
    kinds.DAEMON_SET: {"spec": {k: v for k, v in _WORKLOAD.items() if k != "replicas"}},
    kinds.STATEFUL_SET: {"spec": {**_WORKLOAD, "serviceName": "s"}},
    kinds.JOB: {"spec": {"completions": 1, "parallelism": 1, "template": _JOB_TEMPLATE}},
    kinds.ENDPOINT_SLICE: {"addressType": "IPv4", "ports": [{"name": "a", "port": 80}],
                           "endpoints": [{"addresses": ["10.200.0.1"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "p"}}]},
    kinds.INGRESS: {"spec": {"rules": [{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": _BACKEND}]}}],
                             "tls": [{"hosts": ["a.b"], "secretName": "t"}], "defaultBackend": _BACKEND}},
    kinds.INGRESS_CLASS: {"spec": {"controller": "example.com/x"}},
    kinds.NETWORK_POLICY: {"spec": {"podSelector": {}, "ingress": [{"from": [_PEER], "ports": [{"port": 80, "endPort": 90}]}],
                                    "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]}},
    kinds.SERVICE_CIDR: {"spec": {"cidrs": ["10.96.0.0/12"]}},
    kinds.LEASE: {"spec": {"holderIdentity": "n", "leaseDurationSeconds": 40, "renewTime": "2026-01-02T03:04:05.000000Z"}},
    kinds.CLUSTER_ROLE: {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["p"]}, {"nonResourceURLs": ["/healthz"], "verbs": ["*"]}]},
    kinds.ROLE: {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
    kinds.CLUSTER_ROLE_BINDING: {"roleRef": _ROLE, "subjects": [{"kind": "User", "name": "u"}]},
    kinds.ROLE_BINDING: {"roleRef": _ROLE, "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "default"}]},
}  # fmt: skip
_META = {
    "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["a/b"],
    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True, "blockOwnerDeletion": True}],
    "managedFields": [{
        "manager": "n", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}, ".": {}}, "f:finalizers": {'v:"a/b"': {}}}},
    }],
}  # fmt: skip

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([2**31, 2**63, 10**25, -(10**25), 65536, 30080, 1.5]),
    st.sampled_from(["", "x", "TCP", "10.0.0.1", "10.0.0.0/8", "None", "-1", "50%", "x" * 300, "a b", "é\x00", "::1", "ClusterIP", "ExternalName", "2026-01-02T03:04:05Z"]),
)  # fmt: skip
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=2),
    st.dictionaries(st.sampled_from(["name", "key", "a", "port", "$patch", "matchLabels", ""]), SCALARS, max_size=2),
    st.just([{}]),
    st.just([None]),
    st.just([{"name": "x"}, {"name": "x"}]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all parts of a value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        found += places(item, (*path, name))
    return found


def spoil(obj: Any, path: tuple[Any, ...], value: Any, drop: bool) -> None:
    """Put a value where another was, or take that away."""
    for step in path[:-1]:
        obj = obj[step]
    if drop:
        del obj[path[-1]]
    else:
        obj[path[-1]] = copy.deepcopy(value)


def body_of(kind: Kind) -> Obj:
    """A good object of a kind."""
    return copy.deepcopy({"metadata": {"name": "x", **_META}, **BODIES[kind]})


class World:
    """A server with a View, in which every call is allowed to fail as the API fails, and in no other way."""

    def __init__(self) -> None:
        self.server = ApiServer(Store(":memory:"), now=lambda: NOW, random=Random(1))
        feed(self.server, View())

    def attempt(self, act: Any, *words: Any) -> None:
        try:
            act(*words)
        except ApiError as error:
            assert 400 <= error.status < 500, error
            error.to_status()

    def check(self) -> None:
        """What is stored reads back, for the agents' View, for selectors, and for the allocator of the next start."""
        for kind in kinds.ALL:
            for key, raw in self.server.store.all(kind):
                types.decode(kind, raw)
                assert self.server.list(kind, key.namespace, ListOptions("", f"metadata.name={key.name}")).items == [
                    raw
                ]
        ApiServer(self.server.store, now=lambda: NOW, random=Random(1))


def test_the_good_objects_are_good() -> None:
    server = World().server
    assert set(BODIES) == set(kinds.ALL)
    for kind in kinds.ALL:
        request = Request(manager="m", validation="Strict")
        server.create(kind, "default" if kind.namespaced else "", body_of(kind), request)
        assert not request.warnings


@pytest.mark.parametrize("fields", [{"f:a": 5}, {"f:a": {"b": {}}}, {"k:{": {}}, {"k:5": {}}, {"v:x": {}}, {"i:x": {}}])
def test_unreadable_books_are_left_as_they_were(fields: Any) -> None:
    server = World().server
    made = server.create(
        kinds.CONFIG_MAP, "default", {"metadata": {"name": "c"}, "data": {"a": "b"}}, Request(manager="m")
    )
    body = {**made, "metadata": {**made["metadata"], "managedFields": [{"manager": "x", "fieldsV1": fields}]}}
    changed = server.update(kinds.CONFIG_MAP, "default", "c", body, Request(manager="m"))
    assert changed["metadata"]["managedFields"] == made["metadata"]["managedFields"]


def test_nulls_in_lists_are_zero_values() -> None:
    server = World().server
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x", "args": ["a", None]}]}}
    made = server.create(kinds.POD, "default", body, Request(manager="m"))
    assert made["spec"]["containers"][0]["args"] == ["a", ""]
    body["spec"]["containers"] = [None]  # type: ignore[index]
    with pytest.raises(ApiError, match=r"spec\.containers\[0\]\.name: Required value"):
        server.create(kinds.POD, "default", {**body, "metadata": {"name": "q"}}, Request(manager="m"))


def test_what_nobody_could_read_is_not_stored() -> None:
    server = World().server
    revision = server.store.revision
    with pytest.raises(
        ApiError, match="cannot be handled as a Node"
    ) as caught:  # in-house writes are not checked for types
        server.create(kinds.NODE, "", {"metadata": {"name": "n"}, "spec": {"unschedulable": "x"}})
    assert (caught.value.status, server.store.revision) == (400, revision)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_spoilt_objects(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(kinds.ALL))
    body, world = body_of(kind), World()
    for _ in range(data.draw(st.integers(1, 2))):
        if found := places(body):
            spoil(body, data.draw(st.sampled_from(found)), data.draw(VALUES), data.draw(st.booleans()))
    namespace = "default" if kind.namespaced else ""
    world.attempt(world.server.create, kind, namespace, body, Request(manager="m", validation="Warn"))
    if world.server.store.get(kind, (namespace, "x")) is None:  # type: ignore[arg-type]
        world.server.create(kind, namespace, body_of(kind), Request(manager="m"))
        world.attempt(world.server.update, kind, namespace, "x", body, Request(manager="m", validation="Warn"))
        world.attempt(
            world.server.update, kind, namespace, "x", body, Request(manager="m", validation="Warn"), "status"
        )
    world.check()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_spoilt_patches(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(kinds.ALL))
    world, namespace = World(), "default" if kind.namespaced else ""
    world.server.create(kind, namespace, body_of(kind), Request(manager="n"))
    form = data.draw(st.sampled_from([JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY]))
    patch: Any = body_of(kind)
    path = data.draw(st.sampled_from(places(patch)))
    value = data.draw(VALUES)
    if form == JSON_PATCH:
        pointer = "/" + "/".join(str(step).replace("/", "~1") for step in path)
        verb = data.draw(st.sampled_from(["add", "remove", "replace", "test", "move", "copy"]))
        patch = [{"op": verb, "path": pointer, "value": value, "from": pointer}]
    else:
        spoil(patch, path, value, data.draw(st.booleans()))
    request = Request(manager="m", validation="Warn", force=True)
    world.attempt(
        world.server.patch, kind, namespace, "x", patch, form, request, data.draw(st.sampled_from(["", "status"]))
    )
    world.check()


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["scale", "bind", "evict", "finalize"]),
    st.sampled_from(["metadata", "spec", "target", "deleteOptions"]),
    VALUES,
    VALUES,
)
def test_spoilt_subresources(which: str, part: str, value: Any, inner: Any) -> None:
    world = World()
    for kind in (kinds.DEPLOYMENT, kinds.POD):
        world.server.create(kind, "default", body_of(kind), Request(manager="n"))
    world.server.create(kinds.NAMESPACE, "", body_of(kinds.NAMESPACE))
    server, request = world.server, Request(manager="m")
    fields = (
        "name",
        "replicas",
        "finalizers",
        "uid",
        "resourceVersion",
        "annotations",
        "preconditions",
        "gracePeriodSeconds",
    )
    for body in (value, {part: value}, *({part: {field: inner}} for field in fields)):
        match which:
            case "scale":
                world.attempt(subresources.put_scale, server, kinds.DEPLOYMENT, "default", "x", body, request)
                world.attempt(
                    subresources.patch_scale, server, kinds.DEPLOYMENT, "default", "x", body, MERGE_PATCH, request
                )
            case "bind":
                world.attempt(subresources.bind, server, "default", "x", body, request)
            case "evict":
                world.attempt(subresources.evict, server, "default", "x", body, request)
            case "finalize":
                world.attempt(subresources.finalize, server, "x", body, request)
    world.check()
