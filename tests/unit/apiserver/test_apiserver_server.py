"""The server's verbs on objects: names, revisions, conflicts, generations, deletion in all its forms, subresources."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from glassnet.apiserver import subresources
from glassnet.apiserver.listing import ListOptions
from glassnet.apiserver.request import DeleteOptions, Request
from glassnet.apiserver.server import APPLY, JSON_PATCH, MERGE_PATCH, STRATEGIC, ApiServer, decode
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

Obj = dict[str, Any]


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> ApiServer:
    return ApiServer(Store(":memory:"), now=clock, random=Random(1))


def pod(name: str = "p", **metadata: Any) -> Obj:
    return {"metadata": {"name": name, **metadata}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}


def config(name: str = "c", **data: str) -> Obj:
    return {"metadata": {"name": name}, "data": data}


def deployment(name: str = "web", replicas: int = 1) -> Obj:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
    return {"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}}  # fmt: skip


def service(name: str = "s", **spec: Any) -> Obj:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def refused(status: int, reason: str, text: str) -> Any:
    """A context in which an ApiError with this status, reason and (whole) message must come up."""

    class Check:
        def __enter__(self) -> None:
            return None

        def __exit__(self, _: object, error: object, __: object) -> bool:
            assert isinstance(error, ApiError), f"no ApiError but {error!r}"
            assert (error.status, error.reason, error.message) == (status, reason, text)
            return True

    return Check()


def names(server: ApiServer, kind: Kind, namespace: str = "default", **options: Any) -> list[str]:
    return [decode(raw)["metadata"]["name"] for raw in server.list(kind, namespace, ListOptions(**options)).items]


# -- start and restart


def test_a_cluster_starts_with_its_namespaces(server: ApiServer) -> None:
    assert names(server, kinds.NAMESPACE, "") == ["default", "kube-node-lease", "kube-public", "kube-system"]
    found = decode(server.get(kinds.NAMESPACE, "", "default"))
    assert found["metadata"]["labels"] == {"kubernetes.io/metadata.name": "default"}
    assert (found["spec"], found["status"]) == ({"finalizers": ["kubernetes"]}, {"phase": "Active"})


def test_a_restarted_server_knows_objects_revisions_and_taken_addresses(tmp_path: Any, clock: Clock) -> None:
    path = str(tmp_path / "s")
    store = Store(path)
    server = ApiServer(store, now=clock, random=Random(1))
    server.create(kinds.SERVICE, "default", service("one", clusterIP="10.32.0.40", type="NodePort"))
    port = decode(server.get(kinds.SERVICE, "default", "one"))["spec"]["ports"][0]["nodePort"]
    before = (store.revision, [store.all(kind) for kind in kinds.ALL])
    store.close()
    store = Store(path)
    again = ApiServer(store, now=clock, random=Random(1))
    assert (store.revision, [store.all(kind) for kind in kinds.ALL]) == before
    with pytest.raises(ApiError, match=r"failed to allocate IP 10.32.0.40: provided IP is already allocated"):
        again.create(kinds.SERVICE, "default", service("two", clusterIP="10.32.0.40"))
    with pytest.raises(ApiError, match="provided port is already allocated"):
        again.create(kinds.SERVICE, "default", service("two", type="NodePort", ports=[{"port": 80, "nodePort": port}]))
    store.close()


# -- create


def test_what_create_adds(server: ApiServer, clock: Clock) -> None:
    made = server.create(kinds.POD, "default", pod("p", uid="mine", resourceVersion="77", generation=9))
    metadata = made["metadata"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", metadata["uid"])
    assert metadata["creationTimestamp"] == "2026-01-02T03:04:05Z"
    assert (metadata["namespace"], metadata["generation"]) == ("default", 1)
    assert metadata["resourceVersion"] == str(server.store.revision)
    assert (made["apiVersion"], made["kind"], made["status"]["phase"]) == ("v1", "Pod", "Pending")
    spec = made["spec"]
    assert (spec["serviceAccountName"], spec["priority"]) == ("default", 0)
    assert [(t["key"], t["effect"], t["tolerationSeconds"]) for t in spec["tolerations"]] == [
        ("node.kubernetes.io/not-ready", "NoExecute", 300),
        ("node.kubernetes.io/unreachable", "NoExecute", 300),
    ]
    assert decode(server.get(kinds.POD, "default", "p")) == made


def test_generated_names(server: ApiServer) -> None:
    body = {"metadata": {"generateName": "web-"}, "data": {}}
    made = {server.create(kinds.CONFIG_MAP, "default", body)["metadata"]["name"] for _ in range(50)}
    assert len(made) == 50
    assert all(re.fullmatch(r"web-[bcdfghjklmnpqrstvwxz2456789]{5}", name) for name in made)
    long = server.create(kinds.CONFIG_MAP, "default", {"metadata": {"generateName": "x" * 70}})["metadata"]["name"]
    assert (len(long), long[:58]) == (63, "x" * 58)


def test_what_create_refuses(server: ApiServer) -> None:
    server.create(kinds.POD, "default", pod())
    before = server.store.revision
    with refused(409, "AlreadyExists", 'pods "p" already exists'):
        server.create(kinds.POD, "default", pod())
    with refused(404, "NotFound", 'namespaces "nowhere" not found'):
        server.create(kinds.POD, "nowhere", pod())
    with refused(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request (other != default)",
    ):
        server.create(kinds.POD, "default", pod("q", namespace="other"))
    with pytest.raises(ApiError, match=r"metadata.name: Required value: name or generateName is required"):
        server.create(kinds.CONFIG_MAP, "default", {"metadata": {}})
    with pytest.raises(ApiError, match="does not match the expected API version"):
        server.create(kinds.POD, "default", {**pod("q"), "kind": "Service"})
    assert server.store.revision == before


def test_unknown_fields_are_refused_told_or_dropped(server: ApiServer) -> None:
    body = {**pod(), "spec": {**pod()["spec"], "replicas": 3}}
    with refused(
        400,
        "BadRequest",
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.replicas"',
    ):
        server.create(kinds.POD, "default", body, Request(validation="Strict"))
    warn = Request(validation="Warn")
    assert "replicas" not in server.create(kinds.POD, "default", body, warn)["spec"]
    assert warn.warnings == ['unknown field "spec.replicas"']


# -- update


def test_an_update_from_an_old_version_conflicts(server: ApiServer) -> None:
    first = server.create(kinds.DEPLOYMENT, "default", deployment())
    server.update(kinds.DEPLOYMENT, "default", "web", {**first, "spec": {**first["spec"], "replicas": 2}})
    with refused(
        409,
        "Conflict",
        'Operation cannot be fulfilled on deployments.apps "web": the object has been modified; '
        "please apply your changes to the latest version and try again",
    ):
        server.update(kinds.DEPLOYMENT, "default", "web", {**first, "spec": {**first["spec"], "replicas": 3}})
    with pytest.raises(ApiError, match="Precondition failed: UID in precondition: other, UID in object meta") as caught:
        server.update(kinds.DEPLOYMENT, "default", "web", {**deployment(), "metadata": {"name": "web", "uid": "other"}})
    assert caught.value.status == 409
    with refused(404, "NotFound", 'deployments.apps "gone" not found'):
        server.update(kinds.DEPLOYMENT, "default", "gone", deployment("gone"))


def test_spec_and_status_are_written_apart(server: ApiServer) -> None:
    made = server.create(kinds.DEPLOYMENT, "default", {**deployment(), "status": {"replicas": 99}})
    assert made["status"] == {}
    spec = {**made["spec"], "replicas": 5}
    shown = server.update(
        kinds.DEPLOYMENT, "default", "web", {**made, "spec": spec, "status": {"replicas": 7}}, subresource="status"
    )
    assert (shown["spec"]["replicas"], shown["status"], shown["metadata"]["generation"]) == (1, {"replicas": 7}, 1)
    shown = server.update(kinds.DEPLOYMENT, "default", "web", {**shown, "spec": spec, "status": {}})
    assert (shown["spec"]["replicas"], shown["status"], shown["metadata"]["generation"]) == (5, {"replicas": 7}, 2)
    shown["metadata"]["labels"] = {"a": "b"}
    assert server.update(kinds.DEPLOYMENT, "default", "web", shown)["metadata"]["generation"] == 2


def test_a_write_that_changes_nothing_makes_no_revision(server: ApiServer) -> None:
    made = server.create(kinds.DEPLOYMENT, "default", deployment(), Request(manager="kubectl"))
    revision, events = server.store.revision, []
    server.store.subscribe(events.append)
    assert server.update(kinds.DEPLOYMENT, "default", "web", made, Request(manager="kubectl")) == made
    assert server.patch(kinds.DEPLOYMENT, "default", "web", {"spec": {"replicas": 1}}, MERGE_PATCH) == made
    assert server.update(kinds.DEPLOYMENT, "default", "web", made, subresource="status") == made
    assert (server.store.revision, events) == (revision, [])


def test_some_kinds_are_created_by_an_update(server: ApiServer) -> None:
    body = {"metadata": {"name": "n"}, "spec": {"holderIdentity": "n"}}
    assert server.update(kinds.LEASE, "kube-node-lease", "n", body)["metadata"]["uid"]
    with refused(404, "NotFound", 'configmaps "c" not found'):
        server.update(kinds.CONFIG_MAP, "default", "c", config())


# -- patch


@pytest.mark.parametrize(
    ("form", "patch"),
    [
        (JSON_PATCH, [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "redis"}]),
        (MERGE_PATCH, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "redis"}]}}}}),
        (STRATEGIC, {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "redis"}]}}}}),
        (APPLY, {"metadata": {"name": "web"}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "redis"}]}}}}),
    ],
)  # fmt: skip
def test_the_four_patches(server: ApiServer, form: str, patch: Any) -> None:
    server.create(kinds.DEPLOYMENT, "default", deployment())
    request = Request(manager="me", force=True)
    changed = server.patch(kinds.DEPLOYMENT, "default", "web", patch, form, request)
    (container,) = changed["spec"]["template"]["spec"]["containers"]
    assert (container["name"], container["image"]) == ("c", "redis")
    assert changed["metadata"]["generation"] == 2
    assert [entry["operation"] for entry in changed["metadata"]["managedFields"]] == [
        "Apply" if form == APPLY else "Update"
    ]


def test_patches_refused(server: ApiServer) -> None:
    made = server.create(kinds.CONFIG_MAP, "default", config(a="1"))
    server.patch(kinds.CONFIG_MAP, "default", "c", {"data": {"a": "2"}}, MERGE_PATCH)
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"a": "3"}}
    with pytest.raises(ApiError, match="the object has been modified") as caught:
        server.patch(kinds.CONFIG_MAP, "default", "c", stale, MERGE_PATCH)
    assert caught.value.status == 409
    with refused(404, "NotFound", 'configmaps "d" not found'):
        server.patch(kinds.CONFIG_MAP, "default", "d", {}, MERGE_PATCH)
    with pytest.raises(ApiError) as caught:
        server.patch(kinds.CONFIG_MAP, "default", "c", {}, "text/plain")
    assert caught.value.status == 415
    with pytest.raises(ApiError, match="is required for apply patch") as caught:
        server.patch(kinds.CONFIG_MAP, "default", "c", config(), APPLY)
    assert caught.value.status == 422


def test_an_apply_creates_owns_and_conflicts(server: ApiServer) -> None:
    mine, yours = Request(manager="mine"), Request(manager="yours")
    made = server.patch(kinds.CONFIG_MAP, "default", "c", config(a="1", b="1"), APPLY, mine)
    assert made["metadata"]["managedFields"][0]["fieldsV1"] == {"f:data": {"f:a": {}, "f:b": {}}}
    with pytest.raises(ApiError, match=r'conflict with "mine" using v1: \.data\.a') as caught:
        server.patch(kinds.CONFIG_MAP, "default", "c", config(a="2"), APPLY, yours)
    assert caught.value.status == 409
    assert server.patch(kinds.CONFIG_MAP, "default", "c", config(a="1"), APPLY, mine)["data"] == {"a": "1"}


# -- dry run


def test_a_dry_run_tells_and_writes_nothing(server: ApiServer) -> None:
    dry = Request(dry_run=True)
    server.create(kinds.SERVICE, "default", service("kept", clusterIP="10.32.0.50"))
    revision = server.store.revision
    assert "resourceVersion" not in server.create(kinds.POD, "default", pod(), dry)["metadata"]
    shown = server.create(kinds.SERVICE, "default", service("s", clusterIP="10.32.0.51"), dry)
    assert shown["spec"]["clusterIP"] == "10.32.0.51"
    server.patch(kinds.SERVICE, "default", "kept", {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH, dry)
    server.delete(kinds.SERVICE, "default", "kept", request=dry)
    assert server.store.revision == revision
    # the address of a Service that never was is free, that of one whose deletion was played is not
    server.create(kinds.SERVICE, "default", service("other", clusterIP="10.32.0.51"))
    with pytest.raises(ApiError, match="already allocated"):
        server.create(kinds.SERVICE, "default", service("another", clusterIP="10.32.0.50"))


# -- Services


def test_addresses_and_ports_are_freed_with_their_service(server: ApiServer) -> None:
    body = service("s", clusterIP="10.32.0.60", type="NodePort", ports=[{"port": 80, "nodePort": 30080}])
    for _ in range(2):
        server.create(kinds.SERVICE, "default", body)
        server.delete(kinds.SERVICE, "default", "s")
    server.create(kinds.SERVICE, "default", body)
    server.patch(kinds.SERVICE, "default", "s", {"spec": {"ports": [{"port": 80, "nodePort": 30081}]}}, MERGE_PATCH)
    server.create(kinds.SERVICE, "default", service("t", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))


def test_a_full_range_of_addresses_says_so(clock: Clock) -> None:
    server = ApiServer(Store(":memory:"), now=clock, random=Random(1), service_cidr="10.32.0.0/29")
    given = {server.create(kinds.SERVICE, "default", service(f"s{n}"))["spec"]["clusterIP"] for n in range(6)}
    assert given == {f"10.32.0.{n}" for n in range(1, 7)}
    with pytest.raises(ApiError, match="range is full"):
        server.create(kinds.SERVICE, "default", service("more"))


# -- delete


def test_preconditions(server: ApiServer) -> None:
    made = server.create(kinds.CONFIG_MAP, "default", config())["metadata"]
    server.patch(kinds.CONFIG_MAP, "default", "c", {"data": {"a": "b"}}, MERGE_PATCH)
    with pytest.raises(ApiError, match=r"the UID in the precondition \(x\) does not match the UID in record") as caught:
        server.delete(kinds.CONFIG_MAP, "default", "c", DeleteOptions(uid="x"))
    assert caught.value.status == 409
    with pytest.raises(ApiError, match="the ResourceVersion in the precondition") as caught:
        server.delete(kinds.CONFIG_MAP, "default", "c", DeleteOptions(resource_version=made["resourceVersion"]))
    assert caught.value.status == 409
    server.delete(kinds.CONFIG_MAP, "default", "c", DeleteOptions(uid=made["uid"]))
    with refused(404, "NotFound", 'configmaps "c" not found'):
        server.delete(kinds.CONFIG_MAP, "default", "c")


def test_a_pod_nowhere_goes_at_once(server: ApiServer) -> None:
    server.create(kinds.POD, "default", pod())
    server.delete(kinds.POD, "default", "p")
    assert names(server, kinds.POD) == []


def bound(server: ApiServer, **spec: Any) -> None:
    body = pod()
    server.create(kinds.POD, "default", {**body, "spec": {**body["spec"], "nodeName": "n", **spec}})


def test_a_running_pod_has_its_grace(server: ApiServer, clock: Clock) -> None:
    bound(server, terminationGracePeriodSeconds=20)
    metadata = server.delete(kinds.POD, "default", "p")["metadata"]
    assert (metadata["deletionTimestamp"], metadata["deletionGracePeriodSeconds"]) == ("2026-01-02T03:04:25Z", 20)
    clock.now += timedelta(seconds=5)
    revision = server.store.revision
    server.delete(kinds.POD, "default", "p", DeleteOptions(grace=60))  # more is not given
    assert server.store.revision == revision
    metadata = server.delete(kinds.POD, "default", "p", DeleteOptions(grace=3))["metadata"]
    assert (metadata["deletionTimestamp"], metadata["deletionGracePeriodSeconds"]) == ("2026-01-02T03:04:08Z", 3)
    assert names(server, kinds.POD) == ["p"]
    server.delete(kinds.POD, "default", "p", DeleteOptions(grace=0))  # as the kubelet does in the end
    assert names(server, kinds.POD) == []


def test_a_finished_pod_needs_none(server: ApiServer) -> None:
    bound(server)
    server.patch(kinds.POD, "default", "p", {"status": {"phase": "Succeeded"}}, MERGE_PATCH, subresource="status")
    server.delete(kinds.POD, "default", "p")
    assert names(server, kinds.POD) == []


def test_finalizers_hold_an_object(server: ApiServer) -> None:
    body = config()
    body["metadata"]["finalizers"] = ["example.com/mine"]
    server.create(kinds.CONFIG_MAP, "default", body)
    metadata = server.delete(kinds.CONFIG_MAP, "default", "c")["metadata"]
    assert metadata["deletionTimestamp"] == "2026-01-02T03:04:05Z"
    revision = server.store.revision
    server.delete(kinds.CONFIG_MAP, "default", "c")
    assert server.store.revision == revision
    server.patch(kinds.CONFIG_MAP, "default", "c", {"metadata": {"finalizers": None}}, MERGE_PATCH)
    assert names(server, kinds.CONFIG_MAP) == []


@pytest.mark.parametrize(
    ("propagation", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan"), ("Background", "")]
)
def test_propagation(server: ApiServer, propagation: str, finalizer: str) -> None:
    server.create(kinds.DEPLOYMENT, "default", deployment())
    shown = server.delete(kinds.DEPLOYMENT, "default", "web", DeleteOptions(propagation=propagation))
    assert shown["metadata"].get("finalizers", []) == ([finalizer] if finalizer else [])
    assert names(server, kinds.DEPLOYMENT) == (["web"] if finalizer else [])


def test_jobs_keep_their_pods_unless_told_otherwise(server: ApiServer) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}}
    server.create(kinds.JOB, "default", {"metadata": {"name": "j"}, "spec": {"template": template}})
    request = Request()
    assert server.delete(kinds.JOB, "default", "j", request=request)["metadata"]["finalizers"] == ["orphan"]
    assert "child pods are preserved by default when jobs are deleted" in request.warnings[0]
    server.delete(kinds.JOB, "default", "j", DeleteOptions(propagation="Background"))
    assert names(server, kinds.JOB) == []


# -- namespaces


def test_a_namespace_terminates_then_goes_with_its_events(server: ApiServer) -> None:
    server.create(kinds.NAMESPACE, "", {"metadata": {"name": "n"}})
    event = {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "n", "name": "p"}, "reason": "R"}
    shown = server.delete(kinds.NAMESPACE, "", "n")
    assert (shown["status"]["phase"], shown["spec"]) == ("Terminating", {"finalizers": ["kubernetes"]})
    with refused(
        403,
        "Forbidden",
        'pods "p" is forbidden: unable to create new content in namespace n because it is being terminated',
    ):
        server.create(kinds.POD, "n", pod())
    server.create(kinds.EVENT, "n", event)
    subresources.finalize(server, "n", {"spec": {"finalizers": []}}, Request())
    assert "n" not in names(server, kinds.NAMESPACE, "")
    assert names(server, kinds.EVENT, "n") == []


def test_some_namespaces_stay(server: ApiServer) -> None:
    with refused(403, "Forbidden", 'namespaces "kube-system" is forbidden: this namespace may not be deleted'):
        server.delete(kinds.NAMESPACE, "", "kube-system")


# -- subresources


def test_scale(server: ApiServer) -> None:
    server.create(kinds.DEPLOYMENT, "default", deployment(replicas=2))
    scale = subresources.get_scale(server, kinds.DEPLOYMENT, "default", "web")
    assert (scale["apiVersion"], scale["kind"], scale["spec"]) == ("autoscaling/v1", "Scale", {"replicas": 2})
    assert scale["status"] == {"replicas": 0, "selector": "app=web"}
    request = Request(manager="hpa")
    shown = subresources.put_scale(server, kinds.DEPLOYMENT, "default", "web", {**scale, "spec": {"replicas": 4}}, request)  # fmt: skip
    assert shown["spec"] == {"replicas": 4}
    stored = decode(server.get(kinds.DEPLOYMENT, "default", "web"))
    assert (stored["spec"]["replicas"], stored["metadata"]["generation"]) == (4, 2)
    (entry,) = stored["metadata"]["managedFields"]
    assert (entry["manager"], entry["subresource"]) == ("hpa", "scale")
    with pytest.raises(ApiError, match="the object has been modified"):
        subresources.put_scale(server, kinds.DEPLOYMENT, "default", "web", scale, Request())
    with refused(
        422,
        "Invalid",
        'Scale.autoscaling "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0',
    ):
        subresources.patch_scale(server, kinds.DEPLOYMENT, "default", "web", {"spec": {"replicas": -1}}, MERGE_PATCH, Request())  # fmt: skip


def test_binding(server: ApiServer) -> None:
    server.create(kinds.POD, "default", pod())
    target = {"target": {"kind": "Node", "name": "worker-0"}}
    subresources.bind(server, "default", "p", target, Request())
    stored = decode(server.get(kinds.POD, "default", "p"))
    assert stored["spec"]["nodeName"] == "worker-0"
    assert [(c["type"], c["status"]) for c in stored["status"]["conditions"]] == [("PodScheduled", "True")]
    with refused(
        409,
        "Conflict",
        'Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "worker-0"',
    ):
        subresources.bind(server, "default", "p", {"target": {"name": "worker-1"}}, Request())


def test_eviction_gives_grace(server: ApiServer) -> None:
    bound(server)
    uid = decode(server.get(kinds.POD, "default", "p"))["metadata"]["uid"]
    with pytest.raises(ApiError, match="UID in the precondition"):
        subresources.evict(server, "default", "p", {"deleteOptions": {"preconditions": {"uid": "x"}}}, Request())
    options = {"preconditions": {"uid": uid}, "gracePeriodSeconds": 7}
    subresources.evict(server, "default", "p", {"deleteOptions": {**options, "dryRun": ["All"]}}, Request())
    assert "deletionTimestamp" not in decode(server.get(kinds.POD, "default", "p"))["metadata"]
    subresources.evict(server, "default", "p", {"deleteOptions": options}, Request())
    assert decode(server.get(kinds.POD, "default", "p"))["metadata"]["deletionGracePeriodSeconds"] == 7


# -- Events


def test_events_are_kept_an_hour_from_their_last_write(server: ApiServer, clock: Clock) -> None:
    def event(name: str) -> None:
        about = {"kind": "Pod", "namespace": "default", "name": "p"}
        server.create(kinds.EVENT, "default", {"metadata": {"name": name}, "involvedObject": about, "reason": "R"})

    event("first")
    event("second")
    clock.now += timedelta(minutes=30)
    event("third")
    server.patch(kinds.EVENT, "default", "second", {"count": 2}, MERGE_PATCH)
    clock.now += timedelta(minutes=31)
    event("fourth")
    assert names(server, kinds.EVENT) == ["fourth", "second", "third"]
    clock.now += timedelta(hours=2)
    event("fifth")
    assert names(server, kinds.EVENT) == ["fifth"]


# -- a disk that refuses


def test_a_refused_write_leaves_the_addresses_as_they_were(server: ApiServer) -> None:
    server.store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(ApiError, match="nothing was written"):
        server.create(kinds.SERVICE, "default", service("s", clusterIP="10.32.0.70"))
    server.store._db.execute("PRAGMA query_only = 0")
    server.create(kinds.SERVICE, "default", service("t", clusterIP="10.32.0.70"))
    server.store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(ApiError, match="nothing was written"):
        server.delete(kinds.SERVICE, "default", "t")
    server.store._db.execute("PRAGMA query_only = 0")
    assert server.store.get(kinds.SERVICE, Key("default", "t"))
    with pytest.raises(ApiError, match="already allocated"):
        server.create(kinds.SERVICE, "default", service("u", clusterIP="10.32.0.70"))
