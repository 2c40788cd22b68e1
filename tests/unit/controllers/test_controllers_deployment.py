"""Deployments: rollouts that keep within their limits, revisions, conditions as `kubectl rollout status` reads them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from controllers_world import World, template

from glassnet.controllers.deployment import share
from glassnet.kube import kinds
from glassnet.kube.types import Workload

LABELS = {"app": "web"}
REVISION = "deployment.kubernetes.io/revision"


def web(world: World, replicas: int = 4, image: str = "nginx:1", **spec: Any) -> None:
    world.create(
        kinds.DEPLOYMENT,
        "web",
        {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template(LABELS, image), **spec},
    )


def set_image(world: World, image: str) -> None:
    world.patch(kinds.DEPLOYMENT, "web", {"spec": {"template": template(LABELS, image)}})


def sets(world: World) -> list[Workload]:
    return sorted(world.view.replica_sets.values(), key=lambda rs: int(rs.metadata.annotations[REVISION]))


def images(world: World) -> list[str]:
    return sorted(pod.spec.containers[0].image for pod in world.pods())


def condition(world: World, type: str) -> tuple[str, str]:
    found = next(c for c in world.get(kinds.DEPLOYMENT, "web").status.conditions if c.type == type)
    return found.status, found.reason


@pytest.mark.parametrize(
    ("value", "total", "up", "down"),
    [("25%", 10, 3, 2), ("25%", 4, 1, 1), ("25%", 1, 1, 0), ("0%", 7, 0, 0), ("100%", 3, 3, 3), (2, 9, 2, 2)],
)
def test_percentages_round_surge_up_and_unavailable_down(value: Any, total: int, up: int, down: int) -> None:
    assert (share(value, total, up=True), share(value, total, up=False)) == (up, down)


async def test_a_deployment_comes_up_complete(world: World) -> None:
    web(world)
    await world.converge()
    deployment = world.get(kinds.DEPLOYMENT, "web")
    status = deployment.status
    assert (status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas) == (4, 4, 4, 4)
    assert status.observed_generation == deployment.metadata.generation
    assert condition(world, "Available") == ("True", "MinimumReplicasAvailable")
    assert condition(world, "Progressing") == ("True", "NewReplicaSetAvailable")
    assert deployment.metadata.annotations[REVISION] == "1"
    (rs,) = sets(world)
    digest = rs.metadata.labels["pod-template-hash"]
    assert rs.metadata.name == f"web-{digest}"
    assert all(pod.metadata.labels["pod-template-hash"] == digest for pod in world.pods())


@pytest.mark.parametrize(
    ("surge", "unavailable", "most", "least"),
    [("25%", "25%", 5, 3), (1, 0, 5, 4), (0, 1, 4, 3), ("50%", "50%", 6, 2), (4, 0, 8, 4)],
)
async def test_a_rolling_update_keeps_its_limits(
    world: World, surge: Any, unavailable: Any, most: int, least: int
) -> None:
    web(world, strategy={"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
    await world.converge()
    set_image(world, "nginx:2")
    seen: list[tuple[int, int]] = []

    def look() -> None:
        pods = world.pods()
        seen.append((len(pods), sum(pod.ready() for pod in pods)))

    await world.converge(look)
    assert max(total for total, _ in seen) <= most
    assert min(ready for _, ready in seen) >= least
    assert images(world) == ["nginx:2"] * 4
    assert [rs.spec.replicas for rs in sets(world)] == [0, 4]
    assert world.get(kinds.DEPLOYMENT, "web").metadata.annotations[REVISION] == "2"


async def test_a_bad_image_stops_the_rollout_at_its_limits(world: World) -> None:
    web(world)
    await world.converge()
    set_image(world, "broken")
    await world.settle()
    assert sum(pod.ready() for pod in world.pods()) == 3
    assert images(world).count("broken") == 2
    world.later(601)
    await world.settle()
    assert condition(world, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert condition(world, "Available") == ("True", "MinimumReplicasAvailable")


async def test_a_rollout_long_after_creation_has_its_whole_deadline(world: World) -> None:
    web(world)
    await world.converge()
    world.later(86400)
    set_image(world, "nginx:2")
    await world.settle()
    world.later(300)
    await world.settle()
    assert condition(world, "Progressing") == ("True", "ReplicaSetUpdated")
    world.later(301)
    await world.settle()
    assert condition(world, "Progressing") == ("False", "ProgressDeadlineExceeded")
    await world.converge()
    assert condition(world, "Progressing") == ("True", "NewReplicaSetAvailable")


async def test_progress_starts_the_deadline_anew(world: World) -> None:
    web(world, replicas=2, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
    await world.converge()
    world.later(10)
    set_image(world, "nginx:2")
    await world.settle()
    world.later(500)
    world.ready(next(pod for pod in world.pods() if not pod.ready()))
    await world.settle()
    world.later(500)
    await world.settle()
    assert condition(world, "Progressing") == ("True", "ReplicaSetUpdated")


async def test_recreate_lets_old_pods_go_first(world: World) -> None:
    web(world, strategy={"type": "Recreate"})
    await world.converge()
    set_image(world, "nginx:2")
    mixed: list[set[str]] = []
    await world.converge(lambda: mixed.append(set(images(world))))
    assert all(len(both) <= 1 for both in mixed)
    assert images(world) == ["nginx:2"] * 4


async def test_a_paused_deployment_scales_but_does_not_roll(world: World) -> None:
    web(world)
    await world.converge()
    world.patch(kinds.DEPLOYMENT, "web", {"spec": {"paused": True}})
    set_image(world, "nginx:2")
    world.patch(kinds.DEPLOYMENT, "web", {"spec": {"replicas": 6}})
    await world.converge()
    assert images(world) == ["nginx:1"] * 6
    assert condition(world, "Progressing") == ("Unknown", "DeploymentPaused")
    world.patch(kinds.DEPLOYMENT, "web", {"spec": {"paused": None}})
    await world.converge()
    assert images(world) == ["nginx:2"] * 6


async def test_scaling_during_a_rollout_keeps_the_proportions(world: World) -> None:
    web(world, replicas=10, strategy={"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}})
    await world.converge()
    set_image(world, "broken")
    await world.settle()
    assert [rs.spec.replicas for rs in sets(world)] == [8, 5]
    world.patch(kinds.DEPLOYMENT, "web", {"spec": {"replicas": 15}})
    await world.settle()
    # the documentation's own example: 3 of the 5 further replicas go to the old ReplicaSet, 2 to the new one
    assert [rs.spec.replicas for rs in sets(world)] == [11, 7]


async def test_going_back_to_an_old_template_reuses_its_replica_set(world: World) -> None:
    web(world)
    await world.converge()
    first = sets(world)[0].metadata.name
    set_image(world, "nginx:2")
    await world.converge()
    set_image(world, "nginx:1")
    await world.converge()
    assert sets(world)[-1].metadata.name == first
    assert sets(world)[-1].metadata.annotations[REVISION] == "3"
    assert len(sets(world)) == 2


async def test_history_keeps_its_limit(world: World) -> None:
    web(world, revisionHistoryLimit=2)
    await world.converge()
    for number in range(2, 7):
        set_image(world, f"nginx:{number}")
        await world.converge()
    assert [rs.metadata.annotations[REVISION] for rs in sets(world)] == ["4", "5", "6"]


async def test_scale_to_zero_and_back(world: World) -> None:
    web(world)
    await world.converge()
    for size in (0, 3):
        world.patch(kinds.DEPLOYMENT, "web", {"spec": {"replicas": size}})
        await world.converge()
        assert len(world.pods()) == size
    assert condition(world, "Progressing") == ("True", "NewReplicaSetAvailable")


async def test_min_ready_seconds_make_pods_wait(world: World) -> None:
    web(world, minReadySeconds=30)
    await world.converge()
    assert world.get(kinds.DEPLOYMENT, "web").status.ready_replicas == 4
    assert condition(world, "Available") == ("False", "MinimumReplicasUnavailable")
    world.later(31)
    await world.converge()
    assert condition(world, "Available") == ("True", "MinimumReplicasAvailable")


async def test_a_settled_world_is_left_alone(world: World) -> None:
    web(world)
    await world.converge()
    before = world.get(kinds.DEPLOYMENT, "web").metadata.resource_version
    world.later(3600)
    world.plane._queue.add(("deployment", kinds.DEPLOYMENT, next(iter(world.view.deployments)), ""))
    await world.settle()
    assert world.get(kinds.DEPLOYMENT, "web").metadata.resource_version == before


@pytest.mark.parametrize("seed", range(8))
async def test_limits_hold_when_pods_become_ready_one_by_one(world: World, seed: int) -> None:
    chance = Random(seed)
    replicas = chance.randint(1, 9)
    surge, unavailable = chance.choice([(1, 0), (0, 1), (2, 1), ("30%", "30%"), ("100%", 0), (0, "60%"), (3, 5)])
    web(world, replicas, strategy={"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
    await world.converge()
    most = replicas + share(surge, replicas, up=True)
    floor = share(unavailable, replicas, up=False) or (0 if most > replicas else 1)

    def look() -> None:
        assert len(world.pods()) <= most
        assert sum(pod.ready() for pod in world.pods()) >= replicas - floor

    for image in ("nginx:2", "nginx:3"):
        set_image(world, image)
        for _ in range(chance.randint(1, 4) if image == "nginx:2" else 100):
            await world.settle(look)
            for pod in [p for p in world.view.pods.values() if p.metadata.deletion_timestamp and chance.random() < 0.7]:
                world.view_delete(pod)
            waiting = [p for p in world.pods() if p.spec.node_name and not p.ready()]
            if waiting:
                world.ready(chance.choice(waiting))
    await world.converge(look)
    assert images(world) == ["nginx:3"] * replicas
