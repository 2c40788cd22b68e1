"""What a client may not decide: status on create, the server's metadata, spec on status writes, the generation."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from glassnet.apiserver.schema import default, load, prepare_create, prepare_update
from glassnet.apiserver.schema.quantity import amount
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

Obj = dict[str, Any]
SERVER = {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 4}


def stored(**parts: Any) -> Obj:
    return {"metadata": {"name": "x", "labels": {"a": "b"}, **SERVER}, **parts}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (kinds.POD, {"phase": "Pending", "qosClass": "BestEffort"}),
        (kinds.SERVICE, {"loadBalancer": {}}),
        (kinds.INGRESS, {"loadBalancer": {}}),
        (kinds.DEPLOYMENT, {}),
        (kinds.REPLICA_SET, {"replicas": 0}),
        (kinds.STATEFUL_SET, {"replicas": 0, "availableReplicas": 0}),
        (kinds.JOB, {}),
    ],
)
def test_a_new_object_brings_no_status(kind: Kind, status: Obj) -> None:
    obj: Obj = {
        "metadata": {"name": "x", "generation": 9, "deletionTimestamp": "z"},
        "status": {"replicas": 7, "phase": "Running"},
    }
    prepare_create(kind, obj)
    assert obj["status"] == status
    assert "deletionTimestamp" not in obj["metadata"]
    assert obj["metadata"].get("generation") == (None if kind is kinds.SERVICE else 1)


def test_a_node_may_bring_its_status() -> None:
    obj: Obj = {"metadata": {"name": "x"}, "status": {"capacity": {"pods": "110"}}}
    prepare_create(kinds.NODE, obj)
    assert obj["status"] == {"capacity": {"pods": "110"}}


def test_a_write_to_the_object_keeps_the_status_and_counts() -> None:
    old = stored(spec={"replicas": 1}, status={"replicas": 1})
    new = {
        "metadata": {"name": "x", "uid": "forged", "generation": 99},
        "spec": {"replicas": 2},
        "status": {"replicas": 9},
    }
    prepare_update(kinds.DEPLOYMENT, new, old)
    assert new["status"] == {"replicas": 1}
    assert new["metadata"]["generation"] == 5
    assert new["metadata"]["creationTimestamp"] == SERVER["creationTimestamp"]


def test_labels_and_annotations_do_not_count() -> None:
    old = stored(spec={"replicas": 1})
    new = copy.deepcopy(old)
    new["metadata"]["labels"] = {"a": "c"}
    new["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    prepare_update(kinds.DEPLOYMENT, new, old)
    assert new["metadata"]["generation"] == 4


def test_a_write_to_the_status_keeps_the_rest() -> None:
    old = stored(spec={"replicas": 1}, status={"replicas": 1})
    new = {
        "metadata": {"name": "x", "labels": {"z": "z"}},
        "spec": {"replicas": 5, "paused": True},
        "status": {"replicas": 2},
        "extra": 1,
    }
    prepare_update(kinds.DEPLOYMENT, new, old, "status")
    assert new == {**old, "status": {"replicas": 2}}


def test_an_endpoint_slice_counts_its_endpoints() -> None:
    old = stored(addressType="IPv4", endpoints=[{"addresses": ["10.0.0.1"]}])
    new = copy.deepcopy(old)
    new["endpoints"].append({"addresses": ["10.0.0.2"]})
    prepare_update(kinds.ENDPOINT_SLICE, new, old)
    assert new["metadata"]["generation"] == 5


def test_a_config_map_has_no_generation() -> None:
    old: Obj = {"metadata": {"name": "x"}, "data": {"a": "b"}}
    new: Obj = {"metadata": {"name": "x"}, "data": {"a": "c"}}
    prepare_update(kinds.CONFIG_MAP, new, old)
    assert new == {"metadata": {"name": "x"}, "data": {"a": "c"}}


@pytest.mark.parametrize(
    ("resources", "want"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
    ],
)
def test_quality_of_service(resources: list[Obj], want: str) -> None:
    pod: Obj = {
        "metadata": {"name": "x"},
        "spec": {"containers": [{"name": f"c{n}", "resources": r} for n, r in enumerate(resources)]},
    }
    prepare_create(kinds.POD, pod)
    assert pod["status"]["qosClass"] == want


@pytest.mark.parametrize(
    ("text", "want"),
    [("1", 1), ("500m", 0.5), ("1Ki", 1024), ("1.5Gi", 3 * 2**29), ("2k", 2000), ("1e3", 1000), ("-1", -1), (2, 2), ("1 Gi", None), ("Gi", None), ("", None)],
)  # fmt: skip
def test_quantities(text: Any, want: float | None) -> None:
    assert amount(text) == want


def test_quantities_are_exact() -> None:
    assert amount("0.1") == amount("100m")


# ---- defaulting beyond what the captured manifests use


def defaulted(kind: Kind, obj: Obj) -> Obj:
    default(load(), kind, obj)
    again = copy.deepcopy(obj)
    default(load(), kind, again)
    assert again == obj, "a second pass that still finds work is a bug"
    return obj


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1.27", "IfNotPresent"), ("reg:5000/nginx", "Always"),
        ("reg:5000/nginx:1", "IfNotPresent"), ("nginx@sha256:" + "0" * 64, "IfNotPresent"),
    ],
)  # fmt: skip
def test_the_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    pod = defaulted(kinds.POD, {"spec": {"containers": [{"name": "c", "image": image}]}})
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_volumes_and_environment_of_a_pod() -> None:
    spec = {
        "volumes": [
            {"name": "a"},
            {"name": "b", "configMap": {"name": "x"}},
            {"name": "c", "secret": {"secretName": "y"}},
        ],
        "containers": [
            {
                "name": "c",
                "image": "i",
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            }
        ],
    }
    made = defaulted(kinds.POD, {"spec": spec})["spec"]
    assert made["volumes"][0] == {"name": "a", "emptyDir": {}}
    assert made["volumes"][1]["configMap"]["defaultMode"] == made["volumes"][2]["secret"]["defaultMode"] == 0o644
    assert made["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"


def test_a_replication_controller_takes_its_selector_from_the_template() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}
    made = defaulted(kinds.REPLICATION_CONTROLLER, {"metadata": {"name": "x"}, "spec": {"template": template}})
    assert made["spec"]["selector"] == made["metadata"]["labels"] == {"a": "b"}
    assert made["spec"]["replicas"] == 1


def test_a_job_is_tied_to_its_pods_by_its_uid() -> None:
    made = defaulted(
        kinds.JOB, {"metadata": {"name": "x", "uid": "u"}, "spec": {"template": {"spec": {"containers": []}}}}
    )
    spec = made["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"], spec["completionMode"]) == (
        1,
        1,
        6,
        "NonIndexed",
    )
    assert spec["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}
    assert spec["template"]["metadata"]["labels"] == {
        "batch.kubernetes.io/controller-uid": "u",
        "batch.kubernetes.io/job-name": "x",
        "controller-uid": "u",
        "job-name": "x",
    }


def test_session_affinity_lasts_three_hours() -> None:
    made = defaulted(kinds.SERVICE, {"spec": {"sessionAffinity": "ClientIP", "ports": [{"port": 80}]}})
    assert made["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


@pytest.mark.parametrize(
    ("spec", "want"),
    [({}, ["Ingress"]), ({"egress": [{}]}, ["Ingress", "Egress"]), ({"policyTypes": ["Egress"]}, ["Egress"])],
)
def test_policy_types_follow_the_rules_there_are(spec: Obj, want: list[str]) -> None:
    assert defaulted(kinds.NETWORK_POLICY, {"spec": {"podSelector": {}, **spec}})["spec"]["policyTypes"] == want


def test_secrets_and_namespaces() -> None:
    secret = defaulted(kinds.SECRET, {"stringData": {"a": "ä"}})
    assert secret == {"type": "Opaque", "data": {"a": "w6Q="}}
    space = defaulted(kinds.NAMESPACE, {"metadata": {"name": "demo"}})
    assert space["metadata"]["labels"] == {"kubernetes.io/metadata.name": "demo"}
    assert space["spec"] == {"finalizers": ["kubernetes"]}
