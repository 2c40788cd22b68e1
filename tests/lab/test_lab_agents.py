"""The lab's proxies and routes know of objects what the API server tells them over HTTPS, and stand its absence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Lab

pytestmark = pytest.mark.lab
AGENT = "system:serviceaccount:glassnet-system:glassnet-agent"
RESOURCES = {"services", "endpointslices", "nodes", "servicecidrs"}
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.32.0.8, selector: {app: web}, ports: [{port: 80}]}
"""
NODE = {
    "apiVersion": "v1", "kind": "Node", "metadata": {"name": "stranger"}, "spec": {"podCIDR": "10.200.99.0/24", "unschedulable": True},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.240.0.99"}]},
}  # fmt: skip
CUT = """
table ip cut {
    chain output {
        type filter hook output priority 0;
        tcp dport 6443 reject with tcp reset
    }
}
"""
VIRTUAL, LATE = "10.32.0.8", "10.32.0.9"  # of the range that is never handed out by itself


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab with a Service, brought up where a proxy for HTTP is set that does not exist."""
    file = tmp_path_factory.mktemp("manifests") / "web.yaml"
    file.write_text(WEB)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        made = make_lab("--nodes", "2", "-f", str(file))
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        made.env.pop(name)
    return made


def curl(lab: Lab, address: str, node: str = "worker-1") -> str:
    """One request, not tried again."""
    return lab.node(node, "curl", "-s", "-m", "3", f"http://{address}", check=False)


def until(what: str, condition: Callable[[], Any]) -> None:
    """Wait for something, 60 s at most: a watch that broke several times is begun anew ever later."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def at_home(lab: Lab, *words: str, stdin: str = "") -> str:
    """Run a command in the network namespace of the lab's own process, where its agents reach the API."""
    pid = json.loads((Path(lab.env["GLASSNET_STATE"]) / lab.name / "process.json").read_text())["pid"]
    user = ["-U", "--preserve-credentials"] if os.geteuid() else []
    done = subprocess.run(
        ["nsenter", "-t", str(pid), *user, "-n", *words],
        input=stdin, capture_output=True, text=True, check=False, timeout=20, env=lab.env,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout


def watches(lab: Lab) -> dict[tuple[str, str], int]:
    """(user, resource) -> watches the API server has open."""
    text = lab.kubectl("get", "--raw", "/metrics")
    found = re.findall(r'^apiserver_longrunning_requests\{.*resource="(\w+)",user="(.*)"\} (\d+)$', text, re.MULTILINE)
    return {(user, resource): int(count) for resource, user, count in found}


def standing(lab: Lab, field: str) -> dict[str, Any]:
    """One field of how the agents' watches stand, by resource."""
    report = json.loads(lab.glassnet("status", "-o", "json").stdout)[0]
    return {watch["resource"].split(".")[0]: watch[field] for watch in report["watches"]}


def cut(lab: Lab) -> None:
    """From now on the agents do not reach the API server: what they begin is refused, what they have is broken off."""
    at_home(lab, "nft", "-f", "-", stdin=CUT)
    break_off(lab)


def break_off(lab: Lab) -> None:
    """End the agents' connections to the API server, on both sides."""
    at_home(lab, "ss", "-K", "-tn", "dport", "=", "6443", "or", "sport", "=", "6443")


def mend(lab: Lab) -> None:
    at_home(lab, "nft", "delete", "table", "ip", "cut")


def test_the_first_request_after_up_is_answered(lab: Lab) -> None:
    # before anything else is done with the lab, and once
    assert "nginx" in curl(lab, VIRTUAL)


def test_one_watch_of_each_kind_serves_all_nodes_and_it_is_the_agents_own(lab: Lab) -> None:
    want = {(AGENT, resource): 1 for resource in RESOURCES}
    until(f"{watches(lab)} are to become {want}", lambda: watches(lab) == want)
    assert standing(lab, "synced") == dict.fromkeys(RESOURCES, True)
    sockets = at_home(lab, "ss", "-Htn", "state", "established", "dport", "=", "6443").splitlines()
    assert len(sockets) >= len(RESOURCES)  # TCP connections they are, and no calls


def test_events_of_proxies_are_written_over_https(lab: Lab) -> None:
    for name in ("first", "second"):
        lab.kubectl("create", "service", "clusterip", name, "--tcp", "80")
        lab.kubectl("patch", "service", name, "-p", '{"spec":{"externalIPs":["203.0.113.9"]}}')

    def found() -> list[dict[str, Any]]:
        words = ("get", "events", "--field-selector", "reason=AddressConflict", "-o", "json", "--show-managed-fields")
        return list(json.loads(lab.kubectl(*words))["items"])

    until("an Event", found)
    # fields have owners where a write came over HTTP
    assert {entry["manager"] for event in found() for entry in event["metadata"]["managedFields"]} == {"glassnet"}


def test_without_the_api_rules_and_routes_stay_and_what_was_missed_comes_when_it_is_back(lab: Lab) -> None:
    def route(pods: str) -> str:
        return lab.host("vpc-router", "ip", "route", "show", pods)

    cut(lab)
    try:
        lab.kubectl("expose", "deployment", "web", "--name", "late", "--port", "80", "--cluster-ip", LATE)
        until("endpoints of `late`", lambda: "10.200." in lab.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=late"))  # fmt: skip
        lab.kubectl("create", "-f", "-", stdin=json.dumps(NODE))
        lab.kubectl("replace", "--subresource", "status", "-f", "-", stdin=json.dumps(NODE))
        before = standing(lab, "restarts")
        # each watch has found out that it is cut, and has tried in vain since the objects changed
        until("watches that break", lambda: all(n >= before[r] + 2 for r, n in standing(lab, "restarts").items()))
        assert lab.glassnet("status").stdout.count("agents: nothing heard of ") == len(RESOURCES)
        assert "nginx" in curl(lab, VIRTUAL)
        assert "10.240.0.21" in route("10.200.1.0/24")
        assert not curl(lab, LATE)
        assert "default/late" not in lab.node("worker-1", "iptables-save")
        assert not route("10.200.99.0/24")
    finally:
        mend(lab)
    until("the Service that came meanwhile", lambda: "nginx" in curl(lab, LATE))
    until("the route that came meanwhile", lambda: "10.240.0.99" in route("10.200.99.0/24"))
    lab.kubectl("delete", "service/late", "node/stranger")
    until("the Service's going", lambda: "default/late" not in lab.node("worker-1", "iptables-save"))
    until("the route's going", lambda: not route("10.200.99.0/24"))
    assert "nginx" in curl(lab, VIRTUAL)


def test_connections_killed_amid_changes_cost_nothing(lab: Lab) -> None:
    before = standing(lab, "restarts")
    for number in range(6):
        lab.kubectl("create", "service", "clusterip", f"s{number}", "--tcp", "80")
        break_off(lab)
        if number % 2:
            lab.kubectl("delete", "service", f"s{number - 1}")
    assert "nginx" in curl(lab, VIRTUAL)

    def programmed() -> set[int]:
        rules = lab.node("worker-0", "iptables-save")
        return {number for number in range(6) if f"default/s{number}" in rules}

    until("what is left of six Services", lambda: programmed() == {1, 3, 5})
    until("watches begun anew", lambda: all(n > before[r] for r, n in standing(lab, "restarts").items()))
    until("watches again", lambda: watches(lab) == {(AGENT, resource): 1 for resource in RESOURCES})


def test_a_lab_that_was_killed_comes_back_with_rules_for_all_it_had(lab: Lab) -> None:
    process = json.loads((Path(lab.env["GLASSNET_STATE"]) / lab.name / "process.json").read_text())
    os.kill(process["pid"], signal.SIGKILL)
    until("the end of the killed lab", lambda: "was killed" in lab.glassnet("status").stdout)
    lab.glassnet("up", "--dns", "none", "--nodes", "2")
    assert "nginx" in curl(lab, VIRTUAL)
    assert "10.240.0.21" in lab.host("vpc-router", "ip", "route", "show", "10.200.1.0/24")
