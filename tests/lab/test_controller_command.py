"""`glassnet controller` as a cluster runs it: several processes, one API server over HTTPS, one Lease."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller_processes import Candidate, condition, make_node, make_nodes, until
from served_api import ServedApi

DURATION = 2  # seconds; a Lease counts in whole ones


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path)
    yield served
    served.close()


@pytest.fixture
def candidate(api: ServedApi) -> Iterator[Callable[..., Candidate]]:
    made: list[Candidate] = []

    def make(name: str, *words: str) -> Candidate:
        made.append(Candidate(api, name, *words))
        return made[-1]

    yield make
    for each in made:
        each.end()


def lease(api: ServedApi) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        api.run("-n", "kube-system", "get", "lease", "glassnet-controller", "-o", "json")
    )
    return found["spec"]


def patches(one: Candidate) -> str:
    return next(line for line in one.get("/metrics")[1].splitlines() if 'patches_total{what="conditions"}' in line)


def events(api: ServedApi, name: str) -> list[tuple[str, str]]:
    found = json.loads(api.run("get", "events", "-o", "json", f"--field-selector=involvedObject.name={name}"))
    return sorted((each["type"], each["reason"]) for each in found["items"])


def test_conditions_are_set_change_with_the_node_and_are_put_right(
    api: ServedApi, candidate: Callable[..., Candidate]
) -> None:
    make_node(api, "well", ["10.200.0.0/24"])
    make_node(api, "bare", [], "10.240.0.21")
    make_node(api, "lost", ["10.200.2.0/24"], "")
    one = candidate("one")
    until(lambda: condition(api, "well")[:2] == ("False", "RouteCreated"))
    assert "10.200.0.0/24 are reached by way of 10.240.0.20" in condition(api, "well")[2]
    until(lambda: condition(api, "bare")[:2] == ("True", "NoPodCIDR"))
    until(lambda: condition(api, "lost")[:2] == ("True", "NoAddress"))
    until(lambda: events(api, "bare") == [("Warning", "NoPodCIDR")])
    assert events(api, "well") == []
    make_node(api, "late", ["10.200.0.128/25"], "10.240.0.23")
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
    make_node(api, "n1", ["10.200.1.0/24"])
    until(lambda: condition(api, "n1")[0] == "False")
    assert not two.leads()
    one.process.kill()
    killed = time.monotonic()
    assert lease(api)["holderIdentity"] == "one"
    until(two.leads)
    assert DURATION - 1.2 - 0.3 < time.monotonic() - killed < DURATION + 3
    assert (lease(api)["holderIdentity"], lease(api)["leaseTransitions"]) == ("two", 1)
    make_node(api, "n2", ["10.200.2.0/24"])
    until(lambda: condition(api, "n2")[0] == "False")
    three = candidate("three", "--log-format=json")
    until(lambda: three.get("/readyz")[0] == 200)
    two.end()
    ended = time.monotonic()
    assert "is given back" in two.log.read_text()
    until(three.leads)
    assert time.monotonic() - ended < DURATION - 0.5
    assert lease(api)["leaseTransitions"] == 2
    three.end()
    said = [json.loads(line)["message"] for line in three.log.read_text().splitlines()]
    assert said[-1] == "ended: SIGTERM"
    assert "waiting: lease kube-system/glassnet-controller is held by two" in said


def test_a_leader_that_was_stopped_does_not_write_when_it_wakes(
    api: ServedApi, candidate: Callable[..., Candidate]
) -> None:
    one = candidate("one")
    until(one.leads)
    two = candidate("two")
    until(lambda: two.get("/readyz")[0] == 200)
    make_nodes(api, "early", 8)  # so that connections are open: what is to be written goes out at once
    until(lambda: all(condition(api, f"early{number}")[0] == "False" for number in range(8)))
    before = patches(one)
    one.process.send_signal(signal.SIGSTOP)
    until(two.leads)
    two.end()  # nobody else can be the one who writes
    api.run("-n", "kube-system", "patch", "lease", "glassnet-controller", "--type=merge", "-p", '{"spec": {"holderIdentity": "stranger", "leaseDurationSeconds": 3600}}')  # fmt: skip
    make_nodes(api, "late", 8)
    one.process.send_signal(signal.SIGCONT)
    until(lambda: one.get("/readyz") == (200, "waiting for stranger\n"))
    assert [condition(api, f"late{number}") for number in range(8)] == [("", "", "")] * 8
    assert "not leading any more" in one.log.read_text()
    assert 'leader_election_master_status{name="glassnet-controller"} 0.0' in one.get("/metrics")[1]
    assert patches(one) == before
