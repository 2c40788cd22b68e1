"""Where pods go, why they cannot, and what drives them away."""

from __future__ import annotations

from typing import Any

import pytest
from controllers_world import World, template

from glassnet.kube import kinds

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


def put(world: World, name: str, labels: dict[str, str] | None = None, **spec: Any) -> None:
    world.create(kinds.POD, name, template({}, **spec)["spec"], metadata={"labels": labels or {"app": "x"}})


def node_of(world: World, name: str) -> str:
    return str(world.get(kinds.POD, name).spec.node_name)


def taint(world: World, node: str, *taints: dict[str, str]) -> None:
    world.patch(kinds.NODE, node, {"spec": {"taints": list(taints)}}, namespace="")


def why(world: World, name: str) -> str:
    found = next(c for c in world.get(kinds.POD, name).status.conditions if c.type == "PodScheduled")
    assert (found.status, found.reason) == ("False", "Unschedulable")
    return str(found.message)


async def test_binds_and_says_so(world: World) -> None:
    put(world, "p")
    await world.settle()
    assert node_of(world, "p") == "node-0"
    (event,) = await world.api.list(kinds.EVENT, "default")
    assert (event["reason"], event["message"]) == ("Scheduled", "Successfully assigned default/p to node-0")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"nodeSelector": {HOST: "node-2"}}, "node-2"),
        ({"nodeSelector": {HOST: "nowhere"}}, ""),
        ({"tolerations": [{"operator": "Exists"}], "nodeSelector": {HOST: "node-0"}}, "node-0"),
        ({"nodeName": "node-1"}, "node-1"),
        ({"schedulerName": "another"}, ""),
    ],
)
async def test_selectors(world: World, spec: dict[str, Any], expected: str) -> None:
    taint(world, "node-0", {"key": "k", "value": "v", "effect": "NoSchedule"})
    put(world, "p", **spec)
    await world.settle()
    assert node_of(world, "p") == expected


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("In", ["2"], "b"), ("NotIn", ["1", "2"], "c"), ("Exists", None, "a"), ("DoesNotExist", None, "c"),
        ("Gt", ["1"], "b"), ("Lt", ["2"], "a"),
    ],
)  # fmt: skip
async def test_node_affinity(operator: str, values: list[str] | None, expected: str) -> None:
    world = World(nodes=0)
    for name, rank in (("a", "1"), ("b", "2"), ("c", None)):
        world.add_node(name, labels={"rank": rank} if rank else {})
    term = {"matchExpressions": [{"key": "rank", "operator": operator, **({"values": values} if values else {})}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    put(world, "p", affinity={"nodeAffinity": required})
    await world.settle()
    assert node_of(world, "p") == expected
    await world.close()


async def test_preferred_affinity_beats_fewer_pods(world: World) -> None:
    prefer = {"weight": 10, "preference": {"matchExpressions": [{"key": HOST, "operator": "In", "values": ["node-1"]}]}}
    for name in ("p", "q"):
        put(world, name, affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [prefer]}})
    await world.settle()
    assert node_of(world, "p") == node_of(world, "q") == "node-1"


async def test_says_why_in_the_scheduler_s_words(world: World) -> None:
    taint(world, "node-0", {"key": "dedicated", "value": "db", "effect": "NoSchedule"})
    world.patch(kinds.NODE, "node-1", {"spec": {"unschedulable": True}}, namespace="")
    put(world, "p", nodeSelector={HOST: "node-1"})
    await world.settle()
    assert why(world, "p") == (
        "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
        "1 node(s) had untolerated taint {dedicated: db}, 1 node(s) were unschedulable."
    )
    events = await world.api.list(kinds.EVENT, "default")
    assert [e["reason"] for e in events] == ["FailedScheduling"]
    world.patch(kinds.NODE, "node-1", {"spec": {"unschedulable": None}}, namespace="")
    await world.settle()
    assert node_of(world, "p") == "node-1"


async def test_a_node_that_is_not_ready_counts_as_tainted(world: World) -> None:
    for index in range(3):
        not_ready = {"conditions": [{"type": "Ready", "status": "False"}]}
        world.patch(kinds.NODE, f"node-{index}", {"status": not_ready}, "status", namespace="")
    put(world, "p")
    put(world, "agent", tolerations=[{"operator": "Exists"}])
    await world.settle()
    assert why(world, "p") == (
        "0/3 nodes are available: 3 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."
    )
    assert node_of(world, "agent") == "node-0"


async def test_host_ports_do_not_meet(world: World) -> None:
    for name in "abcd":
        spec = template({})["spec"]
        spec["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 8080}]
        world.create(kinds.POD, name, spec)
    await world.settle()
    assert sorted(node_of(world, name) for name in "abcd") == ["", "node-0", "node-1", "node-2"]
    assert "3 node(s) didn't have free ports for the requested pod ports" in why(world, "d")
    world.view_delete(world.get(kinds.POD, "b"))
    await world.settle()
    assert node_of(world, "d") == "node-1"


def zoned() -> World:
    world = World(nodes=0)
    for name, zone in (("a0", "a"), ("a1", "a"), ("b0", "b")):
        world.add_node(name, labels={ZONE: zone})
    return world


def apart(key: str) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": key}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


@pytest.mark.parametrize(("key", "placed"), [(HOST, 3), (ZONE, 2)])
async def test_anti_affinity_keeps_pods_apart(key: str, placed: int) -> None:
    world = zoned()
    for index in range(4):
        put(world, f"p{index}", affinity=apart(key))
    await world.settle()
    nodes = [node_of(world, f"p{index}") for index in range(4)]
    assert len(set(filter(None, nodes))) == placed == len(list(filter(None, nodes)))
    await world.close()


async def test_the_anti_affinity_of_those_there_already_counts() -> None:
    world = zoned()
    put(world, "first", affinity=apart(ZONE))
    await world.settle()
    put(world, "second")
    put(world, "third", labels={"app": "other"})
    await world.settle()
    assert node_of(world, "first")[0] != node_of(world, "second")[0]
    assert node_of(world, "third")
    await world.close()


async def test_affinity_puts_pods_together_and_waits_for_a_partner() -> None:
    world = zoned()
    term = {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": ZONE}
    put(world, "web", affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
    await world.settle()
    assert "didn't match pod affinity rules" in why(world, "web")
    put(world, "db", labels={"app": "db"}, nodeSelector={ZONE: "b"})
    await world.settle()
    assert node_of(world, "web") == "b0"
    await world.close()


async def test_hard_spread_keeps_the_skew() -> None:
    world = zoned()
    spread = {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}},
    }
    for index in range(6):
        put(world, f"p{index}", topologySpreadConstraints=[spread])
    await world.settle()
    assert sorted(node_of(world, f"p{index}")[0] for index in range(6)) == ["a"] * 3 + ["b"] * 3
    await world.close()


async def test_pods_of_one_owner_spread(world: World) -> None:
    labels = {"app": "web"}
    world.create(
        kinds.REPLICA_SET, "web", {"replicas": 6, "selector": {"matchLabels": labels}, "template": template(labels)}
    )
    await world.settle()
    nodes = [p.spec.node_name for p in world.pods()]
    assert sorted(nodes) == ["node-0", "node-0", "node-1", "node-1", "node-2", "node-2"]


async def test_no_execute_drives_pods_away_at_once_or_in_time(world: World) -> None:
    put(world, "stays", nodeName="node-0", tolerations=[{"key": "k", "operator": "Exists"}])
    patient = [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]
    put(world, "patient", nodeName="node-0", tolerations=patient)
    put(world, "goes", nodeName="node-0")
    await world.converge()
    taint(world, "node-0", {"key": "k", "effect": "NoExecute"})
    await world.converge()
    assert [p.metadata.name for p in world.pods()] == ["patient", "stays"]
    world.later(59)
    await world.converge()
    assert [p.metadata.name for p in world.pods()] == ["patient", "stays"]
    world.later(2)
    await world.converge()
    assert [p.metadata.name for p in world.pods()] == ["stays"]


async def test_a_pod_put_on_a_node_with_no_execute_goes(world: World) -> None:
    taint(world, "node-0", {"key": "k", "effect": "NoExecute"})
    await world.settle()
    put(world, "p", nodeName="node-0")
    await world.converge()
    assert world.pods() == []


async def test_pods_of_a_vanished_node_go(world: World) -> None:
    put(world, "p", nodeName="node-1")
    await world.converge()
    await world.api.delete(kinds.NODE, "", "node-1")
    await world.settle()
    assert world.get(kinds.POD, "p") is None
