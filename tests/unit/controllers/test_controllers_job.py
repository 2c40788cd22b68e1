"""Jobs: completions, failures, deadlines, indexes, suspension, expiry."""

from __future__ import annotations

from typing import Any

from controllers_world import World, template

from glassnet.kube import kinds

INDEX = "batch.kubernetes.io/job-completion-index"


def job(world: World, **spec: Any) -> None:
    pod = template({"app": "job"}, restartPolicy=spec.pop("restartPolicy", "Never"))
    world.create(kinds.JOB, "job", {"template": pod, **spec})


def living(world: World) -> list[Any]:
    return [p for p in world.pods() if not p.finished()]


def condition(world: World, type: str) -> tuple[str, str] | None:
    found = next((c for c in world.get(kinds.JOB, "job").status.conditions if c.type == type), None)
    return (found.status, found.reason) if found else None


async def test_completes_after_so_many_successes(world: World) -> None:
    job(world, completions=3, parallelism=2)
    await world.converge()
    assert len(living(world)) == 2
    world.finish(living(world)[0], "Succeeded")
    await world.converge()
    assert len(living(world)) == 2
    for pod in living(world):
        world.finish(pod, "Succeeded")
    await world.converge()
    status = world.get(kinds.JOB, "job").status
    assert (status.succeeded, status.failed, status.active) == (3, 0, 0)
    assert condition(world, "Complete") == ("True", "CompletionsReached")
    assert condition(world, "SuccessCriteriaMet") == ("True", "CompletionsReached")
    assert status.completion_time == world.time
    assert status.start_time == world.time


async def test_fails_beyond_its_backoff_limit(world: World) -> None:
    job(world, backoffLimit=2)
    for _ in range(3):
        await world.converge()
        (pod,) = living(world)
        world.finish(pod, "Failed")
        await world.settle()
        world.later(400)
    await world.converge()
    assert condition(world, "Failed") == ("True", "BackoffLimitExceeded")
    assert condition(world, "FailureTarget") == ("True", "BackoffLimitExceeded")
    assert living(world) == []
    assert world.get(kinds.JOB, "job").status.failed == 3


async def test_waits_longer_after_each_failure(world: World) -> None:
    job(world, backoffLimit=6)
    await world.converge()
    for wait in (10, 20, 40):
        (pod,) = living(world)
        world.finish(pod, "Failed")
        await world.settle()
        world.later(wait - 1)
        await world.converge()
        assert living(world) == []
        world.later(2)
        await world.converge()
        assert len(living(world)) == 1


async def test_indexed_pods_know_their_index_and_each_index_succeeds_once(world: World) -> None:
    job(world, completions=3, parallelism=3, completionMode="Indexed")
    await world.converge()
    assert sorted(p.metadata.annotations[INDEX] for p in living(world)) == ["0", "1", "2"]
    first = next(p for p in living(world) if p.metadata.annotations[INDEX] == "1")
    assert first.metadata.labels[INDEX] == "1"
    assert first.spec.hostname == "job-1"
    assert {e.name: e.value for e in first.spec.containers[0].env}["JOB_COMPLETION_INDEX"] == "1"
    world.finish(first, "Failed")
    await world.settle()
    world.later(11)
    await world.converge()
    assert sorted(p.metadata.annotations[INDEX] for p in living(world)) == ["0", "1", "2"]
    world.finish(next(p for p in living(world) if p.metadata.annotations[INDEX] == "0"), "Succeeded")
    await world.settle()
    assert world.whole(kinds.JOB, "job")["status"]["completedIndexes"] == "0"
    for pod in living(world):
        world.finish(pod, "Succeeded")
    await world.converge()
    assert condition(world, "Complete") == ("True", "CompletionsReached")
    assert world.whole(kinds.JOB, "job")["status"]["completedIndexes"] == "0-2"


async def test_deadline(world: World) -> None:
    job(world, activeDeadlineSeconds=60)
    await world.converge()
    world.later(61)
    await world.converge()
    assert condition(world, "Failed") == ("True", "DeadlineExceeded")
    assert living(world) == []


async def test_suspend_and_resume(world: World) -> None:
    job(world, parallelism=2, completions=2)
    await world.converge()
    world.patch(kinds.JOB, "job", {"spec": {"suspend": True}})
    await world.converge()
    assert living(world) == []
    assert condition(world, "Suspended") == ("True", "JobSuspended")
    world.patch(kinds.JOB, "job", {"spec": {"suspend": False}})
    await world.converge()
    assert len(living(world)) == 2
    assert condition(world, "Suspended") == ("False", "JobResumed")


async def test_expires_with_its_pods(world: World) -> None:
    job(world, ttlSecondsAfterFinished=30)
    await world.converge()
    world.finish(living(world)[0], "Succeeded")
    await world.converge()
    world.later(29)
    await world.converge()
    assert world.get(kinds.JOB, "job") is not None
    world.later(2)
    await world.converge()
    assert world.get(kinds.JOB, "job") is None
    assert world.pods() == []
