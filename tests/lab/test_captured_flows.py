"""The manifests of a real cluster in a lab, and every flow captured there sent again, in both proxy modes.

Compared are, for each flow: the kind of result, which workloads answer, and which source they see (names and addresses mapped). What a pod or
node sees of itself depends on where the answering pod runs, so sources are compared apart for pods on the sender's node and elsewhere.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import GLASSNET, Lab

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(280)]
DATA = Path(__file__).parents[1] / "data"
SENDER = (
    Path(__file__).with_name("flow_sender.py").read_text()
)  # machines have a /tmp of their own: the text goes along
WORKERS = {"10.240.0.20": "worker-0", "10.240.0.21": "worker-1", "10.240.0.22": "worker-2"}
OUTSIDE = {
    "host client": "203.0.113.10",
    "host client2": "203.0.113.200",
    "host neighbor": "10.240.0.200",
    "host cp": "",
}
UNREACHED = {"enetunreach", "ehostunreach", "timeout"}  # which of them is by chance, where nothing claims an address


class Place:
    """Where pods are: here, or where the flows were captured."""

    def __init__(self, pods: dict[str, list[str]]) -> None:
        self.node = {name: node for name, (node, _) in pods.items()}
        self.owner = {ip: name for name, (_, ip) in pods.items() if ip and ip not in WORKERS}

    def workload(self, name: str) -> str:
        """demo/web-546b777687-28bt4 and our names alike: `web`."""
        return re.sub(r"-[a-z0-9]{8,10}-[a-z0-9]{5}$|-[a-z0-9]{5}$|-\d$", "", name)

    def source(self, address: str) -> str:
        """Whom a server saw, by name; the bridge of a node is the node, and so is its public address, which the lab's router gives it outside."""
        if address in WORKERS:
            return WORKERS[address]
        if found := re.fullmatch(r"10\.200\.(\d)\.1|198\.18\.0\.2(\d)", address):
            return f"worker-{found[1] or found[2]}"
        return self.workload(self.owner[address]) if address in self.owner else address


def captured(mode: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress((DATA / "captures" / f"{mode}.json.gz").read_bytes()))
    return found


class Cluster:
    """The lab, with the hosts and routes around it that the capture had."""

    def __init__(self, lab: Lab, statuses: dict[str, Any]) -> None:
        self.lab = lab
        for worker, zone in zip(WORKERS.values(), "abb", strict=True):
            lab.kubectl("label", "node", worker, f"topology.kubernetes.io/zone=zone-{zone}", "--overwrite")
            lab.node(worker, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
        for name, status in statuses.items():
            lab.kubectl("-n", "demo", "patch", "service", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))  # fmt: skip
        lab.kubectl("-n", "demo", "delete", "pod", "drain-0", "--wait=false")
        lab.host("vpc-router", "sh", "-c", " && ".join([
            "ip route add 198.51.100.0/24 via 10.240.0.20", "ip route add 198.51.100.11 via 10.240.0.21",
            *(f"ip route add {OUTSIDE[name]} via 192.0.2.10" for name in ("host client", "host client2")),
            "sysctl -qw net.ipv4.icmp_ratelimit=0"]))  # fmt: skip
        lab.host("internet", "sh", "-c", "ip addr add 203.0.113.10/32 dev eth0; ip addr add 203.0.113.200/32 dev eth0")
        lab.node("controller-2", "sh", "-c", "ip addr add 10.240.0.200/24 dev eth0; ip route add 198.51.100.0/24 via 10.240.0.20")  # fmt: skip
        self.place = Place(self._pods())

    def _pods(self) -> dict[str, list[str]]:
        items = json.loads(self.lab.kubectl("get", "pods", "-A", "-o", "json"))["items"]
        return {p["metadata"]["name"]: [p["spec"].get("nodeName", ""), p["status"].get("podIP", "")] for p in items}

    def words(self, sender: str, node: str | None, where: Place) -> tuple[list[str], str]:
        """The command that runs a program where a flow came from, and the address to send from ("": its own)."""
        if sender.startswith("node "):
            return ["node", sender[5:], "--"], ""
        if sender.startswith("host "):
            machine = {"host cp": ["node", "controller-0"], "host neighbor": ["node", "controller-2"]}.get(sender, ["host", "internet"])  # fmt: skip
            return [*machine, "--"], OUTSIDE[sender]
        workload = where.workload(sender.rpartition("/")[2])
        name = next(n for n, at in sorted(self.place.node.items()) if at == node and self.place.workload(n) == workload)
        address = next(ip for ip, owner in self.place.owner.items() if owner == name)
        find = f'for n in $(ip netns list | cut -d" " -f1); do ip -n $n -o addr | grep -q "inet {address}/" && exec nsenter --net=/run/netns/$n "$@"; done'  # fmt: skip
        return ["node", str(node), "--", "sh", "-c", find, "sh"], ""

    def send(self, groups: dict[Any, list[dict[str, Any]]], where: Place) -> dict[Any, list[list[str]]]:
        """Send each group's flow as often as it was captured, at least six times where it got through; one process a sender."""
        by_sender: dict[tuple[str, str | None], list[Any]] = defaultdict(list)
        for key, flows in groups.items():
            by_sender[flows[0]["from"], flows[0].get("from_node")].append(key)
        running = []
        for (sender, node), keys in by_sender.items():
            words, source = self.words(sender, node, where)
            lines = []
            for number, key in enumerate(keys):
                flow = groups[key][0]
                through = any(each["result"] == "ok" for each in groups[key])
                lines.append([number, flow["protocol"], flow["to"], flow["port"], source, 6 if through else 1])
            process = subprocess.Popen(
                [GLASSNET, *words, "/usr/bin/python3", "-c", SENDER], env=self.lab.env, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            running.append((process, keys, lines))
        found: dict[Any, list[list[str]]] = {}
        for process, _, lines in running:
            process.stdin.write("\n".join(map(json.dumps, lines)) + "\n")  # type: ignore[union-attr]
            process.stdin.close()  # type: ignore[union-attr]
        for process, keys, _ in running:
            output, errors = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
            process.wait(timeout=60)
            for line in output.splitlines():
                number, results = json.loads(line)
                found[keys[number]] = results
            assert len([k for k in keys if k in found]) == len(keys), f"{keys[0][0]}: {errors}"
        return found


@pytest.fixture(scope="module")
def outside_server() -> Iterator[Callable[[Lab], None]]:
    """The host `client`, which one Service has as its endpoint."""
    processes: list[subprocess.Popen[str]] = []

    def start(lab: Lab) -> None:
        process = subprocess.Popen(
            [GLASSNET, "host", "internet", "--", "/usr/bin/python3", "-c", SENDER, "serve", "203.0.113.10"],
            env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == "serving\n"
        processes.append(process)

    yield start
    for process in processes:
        assert process.stdin
        process.stdin.close()
        process.wait(timeout=10)


def key_of(flow: dict[str, Any]) -> tuple[Any, ...]:
    return flow["from"], flow["service"], flow["kind"], flow["protocol"], flow["to"], flow["port"]


def endpoint_of_itself(flow: dict[str, Any], where: Place) -> bool:
    """A pod that sends to a Service of its own: without hairpin mode on the bridge, what picks the sender itself gets no answer."""
    sender = where.workload(flow["from"].rpartition("/")[2])
    return flow["from"].startswith("pod ") and flow["service"].rpartition("/")[2].startswith(sender)


def result_of(flow: dict[str, Any], result: str) -> str:
    """Results that are one: an address that nobody claims is not reached, with which word is chance."""
    nobody = flow["kind"] in ("ClusterIP, undeclared port", "unallocated service address") or flow["service"] == "demo/other-proxy"  # fmt: skip
    return "unreached" if nobody and result in UNREACHED else result


def differences(groups: dict[Any, list[dict[str, Any]]], here: dict[Any, list[list[str]]], there: Place, ours: Place) -> list[str]:  # fmt: skip
    """What is not as captured, in words."""
    out: list[str] = []
    who: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    seen: dict[Any, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for key, flows in groups.items():
        first = flows[0]
        wanted = {result_of(first, flow["result"]) for flow in flows}
        got = {result_of(first, result) for result, _, _ in here[key]}
        itself = endpoint_of_itself(first, there)
        if not (got <= {"ok", "timeout"} if itself and wanted <= {"ok", "timeout"} else got == wanted):
            out.append(f"{key}: result: want {sorted(wanted)}, got {sorted(got)}")
        answers = [(flow.get("answered_by", ""), flow.get("server_saw", ""), 0) for flow in flows if flow["result"] == "ok"]  # fmt: skip
        answers += [(name, saw, 1) for result, name, saw in here[key] if result == "ok"]
        for name, saw, side in answers:
            place = ours if side else there
            if first["kind"] == "HealthCheckNodePort":
                who[str(key)][side].add(" ".join(name.split()))
            elif saw:
                who[first["service"]][side].add(place.workload(name))
                near = place.node.get(name, name) == first.get("from_node")
                address = saw if side else saw.rpartition(":")[0]
                seen[(*key[:3], key[4], near)][side].add(place.source(address))
    out += [f"{service}: answered by {sorted(b)}, want {sorted(a)}" for service, (a, b) in who.items() if a != b]
    out += [
        f"{key}: source seen {sorted(b)}, want {sorted(a)}" for key, (a, b) in seen.items() if a and b and not b <= a
    ]
    return out


def bring_up(make_lab: Callable[..., Lab], mode: str) -> Lab:
    """The lab in a mode; for the legacy tool nodes are given the mark by which a kubelet shows that it uses that one."""
    files = [word for name in ("10-workloads.yaml", "20-services.yaml") for word in ("-f", str(DATA / "cluster-objects" / name))]  # fmt: skip
    first = "nftables" if mode == "iptables-legacy" else mode
    lab = make_lab("--proxy", first, "--public-cidr", "198.18.0.0/24", *files)
    if mode == "iptables-legacy":
        for worker in WORKERS.values():
            lab.node(worker, "iptables-legacy", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
        lab.glassnet("lab", "proxy", "iptables")
        assert ":KUBE-SERVICES" in lab.node("worker-0", "iptables-legacy-save", "-t", "nat")
    return lab


@pytest.mark.parametrize("mode", ["iptables", "iptables-legacy", "nftables"])
def test_every_captured_flow_ends_as_on_the_real_cluster(
    make_lab: Callable[..., Lab], outside_server: Callable[[Lab], None], mode: str
) -> None:
    capture = captured(mode)
    lab = bring_up(make_lab, mode)
    cluster, there = Cluster(lab, capture["statuses"]), Place(capture["pods"])
    outside_server(lab)
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for flow in capture["flows"]:
        groups[key_of(flow)].append(flow)
    assert sum(map(len, groups.values())) == 1332
    for flows in groups.values():
        address = flows[0]["to"]
        if flows[0]["kind"] == "Pod":  # pods have other addresses here
            name = there.owner[address]
            mine = next((ip for ip, pod in sorted(cluster.place.owner.items()) if cluster.place.workload(pod) == there.workload(name) and cluster.place.node[pod] == there.node[name]), None)  # fmt: skip
            flows[0]["to"] = mine or next(ip for ip, pod in cluster.place.owner.items() if cluster.place.workload(pod) == there.workload(name))  # fmt: skip
    found = differences(groups, cluster.send(groups, there), there, cluster.place)
    kinds = Counter(re.sub(r"\(.*?\)", "", line)[:40] for line in found)
    assert not found, f"{len(found)} differences {kinds}:\n" + "\n".join(sorted(found))
