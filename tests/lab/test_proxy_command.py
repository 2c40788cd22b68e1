"""`glassnet proxy` as an operator runs it: on a machine of a lab that has no proxy yet, against the lab's API."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import GLASSNET, Lab

pytestmark = pytest.mark.kernel
NODE = "controller-0"


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab]) -> Lab:
    made = make_lab("--nodes", "1")
    made.kubectl("create", "deployment", "web", "--image=nginx", "--replicas=2")
    made.kubectl("expose", "deployment", "web", "--port", "80", "--type", "NodePort")
    made.kubectl("rollout", "status", "deployment", "web")
    return made


class Running:
    """The command on the machine."""

    def __init__(self, lab: Lab, *words: str) -> None:
        self.lab = lab
        self.process = subprocess.Popen(
            [GLASSNET, "node", NODE, "--", GLASSNET, "proxy", *words], env=lab.env, text=True, stderr=subprocess.PIPE
        )

    def get(self, url: str) -> str:
        """The body, once there is one."""
        for _ in range(200):
            body = self.lab.node(NODE, "curl", "-s", "-m", "2", url, check=False)
            if body:
                return body
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            time.sleep(0.05)
        raise AssertionError(f"{url} does not answer")

    def until(self, *words: str, has: str) -> str:
        """What a command on the machine prints, once `has` is in it."""
        for _ in range(200):
            text = self.lab.node(NODE, *words, check=False)
            if has in text:
                return text
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            time.sleep(0.05)
        raise AssertionError(f"{' '.join(words)}: no {has!r} in {text!r}")

    def end(self) -> str:
        """SIGTERM, by way of the pid the machine knows."""
        self.lab.node(NODE, "pkill", "-TERM", "-f", "glassnet proxy")
        self.process.wait(timeout=20)
        assert self.process.stderr
        return self.process.stderr.read()


def put(lab: Lab, path: str, text: str) -> str:
    """Write a file on the machine, whose disk is its own."""
    lab.glassnet("node", NODE, "--", "tee", path, stdin=text)
    return path


@pytest.fixture
def config(lab: Lab) -> Iterator[Callable[..., str]]:
    def write(**fields: Any) -> str:
        text = (Path(lab.env["GLASSNET_STATE"]) / lab.name / "kubeconfig").read_text()
        body = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "hostnameOverride": "worker-0",
            "clientConnection": {"kubeconfig": put(lab, "/etc/proxy.kubeconfig", re.sub(r"127\.0\.0\.1:\d+", "10.240.0.10:6443", text))},
            "clusterCIDR": "10.200.0.0/16", "conntrack": {"maxPerCore": 0, "min": 0}, **fields,
        }  # fmt: skip
        return put(lab, "/etc/proxy.yaml", json.dumps(body))

    yield write
    lab.node(NODE, GLASSNET, "proxy", "--cleanup")


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_a_node_gets_rules_and_keeps_them_until_cleanup(lab: Lab, config: Callable[..., str], mode: str) -> None:
    running = Running(lab, "--config", config(mode=mode))
    listing = ["nft", "list", "table", "ip", "glassnet"] if mode == "nftables" else ["iptables-save", "-t", "nat"]
    running.until(*listing, has="default/web")
    virtual = lab.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    assert "nginx" in lab.node(NODE, "curl", "-s", "-m", "5", f"http://{virtual}")
    health = json.loads(running.get("http://127.0.0.1:10256/healthz"))
    assert (health["healthy"], health["nodeEligible"], list(health["status"])) == (True, True, ["IPv4", "IPv6"])
    assert running.get("http://127.0.0.1:10249/proxyMode") == mode
    assert json.loads(running.get("http://127.0.0.1:10249/configz"))["kubeproxy.config.k8s.io"]["mode"] == mode
    metrics = running.get("http://127.0.0.1:10249/metrics")
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}' in metrics
    assert ('kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"}' in metrics) is (
        mode == "iptables"
    )
    lab.kubectl("scale", "deployment", "web", "--replicas=0")
    running.until(*(listing if mode == "nftables" else ["iptables-save"]), has="no-endpoints" if mode == "nftables" else "has no endpoints")  # fmt: skip
    lab.kubectl("scale", "deployment", "web", "--replicas=2")
    lab.kubectl("rollout", "status", "deployment", "web")
    assert "ended: SIGTERM; rules stay" in running.end()
    assert "default/web" in lab.node(NODE, *listing)
    lab.node(NODE, GLASSNET, "proxy", "--cleanup")
    assert "KUBE" not in lab.node(NODE, "iptables-save")
    assert "glassnet" not in lab.node(NODE, "nft", "list", "tables")


def test_a_changed_configuration_ends_the_process_for_its_successor(lab: Lab, config: Callable[..., str]) -> None:
    path = config(mode="nftables")
    running = Running(lab, "--config", path)
    running.until("nft", "list", "table", "ip", "glassnet", has="default/web")
    config(mode="iptables")
    assert running.process.wait(timeout=20) == 0
    assert "proxy.yaml has changed" in (running.process.stderr.read() if running.process.stderr else "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--proxy-mode", "ipvs", "--master", "http://127.0.0.1:1"], "nftables"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--kubeconfig", "/nowhere"], "/nowhere"),
        ([], "--kubeconfig FILE"),
        (["--cluster-cidr", "10.0.0.0/33", "--master", "http://127.0.0.1:1"], "10.0.0.0/33"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(lab: Lab, words: list[str], said: str) -> None:
    done = subprocess.run(
        [GLASSNET, "proxy", *words], env=lab.env, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_mode_of_a_running_lab_can_be_changed(lab: Lab) -> None:
    virtual = lab.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    for mode in ("nftables", "iptables"):
        assert f"are in {mode} now" in lab.glassnet("lab", "proxy", mode).stdout
        assert ("glassnet" in lab.node("worker-0", "nft", "list", "tables")) is (mode == "nftables")
        assert ("KUBE-SVC" in lab.node("worker-0", "iptables-save")) is (mode == "iptables")
        assert "nginx" in lab.node("worker-0", "curl", "-s", "-m", "5", f"http://{virtual}")
        assert f"proxy {mode}" in lab.glassnet("status").stdout


KEEP = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], 80), 3)
for number in range(150):
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    if b"200 OK" not in sock.recv(65536):
        sys.exit("no answer")
    fresh = socket.create_connection((sys.argv[1], 80), 0.9)
    fresh.close()
    if not number:
        print("begun", flush=True)
    time.sleep(0.02)
print("kept")
"""


def test_connections_outlive_a_change_of_mode(lab: Lab) -> None:
    virtual = lab.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    command = [GLASSNET, "node", "worker-0", "--", "/usr/bin/python3", "-c", KEEP, virtual]
    process = subprocess.Popen(command, env=lab.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    for mode in ("nftables", "iptables", "nftables", "iptables"):
        lab.glassnet("lab", "proxy", mode)
    output, errors = process.communicate(timeout=20)
    assert output == "kept\n", errors
