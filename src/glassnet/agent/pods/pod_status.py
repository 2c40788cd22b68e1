"""A pod's status from the states of its containers, pure.

Source: Kubernetes documentation, "Pod Lifecycle" and "Init Containers"; condition reasons and messages as its kubelet writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

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
    crashes: int = 0  # ends since the last long run: what the back-off goes by
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


class Ended(NamedTuple):
    """Why a pod as a whole has failed, whatever its containers say."""

    reason: str
    message: str


def compute(
    pod: Pod,
    states: Mapping[str, ContainerState],
    pod_ips: Sequence[str],
    host_ips: Sequence[str],
    start: datetime,
    now: datetime,
    sandbox_ready: bool,
    failure: Ended | None = None,
) -> dict[str, Any]:
    """The status to be shown; conditions keep their transition times while they say the same."""
    inits = [(c, states[c.name]) for c in pod.spec.init_containers if c.name in states]
    mains = [(c, states[c.name]) for c in pod.spec.containers if c.name in states]
    # once a container has run the init containers are behind it, even while a sidecar is being restarted
    initialized = all(_init_done(c, s) for c, s in inits) or any(_ever_ran(s) for _, s in mains)
    phase = "Failed" if failure else _phase(pod, inits, mains, initialized)
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": _conditions(pod, _wanted(pod, phase, inits, mains, initialized, sandbox_ready), now),
        "hostIP": host_ips[0],
        "hostIPs": [{"ip": ip} for ip in host_ips],
        "startTime": stamp(start),
        "containerStatuses": [_container_status(c, s) for c, s in mains],
    }
    if inits:
        status["initContainerStatuses"] = [_container_status(c, s) for c, s in inits]
    if pod_ips:
        status |= {"podIP": pod_ips[0], "podIPs": [{"ip": ip} for ip in pod_ips]}
    if failure:
        status |= {"reason": failure.reason, "message": failure.message}
    return status


_Pairs = Sequence[tuple[Container, ContainerState]]
_Wanted = tuple[str, bool, dict[str, str]]


def _wanted(
    pod: Pod, phase: str, inits: _Pairs, mains: _Pairs, initialized: bool, sandbox_ready: bool
) -> list[_Wanted]:
    """The kubelet's conditions: (type, holds, reason and message)."""
    unready = [c.name for c, s in inits if c.restart_policy == "Always" and not s.ready]
    unready += [c.name for c, s in mains if not s.ready]
    incomplete = [] if initialized else [c.name for c, s in inits if not _init_done(c, s)]
    done = {"Succeeded": {"reason": "PodCompleted"}, "Failed": {"reason": "PodFailed"}}.get(phase)
    containers_ready = not unready and done is None
    why = done or _because("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    gates = _closed_gates(pod)
    ready_why = why if not containers_ready else _because("ReadinessGatesNotReady", ", ".join(gates))
    not_initialized = _because(
        "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(incomplete)}]"
    )
    return [
        ("PodReadyToStartContainers", sandbox_ready, {}),
        ("Initialized", initialized, done if done and initialized else not_initialized),
        ("Ready", containers_ready and not gates, ready_why),
        ("ContainersReady", containers_ready, why),
    ]


def _because(reason: str, message: str) -> dict[str, str]:
    return {"reason": reason, "message": message}


def _closed_gates(pod: Pod) -> list[str]:
    """What keeps a pod's readiness gates closed, in words."""
    there = {c.type: c.status for c in pod.status.conditions}
    out = []
    for gate in pod.spec.readiness_gates:
        name = gate.get("conditionType", "")
        if name not in there:
            out.append(f'corresponding condition of pod readiness gate "{name}" does not exist.')
        elif there[name] != "True":
            out.append(f'the status of pod readiness gate "{name}" is not "True", but {there[name]}')
    return out


def _init_done(container: Container, state: ContainerState) -> bool:
    if container.restart_policy == "Always":
        return state.started
    return state.exit_code == 0


def _ever_ran(state: ContainerState) -> bool:
    return state.running or state.exit_code is not None or bool(state.last)


def _phase(pod: Pod, inits: _Pairs, mains: _Pairs, initialized: bool) -> str:
    policy = pod.spec.restart_policy
    if policy == "Never" and any(s.exit_code not in (None, 0) for c, s in inits if c.restart_policy != "Always"):
        return "Failed"
    if not initialized or not mains or not all(_ever_ran(s) for _, s in mains):
        return "Pending"
    codes = [s.exit_code for _, s in mains]
    if policy != "Always" and all(code is not None for code in codes):
        if all(code == 0 for code in codes):
            return "Succeeded"
        if policy == "Never":
            return "Failed"
    return "Running"


def _conditions(pod: Pod, wanted: Sequence[_Wanted], now: datetime) -> list[dict[str, Any]]:
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
        "imageID": container.image if state.id else "",
        "ready": state.ready,
        "started": state.started,
        "restartCount": state.restarts,
        "state": state.state,
        "lastState": state.last,
    }
    if state.id:
        shown["containerID"] = state.id
    return shown


def crash_delay(crashes: int) -> int:
    """Seconds before the next start after so many ends: none after the first, then 10 doubling to 300."""
    return 0 if crashes <= 1 else min(300, 10 * 2 ** min(crashes - 2, 5))


def phase_at_end(states: Iterable[ContainerState]) -> str:
    """The phase of a pod that has been stopped: Failed when a container says so or was never heard of."""
    return "Succeeded" if all(state.exit_code in (0, None) for state in states) else "Failed"


def terminated(code: int, reason: str, message: str, started: datetime, now: datetime, id: str) -> dict[str, Any]:
    """A `terminated` state."""
    out: dict[str, Any] = {"exitCode": code, "reason": reason, "startedAt": stamp(started), "finishedAt": stamp(now)}
    if message:
        out["message"] = message
    if id:
        out["containerID"] = id
    return {"terminated": out}
