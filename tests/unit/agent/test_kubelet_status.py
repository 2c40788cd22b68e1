"""Pod status as a table: container states in, phase and conditions out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from glassnet.agent.pods import pod_status
from glassnet.agent.pods.pod_status import ContainerState
from glassnet.kube import kinds
from glassnet.kube.types import Pod, decode

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def state(kind: str) -> ContainerState:
    ended = {"terminated": {"exitCode": int(kind[1:])}} if kind[1:].isdigit() else {}
    match kind[0]:
        case "w":
            return ContainerState()
        case "r":
            return ContainerState(ready="!" not in kind, started=True, state={"running": {}})
        case "x":
            return ContainerState(state=ended)
        case "b":  # in back-off after an end
            return ContainerState(state={"waiting": {"reason": "CrashLoopBackOff"}}, last=ended, restarts=1)
    raise ValueError(kind)


def compute(policy: str, mains: str, inits: str = "", old: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """`mains` and `inits` such as "r x0 b1 w"; a sidecar among the inits has an "s" in front."""
    names = [f"c{n}" for n, _ in enumerate(mains.split())]
    init_names = [f"i{n}" for n, _ in enumerate(inits.split())]
    spec = {
        "restartPolicy": policy,
        "containers": [{"name": name} for name in names],
        "initContainers": [
            {"name": name, **({"restartPolicy": "Always"} if word[0] == "s" else {})}
            for name, word in zip(init_names, inits.split(), strict=True)
        ],
    }
    pod: Pod = decode(
        kinds.POD, json.dumps({"metadata": {"name": "p"}, "spec": spec, "status": {"conditions": old or []}})
    )
    words = [*mains.split(), *(word.removeprefix("s") for word in inits.split())]
    states = {name: state(word) for name, word in zip([*names, *init_names], words, strict=True)}
    return pod_status.compute(pod, states, ["10.200.0.2"], ["10.240.0.20"], NOW, NOW, True)


@pytest.mark.parametrize(
    ("policy", "mains", "inits", "phase", "initialized", "ready"),
    [
        ("Always", "w", "", "Pending", True, False),
        ("Always", "r", "", "Running", True, True),
        ("Always", "r w", "", "Pending", True, False),
        ("Always", "r r!", "", "Running", True, False),
        ("Always", "x0", "", "Running", True, False),
        ("Always", "b1", "", "Running", True, False),
        ("OnFailure", "x0 r", "", "Running", True, False),
        ("OnFailure", "x0 x0", "", "Succeeded", True, False),
        ("OnFailure", "x0 x1", "", "Running", True, False),
        ("OnFailure", "x0 b1", "", "Running", True, False),
        ("Never", "x0 x1", "", "Failed", True, False),
        ("Never", "x0 x0", "", "Succeeded", True, False),
        ("Never", "x1 r", "", "Running", True, False),
        ("Always", "w", "w", "Pending", False, False),
        ("Always", "w", "r", "Pending", False, False),
        ("Always", "w", "b1", "Pending", False, False),
        ("Always", "r", "x0 x0", "Running", True, True),
        ("Never", "w", "x1", "Failed", False, False),
        ("OnFailure", "w", "x1", "Pending", False, False),
        ("Always", "w", "sr x0", "Pending", True, False),
        ("Always", "r", "sr", "Running", True, True),
        ("Always", "r", "sr!", "Running", True, False),
        ("Always", "r", "sb1", "Running", True, False),
        ("Never", "x0", "sx0", "Succeeded", True, False),
    ],
)
def test_phases(policy: str, mains: str, inits: str, phase: str, initialized: bool, ready: bool) -> None:
    status = compute(policy, mains, inits)
    conditions = {c["type"]: c["status"] == "True" for c in status["conditions"]}
    assert (status["phase"], conditions["Initialized"], conditions["Ready"]) == (phase, initialized, ready)
    assert conditions["ContainersReady"] is ready


def test_conditions_keep_their_times_and_others_their_place() -> None:
    before = "2026-01-01T00:00:00Z"
    old = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": before},
        {"type": "Ready", "status": "False", "lastTransitionTime": before},
        {"type": "Initialized", "status": "True", "lastTransitionTime": before},
    ]
    conditions = {c["type"]: c for c in compute("Always", "r", old=old)["conditions"]}
    assert list(conditions) == ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    times = {name: c["lastTransitionTime"] for name, c in conditions.items()}
    assert times["Initialized"] == times["PodScheduled"] == before and times["Ready"] == "2026-01-02T03:04:05Z"
    assert "reason" not in conditions["Ready"]


def test_words() -> None:
    conditions = {c["type"]: c for c in compute("Always", "r! w r", "sr! x0")["conditions"]}
    assert conditions["Ready"]["message"] == "containers with unready status: [i0 c0 c1]"
    conditions = {c["type"]: c for c in compute("Always", "w", "x0 r w")["conditions"]}
    assert conditions["Initialized"]["message"] == "containers with incomplete status: [i1 i2]"


@pytest.mark.parametrize(
    ("crashes", "seconds"),
    [(0, 0), (1, 0), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (8, 300), (99, 300)],
)
def test_back_off(crashes: int, seconds: int) -> None:
    assert pod_status.crash_delay(crashes) == seconds
