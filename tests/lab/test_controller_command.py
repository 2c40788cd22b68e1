"""`glassnet controller` as a cluster runs it: several processes, one API server over HTTPS, one Lease."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import GLASSNET
from served_api import ServedApi

DURATION = 2  # seconds; a Lease counts in whole ones
QUICK = ("--leader-elect-lease-duration=2s", "--leader-elect-renew-deadline=1.2s", "--leader-elect-retry-period=300ms")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path)
    yield served
    served.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Candidate:
    """A controller's process."""

    def __init__(self, api: ServedApi, name: str, *words: str) -> None:
        self.name, self.port = name, free_port()
        self.log = api.directory / f"{name}.log"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [GLASSNET, "controller", "--kubeconfig", api.env["KUBECONFIG"], "--bind-address", f"127.0.0.1:{self.port}", "--leader-elect-identity", name, *QUICK, *words],
                env=api.env, stderr=file,
            )  # fmt: skip

    def get(self, path: str) -> tuple[int, str]:
        """(status, body); (0, "") while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return 0, ""

    def leads(self) -> bool:
        body = self.get("/leaderz")[1]
        return bool(body) and bool(json.loads(body)["leading"])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture
def candidate(api: ServedApi) -> Iterator[Callable[..., Candidate]]:
    made: list[Candidate] = []

    def make(name: str, *words: str) -> Candidate:
        made.append(Candidate(api, name, *words))
        return made[-1]

    yield make
    for each in made:
        each.end()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
    return value


def node(api: ServedApi, name: str, cidrs: list[str], ip: str = "10.240.0.20") -> None:
    body = {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}] if ip else []},
    }  # fmt: skip
    api.run("create", "-f", "-", stdin=json.dumps(body))


def condition(api: ServedApi, name: str) -> tuple[str, str, str]:
    """(status, reason, message) of NetworkUnavailable."""
    found = json.loads(api.run("get", "node", name, "-o", "json"))
    each = next((c for c in found["status"].get("conditions", ()) if c["type"] == "NetworkUnavailable"), {})
    return each.get("status", ""), each.get("reason", ""), each.get("message", "")


def lease(api: ServedApi) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        api.run("-n", "kube-system", "get", "lease", "glassnet-controller", "-o", "json")
    )
    return found["spec"]


def events(api: ServedApi, name: str) -> list[tuple[str, str]]:
    found = json.loads(api.run("get", "events", "-o", "json", f"--field-selector=involvedObject.name={name}"))
    return sorted((each["type"], each["reason"]) for each in found["items"])


def test_conditions_are_set_change_with_the_node_and_are_put_right(
    api: ServedApi, candidate: Callable[..., Candidate]
) -> None:
    node(api, "well", ["10.200.0.0/24"])
    node(api, "bare", [], "10.240.0.21")
    node(api, "lost", ["10.200.2.0/24"], "")
    one = candidate("one")
    until(lambda: condition(api, "well")[:2] == ("False", "RouteCreated"))
    assert "10.200.0.0/24 via 10.240.0.20" in condition(api, "well")[2]
    until(lambda: condition(api, "bare")[:2] == ("True", "NoPodCIDR"))
    until(lambda: condition(api, "lost")[:2] == ("True", "NoAddress"))
    until(lambda: events(api, "bare") == [("Warning", "NoPodCIDR")])
    assert events(api, "well") == []
    node(api, "late", ["10.200.0.128/25"], "10.240.0.23")
    until(lambda: condition(api, "late")[:2] == ("True", "PodCIDROverlap"))
    assert "10.200.0.128/25 overlaps 10.200.0.0/24 of the older Node well" in condition(api, "late")[2]
    assert condition(api, "well")[0] == "False"  # its pods are there already
    api.run("delete", "node", "well")
    until(lambda: condition(api, "late")[:2] == ("False", "RouteCreated"))
    until(lambda: ("Normal", "RouteCreated") in events(api, "late"))
    api.run("patch", "node", "bare", "--type=merge", "-p", '{"spec": {"podCIDR": "10.200.9.0/24", "podCIDRs": ["10.200.9.0/24"]}}')  # fmt: skip
    until(lambda: condition(api, "bare")[:2] == ("False", "RouteCreated"))
    wrong = {"type": "NetworkUnavailable", "status": "True", "reason": "Stranger", "message": "I was here"}
    api.run("patch", "node", "bare", "--subresource=status", "--type=strategic", "-p", json.dumps({"status": {"conditions": [wrong]}}))  # fmt: skip
    until(lambda: condition(api, "bare")[:2] == ("False", "RouteCreated"))
    assert one.get("/readyz") == (200, "leading\n")
    assert 'glassnet_controller_nodes{reason="NoAddress"} 1.0' in one.get("/metrics")[1]


def test_the_killed_leader_is_succeeded_after_the_lease_and_one_that_ends_at_once(
    api: ServedApi, candidate: Callable[..., Candidate]
) -> None:
    one = candidate("one")
    until(one.leads)
    two = candidate("two")
    until(lambda: two.get("/readyz") == (200, "waiting for one\n"))
    node(api, "n1", ["10.200.1.0/24"])
    until(lambda: condition(api, "n1")[0] == "False")
    assert not two.leads()
    one.process.kill()
    killed = time.monotonic()
    assert lease(api)["holderIdentity"] == "one"
    until(two.leads)
    assert DURATION - 1.2 - 0.3 < time.monotonic() - killed < DURATION + 3
    assert (lease(api)["holderIdentity"], lease(api)["leaseTransitions"]) == ("two", 1)
    node(api, "n2", ["10.200.2.0/24"])
    until(lambda: condition(api, "n2")[0] == "False")
    three = candidate("three")
    until(lambda: three.get("/readyz")[0] == 200)
    two.end()
    ended = time.monotonic()
    assert "is given back" in two.log.read_text()
    until(three.leads)
    assert time.monotonic() - ended < DURATION - 0.5
    assert lease(api)["leaseTransitions"] == 2


def test_a_leader_that_was_stopped_does_not_write_when_it_wakes(
    api: ServedApi, candidate: Callable[..., Candidate]
) -> None:
    one = candidate("one")
    until(one.leads)
    two = candidate("two")
    until(lambda: two.get("/readyz")[0] == 200)
    one.process.send_signal(signal.SIGSTOP)
    until(two.leads)
    two.end()  # nobody else can be the one who writes
    api.run("-n", "kube-system", "patch", "lease", "glassnet-controller", "--type=merge", "-p", '{"spec": {"holderIdentity": "stranger", "leaseDurationSeconds": 3600}}')  # fmt: skip
    node(api, "n1", ["10.200.1.0/24"])
    one.process.send_signal(signal.SIGCONT)
    until(lambda: one.get("/readyz") == (200, "waiting for stranger\n"))
    assert condition(api, "n1") == ("", "", "")
    assert "not leading any more" in one.log.read_text()
    metrics = one.get("/metrics")[1]
    assert 'leader_election_master_status{name="glassnet-controller"} 0.0' in metrics
    assert 'glassnet_controller_patches_total{what="conditions"} 0.0' in metrics
