"""When is a lab up? Pure: which pods are Ready, which have settled in another state, and why."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from glassnet.kube.types import ContainerStatus, Pod

# A pod whose containers have run this long without becoming Ready (after its probes' own initial delay) is taken for settled.
PATIENCE = timedelta(seconds=5)


def waits(pods: Iterable[Pod], now: datetime) -> list[Pod]:
    """Pods that are neither Ready nor finished nor settled."""
    return [pod for pod in pods if not (pod.ready() or pod.finished() or settled(pod, now))]


def unready(pods: Iterable[Pod]) -> list[tuple[str, str]]:
    """(namespace/name, reason in words) of every pod that is neither Ready nor Succeeded."""
    return [
        (f"{pod.metadata.namespace}/{pod.metadata.name}", why(pod))
        for pod in pods
        if not pod.ready() and pod.status.phase != "Succeeded"
    ]


def settled(pod: Pod, now: datetime) -> bool:
    """True when waiting longer for the pod will hardly change what it says of itself."""
    scheduled = next((c for c in pod.status.conditions if c.type == "PodScheduled"), None)
    if scheduled and scheduled.status == "False" and scheduled.last_transition_time:
        return now - scheduled.last_transition_time > PATIENCE
    statuses = pod.status.init_container_statuses + pod.status.container_statuses
    if any(_stuck(status) for status in statuses):
        return True
    delay = max((c.readiness_probe.initial_delay_seconds for c in pod.spec.containers if c.readiness_probe), default=0)
    started = [_started(status) for status in pod.status.container_statuses]
    return bool(started) and all(at is not None and now - at > PATIENCE + timedelta(seconds=delay) for at in started)


def why(pod: Pod) -> str:
    """The reason a pod is not Ready, as short as kubectl would say it."""
    for status in pod.status.init_container_statuses + pod.status.container_statuses:
        for state in ("waiting", "terminated"):
            if found := status.state.get(state):
                text = f"container {status.name}: {found.get('reason', state)}"
                last = status.last_state.get("terminated") or (found if state == "terminated" else {})
                if "exitCode" in last:
                    text += f" (exit code {last['exitCode']}{', ' + last['message'].strip() if last.get('message') else ''})"
                return text
    for kind in ("PodScheduled", "Initialized", "Ready"):
        condition = next((c for c in pod.status.conditions if c.type == kind and c.status != "True"), None)
        if condition and (condition.message or condition.reason):
            return condition.message or condition.reason
    return pod.status.phase


def _stuck(status: ContainerStatus) -> bool:
    reason = status.state.get("waiting", {}).get("reason", "")
    return reason not in ("", "ContainerCreating", "PodInitializing")


def _started(status: ContainerStatus) -> datetime | None:
    text = status.state.get("running", {}).get("startedAt")
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
