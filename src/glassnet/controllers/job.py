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
        status["conditions"] = conditions
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
        started, more = _start(job, mine, active, done)
        changes += more
        changes += [_gone(pod) for pod in active] if job.spec.suspend else []
        status["conditions"] = (
            [condition(job.status.conditions, "Suspended", "True", "JobSuspended", "Job suspended", now)]
            if job.spec.suspend
            else []
        )
        active = [] if job.spec.suspend else active
        status["active"] = len(active) + started
    status.setdefault("active", 0)
    status["ready"] = sum(pod.ready() for pod in active)
    if start:
        status["startTime"] = time_text(start)
    return Result([*changes, *_patch(job, status)], _deadline(job, start, now))


def _succeeded(job: Job, pods: list[Pod]) -> int:
    good = [pod for pod in pods if pod.status.phase == "Succeeded"]
    if job.spec.completion_mode == "Indexed":
        return len({pod.metadata.annotations.get(INDEX) for pod in good})
    return len(good)


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


def _start(job: Job, pods: list[Pod], active: list[Pod], done: int) -> tuple[int, list[Change]]:
    """(pods started less pods ended, changes) to come to the parallelism asked for."""
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
    missing = left - len(active)
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
    said = {c.type for c in old.conditions if c.status == "True"}
    same = (old.active, old.ready, old.succeeded, old.failed) == tuple(
        status[f] for f in ("active", "ready", "succeeded", "failed")
    )
    if (
        same
        and said == {c["type"] for c in status.get("conditions", ())}
        and (old.start_time or "startTime" not in status)
    ):
        return []
    body = {name: (None if value == 0 and name != "ready" else value) for name, value in status.items()}
    return [Patch(kinds.JOB, job.metadata.namespace, job.metadata.name, {"status": body}, "status")]


def _deadline(job: Job, start: datetime | None, now: datetime) -> float | None:
    if job.spec.active_deadline_seconds is None or start is None:
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
