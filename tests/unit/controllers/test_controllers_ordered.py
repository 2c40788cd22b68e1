"""DaemonSets and StatefulSets."""

from __future__ import annotations

from typing import Any

import pytest
from controllers_world import World, template

from glassnet.kube import kinds

LABELS = {"app": "web"}


def images(world: World) -> dict[str, str]:
    return {p.metadata.name: p.spec.containers[0].image for p in world.pods()}


def daemons(world: World, image: str = "a:1", **more: Any) -> None:
    pod = more.pop("pod", {})
    spec = {"selector": {"matchLabels": LABELS}, "template": template(LABELS, image, **pod), **more}
    world.create(kinds.DAEMON_SET, "web", spec)


def stateful(world: World, replicas: int = 3, image: str = "a:1", **more: Any) -> None:
    spec = {
        "replicas": replicas, "serviceName": "web", "selector": {"matchLabels": LABELS},
        "template": template(LABELS, image), **more,
    }  # fmt: skip
    world.create(kinds.STATEFUL_SET, "web", spec)


def nodes(world: World) -> list[str]:
    return sorted(p.spec.node_name for p in world.pods())


async def test_a_daemon_on_every_node_also_on_one_that_comes_later(world: World) -> None:
    daemons(world)
    await world.converge()
    assert nodes(world) == ["node-0", "node-1", "node-2"]
    world.add_node("node-3")
    await world.converge()
    assert nodes(world) == ["node-0", "node-1", "node-2", "node-3"]
    status = world.get(kinds.DAEMON_SET, "web").status
    assert (status.desired_number_scheduled, status.number_ready, status.updated_number_scheduled) == (4, 4, 4)
    assert (status.number_available, status.number_misscheduled) == (4, 0)


async def test_daemons_follow_node_labels(world: World) -> None:
    daemons(world, pod={"nodeSelector": {"role": "edge"}})
    await world.converge()
    assert nodes(world) == []
    world.patch(kinds.NODE, "node-1", {"metadata": {"labels": {"role": "edge"}}}, namespace="")
    await world.converge()
    assert nodes(world) == ["node-1"]
    world.patch(kinds.NODE, "node-1", {"metadata": {"labels": {"role": None}}}, namespace="")
    await world.converge()
    assert nodes(world) == []


async def test_daemons_bear_cordons_and_stay_through_no_schedule(world: World) -> None:
    world.patch(kinds.NODE, "node-0", {"spec": {"unschedulable": True}}, namespace="")
    daemons(world)
    await world.converge()
    assert nodes(world) == ["node-0", "node-1", "node-2"]
    before = {p.metadata.uid for p in world.pods()}
    taint = {"key": "k", "effect": "NoSchedule"}
    world.patch(kinds.NODE, "node-1", {"spec": {"taints": [taint]}}, namespace="")
    await world.converge()
    assert {p.metadata.uid for p in world.pods()} == before
    world.patch(kinds.NODE, "node-1", {"spec": {"taints": [{**taint, "effect": "NoExecute"}]}}, namespace="")
    await world.converge()
    assert nodes(world) == ["node-0", "node-2"]


@pytest.mark.parametrize(("most", "least"), [(1, 2), (2, 1), ("50%", 1)])
async def test_daemons_roll_few_at_a_time(world: World, most: Any, least: int) -> None:
    daemons(world, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}})
    await world.converge()
    world.patch(kinds.DAEMON_SET, "web", {"spec": {"template": template(LABELS, "a:2")}})
    up: list[int] = []
    await world.converge(lambda: up.append(sum(p.ready() for p in world.pods())))
    assert min(up) == least
    assert set(images(world).values()) == {"a:2"}


async def test_on_delete_waits_for_the_user(world: World) -> None:
    daemons(world, updateStrategy={"type": "OnDelete"})
    await world.converge()
    world.patch(kinds.DAEMON_SET, "web", {"spec": {"template": template(LABELS, "a:2")}})
    await world.converge()
    assert set(images(world).values()) == {"a:1"}
    world.view_delete(world.pods()[0])
    await world.converge()
    assert sorted(images(world).values()) == ["a:1", "a:1", "a:2"]


async def test_daemons_that_wait_to_be_available_roll_in_the_end(world: World) -> None:
    daemons(world, minReadySeconds=30)
    await world.converge()
    assert world.get(kinds.DAEMON_SET, "web").status.number_available == 0
    world.later(31)
    await world.converge()
    assert world.get(kinds.DAEMON_SET, "web").status.number_available == 3


async def test_stateful_pods_come_one_after_the_other_and_go_backwards(world: World) -> None:
    stateful(world)
    seen: list[tuple[str, ...]] = []

    def look() -> None:
        names = tuple(images(world))
        if not seen or seen[-1] != names:
            seen.append(names)

    await world.converge(look)
    world.patch(kinds.STATEFUL_SET, "web", {"spec": {"replicas": 1}})
    await world.converge(look)
    assert [len(names) for names in seen if names] == [1, 2, 3, 2, 1]
    assert seen[-1] == ("web-0",)
    labels = world.get(kinds.POD, "web-0").metadata.labels
    assert labels["statefulset.kubernetes.io/pod-name"] == "web-0"
    assert labels["apps.kubernetes.io/pod-index"] == "0"
    spec = world.get(kinds.POD, "web-0").spec
    assert (spec.hostname, spec.subdomain) == ("web-0", "web")


async def test_a_stateful_pod_that_is_not_ready_holds_the_next(world: World) -> None:
    stateful(world)
    await world.settle()
    assert list(images(world)) == ["web-0"]


async def test_parallel_makes_all_at_once(world: World) -> None:
    stateful(world, podManagementPolicy="Parallel")
    await world.settle()
    assert list(images(world)) == ["web-0", "web-1", "web-2"]


async def test_start_ordinal(world: World) -> None:
    stateful(world, ordinals={"start": 5})
    await world.converge()
    assert list(images(world)) == ["web-5", "web-6", "web-7"]


async def test_stateful_update_from_the_top_down_to_the_partition(world: World) -> None:
    stateful(world, updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 1}})
    await world.converge()
    world.patch(kinds.STATEFUL_SET, "web", {"spec": {"template": template(LABELS, "a:2")}})
    await world.converge()
    assert images(world) == {"web-0": "a:1", "web-1": "a:2", "web-2": "a:2"}
    status = world.get(kinds.STATEFUL_SET, "web").status
    assert status.current_revision != status.update_revision
    assert (status.updated_replicas, status.current_replicas) == (2, 1)
    world.patch(kinds.STATEFUL_SET, "web", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})
    await world.converge()
    assert set(images(world).values()) == {"a:2"}
    status = world.get(kinds.STATEFUL_SET, "web").status
    assert status.current_revision == status.update_revision
    assert (status.updated_replicas, status.current_replicas) == (3, 3)


async def test_a_failed_stateful_pod_is_made_again_under_its_name(world: World) -> None:
    stateful(world)
    await world.converge()
    uid = world.get(kinds.POD, "web-1").metadata.uid
    world.finish(world.get(kinds.POD, "web-1"), "Failed")
    await world.converge()
    assert world.get(kinds.POD, "web-1").metadata.uid != uid
    assert len(world.pods()) == 3


async def test_stateful_pods_that_wait_to_be_available_go_on_in_time(world: World) -> None:
    stateful(world, replicas=2, minReadySeconds=30)
    await world.converge()
    assert list(images(world)) == ["web-0"]
    world.later(31)
    await world.converge()
    assert list(images(world)) == ["web-0", "web-1"]
