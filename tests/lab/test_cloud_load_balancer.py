"""The cloud's load balancer at the VPC's edge: each kind with real packets from the host outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import GLASSNET, Lab
from glassnet.kernel.mounts import place_in_pods

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]
FLOATING, PASSING, TARGETS = "floating-ip", "pass-through", "node-port-targets"
OUTSIDE, CLOUD = "192.0.2.10", "10.240.0.254"
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}}}
spec: {{nodeName: {node}, containers: [{{name: c, image: agnhost, args: [netexec, --http-port=8080, --udp-port=8081]}}]}}
---
"""
SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: cluster}
spec: {type: LoadBalancer, loadBalancerIP: 198.51.100.10, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerIP: 198.51.100.11, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {type: LoadBalancer, loadBalancerIP: 198.51.100.12, selector: {app: nobody}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody-local}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerIP: 198.51.100.13, selector: {app: nobody}, ports: [{name: http, port: 80}]}
"""
CLUSTER, LOCAL, NOBODY, NOBODY_LOCAL = (f"198.51.100.{number}" for number in (10, 11, 12, 13))


class Client:
    """A client on `internet`, see cloud_client.py."""

    def __init__(self, lab: Lab) -> None:
        script = Path(__file__).with_name("cloud_client.py").read_text()
        words = [GLASSNET, "host", "internet", "--", place_in_pods(sys.executable), "-c", script]
        self._process = subprocess.Popen(words, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, *command: Any) -> list[str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        found: list[str] = json.loads(self._process.stdout.readline())
        return found

    def fetch(self, address: str, times: int = 16, path: str = "/hostname", port: int = 80) -> Counter[str]:
        """What so many new connections got, and how often."""
        return Counter(self("fetch", address, port, path, times))

    def sources(self, address: str, times: int = 16) -> set[str]:
        """Which addresses the pods saw."""
        return {text.rpartition(":")[0] for text in self.fetch(address, times, "/clientip")}

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait(10)


class World:
    """A lab with a load balancer of one kind."""

    def __init__(self, lab: Lab, kind: str) -> None:
        self.lab, self.kind, self.client = lab, kind, Client(lab)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """kubectl itself, without `glassnet` before it: the tests call it often."""
        config = Path(self.lab.env["GLASSNET_STATE"]) / self.lab.name / "kubeconfig"
        command = ["kubectl", "--kubeconfig", str(config), *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=True).stdout

    def apply(self, name: str, notes: dict[str, str] | None = None, **spec: Any) -> None:
        """A Service of type LoadBalancer before the pods."""
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": notes or {}},
            "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": ports, **spec},
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def ingress(self, name: str) -> list[dict[str, str]]:
        """What the status of a Service says."""
        found = json.loads(self.kubectl("get", "service", name, "-o", "json"))
        return found["status"]["loadBalancer"].get("ingress") or []

    def address(self, name: str) -> str:
        """A Service's address, once it has one."""
        until(lambda: self.ingress(name))
        return self.ingress(name)[0]["ip"]

    def reasons(self, name: str) -> list[str]:
        """Reasons of Events about a Service."""
        text = self.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json")
        return [event["reason"] for event in json.loads(text)["items"]]


def until(good: Callable[[], Any], seconds: float = 15.0) -> None:
    """Poll until `good()`, or fail."""
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)


@pytest.fixture(scope="module", params=[FLOATING, PASSING, TARGETS])
def world(
    request: pytest.FixtureRequest, make_lab: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    file = tmp_path_factory.mktemp("m") / "web.yaml"
    file.write_text("".join(POD.format(name=name, node=f"worker-{n}") for n, name in enumerate("ab")) + SERVICES)
    speed = "25" if request.param == TARGETS else "10"  # its six failures in a row take a minute
    made = World(make_lab("--load-balancer", request.param, "--cloud-speed", speed, "-f", str(file)), request.param)
    for place in (CLUSTER, LOCAL):
        until(lambda place=place: set(made.client.fetch(place)) == {"a", "b"})
    yield made
    made.client.close()


@pytest.fixture
def excluded(world: World) -> Iterator[Callable[[str], None]]:
    """Takes a node out of load balancers; it comes back after the test."""
    names = []

    def leave(node: str) -> None:
        names.append(node)
        world.kubectl("label", "node", node, f"{EXCLUDED}=true")

    yield leave
    for node in names:
        world.kubectl("label", "node", node, f"{EXCLUDED}-")
    until(lambda: set(world.client.fetch(LOCAL)) == {"a", "b"})


def test_which_source_the_pod_sees(world: World) -> None:
    seen = world.client.sources(CLUSTER, 32)
    assert OUTSIDE not in seen and seen <= {f"10.240.0.{host}" for host in (20, 21, 22)} | {
        f"10.200.{n}.1" for n in (0, 1)
    }
    assert world.client.sources(LOCAL) == ({CLOUD} if world.kind == TARGETS else {OUTSIDE})


def test_with_policy_local_nodes_without_endpoints_get_nothing(world: World) -> None:
    assert world.client.fetch(LOCAL, 48).keys() == {"a", "b"}  # worker-2 would drop its third


def test_what_a_client_hears_when_there_are_no_endpoints(world: World) -> None:
    asked = {place: set(world.client.fetch(place, 3)) for place in (NOBODY, NOBODY_LOCAL)}
    assert (
        asked
        == {
            FLOATING: {NOBODY: {"timeout"}, NOBODY_LOCAL: {"timeout"}},
            PASSING: {NOBODY: {"refused"}, NOBODY_LOCAL: {"refused"}},
            TARGETS: {NOBODY: {"refused"}, NOBODY_LOCAL: {"refused"}},
        }[world.kind]
    )
    assert set(world.client.fetch(CLUSTER, 2, port=81)) == {"timeout"}  # a port nobody has asked for


def test_events_status_and_how_it_is_told(world: World) -> None:
    assert world.reasons("cluster")[:2] == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]
    assert world.ingress("cluster") == [{"ip": CLUSTER, "ipMode": "Proxy" if world.kind == TARGETS else "VIP"}]
    status = json.loads(world.lab.glassnet("status", "-o", "json").stdout)
    (mine,) = (each for each in status if each["name"] == world.lab.name)
    assert (mine["load_balancer"]["kind"], mine["load_balancer"]["unhealthy"]) == (world.kind, [])
    assert f"load balancer {world.kind} (198.51.100.0/24)" in world.lab.glassnet("status").stdout
    doctor = json.loads(world.lab.glassnet("doctor", "-o", "json", check=False).stdout)
    told = {found["object"] for found in doctor["findings"] if found["severity"] != "info"}
    assert told <= {"Service default/nobody-local", "Service default/nobody"}


@pytest.mark.parametrize("place", [CLUSTER, LOCAL, NOBODY_LOCAL])
def test_a_trace_goes_through_it_and_names_service_and_node(world: World, place: str) -> None:
    said = world.lab.glassnet("trace", "internet", f"{place}:80", check=False).stdout
    name = {CLUSTER: "cluster", LOCAL: "local", NOBODY_LOCAL: "nobody-local"}[place]
    assert f"because Service default/{name} status.loadBalancer.ingress: {place}" in said
    assert "not understood" not in said
    if place == NOBODY_LOCAL:
        assert "comes home" not in said
    else:
        assert "because Node worker-" in said and "● comes home at internet" in said


def test_flows_keep_their_node_when_nodes_leave_and_come(world: World, excluded: Callable[[str], None]) -> None:
    client = world.client
    client("open", "kept", LOCAL, 80, 12)
    before = client("ask", "kept", "/hostname")
    assert set(before) == {"a", "b"}
    excluded("worker-0")
    until(lambda: set(client.fetch(LOCAL, 12)) == {"b"}, 2.5)
    assert client("ask", "kept", "/hostname") == before
    assert "UpdatedLoadBalancer" in world.reasons("local")
    if world.kind == PASSING:  # 30 s of draining, at ten times the speed
        until(lambda: "a" not in client("ask", "kept", "/hostname"))
        after = client("ask", "kept", "/hostname")
        assert [now for was, now in zip(before, after, strict=True) if was == "b"] == ["b"] * before.count("b")
    else:
        world.kubectl("label", "node", "worker-0", f"{EXCLUDED}-")
        until(lambda: set(client.fetch(LOCAL, 12)) == {"a", "b"})
        assert client("ask", "kept", "/hostname") == before


def test_a_node_that_dies_is_taken_out_and_comes_back(world: World) -> None:
    world.client("open", "through", LOCAL, 80, 8)
    before = world.client("ask", "through", "/hostname")
    dead = "add table inet dead; add chain inet dead everything { type filter hook prerouting priority -400; policy drop; }"
    world.lab.node("worker-1", "nft", dead)
    try:
        # a connection that is begun before anybody has noticed gets through once somebody has: SYN again, to another node
        assert set(world.client("patient", LOCAL, 80, "/hostname", 12)) == {"a"}
        until(lambda: world.client.fetch(LOCAL, 6).keys() == {"a"}, 30)
        after = world.client("ask", "through", "/hostname")
        assert all(now == "a" for was, now in zip(before, after, strict=True) if was == "a")
    finally:
        world.lab.node("worker-1", "nft", "delete table inet dead")
    until(lambda: world.client.fetch(LOCAL, 12).keys() == {"a", "b"}, 30)


def test_an_address_is_released_and_given_again(world: World) -> None:
    world.apply("first")
    place = world.address("first")
    until(lambda: world.client.fetch(place, 8).keys() == {"a", "b"})
    world.kubectl("delete", "service", "first")
    until(
        lambda: f" {place} " not in world.lab.host("cloud", "nft", "list", "map", "ip", "glassnet-cloud", "frontends")
    )
    assert set(world.client.fetch(place, 2)) == {"timeout"}
    world.apply("second")
    assert world.address("second") == place
    until(lambda: world.client.fetch(place, 8).keys() == {"a", "b"})
    world.kubectl("patch", "service", "second", "-p", '{"spec":{"type":"ClusterIP"}}')
    until(lambda: not world.ingress("second"))
    until(
        lambda: f" {place} " not in world.lab.host("cloud", "nft", "list", "map", "ip", "glassnet-cloud", "frontends")
    )
    until(lambda: "DeletedLoadBalancer" in world.reasons("first"))
    world.kubectl("delete", "service", "second")


def test_source_ranges(world: World) -> None:
    world.apply("limited", loadBalancerSourceRanges=["10.0.0.0/8", "10.1.0.0/16"])
    place = world.address("limited")
    until(lambda: place in world.lab.host("cloud", "nft", "list", "map", "ip", "glassnet-cloud", "frontends"))
    until(lambda: set(world.client.fetch(place, 3)) == {"timeout"})
    world.apply("limited", loadBalancerSourceRanges=["192.0.2.0/24"])
    until(lambda: world.client.fetch(place, 8).keys() == {"a", "b"})
    world.kubectl("delete", "service", "limited")


def test_one_client_one_node_and_round_robin(world: World) -> None:
    world.apply("turn", {"glassnet.dev/cloud-distribution": "round-robin"}, externalTrafficPolicy="Local")
    world.apply("sticky", externalTrafficPolicy="Local", sessionAffinity="ClientIP")
    turn = world.address("turn")
    until(lambda: world.client.fetch(turn, 8).keys() == {"a", "b"})
    assert world.client.fetch(turn, 20) == Counter({"a": 10, "b": 10})
    if world.kind == TARGETS:
        until(lambda: "SyncLoadBalancerFailed" in world.reasons("sticky"))
        assert world.ingress("sticky") == []
    else:
        sticky = world.address("sticky")
        until(lambda: "timeout" not in world.client.fetch(sticky, 4))
        assert len(world.client.fetch(sticky, 16)) == 1
    world.kubectl("delete", "service", "turn", "sticky")


def test_udp_and_no_node_ports(world: World) -> None:
    world.apply("udp", ports=[{"port": 53, "protocol": "UDP", "targetPort": 8081}])
    world.apply("portless", allocateLoadBalancerNodePorts=False)
    if world.kind == TARGETS:
        for name in ("udp", "portless"):
            until(lambda name=name: "SyncLoadBalancerFailed" in world.reasons(name))
            assert world.ingress(name) == []
        world.apply(
            "udp",
            {"service.beta.kubernetes.io/aws-load-balancer-type": "nlb"},
            ports=[{"port": 53, "protocol": "UDP", "targetPort": 8081}],
        )
    else:
        place = world.address("portless")
        until(lambda: world.client.fetch(place, 8).keys() == {"a", "b"})
    place = world.address("udp")
    until(lambda: set(world.client("udp", place, 53, 8)) == {"a", "b"})
    world.kubectl("delete", "service", "udp", "portless")


def test_another_class_and_addresses_that_are_not_ours(world: World) -> None:
    world.apply("classy", loadBalancerClass="example.com/other")
    world.apply("outside", loadBalancerIP="198.51.101.1")
    world.apply("taken", loadBalancerIP=CLUSTER)
    until(lambda: "SyncLoadBalancerFailed" in world.reasons("taken"))
    until(lambda: "SyncLoadBalancerFailed" in world.reasons("outside"))
    assert world.reasons("classy") == [] == world.ingress("classy") == world.ingress("outside")
    assert world.ingress("taken") == [] and set(world.client.fetch(CLUSTER)) == {"a", "b"}
    world.kubectl("delete", "service", "classy", "outside", "taken")


def test_a_network_load_balancer_keeps_the_source_and_ends_what_is_unhealthy(world: World) -> None:
    if world.kind != TARGETS:  # there alone a Service may ask for one: elsewhere the annotation means nothing
        world.apply("nlb", {"service.beta.kubernetes.io/aws-load-balancer-type": "nlb"}, externalTrafficPolicy="Local")
        assert world.client.fetch(world.address("nlb"), 1).total() == 1
        world.kubectl("delete", "service", "nlb")
        return
    world.apply("nlb", {"service.beta.kubernetes.io/aws-load-balancer-type": "nlb"}, externalTrafficPolicy="Local")
    place = world.address("nlb")
    until(lambda: world.client.fetch(place, 12).keys() == {"a", "b"})
    assert world.client.sources(place) == {OUTSIDE}
    world.client("open", "nlb", place, 80, 8)
    before = world.client("ask", "nlb", "/hostname")
    assert set(before) == {"a", "b"}
    world.kubectl("label", "pod", "b", "app-")
    try:
        until(lambda: world.client.fetch(place, 8).keys() == {"a"}, 30)
        until(lambda: "b" not in world.client("ask", "nlb", "/hostname"))
        after = world.client("ask", "nlb", "/hostname")
        assert all(now == "a" for was, now in zip(before, after, strict=True) if was == "a")
    finally:
        world.kubectl("label", "pod", "b", "app=web")
    world.kubectl("delete", "service", "nlb")
