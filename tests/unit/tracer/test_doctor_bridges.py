"""The doctor on bridges: hairpin mode, bridge-nf-call-iptables, the bridge's address."""

from __future__ import annotations

from typing import Any

import pytest
from tests.doctor_worlds import (
    IPTABLES,
    LEGACY,
    NFTABLES,
    findings,
    objects,
    only,
    put,
    replace,
    rows,
    sysctl,
    told,
    world,
)
from tests.tracer_worlds import capture

from glassnet.tracer.doctor import diagnose

ALL = (IPTABLES, LEGACY, NFTABLES)


@pytest.mark.parametrize("name", ALL)
def test_captures_have_their_own_faults_and_no_others(name: str) -> None:
    """Bridge ports without hairpin mode; and the neighbor, whose route leads to a node without endpoint (its flows time out in the capture)."""
    found = diagnose(capture(name)[0])
    assert [(each.pain, each.severity, each.object, each.node) for each in found] == [
        ("local-policy", "warning", "Service demo/edge-lb-local", "worker-0"),
        ("hairpin", "warning", "worker-1", "worker-1"),
        ("hairpin", "warning", "worker-2", "worker-2"),
        ("hairpin", "info", "worker-0", "worker-0"),  # no pod there is the only endpoint of its Service
    ]
    assert "198.51.100.0/24 via 10.240.0.20" in told(found[0]) and "neighbor" in found[0].title


@pytest.mark.parametrize("name", ALL)
def test_ports_without_hairpin_mode(name: str) -> None:
    found = only(name, replace("worker-1/bridge-link.json", '"hairpin":true', '"hairpin":false'))
    assert (found.pain, found.severity, found.object) == ("hairpin", "warning", "worker-1")
    assert "bridge link: vethfd6dfd85 master cnio0 hairpin off" in found.evidence
    assert "demo/web" in told(found) and "demo/probe-whdrj" not in told(found)
    assert "bridge link set dev vethfd6dfd85 hairpin on" in found.remedy


def test_one_port_without_hairpin_mode_names_its_services_only() -> None:
    def edit(ports: list[dict[str, Any]]) -> None:
        next(port for port in ports if port["ifname"] == "vethfd6dfd85")["hairpin"] = False

    found = only(IPTABLES, rows("worker-1/bridge-link.json", edit))
    assert "Services: demo/api" in found.evidence and "pods: demo/api-v2-6f9f8d7d5d-prtzv" in found.evidence


def test_promiscuous_bridge_needs_no_hairpin_mode() -> None:
    def edit(links: list[dict[str, Any]]) -> None:
        next(link for link in links if link["ifname"] == "cnio0")["promiscuity"] = 1

    off = replace("worker-1/bridge-link.json", '"hairpin":true', '"hairpin":false')
    assert findings(IPTABLES, off, rows("worker-1/ip-link.json", edit), rows("worker-1/ip-addr.json", edit)) == []


def test_hairpin_without_masquerade() -> None:
    """The rule that marks what an endpoint sends to itself is gone: the pod drops packets from its own address."""

    def change(files: dict[str, bytes]) -> None:
        path = "worker-0/iptables-save.txt"
        kept = [
            line
            for line in files[path].decode().split("\n")
            if not (line.startswith("-A KUBE-SEP-") and "-s 10.200.0.2/32" in line)
        ]
        files[path] = "\n".join(kept).encode()

    found = only(IPTABLES, change)
    assert (found.pain, found.object) == ("hairpin", "worker-0")
    assert "Services: demo/api" in found.evidence and "masquerade" in found.remedy[0]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", ["0", None])
def test_bridge_that_does_not_call_iptables(name: str, value: str | None) -> None:
    found = only(name, sysctl("worker-0", "net.bridge.bridge-nf-call-iptables", value))
    assert (found.pain, found.severity, found.object) == ("bridge-nf", "critical", "worker-0")
    assert ("net.bridge.bridge-nf-call-iptables = 0" if value else "br_netfilter is not loaded") in told(found)
    assert "which the client never asked" in told(found) and "demo/web" in told(found)
    assert "sysctl -w net.bridge.bridge-nf-call-iptables=1" in found.remedy[1]


def test_bridge_with_one_pod_does_not_show_it_yet() -> None:
    """The pods but one of worker-0 are gone."""

    def change(files: dict[str, bytes]) -> None:
        for path in [
            path for path in files if path.startswith("worker-0/pods/") and "web-546b777687-k9v49" not in path
        ]:
            del files[path]

    def edit(pod: dict[str, Any]) -> bool:
        return pod["spec"]["nodeName"] != "worker-0" or pod["metadata"]["name"] == "web-546b777687-k9v49"

    changes = (change, objects("pods", edit))
    off = sysctl("worker-0", "net.bridge.bridge-nf-call-iptables", "0")
    found = [each for each in findings(IPTABLES, *changes, off) if each.pain == "bridge-nf"]
    assert [(each.severity, each.object) for each in found] == [("warning", "worker-0")]
    assert "as soon as it has two" in found[0].title and "demo/web" in told(found[0])


def test_unknown_sysctls_say_nothing() -> None:
    def change(files: dict[str, bytes]) -> None:
        del files["worker-0/sysctl-net.txt"]

    changed = world(IPTABLES, change)
    assert any("worker-0: no dump of its sysctls" in note for note in changed.notes)
    assert diagnose(changed) == []


def moved(text: str, length: int = 24) -> Any:
    """Give the bridge another IPv4 address."""

    def edit(links: list[dict[str, Any]]) -> None:
        for link in links:
            for item in link.get("addr_info", ()):
                if link["ifname"] == "cnio0" and item["family"] == "inet":
                    item.update(local=text, prefixlen=length)

    return rows("worker-2/ip-addr.json", edit)


def test_bridge_with_an_address_of_another_range() -> None:
    found = [each for each in findings(IPTABLES, moved("10.88.0.1", 16)) if each.pain == "bridge-address"]
    assert [(each.severity, each.object) for each in found] == [("critical", "worker-2")]
    assert "cnio0 of worker-2 has 10.88.0.1/16, not 10.200.2.1/24" in found[0].title
    assert "Node worker-2 spec.podCIDR: 10.200.2.0/24, whose first address is 10.200.2.1" in found[0].evidence
    assert "gateway of its pods: 10.200.2.1" in found[0].evidence
    assert found[0].remedy[:2] == ("ip addr del 10.88.0.1/16 dev cnio0", "ip addr add 10.200.2.1/24 dev cnio0")


def test_bridge_without_address() -> None:
    def edit(links: list[dict[str, Any]]) -> None:
        for link in links:
            if link["ifname"] == "cnio0":
                link["addr_info"] = []

    conf = '{"name":"bridge","plugins":[{"type":"bridge","ipam":{"type":"host-local","ranges":[[{"subnet":"10.200.2.0/24"}]]}}]}'
    changes = (rows("worker-2/ip-addr.json", edit), put("worker-2/cni-conf/10-bridge.conflist", conf))
    found = [each for each in findings(IPTABLES, *changes) if each.pain == "bridge-address"]
    assert [(each.severity, each.object) for each in found] == [("critical", "worker-2")]
    assert "10-bridge.conflist: ranges 10.200.2.0/24" in found[0].evidence and "no address" in found[0].title


def test_node_without_range_says_nothing_of_its_bridge() -> None:
    changes = (moved("10.88.0.1", 16), objects("nodes", lambda each: each["spec"].clear()))
    assert not [each for each in findings(IPTABLES, *changes) if each.pain == "bridge-address"]
