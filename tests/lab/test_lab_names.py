"""Names in a lab: asked by glibc and by a resolver library from inside pods, from nodes, while replicas die."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.reversename
import pytest

from conftest import Lab
from glassnet.kernel.mounts import place_in_pods

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]
Z = "svc.cluster.local"
MANIFESTS = Path(__file__).resolve().parents[1] / "data" / "names.yaml"
PYTHON = place_in_pods(sys.executable)
# Asks each line of its standard input, NAME TYPE, of the pod's own nameserver, and prints code, sorted answers, and the zone of the SOA record.
ASK = """
import json, sys
import dns.message, dns.query, dns.rcode, dns.rdatatype, dns.resolver
server, out = dns.resolver.Resolver().nameservers[0], []
for line in sys.stdin:
    query = dns.message.make_query(*line.split())
    answer = dns.query.tcp(query, server, 5) if len(out) % 2 else dns.query.udp(query, server, 5)
    found = sorted(item.to_text() for rrset in answer.answer for item in rrset)
    soa = [str(rrset.name) for rrset in answer.authority if rrset.rdtype == dns.rdatatype.SOA]
    code = dns.rcode.to_text(answer.rcode())
    out.append(["NODATA" if code == "NOERROR" and not found else code, found, soa])
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab("--dns", "knot", "-f", str(MANIFESTS))


def inside(lab: Lab, pod: str, *words: str, stdin: str = "", check: bool = True) -> str:
    """Run a program in a pod; what it printed."""
    return lab.kubectl("exec", "-i", pod, "--", *words, stdin=stdin, check=check)


def getent(lab: Lab, pod: str, name: str) -> list[str]:
    """The addresses glibc finds, from inside a pod."""
    return sorted({line.split()[0] for line in inside(lab, pod, "getent", "ahostsv4", name, check=False).splitlines()})


def reverse(address: str) -> str:
    return str(dns.reversename.from_address(address))


# rule of the specification, name, type, answer
POSITIVE = [
    ("1 version", "dns-version.cluster.local", "TXT", ['"1.1.0"']),
    ("2 ClusterIP A", f"web.demo.{Z}", "A", ["10.32.0.20"]),
    ("3 ClusterIP AAAA", f"web.demo.{Z}", "AAAA", ["fd00:32::20"]),
    ("4 SRV of a named port", f"_http._tcp.web.demo.{Z}", "SRV", [f"0 100 80 web.demo.{Z}."]),
    ("5 PTR v4", reverse("10.32.0.20"), "PTR", [f"web.demo.{Z}."]),
    ("6 PTR v6", reverse("fd00:32::20"), "PTR", [f"web.demo.{Z}."]),
    ("7 headless A", f"db.demo.{Z}", "A", ["10.250.0.7", "10.250.0.8"]),
    ("8 headless AAAA", f"db.demo.{Z}", "AAAA", ["fd00:250::7"]),
    ("9 hostname", f"db-0.db.demo.{Z}", "A", ["10.250.0.7"]),
    ("9 without hostname", f"10-250-0-8.db.demo.{Z}", "A", ["10.250.0.8"]),
    ("10 headless SRV", f"_sql._tcp.db.demo.{Z}", "SRV", [f"0 100 5432 10-250-0-8.db.demo.{Z}.", f"0 100 5432 db-0.db.demo.{Z}."]),
    ("11 headless PTR v4", reverse("10.250.0.7"), "PTR", [f"db-0.db.demo.{Z}."]),
    ("11 headless PTR v6", reverse("fd00:250::7"), "PTR", [f"db-0.db.demo.{Z}."]),
    ("12 ExternalName", f"ext.demo.{Z}", "A", ["192.0.2.10", "example.com.", "www.example.com."]),
    ("the API", "kubernetes.default.svc.cluster.local", "A", ["10.32.0.1"]),
    ("case", f"WEB.demo.{Z}".upper(), "A", ["10.32.0.20"]),
    ("a pod by its address", "10-250-0-7.demo.pod.cluster.local", "A", ["10.250.0.7"]),
    ("outside", "example.com", "TXT", ['"the test zone of a lab"']),
]  # fmt: skip
NEGATIVE = [
    ("NXDOMAIN", f"nope.demo.{Z}", "A"),
    ("NXDOMAIN", f"web.nowhere.{Z}", "A"),
    ("NXDOMAIN", f"nobody.demo.{Z}", "A"),
    ("NXDOMAIN", f"_https._tcp.web.demo.{Z}", "SRV"),
    ("NXDOMAIN", "nope.cluster.local", "A"),
    ("NXDOMAIN", reverse("10.32.0.99"), "PTR"),
    ("NODATA", f"web.demo.{Z}", "MX"),
    ("NODATA", Z, "A"),
    ("NODATA", f"demo.{Z}", "A"),
    ("NODATA", f"kube-dns.kube-system.{Z}", "AAAA"),
    ("NODATA", "10-250-0-7.demo.pod.cluster.local", "AAAA"),
]


def test_every_rule_and_the_negative_answers_by_a_resolver_library_in_a_pod(lab: Lab) -> None:
    asked = [(name, kind) for _, name, kind, _ in POSITIVE] + [(name, kind) for _, name, kind in NEGATIVE]
    text = "".join(f"{name} {kind}\n" for name, kind in asked)
    answers = json.loads(inside(lab, "client", PYTHON, "-c", ASK, stdin=text))
    for (rule, _, _, wanted), (code, found, _) in zip(POSITIVE, answers, strict=False):
        assert (code, found) == ("NOERROR", wanted), rule
    for (wanted_code, name, kind), (code, _, soa) in zip(NEGATIVE, answers[len(POSITIVE) :], strict=True):
        assert code == wanted_code, (name, kind)
        assert len(soa) == 1, (name, kind)


@pytest.mark.parametrize(
    ("pod", "lines"),
    [
        ("client", ["search default.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.32.0.10", "options ndots:5"]),
        ("as-its-node", ["nameserver 192.0.2.10"]),
        ("own", ["search demo.svc.cluster.local", "nameserver 10.32.0.10", "options ndots:2 edns0"]),
        ("hosts-network", ["nameserver 192.0.2.10"]),  # ClusterFirst falls back
        ("hosts-network-named", ["search default.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.32.0.10", "options ndots:5"]),
    ],
)  # fmt: skip
def test_resolv_conf_by_dns_policy(lab: Lab, pod: str, lines: list[str]) -> None:
    assert inside(lab, pod, "cat", "/etc/resolv.conf").splitlines() == lines


@pytest.mark.parametrize(
    ("pod", "name", "addresses"),
    [
        ("client", "kubernetes", ["10.32.0.1"]),
        ("client", "kubernetes.default.svc.cluster.local", ["10.32.0.1"]),
        ("client", "web.demo", ["10.32.0.20"]),
        ("client", "web", []),  # it is in another namespace
        ("client", "ext.demo", ["192.0.2.10"]),
        ("client", "www.example.com", ["192.0.2.10"]),
        ("client", "nosuch.example.com", []),
        ("own", "web", ["10.32.0.20"]),
        ("as-its-node", "kubernetes.default.svc.cluster.local", []),
        ("as-its-node", "example.com", ["192.0.2.10"]),
        ("hosts-network-named", "web.demo", ["10.32.0.20"]),
    ],
)
def test_what_glibc_finds(lab: Lab, pod: str, name: str, addresses: list[str]) -> None:
    assert getent(lab, pod, name) == addresses


@pytest.mark.parametrize(
    ("pod", "name"),
    [("client", "kubernetes"), ("client", "web"), ("client", "db.demo"), ("own", "web"), ("as-its-node", "kubernetes"), ("hosts-network-named", "ext.demo")],
)  # fmt: skip
def test_what_is_explained_is_what_happens(lab: Lab, pod: str, name: str) -> None:
    """The resolver composed is the pod's own file, and a name of the cluster has the addresses that glibc finds."""
    told = json.loads(lab.glassnet("dns", "explain", name, "--from", pod, "-o", "json", check=False).stdout)
    lines = inside(lab, pod, "sh", "-c", f"cat /etc/resolv.conf; getent ahostsv4 {name}", check=False).splitlines()
    assert [f"nameserver {each}" for each in told["resolver"]["servers"]] == [line for line in lines if line.startswith("nameserver")]  # fmt: skip
    search = [f"search {' '.join(told['resolver']['search'])}"] if told["resolver"]["search"] else []
    assert search == [line for line in lines if line.startswith("search")]
    replies = [reply for query in told["queries"] for reply in query["replies"] if reply["type"] == "A"]
    if name == "ext.demo":  # outside of the cluster: its upstream is named
        assert (replies[-1]["code"], replies[-1]["servers"]) == ("FORWARDED", ["192.0.2.10:53"])
    else:
        data = {text[2:] for reply in replies for text in reply["data"]}
        assert data == {line.split()[0] for line in lines if line[:1].isdigit()}, told


def test_a_node_knows_no_service_by_name_and_reaches_it_by_its_address(lab: Lab) -> None:
    assert lab.node("worker-0", "getent", "hosts", "web.demo.svc.cluster.local", check=False) == ""
    assert lab.node("worker-0", "getent", "hosts", "example.com").split() == ["192.0.2.10", "example.com"]
    assert "ClusterIP" not in lab.node("worker-0", "curl", "-sk", "-m", "5", "https://10.32.0.1/healthz")


def test_pods_of_a_stateful_set_find_each_other(lab: Lab) -> None:
    ip = lab.kubectl("get", "pod", "peer-1", "-o", "jsonpath={.status.podIP}")
    assert getent(lab, "peer-0", "peer-1.peer") == [ip]
    assert inside(lab, "peer-0", "hostname", "-f").strip() == f"peer-0.peer.default.{Z}"


# Asks without a pause, as programs do that ask again when nobody answers; prints how many times somebody did, and what failed.
ASKING = """
import sys, threading
import dns.resolver
resolver, count, failed, over = dns.resolver.Resolver(), 0, [], threading.Event()
resolver.timeout, resolver.lifetime = 0.3, 5
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
print("begun", flush=True)
while not over.is_set():
    try:
        resolver.resolve("web.demo.svc.cluster.local.", "A")
        count += 1
    except Exception as error:
        failed.append(repr(error))
print(count, *failed, sep="\\n")
"""


@contextmanager
def asking(lab: Lab) -> Iterator[list[str]]:
    """A pod that asks; how many answers it got, and the questions that nobody answered."""
    seen: list[str] = []
    words = ["glassnet", "kubectl", "exec", "-i", "client", "--", PYTHON, "-c", ASKING]
    with subprocess.Popen(words, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        yield seen
        process.stdin.close()
        seen += process.stdout.read().splitlines()


def ready(lab: Lab) -> int:
    return int(
        lab.kubectl("-n", "kube-system", "get", "deploy", "glassnet-dns", "-o", "jsonpath={.status.readyReplicas}") or 0
    )


def until(good: Callable[[], Any], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)


def test_a_server_that_is_killed_comes_back_and_a_replica_that_goes_is_replaced(lab: Lab) -> None:
    """Every question gets its answer all the while, if need be from the other replica."""
    pods = lab.kubectl("-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "name").split()
    system = ("-n", "kube-system")
    with asking(lab) as seen:
        lab.kubectl(*system, "exec", pods[0], "--", "pkill", "-9", "-x", "knotd")
        until(
            lambda: (
                lab.kubectl(*system, "exec", pods[0], "--", "pgrep", "-c", "-x", "knotd", check=False).strip() == "1"
            )
        )
        until(lambda: ready(lab) == 2)
        lab.kubectl(*system, "delete", "--wait=true", pods[1])
        until(lambda: ready(lab) == 2)
    count, *failed = seen
    assert int(count) > 100 and not failed
    logs = lab.kubectl(*system, "logs", "-l", "k8s-app=kube-dns")
    assert logs.count("answering: ") == 2
    left = [
        lab.node(f"worker-{n}", "sh", "-c", "ls /run/glassnet/dns 2>/dev/null", check=False).split() for n in range(3)
    ]
    assert sum(map(len, left)) == 2  # what the replica that went had is swept


def test_a_change_is_seen_from_a_pod(lab: Lab) -> None:
    lab.kubectl("create", "service", "clusterip", "late", "--clusterip=10.32.0.77", "--tcp=80")
    until(lambda: getent(lab, "client", "late") == ["10.32.0.77"])
    lab.kubectl("delete", "service", "late")
    until(lambda: getent(lab, "client", "late") == [])


def test_arguments_that_nobody_understands_are_told(lab: Lab) -> None:
    container = {"name": "dns", "image": "glassnet", "args": ["dns", "serve", "--colour=red"]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "odd"},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    until(lambda: lab.kubectl("get", "pod", "odd", "-o", "jsonpath={.status.phase}") == "Failed")
    assert "unknown flag: --colour" in lab.kubectl("logs", "odd")
    lab.kubectl("delete", "pod", "odd")
