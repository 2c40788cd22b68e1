"""Plans of the bridge plugin: operations, rules, results."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.cni import bridge, config
from glassnet.cni.bridge import BridgeState, Plan
from glassnet.cni.host_local import Lease
from glassnet.net.errors import GlassnetError
from glassnet.netstack.ops import (
    AddAddress,
    AddBridge,
    AddRoute,
    AddVeth,
    DelAddress,
    DelLink,
    DelNeighbour,
    SetBridgePort,
    SetLink,
    SetNeighbour,
)

LEASE = Lease("10.200.0.7/24", "10.200.0.1")
MAC = "0a:58:0a:c8:00:01"
UP = BridgeState("10.200.0.1/24", MAC)


def plan(present: BridgeState | None = UP, permanent: bool = False, **changes: Any) -> Plan:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    base = {"cniVersion": "0.3.1", "name": "bridge", "type": "bridge", "bridge": "cnio0", "isGateway": True,
            "ipMasq": True, "ipam": ipam}  # fmt: skip
    conf = config.parse(json.dumps({**base, **changes}), "x")
    return bridge.add(
        conf,
        LEASE,
        container_id="c1",
        ifname="eth0",
        host_name="veth0123abcd",
        pod_netns=9,
        present=present,
        host_mac="02:00:00:00:00:01",
        sandbox="/run/netns/pod1",
        permanent_neighbours=permanent,
    )


def test_the_first_pod_brings_the_bridge() -> None:
    made = plan(present=None)
    assert made.node[:3] == (
        AddBridge("cnio0", MAC),
        SetLink("cnio0", up=True),
        AddAddress("10.200.0.1/24", "cnio0", exist_ok=True),
    )
    assert made.node[3:] == plan().node


def test_a_further_pod() -> None:
    made = plan()
    assert made.node == (
        AddVeth("veth0123abcd", "eth0", peer_netns=9, hardware="02:00:00:00:00:01", peer_hardware="0a:58:0a:c8:00:07"),
        SetLink("veth0123abcd", up=True, master="cnio0"),
    )
    assert made.pod == (
        SetLink("eth0", up=True),
        AddAddress("10.200.0.7/24", "eth0"),
        AddRoute("default", gateway="10.200.0.1", dev="eth0", protocol=3),
    )


def test_switches() -> None:
    made = plan(present=None, hairpinMode=True, promiscMode=True, mtu=1400)
    assert AddBridge("cnio0", MAC, 1400) in made.node and SetLink("cnio0", up=True, promisc=True) in made.node
    assert SetBridgePort("veth0123abcd", hairpin=True) in made.node
    assert any(isinstance(op, AddVeth) and op.mtu == 1400 for op in made.node)


def test_no_gateway_no_address_on_the_bridge() -> None:
    made = plan(present=None, isGateway=False)
    assert AddBridge("cnio0") in made.node and not any(isinstance(op, AddAddress) for op in made.node)


def test_default_gateway_routes_once() -> None:
    routes = [op for op in plan(isDefaultGateway=True).pod if isinstance(op, AddRoute)]
    assert routes == [AddRoute("default", gateway="10.200.0.1", dev="eth0", protocol=3)]


def test_permanent_neighbours_name_both_ends() -> None:
    made = plan(permanent=True)
    assert SetNeighbour("10.200.0.1", MAC, "eth0") in made.pod
    assert SetNeighbour("10.200.0.7", "0a:58:0a:c8:00:07", "cnio0") in made.node
    assert bridge.delete("eth0") == (DelLink("eth0", missing_ok=True),)
    assert bridge.forget("10.200.0.7", "cnio0") == (DelNeighbour("10.200.0.7", "cnio0", missing_ok=True),)
    assert bridge.forget("10.200.0.7", "") == ()


@pytest.mark.parametrize(
    ("present", "changes", "expected"),
    [
        (BridgeState("", MAC), {}, [AddAddress("10.200.0.1/24", "cnio0", exist_ok=True)]),
        (BridgeState("10.200.0.1/24", "02:11:22:33:44:55"), {}, [SetLink("cnio0", hardware=MAC, up=True)]),
        (BridgeState("192.0.2.1/24", MAC), {}, [AddAddress("10.200.0.1/24", "cnio0", exist_ok=True)]),
        (
            BridgeState("10.200.0.9/16", MAC),
            {"forceAddress": True},
            [DelAddress("10.200.0.9/16", "cnio0"), AddAddress("10.200.0.1/24", "cnio0", exist_ok=True)],
        ),
    ],
)
def test_a_bridge_that_is_there(present: BridgeState, changes: dict[str, Any], expected: list[Any]) -> None:
    assert list(plan(present, **changes).node[: len(expected)]) == expected


def test_a_bridge_of_another_network_is_refused() -> None:
    with pytest.raises(GlassnetError, match=r'"cnio0" already has an IP address different from 10\.200\.0\.1/24'):
        plan(BridgeState("10.200.0.9/16", MAC))


def test_rules_of_the_reference_plugin() -> None:
    """Chain and text as /usr/lib/cni/bridge 1.1.1 wrote them for container c1 of network bridge."""
    note = r'-m comment --comment "name: \"bridge\" id: \"c1\""'
    chain = "CNI-c0f01d097728718fbc10fe72"
    assert plan().rules.splitlines() == [
        f":{chain} - [0:0]",
        f"-A POSTROUTING -s 10.200.0.7/32 {note} -j {chain}",
        f"-A {chain} -d 10.200.0.0/24 {note} -j ACCEPT",
        f"-A {chain} ! -d 224.0.0.0/4 {note} -j MASQUERADE",
    ]
    assert plan(ipMasq=False).rules == ""
    assert bridge.masquerade_removal("bridge", "10.200.0.7", "c1").splitlines() == [
        f":{chain} - [0:0]",
        f"-D POSTROUTING -s 10.200.0.7/32 {note} -j {chain}",
        f"-X {chain}",
    ]


def test_the_result_by_version() -> None:
    old = plan().result
    assert old == {
        "cniVersion": "0.3.1",
        "interfaces": [
            {"name": "cnio0", "mac": MAC},
            {"name": "veth0123abcd", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "0a:58:0a:c8:00:07", "sandbox": "/run/netns/pod1"},
        ],
        "ips": [{"version": "4", "interface": 2, "address": "10.200.0.7/24", "gateway": "10.200.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    }
    new = plan(cniVersion="1.0.0").result
    assert "version" not in new["ips"][0] and new["cniVersion"] == "1.0.0"


def test_the_nodes_ends_mac_is_local_and_no_group_address() -> None:
    assert bridge.host_hardware(b"\xff\x01\x02\x03\x04\x05") == "fe:01:02:03:04:05"
    assert bridge.host_hardware(bytes(6)) == "02:00:00:00:00:00"
