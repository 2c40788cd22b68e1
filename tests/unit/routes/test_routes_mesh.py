"""Nodes -> ways: direct or by tunnel, what is in the way, and that the order of what happened never counts."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.net.errors import UsageError
from glassnet.netstack.model import OwnAddress
from glassnet.routes import mtu
from glassnet.routes.compute import Direct, Mesh, Tunnelled
from glassnet.routes.model import Mode, Peer, RoutesSettings, check, peer_of, vtep_mac
from glassnet.routes.prefixes import Prefixes, block, holds, overlap

ETH0 = OwnAddress("10.240.0.10", "10.240.0.0/24", "eth0", 2, 1500)
ETH0_6 = OwnAddress("fd40::10", "fd40::/64", "eth0", 2, 1500)
CNI0 = OwnAddress("10.200.0.1", "10.200.0.0/24", "cni0", 5, 1450)
DOCKER = OwnAddress("172.17.0.1", "172.17.0.0/16", "docker0", 6, 1500)


def peer(
    name: str, cidrs: Sequence[str] = (), addresses: Sequence[str] = (), born: str = "2026-01-01T00:00:00Z"
) -> Peer:
    body: dict[str, Any] = {
        "metadata": {"name": name, "creationTimestamp": born or None},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {},
        "status": {"addresses": [{"type": "InternalIP", "address": one} for one in addresses]},
    }
    return peer_of(decode(kinds.NODE, json.dumps(body)))


HERE = peer("here", ["10.200.0.0/24", "fd00:0:0:a::/64"], ["10.240.0.10", "fd40::10"])
NEAR = peer("near", ["10.200.1.0/24", "fd00:0:0:1::/64"], ["10.240.0.11", "fd40::11"])
FAR = peer("far", ["10.200.2.0/24", "fd00:0:0:2::/64"], ["10.240.9.12", "fd49::12"])
FAR_MAC = vtep_mac("far")


def mesh(*peers: Peer, mode: Mode = "auto", own: Sequence[OwnAddress] = (ETH0, ETH0_6, CNI0), **more: Any) -> Mesh:
    made = Mesh("here", check(RoutesSettings(mode=mode, **more)))
    made.own(own)
    for each in (HERE, *peers) if all(one.name != "here" for one in peers) else peers:
        made.put(each)
    return made


def told(made: Mesh, name: str) -> list[tuple[str, str]]:
    return [(problem.reason, problem.text) for problem in made.ways(name).problems]


# -- the ways


def test_a_shared_link_is_direct_and_others_are_tunnelled() -> None:
    made = mesh(NEAR, FAR)
    assert made.ways("near").hops == (
        Direct("10.200.1.0/24", "10.240.0.11", "eth0"),
        Direct("fd00:0:0:1::/64", "fd40::11", "eth0"),
    )
    assert made.ways("far").hops == (
        Tunnelled("10.200.2.0/24", "10.200.2.0", FAR_MAC, "10.240.9.12"),
        Tunnelled("fd00:0:0:2::/64", "fd00:0:0:2::", FAR_MAC, "10.240.9.12"),
    )
    assert [made.ways(name).problems for name in ("near", "far", "here")] == [(), (), ()]
    assert made.ways("here").hops == () and made.ways("nobody").hops == ()


def test_the_modes() -> None:
    assert all(isinstance(hop, Tunnelled) for hop in mesh(NEAR, FAR, mode="vxlan").ways("near").hops)
    direct = mesh(NEAR, FAR, mode="direct")
    assert all(isinstance(hop, Direct) for hop in direct.ways("near").hops)
    assert direct.ways("far").hops == ()
    assert [(one.reason, one.local) for one in direct.ways("far").problems] == [("NoSharedLink", True)] * 2


def test_ipv6_pods_go_over_ipv4_tunnels_where_a_node_has_no_ipv6_address() -> None:
    only = peer("only", ["10.200.3.0/24", "fd00:0:0:3::/64"], ["10.240.0.13"])
    first, second = mesh(only).ways("only").hops
    assert first == Direct("10.200.3.0/24", "10.240.0.13", "eth0")
    assert second == Tunnelled("fd00:0:0:3::/64", "fd00:0:0:3::", vtep_mac("only"), "10.240.0.13")
    (problem,) = mesh(only, mode="direct").ways("only").problems
    assert "no InternalIP of IPv6 for its pod CIDR fd00:0:0:3::/64" in problem.text


def test_a_node_of_ipv6_alone_tunnels_over_ipv6() -> None:
    here = peer("here", ["fd00:0:0:a::/64"], ["fd40::10"])
    made = mesh(here, FAR, own=[ETH0_6])
    assert made.outer == 6 and made.local == "fd40::10"
    assert {hop.remote for hop in made.ways("far").hops if isinstance(hop, Tunnelled)} == {"fd49::12"}
    assert mesh(peer("here", ["10.200.0.0/24"], ["192.0.2.1"])).local == "0.0.0.0"  # an address of no link here
    assert told(mesh(here, peer("old", ["10.200.7.0/24"], ["10.240.0.9"]), own=[ETH0_6]), "old") == [
        ("NoNodeAddress", "no InternalIP of IPv6 in status.addresses, which this node's VXLAN runs over")
    ]


@pytest.mark.parametrize(
    ("own", "dev"),
    [
        (
            [OwnAddress("10.240.0.10", "10.240.0.10/32", "eth0", 2, 1460)],
            "",
        ),  # a cloud that gives addresses without a subnet
        ([ETH0, OwnAddress("10.240.0.129", "10.240.0.128/25", "eth1", 3, 1500)], "eth0"),
        ([ETH0, OwnAddress("10.240.0.1", "10.240.0.0/28", "eth1", 3, 1500)], "eth1"),  # the longer prefix
        (
            [OwnAddress("10.240.0.10", "10.240.0.11/32", "ppp0", 2, 1400)],
            "ppp0",
        ),  # the far end of a point-to-point link
    ],
)
def test_which_link_is_shared(own: list[OwnAddress], dev: str) -> None:
    near = peer("near", ["10.200.1.0/24"], ["10.240.0.11"])
    (hop,) = mesh(near, own=own).ways("near").hops
    assert (hop.dev if isinstance(hop, Direct) else "") == dev


# -- what is in the way


def test_a_node_that_lacks_something_is_named_and_the_rest_goes_on() -> None:
    made = mesh(peer("bare"), peer("lost", ["10.200.5.0/24"]), peer("no-cidr", (), ["10.240.0.20"]), NEAR)
    assert [reason for reason, _ in told(made, "bare")] == ["NoPodCIDR"]
    assert [reason for reason, _ in told(made, "no-cidr")] == ["NoPodCIDR"]
    assert [reason for reason, _ in told(made, "lost")] == ["NoNodeAddress"]
    assert len(made.ways("near").hops) == 2


def test_what_cannot_be_read_is_named_and_the_rest_is_used() -> None:
    odd = peer(
        "odd", ["10.200.5.0/99", "10.200.6.0/24", "127.0.0.0/8", "::/0", "fe80::/64"], ["nonsense", "10.240.0.21"]
    )
    made = mesh(odd)
    assert made.ways("odd").hops == (Direct("10.200.6.0/24", "10.240.0.21", "eth0"),)
    assert [text for _, text in told(made, "odd")] == [
        "InternalIP 'nonsense' is no IP address",
        "pod CIDR '10.200.5.0/99' is no network such as 10.200.0.0/24",
        "pod CIDR 127.0.0.0/8 lies where no pods can be",
        "pod CIDR ::/0 is the whole internet",
        "pod CIDR fe80::/64 lies where no pods can be",
    ]
    assert peer("sloppy", ["10.200.6.9/24"], ["::ffff:10.240.0.21"]).cidrs == ("10.200.6.0/24",)


def test_of_overlapping_pod_cidrs_the_older_node_has_its_way() -> None:
    old = peer("zz-old", ["10.200.8.0/22"], ["10.240.0.30"], "2025-01-01T00:00:00Z")
    new = peer("aa-new", ["10.200.9.0/24"], ["10.240.0.31"], "2025-06-01T00:00:00Z")
    made = mesh(new, old)
    assert len(made.ways("zz-old").hops) == 1 and made.ways("zz-old").problems == ()
    assert made.ways("aa-new").hops == ()
    assert told(made, "aa-new") == [
        ("PodCIDROverlap", "pod CIDR 10.200.9.0/24 overlaps 10.200.8.0/22 of Node zz-old, which is older")
    ]
    assert made.remove("zz-old") == {"zz-old", "aa-new"} and len(made.ways("aa-new").hops) == 1
    same = [peer(name, ["10.200.8.0/24"], [address]) for name, address in (("b", "10.240.0.1"), ("a", "10.240.0.2"))]
    made = mesh(*same)
    assert len(made.ways("a").hops) == 1 and made.ways("b").hops == ()  # of one age: by name
    timeless = mesh(same[0], peer("a", ["10.200.8.0/24"], ["10.240.0.2"], born=""))
    assert len(timeless.ways("b").hops) == 1 and timeless.ways("a").hops == ()


@pytest.mark.parametrize("born", ["2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"])
def test_our_own_pods_are_never_cut_off(born: str) -> None:
    rival = peer("rival", ["10.200.0.128/25"], ["10.240.0.40"], born)
    made = mesh(rival)
    assert made.ways("rival").hops == () and [reason for reason, _ in told(made, "rival")] == ["PodCIDROverlap"]
    assert [reason for reason, _ in told(made, "here")] == (["PodCIDROverlap"] if born < "2026" else [])


def test_a_pod_cidr_over_nodes_or_links_gets_no_route() -> None:
    wide = peer("wide", ["10.240.0.0/16"], ["172.31.0.1"])
    made = mesh(wide, NEAR)
    assert [reason for reason, _ in told(made, "wide")] == ["PodCIDRHoldsNodes"] and len(made.ways("near").hops) == 2
    assert told(mesh(peer("self", ["10.240.7.0/24"], ["10.240.7.1"])), "self") == [
        ("PodCIDRHoldsNodes", "pod CIDR 10.240.7.0/24 holds the address of Node self: a route would cut the nodes off")
    ]
    on_link = mesh(peer("docker", ["172.17.5.0/24"], ["10.240.0.50"]), own=(ETH0, DOCKER))
    assert told(on_link, "docker") == [
        ("PodCIDROnLink", "pod CIDR 172.17.5.0/24 overlaps 172.17.0.0/16 of this node's link docker0")
    ]
    assert on_link.ways("docker").problems[0].local


def test_two_nodes_with_one_address() -> None:
    one = peer("one", ["10.200.5.0/24"], ["10.240.0.60"], "2025-01-01T00:00:00Z")
    two = peer("two", ["10.200.6.0/24"], ["10.240.0.60"])
    made = mesh(two, one)
    assert len(made.ways("one").hops) == 1 and made.ways("two").hops == ()
    assert told(made, "two") == [
        ("NodeAddressConflict", "its address 10.240.0.60 is that of Node one too, which is older")
    ]
    mine = mesh(peer("mine", ["10.200.6.0/24"], ["10.240.0.10"]))
    assert mine.ways("mine").hops == () and [reason for reason, _ in told(mine, "mine")] == ["NodeAddressConflict"]
    far = mesh(one._replace(mac=FAR_MAC, name="x"), FAR, mode="vxlan")
    assert [reason for reason, _ in told(far, "far")] == ["VTEPConflict"]


def test_pods_outside_the_clusters_ranges_get_no_route() -> None:
    made = mesh(
        peer("rogue", ["8.8.8.0/24", "fd00:0:0:9::/64"], ["10.240.0.70", "fd40::70"]),
        NEAR,
        cluster_cidrs=("10.200.0.0/16",),
    )
    assert [reason for reason, _ in told(made, "rogue")] == ["PodCIDROutside"]
    assert [hop.cidr for hop in made.ways("rogue").hops] == ["fd00:0:0:9::/64"]  # no range of IPv6 was given
    assert len(made.ways("near").hops) == 2


def test_a_node_without_an_address_has_no_tunnels() -> None:
    made = mesh(peer("here", ["10.200.0.0/24"]), FAR)
    assert made.outer == 0 and made.local == ""
    assert {reason for reason, _ in told(made, "far")} == {"NoNodeAddress"}
    assert [reason for reason, _ in told(made, "here")] == ["NoNodeAddress"]


# -- sizes


def test_the_mtu_of_pods() -> None:
    assert (mtu.OVER_IPV4, mtu.OVER_IPV6) == (50, 70)
    for mode, small in (("auto", 1450), ("vxlan", 1450), ("direct", 1500)):
        assert mesh(mode=mode).fitting_mtu(mesh(mode=mode).link_mtu()) == small  # type: ignore[arg-type]
    assert mesh(peer("here", ["fd00::/64"], ["fd40::10"]), own=[ETH0_6]).fitting_mtu(1500) == 1430
    jumbo = OwnAddress("fd40::10", "fd40::/64", "eth1", 3, 9000)
    assert mesh(own=[ETH0, jumbo]).link_mtu() == 1500 and mesh(own=[DOCKER]).link_mtu() == 0


# -- prefixes, and the order of things

addresses = st.integers(0, 255).map(lambda number: f"10.0.0.{number}")
networks = st.builds(
    lambda number, length: str(ipaddress.ip_network((number << 24, length), strict=False)), st.integers(0, 31), st.integers(2, 8)
) | st.builds(lambda number, length: str(ipaddress.ip_network((number << 120, length), strict=False)), st.integers(0, 31), st.integers(3, 8))  # fmt: skip


@given(st.lists(st.tuples(networks, st.sampled_from("abc"), st.booleans())), networks)
def test_prefixes_find_what_overlaps(steps: list[tuple[str, str, bool]], asked: str) -> None:
    found, there = Prefixes(), set[tuple[str, str]]()
    for text, name, add in steps:
        (found.add if add else found.remove)(block(text), name)
        (there.add if add else there.discard)((text, name))
    network = ipaddress.ip_network(asked)
    assert found.overlapping(block(asked)) == {
        name for text, name in there if network.overlaps(ipaddress.ip_network(text))
    }


@given(networks, networks)
def test_blocks_are_networks(one: str, other: str) -> None:
    first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    assert overlap(block(one), block(other)) == first.overlaps(second)
    same = type(first) is type(second)
    assert holds(block(one), block(other)) == (same and second.subnet_of(first))  # type: ignore[arg-type]


names = st.sampled_from(["here", "a", "b", "c", "d"])
few_addresses = st.lists(
    st.sampled_from(["10.240.0.10", "10.240.0.11", "10.240.9.1", "fd40::10", "fd49::1", "10.200.1.7", "bad"]),
    max_size=2,
)
few_cidrs = st.lists(
    st.sampled_from(
        [
            "10.200.0.0/24",
            "10.200.1.0/24",
            "10.200.0.0/22",
            "10.200.1.128/25",
            "fd00::/64",
            "fd00::/60",
            "10.240.0.0/24",
        ]
    ),
    max_size=2,
)
years = st.sampled_from(["2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z", ""])
events = st.lists(
    st.builds(peer, names, few_cidrs, few_addresses, years)
    | names
    | st.lists(st.sampled_from([ETH0, ETH0_6, CNI0, DOCKER]), unique=True).map(tuple),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(events, st.sampled_from(["auto", "direct", "vxlan"]))
def test_after_any_events_what_is_said_is_what_a_fresh_one_says(steps: list[Any], mode: Mode) -> None:
    conf = RoutesSettings(mode=mode)
    made, peers, own = Mesh("here", conf), dict[str, Peer](), tuple[OwnAddress, ...]()
    kept: dict[str, Any] = {}
    for step in steps:
        if isinstance(step, Peer):
            touched, peers = made.put(step), {**peers, step.name: step}
        elif isinstance(step, str):
            touched = made.remove(step)
            peers.pop(step, None)
        else:
            touched, own = made.own(step), step
        kept |= {name: made.ways(name) for name in touched}  # asked again for these alone
    fresh = Mesh("here", conf)
    for each in reversed(peers.values()):
        fresh.put(each)
    fresh.own(own)
    assert {name: ways for name, ways in kept.items() if name in peers} == {name: fresh.ways(name) for name in peers}
    assert all(kept[name].hops == () for name in kept.keys() - peers.keys())
    cidrs = [hop.cidr for name in peers for hop in fresh.ways(name).hops]
    assert not any(overlap(block(one), block(other)) for at, one in enumerate(cidrs) for other in cidrs[:at])


# -- settings


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mode": "bgp"}, "mode 'bgp': want one of auto, direct, vxlan"),
        ({"vxlan_id": 0}, "vxlan_id 0: want 1 to 16777215"),
        ({"vxlan_port": 70000}, "vxlan_port 70000: want 1 to 65535"),
        ({"mtu": 20}, "mtu 20: want 68 to 65535"),
        ({"link": "a-name-that-is-too-long"}, "15 bytes at most"),
        ({"link": "a/b"}, "want the name of an interface"),
        ({"cluster_cidrs": ("10.200.0.1/16",)}, "cluster_cidrs '10.200.0.1/16'"),
    ],
)
def test_settings_that_are_off(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match="routes: ") as caught:
        check(RoutesSettings(**wrong))
    assert words in str(caught.value)


def test_macs_are_unicast_local_and_lasting() -> None:
    macs = {vtep_mac(f"node-{at}") for at in range(5000)}
    assert len(macs) == 5000 and {int(mac[:2], 16) & 3 for mac in macs} == {2}
    assert vtep_mac("node-a") == vtep_mac("node-a") == "3e:27:f4:71:42:37"
