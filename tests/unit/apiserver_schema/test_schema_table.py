"""What `kubectl get` prints: columns, the pod's one word, ages. Row texts are those of a real server's tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from glassnet.apiserver.schema import table
from glassnet.apiserver.schema.text import human
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

Obj = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
BORN = {"creationTimestamp": "2026-01-01T11:54:34Z"}


def cells(kind: Kind, obj: Obj) -> list[Any]:
    whole = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        **obj,
        "metadata": {"name": "x", **BORN, **obj.get("metadata", {})},
    }
    row: list[Any] = table(kind, [whole], NOW)["rows"][0]["cells"]
    return row


COLUMNS = {
    kinds.POD: "Name Ready Status Restarts Age +IP +Node +Nominated_Node +Readiness_Gates",
    kinds.SERVICE: "Name Type Cluster-IP External-IP Port(s) Age +Selector",
    kinds.DEPLOYMENT: "Name Ready #Up-to-date #Available Age +Containers +Images +Selector",
    kinds.REPLICA_SET: "Name #Desired #Current #Ready Age +Containers +Images +Selector",
    kinds.REPLICATION_CONTROLLER: "Name #Desired #Current #Ready Age +Containers +Images +Selector",
    kinds.DAEMON_SET: "Name #Desired #Current #Ready #Up-to-date #Available Node_Selector Age +Containers +Images +Selector",
    kinds.STATEFUL_SET: "Name Ready Age +Containers +Images",
    kinds.JOB: "Name Status Completions Duration Age +Containers +Images +Selector",
    kinds.NODE: "Name Status Roles Age Version +Internal-IP +External-IP +OS-Image +Kernel-Version +Container-Runtime",
    kinds.ENDPOINTS: "Name Endpoints Age",
    kinds.ENDPOINT_SLICE: "Name AddressType Ports Endpoints Age",
    kinds.EVENT: "Last_Seen Type Reason Object +Subobject +Source Message +First_Seen +#Count +Name",
    kinds.INGRESS: "Name Class Hosts Address Ports Age",
    kinds.INGRESS_CLASS: "Name Controller Parameters Age",
    kinds.NETWORK_POLICY: "Name Pod-Selector Age",
    kinds.CONFIG_MAP: "Name #Data Age",
    kinds.SECRET: "Name Type #Data Age",
    kinds.SERVICE_ACCOUNT: "Name #Secrets Age",
    kinds.NAMESPACE: "Name Status Age",
    kinds.LEASE: "Name Holder Age",
    kinds.CLUSTER_ROLE: "Name Created_At",
    kinds.ROLE: "Name Created_At",
    kinds.CLUSTER_ROLE_BINDING: "Name Role Age +Users +Groups +ServiceAccounts",
    kinds.ROLE_BINDING: "Name Role Age +Users +Groups +ServiceAccounts",
    kinds.SERVICE_CIDR: "Name Cidrs Age",
}


@pytest.mark.parametrize("kind", kinds.ALL, ids=lambda kind: kind.name)
def test_columns(kind: Kind) -> None:
    shown = [
        "+" * column["priority"] + "#" * (column["type"] == "integer") + column["name"].replace(" ", "_")
        for column in table(kind, [], NOW)["columnDefinitions"]
    ]
    assert shown == COLUMNS[kind].split()


@pytest.mark.parametrize("kind", kinds.ALL, ids=lambda kind: kind.name)
def test_a_bare_object_still_has_a_cell_for_each_column(kind: Kind) -> None:
    made = table(kind, [{"kind": kind.name, "metadata": {"name": "x"}}], NOW)
    assert len(made["rows"][0]["cells"]) == len(made["columnDefinitions"])
    assert "<unknown>" in made["rows"][0]["cells"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (303, "5m3s"), (599, "9m59s"), (600, "10m"), (10799, "179m"),
        (10800, "3h"), (10860, "3h1m"), (28799, "7h59m"), (28800, "8h"), (172799, "47h"), (172800, "2d"), (190800, "2d5h"), (691199, "7d23h"),
        (691200, "8d"), (730 * 86400 - 1, "729d"), (730 * 86400, "2y"), (731 * 86400, "2y1d"), (8 * 365 * 86400 + 86400, "8y"),
    ],
)  # fmt: skip
def test_ages(seconds: int, text: str) -> None:
    assert human(seconds) == text


def test_what_a_row_carries_of_its_object() -> None:
    pod = {"kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"containers": []}}
    assert "object" not in table(kinds.POD, [pod], NOW, "None")["rows"][0]
    assert table(kinds.POD, [pod], NOW, "Object")["rows"][0]["object"] == pod
    assert table(kinds.POD, [pod], NOW)["rows"][0]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": pod["metadata"],
    }
    made = table(kinds.POD, [], NOW)
    assert (made["kind"], made["apiVersion"], made["rows"]) == ("Table", "meta.k8s.io/v1", [])


def state(name: str, what: Obj, ready: bool = False, restarts: int = 0, **more: Any) -> Obj:
    return {"name": name, "state": what, "ready": ready, "restartCount": restarts, **more}


RUN: Obj = {"running": {"startedAt": "2026-01-01T11:55:00Z"}}
DONE: Obj = {"terminated": {"exitCode": 0, "reason": "Completed"}}
READY: Obj = {"type": "Ready", "status": "True"}


def wait(reason: str) -> Obj:
    return {"waiting": {"reason": reason}}


def died(**how: Any) -> Obj:
    return {"terminated": how}


FELL = {"lastState": died(exitCode=1, finishedAt="2026-01-01T11:55:00Z")}
PODS: list[tuple[str, Obj, Obj, Obj, list[str]]] = [
    ("starting", {}, {}, {"phase": "Pending", "containerStatuses": [state("a", wait("ContainerCreating")), state("b", wait("ContainerCreating"))]}, ["0/2", "ContainerCreating", "0"]),
    ("not scheduled yet", {}, {}, {"phase": "Pending"}, ["0/2", "Pending", "0"]),
    ("gated", {}, {}, {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}, ["0/2", "SchedulingGated", "0"]),
    ("running", {}, {}, {"phase": "Running", "containerStatuses": [state("a", RUN, True), state("b", RUN, True)]}, ["2/2", "Running", "0"]),
    ("one not ready", {}, {}, {"phase": "Running", "containerStatuses": [state("a", RUN, True), state("b", RUN)]}, ["1/2", "Running", "0"]),
    ("crashing", {}, {}, {"phase": "Running", "containerStatuses": [state("a", wait("CrashLoopBackOff"), False, 3, **FELL), state("b", RUN, True)]}, ["1/2", "CrashLoopBackOff", "3 (5m ago)"]),
    ("image missing", {}, {}, {"phase": "Pending", "containerStatuses": [state("a", wait("ImagePullBackOff"))]}, ["0/2", "ImagePullBackOff", "0"]),
    ("failed", {}, {}, {"phase": "Failed", "containerStatuses": [state("a", died(exitCode=1, reason="Error"))]}, ["0/2", "Error", "0"]),
    ("exit code", {}, {}, {"phase": "Failed", "containerStatuses": [state("a", died(exitCode=3))]}, ["0/2", "ExitCode:3", "0"]),
    ("signal", {}, {}, {"phase": "Failed", "containerStatuses": [state("a", died(exitCode=137, signal=9))]}, ["0/2", "Signal:9", "0"]),
    ("completed", {}, {}, {"phase": "Succeeded", "containerStatuses": [state("a", DONE), state("b", DONE)]}, ["0/2", "Completed", "0"]),
    ("one done, pod ready", {}, {}, {"phase": "Running", "conditions": [READY], "containerStatuses": [state("a", DONE), state("b", RUN, True)]}, ["1/2", "Running", "0"]),
    ("one done, pod not ready", {}, {}, {"phase": "Running", "containerStatuses": [state("a", DONE), state("b", RUN, True)]}, ["1/2", "NotReady", "0"]),
    ("evicted", {}, {}, {"phase": "Failed", "reason": "Evicted"}, ["0/2", "Evicted", "0"]),
    ("deleted", {"deletionTimestamp": "2026-01-01T12:00:30Z"}, {}, {"phase": "Running", "containerStatuses": [state("a", RUN, True)]}, ["1/2", "Terminating", "0"]),
    ("deleted after its end", {"deletionTimestamp": "2026-01-01T12:00:30Z"}, {}, {"phase": "Succeeded", "containerStatuses": [state("a", DONE)]}, ["0/2", "Completed", "0"]),
    ("deleted on a lost node", {"deletionTimestamp": "2026-01-01T12:00:30Z"}, {}, {"phase": "Running", "reason": "NodeLost"}, ["0/2", "Unknown", "0"]),
    ("initializing", {}, {"initContainers": [{"name": "i"}, {"name": "j"}]}, {"phase": "Pending", "initContainerStatuses": [state("i", DONE), state("j", RUN)]}, ["0/2", "Init:1/2", "0"]),
    ("init crashing", {}, {"initContainers": [{"name": "i"}]}, {"phase": "Pending", "initContainerStatuses": [state("i", wait("CrashLoopBackOff"), False, 2, **FELL)]}, ["0/2", "Init:CrashLoopBackOff", "2 (5m ago)"]),
    ("init failed", {}, {"initContainers": [{"name": "i"}]}, {"phase": "Failed", "initContainerStatuses": [state("i", died(exitCode=1, reason="Error"))]}, ["0/2", "Init:Error", "0"]),
    ("init exit code", {}, {"initContainers": [{"name": "i"}]}, {"phase": "Failed", "initContainerStatuses": [state("i", died(exitCode=4))]}, ["0/2", "Init:ExitCode:4", "0"]),
    ("after init", {}, {"initContainers": [{"name": "i"}]}, {"phase": "Pending", "initContainerStatuses": [state("i", DONE, True, 1)], "containerStatuses": [state("a", wait("PodInitializing"))]}, ["0/2", "PodInitializing", "0"]),
    ("a sidecar counts", {}, {"initContainers": [{"name": "s", "restartPolicy": "Always"}]}, {"phase": "Running", "initContainerStatuses": [state("s", RUN, True, 4, started=True)], "containerStatuses": [state("a", RUN, True, 2), state("b", RUN, True)]}, ["3/3", "Running", "6"]),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "spec", "status", "want"), [p[1:] for p in PODS], ids=[p[0] for p in PODS])
def test_pods(metadata: Obj, spec: Obj, status: Obj, want: list[str]) -> None:
    pod = {"metadata": metadata, "spec": {"containers": [{"name": "a"}, {"name": "b"}], **spec}, "status": status}
    assert cells(kinds.POD, pod)[1:4] == want


def test_a_pods_wide_cells() -> None:
    spec = {
        "containers": [],
        "nodeName": "worker-0",
        "readinessGates": [{"conditionType": "g"}, {"conditionType": "h"}],
    }
    status = {"podIP": "10.200.0.2", "podIPs": [{"ip": "10.200.0.2"}], "conditions": [{"type": "g", "status": "True"}]}
    assert cells(kinds.POD, {"spec": spec, "status": status})[4:] == [
        "5m26s",
        "10.200.0.2",
        "worker-0",
        "<none>",
        "1/2",
    ]


TEMPLATE = {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}
WORDS = ["a,b", "x,y", "app=web"]
PICK = {"matchLabels": {"app": "web"}}
ROWS: list[tuple[Kind, Obj, list[Any]]] = [
    (kinds.SERVICE, {"spec": {"type": "ClusterIP", "clusterIP": "10.32.0.5", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"b": "2", "a": "1"}}}, ["x", "ClusterIP", "10.32.0.5", "<none>", "80/TCP,53/UDP", "5m26s", "a=1,b=2"]),
    (kinds.SERVICE, {"spec": {"type": "NodePort", "clusterIP": "10.32.0.5", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}}, ["x", "NodePort", "10.32.0.5", "<none>", "80:30080/TCP", "5m26s", "<none>"]),
    (kinds.SERVICE, {"spec": {"type": "LoadBalancer", "clusterIP": "10.32.0.5", "ports": []}}, ["x", "LoadBalancer", "10.32.0.5", "<pending>", "<none>", "5m26s", "<none>"]),
    (kinds.SERVICE, {"spec": {"type": "LoadBalancer", "clusterIP": "10.32.0.5", "externalIPs": ["1.2.3.4"]}, "status": {"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}]}}}, ["x", "LoadBalancer", "10.32.0.5", "9.9.9.9,1.2.3.4", "<none>", "5m26s", "<none>"]),
    (kinds.SERVICE, {"spec": {"type": "ExternalName", "externalName": "a.test"}}, ["x", "ExternalName", "<none>", "a.test", "<none>", "5m26s", "<none>"]),
    (kinds.SERVICE, {"spec": {"type": "ClusterIP", "clusterIP": "None"}}, ["x", "ClusterIP", "None", "<none>", "<none>", "5m26s", "<none>"]),
    (kinds.DEPLOYMENT, {"spec": {"replicas": 3, "selector": PICK, "template": TEMPLATE}, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}}, ["x", "2/3", 3, 1, "5m26s", *WORDS]),
    (kinds.REPLICA_SET, {"spec": {"replicas": 3, "selector": PICK, "template": TEMPLATE}, "status": {"replicas": 2, "readyReplicas": 1}}, ["x", 3, 2, 1, "5m26s", *WORDS]),
    (kinds.REPLICATION_CONTROLLER, {"spec": {"replicas": 3, "selector": {"app": "web"}, "template": TEMPLATE}, "status": {"replicas": 2}}, ["x", 3, 2, 0, "5m26s", *WORDS]),
    (kinds.DAEMON_SET, {"spec": {"selector": PICK, "template": TEMPLATE}, "status": {"desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3, "updatedNumberScheduled": 2, "numberAvailable": 1}}, ["x", 5, 4, 3, 2, 1, "<none>", "5m26s", *WORDS]),
    (kinds.STATEFUL_SET, {"spec": {"replicas": 2, "template": TEMPLATE}, "status": {"readyReplicas": 1}}, ["x", "1/2", "5m26s", "a,b", "x,y"]),
    (kinds.JOB, {"spec": {"completions": 2, "template": TEMPLATE, "selector": PICK}, "status": {"succeeded": 1, "startTime": "2026-01-01T11:59:00Z"}}, ["x", "Running", "1/2", "60s", "5m26s", *WORDS]),
    (kinds.JOB, {"spec": {"completions": 1, "template": TEMPLATE, "selector": PICK}, "status": {"succeeded": 1, "startTime": "2026-01-01T11:59:00Z", "completionTime": "2026-01-01T11:59:04Z", "conditions": [{"type": "Complete", "status": "True"}]}}, ["x", "Complete", "1/1", "4s", "5m26s", *WORDS]),
    (kinds.JOB, {"spec": {"parallelism": 3, "template": TEMPLATE, "selector": PICK}}, ["x", "Running", "0/1 of 3", "", "5m26s", *WORDS]),
    (kinds.ENDPOINTS, {"subsets": [{"addresses": [{"ip": f"10.0.0.{n}"} for n in range(1, 6)], "ports": [{"port": 80}]}]}, ["x", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...", "5m26s"]),
    (kinds.ENDPOINTS, {"subsets": [{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}]}, ["x", "[fd00::1]:80", "5m26s"]),
    (kinds.ENDPOINTS, {"subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]}, ["x", "10.0.0.1", "5m26s"]),
    (kinds.ENDPOINTS, {}, ["x", "<none>", "5m26s"]),
    (kinds.ENDPOINT_SLICE, {"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]}, ["x", "IPv4", "80", "10.0.0.1", "5m26s"]),
    (kinds.ENDPOINT_SLICE, {"addressType": "IPv4"}, ["x", "IPv4", "<unset>", "<unset>", "5m26s"]),
    (kinds.NODE, {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "master"}}, "spec": {"unschedulable": True}, "status": {"conditions": [READY], "addresses": [{"type": "InternalIP", "address": "10.240.0.20"}], "nodeInfo": {"kubeletVersion": "v1.36.2"}}}, ["x", "Ready,SchedulingDisabled", "control-plane,master", "5m26s", "v1.36.2", "10.240.0.20", "<none>", "<unknown>", "<unknown>", "<unknown>"]),
    (kinds.NODE, {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, ["x", "NotReady", "<none>", "5m26s", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"]),
    (kinds.EVENT, {"type": "Warning", "reason": "BackOff", "involvedObject": {"kind": "Pod", "name": "web"}, "message": "no\n", "count": 4, "firstTimestamp": "2026-01-01T11:50:00Z", "lastTimestamp": "2026-01-01T11:59:30Z", "source": {"component": "kubelet", "host": "worker-0"}}, ["30s", "Warning", "BackOff", "pod/web", "", "kubelet, worker-0", "no", "10m", 4, "x"]),
    (kinds.EVENT, {"type": "Normal", "reason": "R", "involvedObject": {"kind": "Node"}, "message": "m", "eventTime": "2026-01-01T11:59:00.000000Z", "series": {"count": 7, "lastObservedTime": "2026-01-01T11:59:50.000000Z"}, "reportingComponent": "c"}, ["10s", "Normal", "R", "node", "", "c", "m", "60s", 7, "x"]),
    (kinds.INGRESS, {"spec": {"ingressClassName": "nginx", "tls": [{}], "rules": [{"host": "a.test"}, {}]}, "status": {"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}]}}}, ["x", "nginx", "a.test", "9.9.9.9", "80, 443", "5m26s"]),
    (kinds.INGRESS, {"metadata": {"annotations": {"kubernetes.io/ingress.class": "old"}}, "spec": {"rules": [{}]}}, ["x", "old", "*", "", "80", "5m26s"]),
    (kinds.INGRESS_CLASS, {"spec": {"controller": "k8s.io/x", "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}}, ["x", "k8s.io/x", "K.g/n", "5m26s"]),
    (kinds.NETWORK_POLICY, {"spec": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["c", "b"]}]}}}, ["x", "a in (b,c)", "5m26s"]),
    (kinds.NETWORK_POLICY, {"spec": {"podSelector": {}}}, ["x", "<none>", "5m26s"]),
    (kinds.CONFIG_MAP, {"data": {"a": "1"}, "binaryData": {"b": "", "c": ""}}, ["x", 3, "5m26s"]),
    (kinds.SECRET, {"type": "Opaque", "data": {"a": ""}}, ["x", "Opaque", 1, "5m26s"]),
    (kinds.SERVICE_ACCOUNT, {}, ["x", 0, "5m26s"]),
    (kinds.NAMESPACE, {"status": {"phase": "Active"}}, ["x", "Active", "5m26s"]),
    (kinds.SERVICE_CIDR, {"spec": {"cidrs": ["10.96.0.0/12", "fd00::/108"]}}, ["x", "10.96.0.0/12,fd00::/108", "5m26s"]),
    (kinds.LEASE, {"spec": {"holderIdentity": "me"}}, ["x", "me", "5m26s"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "obj", "want"), ROWS, ids=[f"{row[0].name}-{n}" for n, row in enumerate(ROWS)])
def test_rows(kind: Kind, obj: Obj, want: list[Any]) -> None:
    assert cells(kind, obj) == want
