"""The doctor on addresses: leaks, ranges of nodes, pods outside them; and the files of a node it reads them from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.doctor_worlds import IPTABLES, LEGACY, NFTABLES, Files, findings, named, objects, only, put, told, world

ALL = (IPTABLES, LEGACY, NFTABLES)
LIVING = [f"10.200.0.{i}" for i in range(2, 8)]


def lease(node: str, text: str, container: str = "0123456789ab") -> Any:
    """An IPAM file."""
    return put(f"{node}/cni-networks/bridge/{text}", f"{container}\r\neth0")


def leases() -> list[Any]:
    """Those of the pods that run on worker-0."""
    return [lease("worker-0", text) for text in LIVING]


# ---- leaks


def test_files_of_a_node_are_read() -> None:
    """Single files, and all of them in one."""
    conf = '{"name": "bridge", "type": "bridge"}'
    one = world(IPTABLES, lease("worker-0", "10.200.0.2"), put("worker-0/cni-networks/bridge/last_reserved_ip.0", "10.200.0.9"),
                put("worker-0/cni-networks/bridge/lock", ""), put("worker-0/cni-conf/10-bridge.conf", conf)).machines["worker-0"]  # fmt: skip
    listing = "== bridge/10.200.0.2\n0123456789ab\r\neth0\n== bridge/10.200.0.3\nffff\r\neth0\n"
    all_ = world(
        IPTABLES, put("worker-0/cni-leases.txt", listing), put("worker-0/cni-conf.txt", f"== 10-bridge.conf\n{conf}\n")
    )
    assert one.leases == {"10.200.0.2": "0123456789ab"} and one.cni_conf == {"10-bridge.conf": conf}
    assert all_.machines["worker-0"].leases == {"10.200.0.2": "0123456789ab", "10.200.0.3": "ffff"}
    assert all_.machines["worker-0"].cni_conf == {"10-bridge.conf": f"{conf}\n"}
    assert all_.machines["worker-1"].leases == {}


def test_leaked_addresses() -> None:
    assert findings(IPTABLES, *leases()) == []
    found = only(IPTABLES, *leases(), lease("worker-0", "10.200.0.40", "deadbeef"), lease("worker-0", "10.200.0.41"))
    assert (found.pain, found.severity, found.object) == ("leaked-ips", "warning", "worker-0")
    assert found.title == "8 of 253 addresses of 10.200.0.0/24 on worker-0 are given away, 2 of them leaked"
    assert "10.200.0.40: deadbeef: no running pod has this address" in found.evidence
    assert "rm /var/lib/cni/networks/*/10.200.0.40" in found.remedy


def test_pods_that_start_may_hold_such_addresses() -> None:
    def waiting(pod: dict[str, Any]) -> None:
        pod["status"] = {"phase": "Pending"}

    changes = [*leases(), objects("pods", named("db-0", waiting))]
    assert not [each for each in findings(IPTABLES, *changes) if each.pain == "leaked-ips"]


def test_range_that_is_used_up() -> None:
    many = [lease("worker-0", f"10.200.0.{i}") for i in range(2, 255)]
    found = only(IPTABLES, *many)
    assert (found.pain, found.severity) == ("leaked-ips", "critical")
    assert found.title.startswith("253 of 253 addresses") and "247 of them leaked" in found.title


# ---- ranges of nodes


def ranged(cidr: str | None) -> Any:
    """Give worker-2 another range."""

    def edit(node: dict[str, Any]) -> None:
        node["spec"] = {"podCIDR": cidr, "podCIDRs": [cidr]} if cidr else {}

    return objects("nodes", named("worker-2", edit))


def test_node_without_a_range() -> None:
    found = only(IPTABLES, ranged(None))
    assert (found.pain, found.severity, found.object) == ("no-pod-cidr", "warning", "worker-2")
    assert "Node worker-2 spec.podCIDR: (empty)" in found.evidence and "worker-0, worker-1" in told(found)


def test_pods_that_wait_for_a_range() -> None:
    def edit(pod: dict[str, Any]) -> None:
        pod["status"] = {"phase": "Pending"}

    found = [
        each
        for each in findings(IPTABLES, ranged(None), objects("pods", named("stay-0", edit)))
        if each.pain == "no-pod-cidr"
    ]
    assert [each.severity for each in found] == ["critical"] and "waiting: demo/stay-0" in found[0].evidence


def test_no_node_has_a_range_and_none_is_needed() -> None:
    """Some networks give addresses without a Node's range."""
    assert findings(IPTABLES, objects("nodes", lambda node: node.update(spec={}))) == []


@pytest.mark.parametrize(
    ("cidr", "whose", "evidence"),
    [
        ("10.200.1.0/24", "Node worker-2", "Node worker-1 spec.podCIDR: 10.200.1.0/24"),
        ("10.32.0.0/26", "the range of Services", "ServiceCIDR kubernetes spec.cidrs: 10.32.0.0/24"),
        ("10.240.0.0/24", "the nodes' network", "Node worker-0 status.addresses: 10.240.0.20"),
    ],
)
def test_ranges_that_overlap(cidr: str, whose: str, evidence: str) -> None:
    found = [each for each in findings(IPTABLES, ranged(cidr)) if each.pain == "no-pod-cidr"]
    assert [each.severity for each in found] == ["critical"]
    assert whose in found[0].title and evidence in found[0].evidence and f"podCIDR: {cidr}" in told(found[0])


def test_cluster_ips_stand_for_a_range_nobody_dumped() -> None:
    changes = [ranged("10.32.0.0/26"), objects("servicecidrs", lambda each: False)]
    found = [each for each in findings(IPTABLES, *changes) if each.pain == "no-pod-cidr"]
    assert len(found) == 1 and "the ClusterIPs of Services" in found[0].title


# ---- pods outside


def stray(text: str) -> Any:
    """A pod that nobody dumped has another address."""

    def edit(pod: dict[str, Any]) -> None:
        pod["status"].update(podIP=text, podIPs=[{"ip": text}])

    def change(files: Files) -> None:
        objects("pods", named("probe-ppv2m", edit))(files)
        for path in [path for path in files if "demo_probe-ppv2m" in path]:
            del files[path]

    return change


@pytest.mark.parametrize("name", ALL)
def test_pod_outside_its_nodes_range(name: str) -> None:
    found = only(name, stray("10.88.0.5"))
    assert (found.pain, found.severity, found.object) == ("pod-outside-cidr", "critical", "worker-2")
    assert "Pod demo/probe-ppv2m status.podIP: 10.88.0.5" in found.evidence
    assert "Node worker-2 spec.podCIDR: 10.200.2.0/24" in found.evidence


def test_the_configuration_in_use_is_the_first_by_name() -> None:
    wrong = {
        "cniVersion": "1.0.0",
        "name": "podman",
        "plugins": [{"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]]}}],
    }
    right = {
        "cniVersion": "1.0.0",
        "name": "bridge",
        "type": "bridge",
        "ipam": {"type": "host-local", "subnet": "10.200.2.0/24"},
    }
    found = only(
        IPTABLES,
        stray("10.88.0.5"),
        put("worker-2/cni-conf/87-podman-bridge.conflist", json.dumps(wrong)),
        put("worker-2/cni-conf/99-bridge.conf", json.dumps(right)),
        put("worker-2/cni-conf/00-broken.conf", "{"),
        put("worker-2/cni-conf/README", "text"),
    )
    assert (
        "CNI configuration in use: 87-podman-bridge.conflist (ranges 10.88.0.0/16): the first by name" in found.evidence
    )
    assert "not used: 00-broken.conf, 99-bridge.conf" in found.evidence
    assert found.remedy[0].startswith("rm /etc/cni/net.d/87-podman-bridge.conflist")


def test_all_pods_outside_but_reached_is_the_networks_own_way() -> None:
    """Other IPAM than the Nodes' ranges: the routes lead there, so nothing is wrong."""

    def edit(node: dict[str, Any]) -> None:
        number = node["metadata"]["name"][-1]
        node["spec"] = {"podCIDR": f"172.20.{number}.0/24", "podCIDRs": [f"172.20.{number}.0/24"]}

    found = findings(IPTABLES, objects("nodes", edit))
    assert not [each for each in found if each.pain == "pod-outside-cidr"]
