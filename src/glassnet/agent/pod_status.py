"""A pod's status from the states of its containers, pure. Source: Kubernetes documentation, "Pod Lifecycle"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from glassnet.kube.types import Container, Pod


def stamp(moment: datetime) -> str:
    """A time as the API writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class ContainerState:
    """What the kubelet knows of one container. `state` and `last` are as in a ContainerStatus."""

    ready: bool = False
    started: bool = False
    restarts: int = 0
    id: str = ""
    state: dict[str, Any] = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it has not."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])


def compute(
    pod: Pod,
    states: Mapping[str, ContainerState],
    pod_ip: str,
    host_ip: str,
    start: datetime,
    now: datetime,
    sandbox_ready: bool,
) -> dict[str, Any]:
    """The status to be shown; conditions keep their transition times while they say the same."""
    spec = pod.spec
    inits = [(c, states[c.name]) for c in spec.init_containers if c.name in states]
    mains = [(c, states[c.name]) for c in spec.containers if c.name in states]
    initialized = all(_init_done(c, s) for c, s in inits) and len(inits) == len(spec.init_containers)
    phase = _phase(pod, inits, mains, initialized)
    unready = [c.name for c, s in mains if not s.ready]
    done = phase in ("Succeeded", "Failed")
    ready = initialized and not unready and not done and bool(mains)
    ended = (
        {"reason": "PodCompleted"} if phase == "Succeeded" else {"reason": "PodFailed"} if phase == "Failed" else None
    )
    waiting = ended or {
        "reason": "ContainersNotReady",
        "message": f"containers with unready status: [{' '.join(unready)}]",
    }
    incomplete = [c.name for c, s in inits if not _init_done(c, s)]
    wanted = [
        ("PodReadyToStartContainers", sandbox_ready, {}),
        (
            "Initialized",
            initialized,
            ended
            if ended and not incomplete
            else {
                "reason": "ContainersNotInitialized",
                "message": f"containers with incomplete status: [{' '.join(incomplete)}]",
            },
        ),
        ("Ready", ready, waiting),
        ("ContainersReady", ready, waiting),
    ]
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": _conditions(pod, wanted, now),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": stamp(start),
        "containerStatuses": [_container_status(c, s) for c, s in mains],
    }
    if inits:
        status["initContainerStatuses"] = [_container_status(c, s) for c, s in inits]
    if pod_ip:
        status |= {"podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}
    return status


def _init_done(container: Container, state: ContainerState) -> bool:
    if container.restart_policy == "Always":
        return state.started
    return state.exit_code == 0


def _phase(
    pod: Pod,
    inits: Sequence[tuple[Container, ContainerState]],
    mains: Sequence[tuple[Container, ContainerState]],
    initialized: bool,
) -> str:
    policy = pod.spec.restart_policy
    if policy == "Never" and any(s.exit_code not in (None, 0) for c, s in inits if c.restart_policy != "Always"):
        return "Failed"
    if not initialized or not mains:
        return "Pending"
    codes = [s.exit_code for _, s in mains]
    never_ran = [not s.running and s.exit_code is None and not s.last for _, s in mains]
    if any(never_ran):
        return "Pending"
    if policy != "Always" and all(code is not None for code in codes):
        if all(code == 0 for code in codes):
            return "Succeeded"
        if policy == "Never":
            return "Failed"
    return "Running"


def _conditions(pod: Pod, wanted: Sequence[tuple[str, bool, dict[str, str]]], now: datetime) -> list[dict[str, Any]]:
    old = {c.type: c for c in pod.status.conditions}
    out: list[dict[str, Any]] = []
    for kind, good, why in wanted:
        text = "True" if good else "False"
        before = old.pop(kind, None)
        moved = before.last_transition_time if before and before.status == text else None
        reason = why if not good or why.get("reason") == "PodCompleted" else {}
        out.append(
            {"type": kind, "status": text, "lastProbeTime": None, "lastTransitionTime": stamp(moved or now), **reason}
        )
    for rest in old.values():
        shown: dict[str, Any] = {"type": rest.type, "status": rest.status, "lastProbeTime": None}
        if rest.last_transition_time:
            shown["lastTransitionTime"] = stamp(rest.last_transition_time)
        out.append(
            shown | {name: value for name, value in (("reason", rest.reason), ("message", rest.message)) if value}
        )
    return out


def _container_status(container: Container, state: ContainerState) -> dict[str, Any]:
    shown = {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": state.ready,
        "started": state.started,
        "restartCount": state.restarts,
        "state": state.state,
        "lastState": state.last,
    }
    if state.id:
        shown["containerID"] = state.id
    return shown


def crash_delay(restarts: int) -> int:
    """Seconds before the next restart: none the first time, then 10 doubling to 300."""
    return 0 if restarts == 0 else min(300, 10 * 2 ** (restarts - 1))


def terminated(code: int, reason: str, message: str, started: datetime, now: datetime, id: str) -> dict[str, Any]:
    """A `terminated` state."""
    out: dict[str, Any] = {"exitCode": code, "reason": reason, "startedAt": stamp(started), "finishedAt": stamp(now)}
    if message:
        out["message"] = message
    if id:
        out["containerID"] = id
    return {"terminated": out}
