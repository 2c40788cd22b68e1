"""Slices of hand-written Endpoints."""

from __future__ import annotations

from typing import Any

import pytest
from controllers_world import World

from glassnet.kube import kinds
from glassnet.kube.types import EndpointSlice
from glassnet.kube.view import Key

SUBSETS = [
    {
        "addresses": [{"ip": "203.0.113.7"}, {"ip": "203.0.113.8", "hostname": "b"}],
        "notReadyAddresses": [{"ip": "203.0.113.9"}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    },
    {"addresses": [{"ip": "2001:db8::1"}], "ports": [{"name": "http", "port": 9090, "protocol": "TCP"}]},
]


def slices(world: World, name: str = "ext") -> list[EndpointSlice]:
    return sorted(world.view.slices_of(Key("default", name)), key=lambda s: s.address_type)


async def written(world: World, **metadata: Any) -> None:
    world.create(kinds.SERVICE, "ext", {"ports": [{"name": "http", "port": 80}]})
    world.create(kinds.ENDPOINTS, "ext", subsets=SUBSETS, metadata=metadata)
    await world.settle()


async def test_each_subset_and_family_becomes_a_slice(world: World) -> None:
    await written(world, labels={"team": "a"})
    four, six = slices(world)
    assert [(e.addresses, e.conditions.ready, e.hostname) for e in four.endpoints] == [
        (("203.0.113.7",), True, ""), (("203.0.113.8",), True, "b"), (("203.0.113.9",), False, ""),
    ]  # fmt: skip
    assert [(p.name, p.port, p.protocol) for p in four.ports or ()] == [("http", 8080, "TCP")]
    assert four.metadata.labels == {
        "team": "a",
        "kubernetes.io/service-name": "ext",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    assert [(r.kind, r.name) for r in four.metadata.owner_references] == [("Endpoints", "ext")]
    assert (six.address_type, six.endpoints[0].addresses) == ("IPv6", ("2001:db8::1",))
    assert world.get(kinds.ENDPOINTS, "ext").subsets[0] == SUBSETS[0]


async def test_follows_changes_with_one_write_and_then_rests(world: World) -> None:
    await written(world)
    names = [s.metadata.name for s in slices(world)]
    world.patch(kinds.ENDPOINTS, "ext", {"subsets": [{**SUBSETS[0], "notReadyAddresses": None}, SUBSETS[1]]})
    await world.settle()
    assert [s.metadata.name for s in slices(world)] == names
    assert len(slices(world)[0].endpoints) == 2
    version = world.server.store.revision
    world.plane._queue.add(("mirror", kinds.SERVICE, Key("default", "ext"), ""))
    await world.settle()
    assert world.server.store.revision == version


async def test_goes_with_its_source_or_when_the_service_gets_a_selector(world: World) -> None:
    await written(world)
    await world.api.delete(kinds.ENDPOINTS, "default", "ext")
    await world.settle()
    assert slices(world) == []
    world.create(kinds.ENDPOINTS, "ext", subsets=SUBSETS)
    await world.settle()
    assert len(slices(world)) == 2
    world.patch(kinds.SERVICE, "ext", {"spec": {"selector": {"app": "x"}}})
    await world.settle()
    assert [s.metadata.labels["endpointslice.kubernetes.io/managed-by"] for s in slices(world)] == [
        "endpointslice-controller.k8s.io"
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        {"annotations": {"control-plane.alpha.kubernetes.io/leader": "x"}},
    ],
    ids=["skip", "leader"],
)
async def test_some_are_not_mirrored(world: World, metadata: dict[str, Any]) -> None:
    await written(world, **metadata)
    assert slices(world) == []


async def test_the_api_s_own_service_is_left_alone(world: World) -> None:
    world.create(kinds.SERVICE, "kubernetes", {"ports": [{"name": "https", "port": 443}]})
    world.create(kinds.ENDPOINTS, "kubernetes", subsets=SUBSETS)
    await world.settle()
    assert slices(world, "kubernetes") == []
