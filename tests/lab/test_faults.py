"""Every fault of the library in one lab: a probe works, the fault stops it, mending lets it work again and leaves what was there before.

The lab has pods and Services of the names that faults use, so that they can be asked before and afterwards; faults leave alone what they find.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import GLASSNET, Lab
from glassnet.lab.faults.registry import FAULTS
from glassnet.lab.state import LabDir

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: glassnet-faults, labels: {{app: {app}}}}}
spec: {{nodeName: {node}, terminationGracePeriodSeconds: 1, containers: [{{name: c, image: agnhost, args: [netexec, --http-port=8080, --udp-port=8081]}}]}}
---
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: glassnet-faults}}
spec:
  type: NodePort
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: udp, port: 80, protocol: UDP, targetPort: 8081}}]
---
"""
NEAR = ("stale-conntrack", "conntrack-before-rules", "hairpin", "mixed-iptables", "nodeport-one-node", "port-clash")
FAR = "far"  # a Service with its pod on worker-1

# what faults may change, without counters, and without the hint which lease came last
STATE = r"""
nft -s list ruleset; iptables-legacy-save | grep -e ^-A -e KUBE; ip -4 -o addr; ip -4 route show table all
ip rule; bridge -d link; ip -o link | sed 's/ state .*//'
sysctl net.ipv4.conf.all.rp_filter net.bridge.bridge-nf-call-iptables net.ipv4.ip_forward
cd /var/lib/cni/networks && grep -r . --exclude='last_*' .; cat /etc/cni/net.d/*; conntrack -L --mark 0x66756c6c | wc -l; true
"""
UDP = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(0.7)
    sock.bind(("", int(sys.argv[1])))
    sock.sendto(sys.argv[4].encode(), (sys.argv[2], int(sys.argv[3])))
    print(sock.recv(100).decode())
"""


class Place:
    """The lab with what is in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.shells: dict[str, Shell] = {}
        self.services = {s["metadata"]["name"]: s["spec"] for s in self.objects("services")}
        self.ips = {p["metadata"]["name"]: p["status"]["podIP"] for p in self.objects("pods")}

    def objects(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.lab.kubectl("get", kind, "-n", "glassnet-faults", "-o", "json"))[
            "items"
        ]
        return found

    def vip(self, name: str) -> str:
        return str(self.services[name]["clusterIP"])

    def node_port(self, name: str) -> int:
        return int(self.services[name]["ports"][0]["nodePort"])

    def node(self, node: str, command: str) -> str:
        """What a command on a machine prints."""
        if node not in self.shells:
            kind = "node" if node.startswith("worker") else "host"
            self.shells[node] = Shell(self.lab, kind, node)
        return self.shells[node].run(command)

    def state(self) -> dict[str, str]:
        """What there is on every machine that a fault touches, and the objects."""
        found = {machine: self.node(machine, STATE) for machine in ("worker-0", "worker-1", "vpc-router")}
        found["objects"] = self.lab.kubectl("get", "pods,services,nodes,namespaces", "-A", "-o", "name")
        return found

    # -- probes: what came back, "" for nothing

    def outside(self, worker: int, port: int) -> str:
        return self.node("internet", curl(f"203.0.113.2{worker}:{port}"))

    def from_node(self, node: str, address: str) -> str:
        return self.node(node, curl(address))

    def from_pod(self, pod: str, address: str) -> str:
        return self._in_pod(pod, curl(address))

    def _in_pod(self, pod: str, command: str) -> str:
        """Run a command in the network namespace of a pod of worker-0."""
        find = f"grep -l '\"{self.ips[pod]}/' /var/lib/cni/results/* | xargs grep -ho 'cni-[0-9a-f-]*' | head -n 1"
        return self.node("worker-0", f"ip netns exec $({find}) {command}")

    def udp(self, source_port: int, address: str) -> str:
        return self.node("worker-0", f"python3 -c '{UDP}' {source_port} {address} 80 hostname")

    def source_port(self, address: str) -> str:
        """Which source port the server sees of a flow that comes from port 45000 of a pod."""
        answer = self._in_pod("port-clash-client", f"python3 -c '{UDP}' 45000 {address} 80 clientip")
        return answer.rpartition(":")[2]


class Shell:
    """One shell on a machine for all commands there."""

    def __init__(self, lab: Lab, kind: str, machine: str) -> None:
        pipe = subprocess.PIPE
        words = [GLASSNET, kind, machine, "--", "bash", "--norc"]
        self._bash = subprocess.Popen(words, env=lab.env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def run(self, command: str) -> str:
        assert self._bash.stdin and self._bash.stdout
        self._bash.stdin.write(f"{{ cd /\n{command}\n}} </dev/null\nprintf '\\n@@end\\n'\n")
        self._bash.stdin.flush()
        text = ""
        for line in self._bash.stdout:
            if line == "@@end\n":
                return text.strip()
            text += line
        raise AssertionError(f"the shell ended in: {command}")

    def close(self) -> None:
        assert self._bash.stdin and self._bash.stdout
        self._bash.stdin.close()
        self._bash.wait(10)
        self._bash.stdout.close()


def curl(address: str) -> str:
    return f"curl -s -m 0.7 http://{address}/hostname"


def until(good: Callable[[], Any], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def place(make_lab: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: glassnet-faults}\n---"
    for name in NEAR:
        text += POD.format(name=name, app=name, node="worker-0") + SERVICE.format(name=name)
    text += POD.format(name="port-clash-client", app="none", node="worker-0")
    text += POD.format(name=FAR, app=FAR, node="worker-1") + SERVICE.format(name=FAR)
    file = tmp_path_factory.mktemp("m") / "faults.yaml"
    file.write_text(text)
    lab = make_lab("--nodes", "2", "-f", str(file))
    place = Place(lab)
    # hairpin mode, as the network's file would give it: the pod can reach itself
    lab.node(
        "worker-0", "sh", "-c", "for p in /sys/class/net/cnio0/brif/*; do bridge link set dev ${p##*/} hairpin on; done"
    )
    for name in (*NEAR, FAR):
        until(lambda name=name: place.from_node("worker-0", place.vip(name)) == name)
    until(lambda: place.outside(0, place.node_port(FAR)) == FAR)
    until(lambda: place.outside(1, place.node_port("nodeport-one-node")) == "nodeport-one-node")
    yield place
    for shell in place.shells.values():
        shell.close()


@pytest.fixture(scope="module")
def before(place: Place) -> dict[str, str]:
    return place.state()


# fault -> (what is asked, what comes back of it while nothing is broken)
PROBES: dict[str, tuple[Callable[[Place], str], str]] = {
    "stale-conntrack": (lambda p: p.udp(40000, p.vip("stale-conntrack")), "stale-conntrack"),
    "conntrack-before-rules": (lambda p: p.udp(40001, p.vip("conntrack-before-rules")), "conntrack-before-rules"),
    "hairpin": (lambda p: p.from_pod("hairpin", p.vip("hairpin")), "hairpin"),
    "mixed-iptables": (lambda p: p.from_node("worker-0", p.vip("mixed-iptables")), "mixed-iptables"),
    "mark-clash": (lambda p: p.outside(0, p.node_port(FAR)), FAR),
    "rp-filter": (lambda p: p.outside(0, p.node_port("hairpin")), "hairpin"),
    "conntrack-full": (lambda p: p.from_node("worker-0", p.vip(FAR)), FAR),
    "nodeport-one-node": (lambda p: p.outside(1, p.node_port("nodeport-one-node")), "nodeport-one-node"),
    "forward-drop": (lambda p: p.from_pod("hairpin", p.ips[FAR] + ":8080"), FAR),
    "bridge-nf": (lambda p: p.from_pod("hairpin", p.vip("mixed-iptables")), "mixed-iptables"),
    "bridge-address": (lambda p: p.from_node("worker-0", p.ips["hairpin"] + ":8080"), "hairpin"),
    "port-clash": (lambda p: p.source_port(p.vip("port-clash")), "45000"),
}


def _still_works(place: Place, fault: str) -> None:
    """What a fault leaves alone: without this, a probe might fail for any reason."""
    if fault in ("stale-conntrack", "conntrack-before-rules"):
        assert place.udp(40009, place.vip(fault)) == fault
    elif fault == "hairpin":
        assert place.from_pod("port-clash", place.vip(fault)) == fault
    elif fault == "mixed-iptables":
        assert place.from_node("worker-1", place.vip(fault)) == fault
    elif fault == "rp-filter":
        assert re.search("Filter *[1-9]", place.node("worker-0", "nstat -az TcpExtIPReversePathFilter"))
        place.node("worker-0", "sysctl -qw net.ipv4.conf.all.rp_filter=0")  # the route alone does no harm
        assert PROBES[fault][0](place) == "hairpin"
        place.node("worker-0", "sysctl -qw net.ipv4.conf.all.rp_filter=1")
    elif fault == "nodeport-one-node":
        assert place.outside(0, place.node_port(fault)) == fault
    elif fault == "forward-drop":
        assert place.outside(0, place.node_port(FAR)) == FAR  # marked by the Service's rules, which accept it
    elif fault == "bridge-nf":
        assert place.from_pod("hairpin", place.vip(FAR)) == FAR
    elif fault == "port-clash":
        assert place.source_port(place.vip(fault)).isdigit()


@pytest.mark.parametrize("fault", PROBES)
def test_a_packet_shows_the_fault(place: Place, before: dict[str, str], fault: str) -> None:
    probe, answer = PROBES[fault]
    assert probe(place) == answer
    told = place.lab.glassnet("break", fault, "--node", "worker-0").stdout
    assert told.startswith(f"{fault}, on worker-0: ") and f"glassnet mend {fault}" in told
    assert probe(place) != answer
    _still_works(place, fault)
    assert place.lab.glassnet("mend", fault).stdout == f"mended: {fault}\n"
    until(lambda: probe(place) == answer)
    _as_before(place, before)


def _as_before(place: Place, before: dict[str, str]) -> None:
    """The proxies take away what they made for a fault's Service shortly after the Service is gone."""
    deadline = time.monotonic() + 5
    while (now := place.state()) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    changed = [line for part in before for line in difflib.ndiff(before[part].splitlines(), now[part].splitlines())]
    assert "\n".join(line for line in changed if not line.startswith(" ")) == ""


def test_local_policy(place: Place, before: dict[str, str]) -> None:
    place.lab.glassnet("break", "local-policy")
    (port,) = (
        s["spec"]["ports"][0]["nodePort"] for s in place.objects("services") if "local-policy" in str(s["metadata"])
    )
    until(lambda: place.outside(0, port) == "local-policy")
    assert place.outside(1, port) == ""
    assert place.from_node("worker-0", "198.51.100.80") == "local-policy"
    place.lab.glassnet("mend", "local-policy")
    _as_before(place, before)


def test_leaked_leases(place: Place, before: dict[str, str]) -> None:
    place.lab.glassnet("break", "leaked-ips", "--node", "worker-1")
    found = place.lab.node(
        "worker-1", "sh", "-c", "cd /var/lib/cni/networks/bridge && grep -c . 10.200.1.* | wc -l; cat 10.200.1.254"
    )
    count, container, interface = found.split()
    assert int(count) == 101 and re.fullmatch("[0-9a-f]{64}", container) and interface == "eth0"
    place.lab.glassnet("mend", "--all")
    _as_before(place, before)


def test_a_node_without_a_range(place: Place, before: dict[str, str]) -> None:
    place.lab.glassnet("break", "no-pod-cidr")
    ranges = place.lab.kubectl(
        "get", "nodes", "-o", "jsonpath={range .items[*]}{.metadata.name}={.spec.podCIDR} {end}"
    ).split()
    assert "glassnet-faults-without-range=" in ranges and "glassnet-faults-wide=10.200.0.0/16" in ranges
    until(lambda: "CIDRNotAvailable" in place.lab.kubectl("get", "events", "-A"))
    assert place.from_node("worker-0", place.vip(FAR)) == FAR
    place.lab.glassnet("mend", "no-pod-cidr")
    _as_before(place, before)


def test_a_pod_outside_its_nodes_range(place: Place, before: dict[str, str]) -> None:
    place.lab.glassnet("break", "pod-outside-cidr")
    ip = {p["metadata"]["name"]: p["status"]["podIP"] for p in place.objects("pods")}["pod-outside-cidr"]
    assert ip.startswith("172.28.77.")
    assert place.from_node("worker-0", f"{ip}:8080") == "pod-outside-cidr"
    assert place.from_node("worker-1", f"{ip}:8080") == ""
    place.lab.glassnet("mend", "pod-outside-cidr")
    _as_before(place, before)


def test_a_service_without_an_address(place: Place, before: dict[str, str]) -> None:
    place.lab.glassnet("break", "load-balancer")
    where = ("-n", "glassnet-faults", "get", "service", "load-balancer")
    assert "<pending>" in place.lab.kubectl(*where)
    assert "PoolExhausted" in place.lab.kubectl(*where, "-o", "jsonpath={.status.conditions[*].reason}")
    place.lab.glassnet("mend", "load-balancer")
    _as_before(place, before)


def test_every_fault_is_tested() -> None:
    assert set(FAULTS) == {*PROBES, "local-policy", "leaked-ips", "no-pod-cidr", "pod-outside-cidr", "load-balancer"}


def test_wrong_words(place: Place) -> None:
    lab = place.lab

    def said(*words: str) -> str:
        done = lab.glassnet(*words, check=False)
        assert done.returncode
        return done.stderr

    assert "no such fault: 'gremlin'" in said("break", "gremlin")
    assert "no worker 'controller-0' here; there are: worker-0, worker-1" in said(
        "break", "bridge-nf", "--node", "controller-0"
    )
    assert "bridge-nf is not broken" in said("mend", "bridge-nf")
    assert "which fault?" in said("break") and "name one fault, or --all" in said("mend")
    assert lab.glassnet("mend", "--all").stdout == "nothing is broken\n"
    lab.glassnet("break", "bridge-nf", "--node", "worker-1")
    assert "bridge-nf is broken already, on worker-1; `glassnet mend bridge-nf` first" in said("break", "bridge-nf")
    listing = lab.glassnet("break", "--list").stdout.splitlines()
    assert len(listing) == len(FAULTS) and [line for line in listing if line.endswith("(broken, on worker-1)")]
    lab.glassnet("mend", "--all")
    assert "(broken" not in lab.glassnet("break", "--list").stdout


def test_a_fault_that_cannot_be_made_leaves_nothing(place: Place, before: dict[str, str]) -> None:
    """An interface eth1 is in the way of rp-filter's, a pod on the wrong node in that of a Service's."""
    lab = place.lab
    lab.node("worker-0", "ip", "link", "add", "eth1", "type", "bridge")
    done = lab.glassnet("break", "rp-filter", check=False)
    assert "has an interface eth1 already" in done.stderr
    lab.node("worker-0", "ip", "link", "del", "eth1")
    done = lab.glassnet("break", "mixed-iptables", "--node", "worker-1", check=False)
    assert "pod glassnet-faults/mixed-iptables is on worker-0" in done.stderr
    assert "(broken" not in lab.glassnet("break", "--list").stdout
    _as_before(place, before)


def test_many_at_once_and_in_the_other_mode(place: Place) -> None:
    """Without iptables' tables on the node, these go with the faults; several faults at once are undone in reverse."""
    lab = place.lab
    lab.glassnet("lab", "proxy", "nftables")
    until(lambda: place.outside(0, place.node_port(FAR)) == FAR)
    for node in ("worker-0", "worker-1"):  # what the switch leaves of tables that iptables made
        place.node(node, "nft delete table ip filter; nft delete table ip mangle")
    before = place.state()
    assert "table ip filter" not in before["worker-1"]
    for fault in ("mark-clash", "forward-drop", "nodeport-one-node"):
        lab.glassnet("break", fault)
        probe, answer = PROBES[fault]
        assert probe(place) != answer
    assert "table ip filter" in place.node("worker-1", "nft list ruleset")
    lab.glassnet("mend", "--all")
    for fault in ("mark-clash", "nodeport-one-node"):
        assert PROBES[fault][0](place) == PROBES[fault][1]
    _as_before(place, before)


def test_a_killed_lab_keeps_faulty_objects_only(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab("--nodes", "1")
    for fault in ("leaked-ips", "hairpin"):
        lab.glassnet("break", fault)
    directory = Path(lab.env["GLASSNET_STATE"]) / lab.name
    os.kill(json.loads((directory / "process.json").read_text())["pid"], signal.SIGKILL)
    until(lambda: not LabDir(directory).running())
    lab.glassnet("up", "--dns", "none", "--nodes", "1")  # the same settings
    assert set(json.loads((directory / "faults.json").read_text())) == {"hairpin"}
    lab.glassnet("mend", "--all")
    assert "glassnet-faults" not in lab.kubectl("get", "namespaces,pods,services", "-A", "-o", "name")
