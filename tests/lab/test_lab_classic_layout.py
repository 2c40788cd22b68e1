"""A lab whose nodes speak the iptables of kube-proxy 1.18: the commands of articles of that time, packets, and the way to today's layout and back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest
from tests.picture_checks import check, said

from conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: my-nginx}
spec:
  replicas: 2
  selector: {matchLabels: {app: my-nginx}}
  template:
    metadata: {labels: {app: my-nginx}}
    spec: {containers: [{name: c, image: agnhost, args: [netexec, --http-port=80], ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: my-nginx-service}
spec: {type: LoadBalancer, clusterIP: 10.32.0.50, selector: {app: my-nginx}, ports: [{port: 80, nodePort: 32643}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: worker-1, containers: [{name: c, image: busybox, command: [sleep, "3600"]}]}
"""
VIP, DIGITS = "203.0.113.200", "BMQ5UNGRIS2RIY35"
STATUS = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": VIP}]}}})


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Lab], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    path = tmp_path_factory.mktemp("manifests") / "nginx.yaml"
    path.write_text(MANIFEST)
    made = make_lab("-f", str(path), "--iptables-layout", "classic", "--nodes", "2")
    made.kubectl("patch", "service", "my-nginx-service", "--subresource=status", "--type=merge", "-p", STATUS)
    until(lambda: f"KUBE-FW-{DIGITS}" in listed(made, "KUBE-SERVICES"))
    return made


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def listed(lab: Lab, chain: str) -> str:
    """What the articles run."""
    return all_listed(lab, chain)[0]


def all_listed(lab: Lab, *chains: str) -> list[str]:
    """The same for several chains."""
    script = "; echo --; ".join(f"iptables -t nat -L {chain} -n | column -t" for chain in chains)
    return lab.node("worker-0", "sh", "-c", script).split("\n--\n")


def targets(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[2:]]


def ask(lab: Lab, address: str) -> str:
    return lab.kubectl("exec", "client", "--", "wget", "-qO-", "-T", "3", f"http://{address}/hostname")


def test_packets_arrive_at_every_address(lab: Lab) -> None:
    for address in ("10.32.0.50", VIP, "10.240.0.20:32643", "10.240.0.21:32643"):
        assert ask(lab, address).startswith("my-nginx-"), address
    assert lab.host("internet", "curl", "-s", "-m", "3", "http://203.0.113.20:32643/hostname").startswith("my-nginx-")


def test_the_commands_of_the_articles_print_what_they_print_there(lab: Lab) -> None:
    ports, fw, svc, masq, drop = all_listed(
        lab, "KUBE-NODEPORTS", f"KUBE-FW-{DIGITS}", f"KUBE-SVC-{DIGITS}", "KUBE-MARK-MASQ", "KUBE-MARK-DROP"
    )
    assert targets(ports) == ["KUBE-MARK-MASQ", f"KUBE-SVC-{DIGITS}"] and ports.count("dpt:32643") == 2
    assert "default/my-nginx-service:" in ports
    assert targets(fw) == ["KUBE-MARK-MASQ", f"KUBE-SVC-{DIGITS}", "KUBE-MARK-DROP"]
    assert re.search(r"MARK +or +0x4000", masq) and re.search(r"MARK +or +0x8000", drop)
    first, second = targets(svc)
    assert re.search(r"probability +0.50000000000", svc)
    assert {first[:9], second[:9]} == {"KUBE-SEP-"} and first != second
    for text in all_listed(lab, first, second):
        assert targets(text) == ["KUBE-MARK-MASQ", "DNAT"]


@pytest.mark.parametrize(("replicas", "chances"), [(3, ["0.33332999982", "0.50000000000"]), (4, ["0.25000000000", "0.33332999982", "0.50000000000"])])  # fmt: skip
def test_chances_follow_the_number_of_endpoints(lab: Lab, replicas: int, chances: list[str]) -> None:
    lab.kubectl("scale", "deployment/my-nginx", f"--replicas={replicas}")
    until(lambda: len(targets(listed(lab, f"KUBE-SVC-{DIGITS}"))) == replicas)
    assert re.findall(r"probability +([0-9.]+)", listed(lab, f"KUBE-SVC-{DIGITS}")) == chances


def test_policy_local_drops_where_no_endpoint_is(lab: Lab) -> None:
    lab.kubectl("patch", "service", "my-nginx-service", "-p", '{"spec":{"externalTrafficPolicy":"Local"}}')
    until(lambda: f"KUBE-XLB-{DIGITS}" in listed(lab, "KUBE-NODEPORTS"))
    chain = listed(lab, f"KUBE-XLB-{DIGITS}")
    assert targets(chain)[:3] == [f"KUBE-SVC-{DIGITS}", "KUBE-MARK-MASQ", f"KUBE-SVC-{DIGITS}"]
    assert "Balancing" in chain and "KUBE-MARK-DROP" not in targets(chain)
    lab.kubectl("scale", "deployment/my-nginx", "--replicas=0")
    until(lambda: "has no endpoints" in lab.node("worker-0", "iptables", "-S", "KUBE-EXTERNAL-SERVICES"))
    pinned = {"spec": {"replicas": 1, "template": {"spec": {"nodeName": "worker-1"}}}}
    lab.kubectl("patch", "deployment", "my-nginx", "-p", json.dumps(pinned))
    until(lambda: "KUBE-MARK-DROP" in listed(lab, f"KUBE-XLB-{DIGITS}"))
    asked = ("curl", "-s", "-o", "/dev/null", "-m", "2", "-w", "%{http_code} %{exitcode}")
    assert lab.host("internet", *asked, "http://203.0.113.20:32643/", check=False).split() == ["000", "28"]
    assert lab.host("internet", *asked, "http://203.0.113.21:32643/").split() == ["200", "0"]
    traced = lab.glassnet("trace", "internet", "203.0.113.20:32643", check=False).stdout
    assert "dropped" in traced and "KUBE-MARK-DROP" in traced
    lab.kubectl("patch", "service", "my-nginx-service", "-p", '{"spec":{"externalTrafficPolicy":"Cluster"}}')
    until(lambda: f"KUBE-SVC-{DIGITS}" in listed(lab, f"KUBE-FW-{DIGITS}"))


def test_chains_are_told_by_name_and_nothing_differs(lab: Lab) -> None:
    told = lab.glassnet("explain", f"KUBE-FW-{DIGITS}").stdout
    assert "the load balancer's addresses, and source ranges of Service port default/my-nginx-service" in told
    assert "marks packets to be dropped" in lab.glassnet("explain", "KUBE-MARK-DROP").stdout
    assert "no difference" in lab.glassnet("drift").stdout
    found = lab.glassnet("where", "svc/my-nginx-service").stdout
    assert f"nat KUBE-FW-{DIGITS}" in found and "spec.externalTrafficPolicy: Cluster" in found


def test_the_picture_of_the_way_shows_these_chains(lab: Lab) -> None:
    drawn = lab.glassnet("trace", "client", f"{VIP}:80", "-o", "svg").stdout
    shown = said(check(drawn))
    places = [
        shown.index(name) for name in ("KUBE-SERVICES", f"KUBE-FW-{DIGITS}", "KUBE-MARK-MASQ", f"KUBE-SVC-{DIGITS}")
    ]
    assert places == sorted(places) and any(text.startswith(f"DNAT {VIP}:80 → 10.200.") for text in shown)


def test_the_map_of_the_lab(lab: Lab) -> None:
    text = lab.glassnet("map").stdout
    for line in ("network 192.0.2.0/24", "network 10.240.0.0/24, bridge vpc0 on fabric", "bridge cnio0 10.200.1.1/24"):
        assert line in text
    assert re.search(rf"{VIP}:80/TCP +LoadBalancer +default/my-nginx-service +1 endpoint\b", text)
    shown = said(check(lab.glassnet("map", "-o", "svg").stdout))
    assert {"internet", "vpc-router", "controller-0", "worker-0", "worker-1", "virtual addresses"} <= set(shown)


def test_to_the_other_layout_and_back_while_it_runs(lab: Lab) -> None:
    def names() -> set[str]:
        return set(re.findall(r"^:(KUBE-\S+)", lab.node("worker-0", "iptables-save"), re.MULTILINE))

    before = names()
    assert "classic layout" not in lab.glassnet("lab", "proxy", "iptables", "--layout", "current").stdout
    current = names()
    assert not any(name.startswith(("KUBE-XLB-", "KUBE-MARK-DROP")) or DIGITS in name for name in current)
    assert any(name.startswith("KUBE-EXT-") for name in current) and ask(lab, VIP).startswith("my-nginx-")
    assert "classic layout" in lab.glassnet("lab", "proxy", "iptables", "--layout", "classic").stdout
    assert names() == before and ask(lab, VIP).startswith("my-nginx-")
    refused = lab.glassnet("lab", "proxy", "nftables", "--layout", "classic", check=False)
    assert refused.returncode == 2 and "is about iptables chains" in refused.stderr
    lab.glassnet("lab", "proxy", "nftables")
    assert names() == set() and ask(lab, VIP).startswith("my-nginx-")
    lab.glassnet("lab", "proxy", "iptables")  # the layout it had
    assert names() == before
