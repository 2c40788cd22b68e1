"""Services in a whole lab, for both proxies: one flow table, real packets from every kind of client."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: {nodeName: worker-0, containers: [{name: c, image: agnhost, args: [netexec, --http-port=8080, --udp-port=8081], ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: web}}
spec: {nodeName: worker-1, containers: [{name: c, image: agnhost, args: [netexec, --http-port=8080, --udp-port=8081], ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client-0}
spec: {nodeName: worker-0, containers: [{name: c, image: busybox, command: [sleep, "3600"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client-2}
spec: {nodeName: worker-2, containers: [{name: c, image: busybox, command: [sleep, "3600"]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.32.0.20
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http, nodePort: 30080}
  - {name: udp, port: 80, protocol: UDP, targetPort: 8081, nodePort: 30080}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {type: NodePort, clusterIP: 10.32.0.21, selector: {app: nobody}, ports: [{port: 80, nodePort: 30081}]}
"""

CURL = ["curl", "-s", "-m", "3"]
# who asks -> through which machine or pod
CLIENTS = {
    "pod on an endpoint's node": ("pod", "client-0"),
    "pod elsewhere": ("pod", "client-2"),
    "node with an endpoint": ("node", "worker-0"),
    "node without": ("node", "worker-2"),
    "outside": ("host", "internet"),
}
INSIDE = [name for name in CLIENTS if name != "outside"]


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def lab(
    request: pytest.FixtureRequest, make_lab: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    file = tmp_path_factory.mktemp("m") / "web.yaml"
    file.write_text(MANIFEST)
    lab = make_lab("--proxy", request.param, "-f", str(file))
    until(lambda: ask(lab, "node without", "http://10.32.0.20/hostname")[1] in ("a", "b"))
    until(lambda: ask(lab, "outside", "http://203.0.113.22:30080/hostname")[1] in ("a", "b"))
    yield lab


def until(good: Callable[[], Any], seconds: float = 5.0) -> None:
    """Poll until `good()`, or fail."""
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)


def run(lab: Lab, client: str, *words: str) -> tuple[int, str]:
    kind, name = CLIENTS[client]
    if kind == "pod":
        done = lab.glassnet("kubectl", "exec", name, "--", *words, check=False)
    else:
        done = lab.glassnet(kind, name, "--", *words, check=False)
    return done.returncode, done.stdout


def ask(lab: Lab, client: str, url: str) -> tuple[int, str]:
    return run(lab, client, *CURL, url)


def many(lab: Lab, client: str, url: str, times: int) -> set[str]:
    """Who answers `times` connections, asked in one go."""
    _, text = run(lab, client, "sh", "-c", f"for i in $(seq {times}); do {' '.join(CURL)} {url}; echo; done")
    return set(text.split())


@pytest.mark.parametrize("client", INSIDE)
def test_cluster_ip(lab: Lab, client: str) -> None:
    assert many(lab, client, "http://10.32.0.20/hostname", 20) == {"a", "b"}


@pytest.mark.parametrize("node", ["20", "21", "22"])
def test_node_port_from_outside(lab: Lab, node: str) -> None:
    assert many(lab, "outside", f"http://203.0.113.{node}:30080/hostname", 20) == {"a", "b"}


@pytest.mark.parametrize("client", INSIDE)
def test_node_port_from_inside(lab: Lab, client: str) -> None:
    assert many(lab, client, "http://10.240.0.22:30080/hostname", 20) == {"a", "b"}


@pytest.mark.parametrize(
    ("client", "address", "port"),
    [("pod elsewhere", "10.32.0.20", 80), ("node without", "10.32.0.20", 80), ("outside", "203.0.113.21", 30080)],
)
def test_udp(lab: Lab, client: str, address: str, port: int) -> None:
    command = f"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo hostname | nc -u -w 1 -W 1 {address} {port}; echo; done"
    _, text = run(lab, client, "sh", "-c", command)
    assert set(text.split()) == {"a", "b"}


def test_the_api_is_a_service_too(lab: Lab) -> None:
    for client in ("pod elsewhere", "node with an endpoint"):
        _, text = run(lab, client, "curl", "-sk", "-m", "3", "https://10.32.0.1/version")
        assert json.loads(text)["reason"] == "Unauthorized"


@pytest.mark.parametrize("client", INSIDE)
def test_a_service_without_endpoints_refuses_at_once(lab: Lab, client: str) -> None:
    begun = time.monotonic()
    status, _ = ask(lab, client, "http://10.32.0.21/")
    assert status == 7 and time.monotonic() - begun < 2  # 7: connection refused


def test_a_node_port_without_endpoints_refuses_at_once(lab: Lab) -> None:
    begun = time.monotonic()
    status, _ = ask(lab, "outside", "http://203.0.113.20:30081/")
    assert status == 7 and time.monotonic() - begun < 2


def test_which_source_the_pod_sees(lab: Lab) -> None:
    pod_ip = lab.kubectl("get", "pod", "client-0", "-o", "jsonpath={.status.podIP}")
    seen = {
        address.rpartition(":")[0]
        for address in many(lab, "pod on an endpoint's node", "http://10.32.0.20/clientip", 20)
    }
    # to the endpoint on its own node unchanged, to the other one with the node's address: CNI's ipMasq
    assert seen == {pod_ip, "10.240.0.20"}
    outside = {address.rpartition(":")[0] for address in many(lab, "outside", "http://203.0.113.22:30080/clientip", 10)}
    assert outside == {"10.240.0.22"}


def test_endpoints_come_and_go(lab: Lab) -> None:
    lab.kubectl("label", "pod", "b", "app-", "--overwrite")
    until(lambda: many(lab, "node without", "http://10.32.0.20/hostname", 8) == {"a"})
    until(lambda: many(lab, "outside", "http://203.0.113.21:30080/hostname", 8) == {"a"})
    lab.kubectl("label", "pod", "b", "app=web")
    until(lambda: many(lab, "node without", "http://10.32.0.20/hostname", 12) == {"a", "b"})


def test_a_deleted_service_leaves_no_rule(lab: Lab) -> None:
    lab.kubectl("create", "service", "clusterip", "short-lived", "--tcp=80:8080", "--clusterip=10.32.0.33")
    lab.kubectl("patch", "service", "short-lived", "-p", '{"spec":{"selector":{"app":"web"}}}')
    rules = ["sh", "-c", "iptables-save; nft list ruleset 2>/dev/null"]
    until(lambda: "10.32.0.33" in lab.node("worker-1", *rules))
    before = set(lab.node("worker-1", "iptables-save", "-t", "nat").splitlines())
    lab.kubectl("delete", "service", "short-lived")
    until(
        lambda: "10.32.0.33" not in lab.node("worker-1", *rules) and "short-lived" not in lab.node("worker-1", *rules)
    )
    gone = before - set(lab.node("worker-1", "iptables-save", "-t", "nat").splitlines())
    assert not [line for line in gone if "default/web" in line]
