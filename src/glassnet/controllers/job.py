"""Job: pods until enough of them have succeeded. Source: Kubernetes documentation, "Jobs"."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from glassnet.controllers.pods import claim, deletion_order, from_template
from glassnet.controllers.result import NOTHING, Result, condition, record, time_text
from glassnet.kube import kinds, selectors
from glassnet.kube.change import Change, Delete, Patch
from glassnet.kube.types import Job, Pod
from glassnet.kube.view import Key, View

INDEX, SOURCE = "batch.kubernetes.io/job-completion-index", "job-controller"
FIRST_WAIT, LONGEST_WAIT = 10.0, 600.0  # seconds


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """One Job."""
    job = view.get(kinds.JOB, key)
    if job is None or job.metadata.deletion_timestamp:
        return NOTHING
    ended = next((c for c in job.status.conditions if c.type in ("Complete", "Failed") and c.status == "True"), None)
    if ended:
        return _expire(job, now)
    mine, changes = claim(view, kinds.JOB, job.metadata, selectors.of(job.spec.selector))
    active = [pod for pod in mine if not pod.finished() and pod.metadata.deletion_timestamp is None]
    failed = sum(pod.status.phase == "Failed" for pod in mine) + sum(
        s.restart_count
        for pod in active
        for s in pod.status.container_statuses
        if pod.spec.restart_policy == "OnFailure"
    )
    done = _succeeded(job, mine)
    start = job.status.start_time or (None if job.spec.suspend else now)
    verdict = _verdict(job, done, failed, active, start, now)
    status: dict[str, Any] = {"failed": sum(pod.status.phase == "Failed" for pod in mine), "succeeded": done}
    if job.spec.completion_mode == "Indexed":
        status["completedIndexes"] = _ranges(_indexes(mine))
    wait = 0.0
    if verdict:
        kind, reason, text = verdict
        changes += [_gone(pod) for pod in active]
        active = []
        conditions = (
            [condition((), "SuccessCriteriaMet", "True", reason, text, now)]
            if kind == "Complete"
            else [condition((), "FailureTarget", "True", reason, text, now)]
        )
        conditions.append(condition((), kind, "True", reason, text, now))
        status["conditions"] = [*_suspension(job, now), *conditions]
        if kind == "Complete":
            status["completionTime"] = time_text(now)
        changes.append(
            record(
                kinds.JOB,
                job.metadata,
                "Completed" if kind == "Complete" else reason,
                text or "Job completed",
                SOURCE,
                "Normal" if kind == "Complete" else "Warning",
            )
        )
    else:
        wait = _wait(mine, now)
        started, more = _start(job, mine, active, done, wait)
        changes += more
        changes += [_gone(pod) for pod in active] if job.spec.suspend else []
        status["conditions"] = _suspension(job, now)
        active = [] if job.spec.suspend else active
        status["active"] = len(active) + started
    status.setdefault("active", 0)
    status["ready"] = sum(pod.ready() for pod in active)
    if start:
        status["startTime"] = time_text(start)
    deadline = None if verdict else _deadline(job, start, now)
    return Result([*changes, *_patch(job, status)], min(filter(None, (deadline, wait)), default=None))


def _succeeded(job: Job, pods: list[Pod]) -> int:
    good = [pod for pod in pods if pod.status.phase == "Succeeded"]
    return len(_indexes(pods)) if job.spec.completion_mode == "Indexed" else len(good)


def _indexes(pods: list[Pod]) -> list[int]:
    """Indexes that have succeeded, in order."""
    found = {p.metadata.annotations.get(INDEX, "") for p in pods if p.status.phase == "Succeeded"}
    return sorted(int(index) for index in found if index.isdigit())


def _ranges(numbers: list[int]) -> str:
    """Numbers in order as text, runs shortened: 1,3-5,7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _wait(pods: list[Pod], now: datetime) -> float:
    """Seconds until a further pod may be started: 10 after a failure, twice as many after each further one, 600 at most."""
    ends = [(_ended_at(pod), pod.status.phase == "Failed") for pod in pods if pod.finished()]
    success = max((end for end, failed in ends if not failed and end), default=None)
    failures = [end for end, failed in ends if failed and end and (success is None or end > success)]
    if not failures:
        return 0.0
    delay = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (len(failures) - 1))
    return max(0.0, delay - (now - max(failures)).total_seconds())


def _ended_at(pod: Pod) -> datetime | None:
    """When the last of its containers ended; failing that, when it ceased to be Ready, or was made."""
    ends = [
        datetime.fromisoformat(str(end).replace("Z", "+00:00"))
        for status in pod.status.container_statuses
        if (end := status.state.get("terminated", {}).get("finishedAt"))
    ]
    ready = next((c.last_transition_time for c in pod.status.conditions if c.type == "Ready"), None)
    return max(ends, default=ready or pod.metadata.creation_timestamp)


def _suspension(job: Job, now: datetime) -> list[dict[str, Any]]:
    if job.spec.suspend:
        return [condition(job.status.conditions, "Suspended", "True", "JobSuspended", "Job suspended", now)]
    if any(c.type == "Suspended" for c in job.status.conditions):
        return [condition(job.status.conditions, "Suspended", "False", "JobResumed", "Job resumed", now)]
    return []


def _verdict(
    job: Job, done: int, failed: int, active: list[Pod], start: datetime | None, now: datetime
) -> tuple[str, str, str] | None:
    spec = job.spec
    if failed > spec.backoff_limit:
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if (
        spec.active_deadline_seconds is not None
        and start
        and (now - start).total_seconds() >= spec.active_deadline_seconds
    ):
        return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
    if spec.completions is None:
        return (
            ("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
            if done and not active
            else None
        )
    if done >= spec.completions:
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    return None


def _start(job: Job, pods: list[Pod], active: list[Pod], done: int, wait: float) -> tuple[int, list[Change]]:
    """(pods started less pods ended, changes) to come to the parallelism asked for; with `wait` none is started yet."""
    if job.spec.suspend:
        return 0, []
    left = (
        job.spec.parallelism if job.spec.completions is None else min(job.spec.parallelism, job.spec.completions - done)
    )
    if job.spec.completions is None and done:
        left = len(active)
    if len(active) > left:
        surplus = deletion_order(active)[: len(active) - left]
        return -len(surplus), [_gone(pod) for pod in surplus]
    missing = 0 if wait else left - len(active)
    if job.spec.completion_mode != "Indexed":
        return missing, [from_template(kinds.JOB, job.metadata, job.spec.template) for _ in range(missing)]
    taken = {pod.metadata.annotations.get(INDEX) for pod in pods if pod.status.phase == "Succeeded" or pod in active}
    free = [str(i) for i in range(job.spec.completions or 0) if str(i) not in taken][:missing]
    return len(free), [_indexed(job, index) for index in free]


def _indexed(job: Job, index: str) -> Change:
    template = {**job.spec.template, "spec": dict(job.spec.template.get("spec") or {})}
    variable = {"name": "JOB_COMPLETION_INDEX", "value": index}
    template["spec"]["containers"] = [
        {**c, "env": [*(c.get("env") or []), variable]} for c in template["spec"].get("containers") or ()
    ]
    template["spec"]["hostname"] = f"{job.metadata.name}-{index}"
    return from_template(
        kinds.JOB,
        job.metadata,
        template,
        generateName=f"{job.metadata.name}-{index}-",
        annotations={INDEX: index},
        labels={INDEX: index},
    )


def _patch(job: Job, status: dict[str, Any]) -> list[Change]:
    old = job.status
    said = {(c.type, c.status) for c in old.conditions}
    same = (old.active, old.ready, old.succeeded, old.failed) == tuple(
        status[f] for f in ("active", "ready", "succeeded", "failed")
    )
    if (
        same
        and said == {(c["type"], c["status"]) for c in status.get("conditions", ())}
        and old.completed_indexes == status.get("completedIndexes", "")
        and (old.start_time or "startTime" not in status)
    ):
        return []
    body = {name: (None if value in (0, "") and name != "ready" else value) for name, value in status.items()}
    return [Patch(kinds.JOB, job.metadata.namespace, job.metadata.name, {"status": body}, "status")]


def _deadline(job: Job, start: datetime | None, now: datetime) -> float | None:
    if job.spec.active_deadline_seconds is None or start is None or job.spec.suspend:
        return None
    return max(0.1, job.spec.active_deadline_seconds - (now - start).total_seconds())


def _expire(job: Job, now: datetime) -> Result:
    ttl = job.spec.ttl_seconds_after_finished
    if ttl is None:
        return NOTHING
    end = next((c.last_transition_time for c in job.status.conditions if c.type in ("Complete", "Failed")), None) or now
    left = ttl - (now - end).total_seconds()
    if left > 0:
        return Result([], left)
    return Result([Delete(kinds.JOB, job.metadata.namespace, job.metadata.name, job.metadata.uid)])


def _gone(pod: Pod) -> Delete:
    return Delete(kinds.POD, pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
