"""The map of a network: what it says as text, and that its picture can be read at any size."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner
from tests.picture_checks import boxes, check, said
from tests.tracer_worlds import capture, capture_path, number

from glassnet.cli.main import root
from glassnet.netstack.model import Address, Link, NextHop, Route
from glassnet.netstack.namespace import NetStack
from glassnet.ruleset.model import Ruleset
from glassnet.tracer.drawing.map_svg import map_svg
from glassnet.tracer.drawing.map_text import map_text
from glassnet.tracer.drawing.network import Network, network_of
from glassnet.tracer.machine import HOST, NODE, Machine
from glassnet.tracer.world import World

TEXT = """\
network 192.0.2.0/24
└─ client  192.0.2.10 eth0
     route default via 192.0.2.1 (gate)

gate  10.0.0.1 eth0, 192.0.2.1 eth1
  route 10.1.0.0/24 via 10.0.0.10 (node-0)
  route 10.1.1.0/24 via 10.0.0.11 (node-1)

network 10.0.0.0/16
├─ node-0  10.0.0.10 eth0, public 198.51.100.10, a
│    route default via 10.0.0.1 (gate)
│    bridge br0 10.1.0.1/24
│      veth-0-0 ─ 10.1.0.2  demo/web-of-a-rather-long-name-0-0
│      veth-0-1 ─ 10.1.0.3  demo/web-of-a-rather-long-name-0-1
└─ node-1  10.0.0.11 eth0, public 198.51.100.11, b
     route default via 10.0.0.1 (gate)
     bridge br0 10.1.1.1/24
       veth-1-0 ─ 10.1.1.2  demo/web-of-a-rather-long-name-1-0
       veth-1-1 ─ 10.1.1.3  demo/web-of-a-rather-long-name-1-1
     1 pod on the host's network

Services
  198.51.100.200:80/TCP  LoadBalancer  demo/web:http  1 endpoint of 2 ready, policy Local
  10.2.0.7:80/TCP        ClusterIP     demo/web:http  1 endpoint of 2 ready, node port 30080
"""


def address(text: str, length: int, dev: str) -> Address:
    return Address(number(text), 128 if ":" in text else 32, length, dev)


def default(via: str, dev: str = "eth0") -> Route:
    return Route(0, 0, 32, hops=(NextHop(dev, number(via)),))


def made(name: str, kind: str, *found: Address, routes: tuple[Route, ...] = (), node: str = "") -> Machine:
    stack = NetStack(addresses=list(found), routes=list(routes))
    for index, dev in enumerate(dict.fromkeys(item.dev for item in found)):
        stack.links[dev] = Link(index + 2, dev, kind="bridge" if dev.startswith("br") else "veth")
    return Machine(name, kind, stack, Ruleset(), node)


def pod(world: World, node: int, number_: int, ip: str, bridged: bool = True) -> None:
    """A pod of the API, and the node's end of its link."""
    machine, dev = world.machines[f"node-{node}"], f"veth-{node}-{number_}"
    stack, name = machine.stack, f"web-of-a-rather-long-name-{node}-{number_}"
    index = 100 + number_
    stack.links[dev] = Link(index, dev, kind="veth", master="br0" if bridged else "", peer=2)
    inner = made(f"demo/{name}", "pod", address(ip, 128 if ":" in ip else 32, "eth0"), node=machine.name)
    inner.stack.links["eth0"] = Link(2, "eth0", kind="veth", peer=index)
    world.add(inner)


def world_of(nodes: int, pods: int = 2, services: int = 1, bridged: bool = True) -> World:
    """A router, a client outside, nodes with a bridge each (or none), pods, Services."""
    world = World()
    routes = tuple(
        Route(number(f"10.1.{n}.0"), 24, 32, hops=(NextHop("eth0", number(f"10.0.0.{10 + n}")),)) for n in range(nodes)
    )
    api_nodes: list[dict[str, Any]] = []
    for n in reversed(range(nodes)):  # any order of the dump is one map
        own = [address(f"10.0.0.{10 + n}", 16, "eth0")] + ([address(f"10.1.{n}.1", 24, "br0")] if bridged else [])
        world.add(made(f"node-{n}", NODE, *own, routes=(default("10.0.0.1"),)))
        for p in reversed(range(pods)):
            pod(world, n, p, f"10.1.{n}.{2 + p}", bridged)
        zone = {"topology.kubernetes.io/zone": "ab"[n % 2]}
        status = {"addresses": [{"type": "ExternalIP", "address": f"198.51.100.{10 + n}"}]}
        api_nodes.append({"metadata": {"name": f"node-{n}", "labels": zone}, "status": status})
    world.add(made("gate", HOST, address("10.0.0.1", 16, "eth0"), address("192.0.2.1", 24, "eth1"), routes=routes))
    world.add(made("client", HOST, address("192.0.2.10", 24, "eth0"), routes=(default("192.0.2.1"),)))
    host_pod = {"metadata": {"name": "h", "namespace": "demo"}, "spec": {"nodeName": "node-1", "hostNetwork": True}}
    world.objects = {"nodes": api_nodes, "pods": [host_pod], "services": [], "endpointslices": []}
    for index in range(services):
        world.objects["services"].append(service(index))
        world.objects["endpointslices"].append(endpoints(index))
    return world


def service(index: int) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080 + index}]
    return {
        "metadata": {"name": f"web{index or ''}", "namespace": "demo"},
        "spec": {"clusterIP": f"10.2.0.{7 + index}", "externalTrafficPolicy": "Local", "ports": ports},
        "status": {"loadBalancer": {"ingress": [{"ip": f"198.51.100.{200 + index}"}]}},
    }


def endpoints(index: int) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": f"web{index or ''}"}
    ready = [{"addresses": [f"10.1.0.{2 + n}"], "conditions": {"ready": not n}} for n in range(2)]
    return {
        "metadata": {"name": f"s{index}", "namespace": "demo", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": ready,
    }


def test_the_map_as_text() -> None:
    assert map_text(network_of(world_of(2))) == TEXT


def test_a_map_of_a_real_cluster() -> None:
    found = network_of(capture("hardway-iptables")[0])
    assert [node.name for node in found.nodes] == ["worker-0", "worker-1", "worker-2"]
    assert all(node.bridges and node.pods and node.routes[0][0] == "default" for node in found.nodes)
    document = check(map_svg(found))
    shown = said(document)
    assert all(node.name in shown for node in found.nodes)
    assert sum(box.what.startswith("f-pod") for box in boxes(document)) == sum(len(node.pods) for node in found.nodes)


@pytest.mark.parametrize("nodes", [1, 3, 4, 12, 13, 50])
@pytest.mark.parametrize("pods", [0, 2, 9, 110])
def test_a_picture_can_be_read_at_any_size(nodes: int, pods: int) -> None:
    document = check(map_svg(network_of(world_of(nodes, pods, services=40))))
    shown = said(document)
    assert [text for text in shown if text.startswith("node-")] == [f"node-{n}" for n in range(nodes)]
    drawn = sum(box.what.startswith("f-pod") for box in boxes(document))
    left_out = sum(int(text.split()[1]) for text in shown if text.startswith("…") and text.endswith("more pods"))
    assert drawn + left_out == nodes * pods
    assert "… 36 more" in shown and "… 56 more" in shown  # virtual addresses, Services
    assert float(document.get("width", 0)) <= 2100


def test_pods_without_a_bridge_and_with_both_families() -> None:
    world = world_of(3, bridged=False)
    for machine in world.of_kind(NODE):
        machine.stack.addresses.append(address("fd00::" + machine.name[-1], 64, "eth0"))
    long = "2001:db8:1234:5678:9abc:def0:1234:"
    for node in range(3):
        pod(world, node, 9, f"{long}{node}", bridged=False)
    found = network_of(world)
    assert [bridge.name for node in found.nodes for bridge in node.bridges] == ["", "", ""]
    assert "pods by routes of their own" in said(check(map_svg(found)))
    assert f"veth-2-9 ─ {long}2" in map_text(found)


def test_what_is_not_there_is_not_drawn() -> None:
    assert map_text(network_of(World())) == "\n"
    assert said(check(map_svg(Network()))) == ["0 nodes, 0 pods"]
    alone = World()
    alone.add(made("here", NODE, address("10.9.0.1", 24, "eth0"), address("172.17.0.1", 16, "br0")))
    found = network_of(alone)
    assert found.own and (found.own.range, found.others, found.routers) == ("10.9.0.0/24", [], [])
    assert "br0  172.17.0.1/16" in said(check(map_svg(found)))


def test_two_pictures_of_one_network_are_one() -> None:
    assert map_svg(network_of(world_of(7))) == map_svg(network_of(world_of(7)))


@pytest.mark.parametrize(("form", "begins"), [("text", "network 10.240.0.0/24"), ("svg", "<svg ")])
def test_the_command(form: str, begins: str) -> None:
    done = CliRunner().invoke(root, ["map", "--snapshot", capture_path("hardway-iptables"), "-o", form])
    assert done.exit_code == 0 and begins in done.stdout
