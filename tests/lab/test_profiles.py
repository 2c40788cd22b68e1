"""Every profile, with IPv4 alone and with both families: who reaches whom, by which address, and what nodes look like."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from conftest import GLASSNET, Lab
from glassnet.kernel.mounts import place_in_pods
from glassnet.lab.profiles import catalog

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]
PYTHON = place_in_pods(sys.executable)
OUTSIDE = {4: "192.0.2.10", 6: "2001:db8:192::10"}
NODE_PORT = 30080
# Fetches each URL of its standard input, all at once, and prints what came as JSON.
FETCH = """
import json, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=5).read().decode()
    except OSError as error:
        return f"error: {error}"
urls = json.load(sys.stdin)
with ThreadPoolExecutor(24) as pool:
    print(json.dumps(dict(zip(urls, pool.map(fetch, urls)))))
"""
# Says to each client which address it comes from, until its standard input ends.
SERVE = """
import sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.client_address[0]}:0".encode())
    def log_message(self, *_): pass
class Server(ThreadingHTTPServer):
    address_family = 10 if ":" in sys.argv[1] else 2
threading.Thread(target=Server((sys.argv[1], 8080), Handler).serve_forever, daemon=True).start()
print("serving", flush=True)
sys.stdin.read()
"""
CONTAINER = {"name": "web", "image": "agnhost", "args": ["netexec", "--http-port=8080", "--udp-port=8081"]}
OBJECTS: list[dict[str, Any]] = [
    {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "web", "of": name}},
            "template": {"metadata": {"labels": {"app": "web", "of": name}}, "spec": {"containers": [CONTAINER]}},
        },
    }
    for kind, name in (("DaemonSet", "one"), ("DaemonSet", "two"))  # two pods a node
]
OBJECTS.append(
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "type": "NodePort",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": {"app": "web"},
            "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
        },
    }
)


class Cluster(NamedTuple):
    """A lab of a profile, and what its API says: pods (name -> node, addresses), nodes (name -> own addresses, public one), the Service."""

    lab: Lab
    profile: str
    dual: bool
    pods: dict[str, tuple[str, list[str]]]
    nodes: dict[str, tuple[list[str], str]]
    cluster_ips: list[str]

    def one_a_node(self) -> list[str]:
        """A pod of each node."""
        return [name for name in self.pods if name.startswith("one-")]

    def in_pod(self, pod: str, urls: list[str]) -> dict[str, str]:
        """What a pod is answered."""
        said = self.lab.kubectl("exec", "-i", pod, "--", PYTHON, "-c", FETCH, stdin=json.dumps(urls))
        found: dict[str, str] = json.loads(said)
        return found

    def on(self, verb: str, machine: str, urls: list[str]) -> dict[str, str]:
        """What a node or a host outside is answered."""
        words = (verb, machine, "--", sys.executable, "-c", FETCH)
        found: dict[str, str] = json.loads(self.lab.glassnet(*words, stdin=json.dumps(urls)).stdout)
        return found


# both families: what there is with IPv4 alone is the same without the rest, as tests/unit/lab/test_profile_topologies.py holds
CASES = [(name, "dual") for name in catalog.names()]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    profile, family = request.param
    lab = Lab(f"t-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("labs"))
    manifests = yaml.safe_dump_all(OBJECTS)
    try:
        lab.glassnet("up", "--profile", profile, "--ip-family", family, "-f", "-", stdin=manifests)
        found = json.loads(lab.kubectl("get", "pods,nodes,services", "-o", "json"))["items"]
        yield _cluster(lab, profile, family == "dual", found)
    finally:
        lab.glassnet("down", lab.name, check=False)


def _cluster(lab: Lab, profile: str, dual: bool, found: list[dict[str, Any]]) -> Cluster:
    pods, nodes, cluster_ips = {}, {}, []
    for each in found:
        name, status = each["metadata"]["name"], each.get("status", {})
        if each["kind"] == "Pod":
            pods[name] = (each["spec"]["nodeName"], [one["ip"] for one in status["podIPs"]])
        elif each["kind"] == "Node":
            of = {kind: [a["address"] for a in status["addresses"] if a["type"] == kind] for kind in ("InternalIP", "ExternalIP")}  # fmt: skip
            nodes[name] = (of["InternalIP"], of["ExternalIP"][0])
        elif name == "web":
            cluster_ips = each["spec"]["clusterIPs"]
    return Cluster(lab, profile, dual, pods, nodes, cluster_ips)


def url(address: str, port: int, path: str) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{port}{path}"


def address_in(answer: str) -> str:
    """The address of an answer to /clientip."""
    return answer.rpartition(":")[0].strip("[]")


def test_addresses_are_of_every_family_there_is(cluster: Cluster) -> None:
    families = 2 if cluster.dual else 1
    assert len(cluster.pods) == 6 and len(cluster.nodes) == 3
    assert len(cluster.cluster_ips) == families
    assert {len(ips) for _, ips in cluster.pods.values()} == {families}
    assert {len(own) for own, _ in cluster.nodes.values()} == {families}


def test_pods_reach_pods_with_their_own_address(cluster: Cluster) -> None:
    """But for the guide's bridge, whose ipMasq leaves nothing alone but the node's own pods."""
    for pod in cluster.one_a_node():
        node, mine = cluster.pods[pod]
        wanted = {
            url(address, 8080, "/clientip"): own
            for other, (where, theirs) in cluster.pods.items()
            for own, address in zip(
                cluster.nodes[node][0] if cluster.profile == "hardway" and where != node else mine, theirs, strict=True
            )
            if other != pod
        }
        answers = {there: address_in(answer) for there, answer in cluster.in_pod(pod, list(wanted)).items()}
        assert answers == wanted, pod


def test_pods_reach_nodes_services_and_themselves_by_one(cluster: Cluster) -> None:
    names = set(cluster.pods)
    pod = min(names)
    services = [url(ip, 80, "/hostname") for ip in cluster.cluster_ips] + ["http://web/hostname"]
    nodes = [url(address, 10256, "/livez") for own, _ in cluster.nodes.values() for address in own]
    ports = [url(address, NODE_PORT, "/hostname") for own, _ in cluster.nodes.values() for address in own]
    for one in (pod, max(names)):
        answers = cluster.in_pod(one, [*services, *nodes, *ports])
        assert not {there: answer for there, answer in answers.items() if answer.startswith("error")}
        assert {answers[there] for there in (*services, *ports)} <= names
    many = cluster.in_pod(
        pod, [f"{services[0]}?{turn}" for turn in range(60)]
    )  # of six pods one is itself: (5/6)^60 is 2e-5
    assert set(many.values()) <= names
    assert (pod in many.values()) == (
        cluster.profile != "hardway"
    )  # its bridge has no hairpin: a pod does not reach itself


def test_names_have_addresses_of_every_family(cluster: Cluster) -> None:
    code = "import socket; print(*{a[4][0] for a in socket.getaddrinfo('web.default.svc.cluster.local', 80)})"
    said = cluster.lab.kubectl("exec", min(cluster.pods), "--", PYTHON, "-c", code)
    assert set(said.split()) == set(cluster.cluster_ips)


def test_nodes_reach_pods_and_services(cluster: Cluster) -> None:
    urls = [url(address, 8080, "/hostname") for _, ips in cluster.pods.values() for address in ips]
    urls += [url(ip, 80, "/hostname") for ip in cluster.cluster_ips]
    for node in (min(cluster.nodes), max(cluster.nodes)):
        answers = cluster.on("node", node, urls)
        assert set(answers.values()) <= set(cluster.pods), node


def test_outside_sees_pods_by_their_nodes_addresses(cluster: Cluster) -> None:
    families = (4, 6) if cluster.dual else (4,)
    words = [GLASSNET, "host", "internet", "--", sys.executable, "-c", SERVE]
    servers = []
    try:
        for family in families:
            one = subprocess.Popen([*words, OUTSIDE[family]], env=cluster.lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
            servers.append(one)
            assert one.stdout and one.stdout.readline() == "serving\n"
        urls = [url(OUTSIDE[family], 8080, "/clientip") for family in families]
        for pod in cluster.one_a_node():
            own, public = cluster.nodes[cluster.pods[pod][0]]
            answers = cluster.in_pod(pod, urls)
            assert [address_in(answers[there]) for there in urls] == [public, *own[1:]], pod
    finally:
        for one in servers:
            one.communicate(timeout=10)


def test_outside_reaches_node_ports(cluster: Cluster) -> None:
    urls = [url(public, NODE_PORT, "/hostname") for _, public in cluster.nodes.values()]
    urls += [url(address, NODE_PORT, "/hostname") for own, _ in cluster.nodes.values() for address in own[1:]]
    answers = cluster.on("host", "internet", urls)
    assert set(answers.values()) <= set(cluster.pods)


# what a node of a profile shows: command, and expressions each of which a line has to fit; {ip} is a pod's address, {node} the node's
PICTURES: dict[str, dict[str, list[str]]] = {
    "hardway": {
        "ip route": [r"10\.200\.0\.0/24 dev cnio0 proto kernel scope link src 10\.200\.0\.1"],
        "cat /etc/cni/net.d/10-bridge.conf": [r'    "type": "bridge",'],
    },
    "aks-kubenet": {
        "ip route": [
            r"default via 10\.240\.0\.1 dev eth0 proto dhcp src {node} metric 100",
            r"10\.240\.0\.0/16 dev eth0 .*",
            r"10\.244\.0\.0/24 dev cbr0 proto kernel scope link src 10\.244\.0\.1",
            r"172\.17\.0\.0/16 dev docker0 .* linkdown",
            r"168\.63\.129\.16 via 10\.240\.0\.1 dev eth0 .*",
        ],
        "ip -br link": [
            r"cbr0 +UP +0a:58:0a:f4:00:01 .*",
            r"docker0 +DOWN +02:42:ac:11:00:01 .*",
            r"veth[0-9a-f]{{8}}@if2 .*",
        ],
        "iptables -t nat -S": [
            r"-A POSTROUTING -s 172\.17\.0\.0/16 ! -o docker0 -j MASQUERADE",
            r"-A DOCKER -i docker0 -j RETURN",
            r"-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            r"-A IP-MASQ-AGENT -d 10\.244\.0\.0/16 .* -j RETURN",
            r"-A IP-MASQ-AGENT .*must be last in chain.* -j MASQUERADE",
        ],
    },
    "aks-azure-cni": {
        "ip route": [
            r"{ip} dev azv[0-9a-f]{{11}} proto static scope link",
            r"10\.240\.0\.0/16 dev eth0 proto kernel .*",
        ],
        "iptables -t nat -S": [r"-A IP-MASQ-AGENT -d 10\.240\.0\.0/16 .* -j RETURN"],
    },
    "gke": {
        "ip route": [r"{ip} dev veth[0-9a-f]{{8}} scope host", r"default via 10\.128\.0\.1 dev eth0 .*"],
        "ip -4 -br addr": [r"eth0@if\d+ +UP +{node}/32 *", r"veth[0-9a-f]{{8}}@if2 +UP +10\.4\.0\.1/32 *"],
        "iptables -t nat -S": [r"-A IP-MASQ -d 10\.0\.0\.0/8 .* -j RETURN"],
    },
    "aws-vpc-cni": {
        "ip route": [r"{ip} dev eni[0-9a-f]{{11}} scope link"],
        "ip rule": [r"512:\tfrom all to {ip} lookup main.*", r"1024:\tfrom all fwmark 0x80/0x80 lookup main *"],
        "iptables -t nat -S": [r"-A AWS-SNAT-CHAIN-0 ! -o vlan\+ .* -j SNAT --to-source {node} --random-fully"],
        "iptables -t mangle -S": [r"-A PREROUTING -i eth0 .* -j CONNMARK --set-xmark 0x80/0x80"],
    },
}
INSIDE = {
    "aks-azure-cni": (r"{ip}/16", r"default via 169\.254\.1\.1 dev eth0"),
    "aws-vpc-cni": (r"{ip}/32", r"default via 169\.254\.1\.1 dev eth0"),
    "gke": (r"{ip}/24", r"default via 10\.4\.0\.1 dev eth0"),
    "aks-kubenet": (r"{ip}/24", r"default via 10\.244\.0\.1 dev eth0"),
    "hardway": (r"{ip}/24", r"default via 10\.200\.0\.1 dev eth0"),
}


def test_nodes_and_pods_look_as_the_real_ones_do(cluster: Cluster) -> None:
    node = min(cluster.nodes, key=lambda name: tuple(map(int, cluster.nodes[name][0][0].split("."))))
    pod, (ip, *_) = min((name, ips) for name, (where, ips) in cluster.pods.items() if where == node)
    known = {"ip": re.escape(ip), "node": re.escape(cluster.nodes[node][0][0])}
    for command, wanted in PICTURES[cluster.profile].items():
        lines = [line.rstrip() for line in cluster.lab.node(node, *command.split()).splitlines()]
        for expression in wanted:
            assert any(re.fullmatch(expression.format(**known), line) for line in lines), (command, expression, lines)
    address, route = INSIDE[cluster.profile]
    assert re.search(
        address.format(**known) + " ", cluster.lab.kubectl("exec", pod, "--", "ip", "-4", "addr", "show", "eth0")
    )
    assert re.search(route, cluster.lab.kubectl("exec", pod, "--", "ip", "route"))


def test_the_vpc_knows_the_way_to_pods(cluster: Cluster) -> None:
    table = ("table", "aks-agentpool-14807231-routetable") if cluster.profile == "aks-kubenet" else ()
    said = cluster.lab.host("vpc-router", "ip", "route", "show", "proto", "114", *table)
    gateways = {line.split()[2] for line in said.splitlines()}
    assert gateways == {own[0] for own, _ in cluster.nodes.values()}
    main = cluster.lab.host("vpc-router", "ip", "route", "show", "proto", "114")
    assert bool(main) != bool(table)


def test_doctor_finds_nothing(cluster: Cluster) -> None:
    said = cluster.lab.glassnet("doctor", check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_a_trace_comes_to_the_pod_and_back(cluster: Cluster) -> None:
    pod, (node, _) = min(cluster.pods.items())
    far, (_, ips) = next((name, facts) for name, facts in cluster.pods.items() if facts[0] != node)
    for address in ips:
        said = cluster.lab.glassnet(
            "trace", f"default/{pod}", f"[{address}]:8080" if ":" in address else f"{address}:8080", check=False
        ).stdout
        assert f"delivered at pod default/{far}" in said and f"comes home at default/{pod}" in said, said
