"""A pod's table row: readiness, the status that kubectl shows, restarts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from glassnet.apiserver.schema.text import age, duration, parse_time

Obj = dict[str, Any]
POD_COLUMNS = (
    ("Name", "string", False), ("Ready", "string", False), ("Status", "string", False), ("Restarts", "string", False), ("Age", "string", False),
    ("IP", "string", True), ("Node", "string", True), ("Nominated Node", "string", True), ("Readiness Gates", "string", True),
)  # fmt: skip


def POD(obj: Obj, now: datetime) -> list[Any]:
    """The cells of one pod."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    sidecars = _sidecars(spec)
    ready, total = _ready(status, sidecars), len(spec.get("containers") or ()) + len(sidecars)
    addresses = [entry.get("ip") for entry in status.get("podIPs") or ()] or [status.get("podIP")]
    gates = spec.get("readinessGates") or []
    met = {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}
    shown_gates = f"{sum(g['conditionType'] in met for g in gates)}/{len(gates)}" if gates else "<none>"
    return [
        obj["metadata"]["name"], f"{ready}/{total}", reason(obj), _restarts(_counted(spec, status), now), age(obj, now),
        addresses[0] or "<none>", spec.get("nodeName") or "<none>", status.get("nominatedNodeName") or "<none>", shown_gates,
    ]  # fmt: skip


def reason(obj: Obj) -> str:
    """The STATUS column."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    text = status.get("reason") or status.get("phase") or ""
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            text = "SchedulingGated"
    text = _init_reason(spec, status) or text
    if _past_init(spec, status):
        text = _container_reason(status, text)
    if obj["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in ("Succeeded", "Failed"):
            return "Terminating"
    return text


def _sidecars(spec: Obj) -> set[str]:
    """Init containers that go on running count as containers."""
    return {c["name"] for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}


def _past_init(spec: Obj, status: Obj) -> bool:
    """True once the main containers speak for the pod, also when an init container runs again after a node's restart."""
    met = any(c["type"] == "Initialized" and c.get("status") == "True" for c in status.get("conditions") or ())
    return met or not _init_reason(spec, status)


def _ready(status: Obj, sidecars: set[str]) -> int:
    first = [s for s in status.get("initContainerStatuses") or () if s.get("name") in sidecars and s.get("started")]
    main = [s for s in status.get("containerStatuses") or () if "running" in (s.get("state") or {})]
    return sum(bool(state.get("ready")) for state in [*first, *main])


def _counted(spec: Obj, status: Obj) -> list[Obj]:
    """Whose restarts count: the init containers' while they run, then the sidecars' and the main ones'."""
    first = status.get("initContainerStatuses") or []
    if not _past_init(spec, status):
        return first
    sidecars = _sidecars(spec)
    return [*(state for state in first if state.get("name") in sidecars), *(status.get("containerStatuses") or ())]


def _init_reason(spec: Obj, status: Obj) -> str:
    sidecars = _sidecars(spec)
    states = status.get("initContainerStatuses") or []
    for index, state in enumerate(states):
        now_is = state.get("state") or {}
        ended = now_is.get("terminated")
        if ended and not ended.get("exitCode"):
            continue
        if state.get("name") in sidecars and state.get("started"):
            continue
        if ended:
            if ended.get("reason"):
                return f"Init:{ended['reason']}"
            return f"Init:Signal:{ended['signal']}" if ended.get("signal") else f"Init:ExitCode:{ended.get('exitCode')}"
        waiting = now_is.get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] != "PodInitializing":
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{len(spec.get('initContainers') or ())}"
    return ""


def _container_reason(status: Obj, text: str) -> str:
    running = False
    for state in reversed(status.get("containerStatuses") or []):
        now_is = state.get("state") or {}
        waiting, ended = now_is.get("waiting") or {}, now_is.get("terminated") or {}
        if waiting.get("reason"):
            text = waiting["reason"]
        elif ended:
            text = ended.get("reason") or (
                f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode')}"
            )
        elif state.get("ready") and now_is.get("running"):
            running = True
    if text == "Completed" and running:
        ready = any(c["type"] == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
        return "Running" if ready else "NotReady"
    return text


def _restarts(states: list[Obj], now: datetime) -> str:
    total = sum(state.get("restartCount") or 0 for state in states)
    ends = [((state.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for state in states]
    last = max((end for end in ends if end), key=parse_time, default="")
    return f"{total} ({duration(last, None, now)} ago)" if total and last else str(total)
