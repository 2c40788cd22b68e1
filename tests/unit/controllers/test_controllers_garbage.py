"""What follows an owner into deletion, how namespaces empty, and what each namespace and node is given."""

from __future__ import annotations

from typing import Any

import pytest
from controllers_world import World, template

from glassnet.controllers import housekeeping
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.view import Key

LABELS = {"app": "web"}


async def web(world: World) -> None:
    spec = {"replicas": 2, "selector": {"matchLabels": LABELS}, "template": template(LABELS)}
    world.create(kinds.DEPLOYMENT, "web", spec)
    world.create(kinds.SERVICE, "web", {"selector": LABELS, "ports": [{"port": 80}]})
    await world.converge()


async def delete(world: World, kind: Any, name: str, propagation: str) -> None:
    await world.api.delete(kind, "default", name, propagation=propagation)


async def test_background_deletion_takes_everything(world: World) -> None:
    await web(world)
    await delete(world, kinds.DEPLOYMENT, "web", "Background")
    assert world.get(kinds.DEPLOYMENT, "web") is None
    await world.converge()
    assert not world.view.replica_sets
    assert not world.view.pods


async def test_foreground_deletion_keeps_the_owner_until_the_last(world: World) -> None:
    await web(world)
    await delete(world, kinds.DEPLOYMENT, "web", "Foreground")
    await world.settle()
    assert world.get(kinds.DEPLOYMENT, "web").metadata.deletion_timestamp is not None
    assert len(world.view.replica_sets) == 1
    assert all(p.metadata.deletion_timestamp for p in world.view.pods.values())
    await world.converge()
    assert world.get(kinds.DEPLOYMENT, "web") is None
    assert not world.view.replica_sets
    assert not world.view.pods


async def test_orphaning_leaves_the_children_without_a_reference(world: World) -> None:
    await web(world)
    await delete(world, kinds.DEPLOYMENT, "web", "Orphan")
    await world.converge()
    assert world.get(kinds.DEPLOYMENT, "web") is None
    (rs,) = world.view.replica_sets.values()
    assert rs.metadata.owner_references == ()
    assert len(world.pods()) == 2


async def test_slices_and_endpoints_go_with_their_service(world: World) -> None:
    await web(world)
    assert len(world.view.endpoint_slices) == 1
    await delete(world, kinds.SERVICE, "web", "Background")
    await world.converge()
    assert not world.view.endpoint_slices
    assert not world.view.endpoints


async def test_an_object_of_several_owners_goes_with_the_last(world: World) -> None:
    references = []
    for name in ("a", "b"):
        made = world.create(kinds.SERVICE, name, {"ports": [{"port": 80}]})
        references.append({"apiVersion": "v1", "kind": "Service", "name": name, "uid": made["metadata"]["uid"]})
    world.create(kinds.CONFIG_MAP, "child", metadata={"ownerReferences": references})
    await delete(world, kinds.SERVICE, "a", "Background")
    await world.converge()
    assert [ref.name for ref in world.get(kinds.CONFIG_MAP, "child").metadata.owner_references] == ["b"]
    await delete(world, kinds.SERVICE, "b", "Background")
    await world.converge()
    assert world.get(kinds.CONFIG_MAP, "child") is None


@pytest.mark.parametrize("kind", [kinds.CONFIG_MAP, kinds.SECRET, kinds.INGRESS], ids=lambda kind: kind.name)
async def test_any_kind_may_own(world: World, kind: Any) -> None:
    more: dict[str, Any] = {}
    if kind is kinds.INGRESS:
        more["spec"] = {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}
    owner = world.create(kind, "owner", **more)
    reference = {
        "apiVersion": kind.api_version, "kind": kind.name, "name": "owner", "uid": owner["metadata"]["uid"],
    }  # fmt: skip
    world.create(kinds.CONFIG_MAP, "child", metadata={"ownerReferences": [reference]})
    await world.settle()
    assert world.get(kinds.CONFIG_MAP, "child") is not None
    await delete(world, kind, "owner", "Background")
    await world.settle()
    assert world.get(kinds.CONFIG_MAP, "child") is None


async def test_a_child_of_an_owner_that_is_not_there_goes(world: World) -> None:
    reference = {"apiVersion": "v1", "kind": "Service", "name": "never", "uid": "no-such"}
    world.create(kinds.CONFIG_MAP, "child", metadata={"ownerReferences": [reference]})
    await world.settle()
    assert world.get(kinds.CONFIG_MAP, "child") is None


async def test_a_terminating_namespace_empties_and_goes(world: World) -> None:
    world.create(kinds.NAMESPACE, "demo")
    await world.settle()
    spec = {"replicas": 2, "selector": {"matchLabels": LABELS}, "template": template(LABELS)}
    world.create(kinds.DEPLOYMENT, "web", spec, namespace="demo")
    world.create(kinds.CONFIG_MAP, "held", metadata={"finalizers": ["example.com/hold"]}, namespace="demo")
    await world.converge()
    assert await world.api.list(kinds.EVENT, "demo")
    await world.api.delete(kinds.NAMESPACE, "", "demo")
    await world.converge()
    assert world.get(kinds.NAMESPACE, "demo").status.phase == "Terminating"
    assert world.get(kinds.CONFIG_MAP, "held", "demo") is not None
    world.patch(kinds.CONFIG_MAP, "held", {"metadata": {"finalizers": None}}, namespace="demo")
    await world.converge()
    assert world.get(kinds.NAMESPACE, "demo") is None
    for kind in kinds.ALL:
        if kind.namespaced:
            assert await world.api.list(kind, "demo") == [], kind.name


async def test_every_namespace_has_an_account_and_the_authority(world: World) -> None:
    world.create(kinds.NAMESPACE, "demo")
    await world.settle()
    assert world.get(kinds.SERVICE_ACCOUNT, "default", "demo") is not None
    await world.api.delete(kinds.CONFIG_MAP, "demo", "kube-root-ca.crt")
    await world.settle()
    assert world.get(kinds.CONFIG_MAP, "kube-root-ca.crt", "demo").data == {"ca.crt": "PEM"}


async def test_nodes_get_pod_ranges_that_do_not_meet(world: World) -> None:
    await world.settle()
    ranges = {n.spec.pod_cidr for n in world.view.nodes.values()}
    assert ranges == {"10.200.0.0/24", "10.200.1.0/24", "10.200.2.0/24"}
    await world.api.delete(kinds.NODE, "", "node-1")
    world.add_node("late")
    await world.settle()
    assert world.get(kinds.NODE, "late").spec.pod_cidr == "10.200.1.0/24"
    assert world.get(kinds.NODE, "late").spec.pod_cidrs == ("10.200.1.0/24",)


async def test_ranges_run_out(world: World) -> None:
    (change,) = housekeeping.pod_cidr(world.view, Key("", "node-0"), "10.200.0.0/24", 24).changes
    assert not isinstance(change, Record)
    await world.settle()
    world.add_node("more")
    (change,) = housekeeping.pod_cidr(world.view, Key("", "more"), "10.200.0.0/23", 24).changes
    assert isinstance(change, Record)
    assert (change.reason, change.type) == ("CIDRNotAvailable", "Warning")


async def test_a_range_of_another_size_is_not_given_twice(world: World) -> None:
    await world.settle()
    world.create(kinds.NODE, "big", {"podCIDR": "10.200.4.0/22", "podCIDRs": ["10.200.4.0/22"]})
    for index in range(3):
        world.add_node(f"late-{index}")
    await world.settle()
    assert [world.get(kinds.NODE, f"late-{i}").spec.pod_cidr for i in range(3)] == [
        "10.200.3.0/24", "10.200.8.0/24", "10.200.9.0/24",
    ]  # fmt: skip
