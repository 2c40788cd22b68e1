"""Who gets which address: by age, for good, shared only by those that may, and never two on one address and port."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from balancer_objects import Cluster, service
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.kube.view import Key
from glassnet.loadbalancer import request
from glassnet.loadbalancer.request import CLASS, IPS, POOL, SHARING

POOLS = """
pools:
- {name: auto, addresses: [192.0.2.10-192.0.2.12, "fd00::10-fd00::12"]}
- {name: asked, addresses: [198.51.100.0/30], autoAssign: false, avoidBuggyIPs: true}
- {name: shop, addresses: [203.0.113.5], namespaces: [shop]}
"""
DUAL = {"ipFamilies": ["IPv4", "IPv6"]}


def test_the_older_first_and_the_lowest_address() -> None:
    cluster = Cluster(POOLS)
    cluster.put(service("b", 2), service("a", 1), service("c", 3), work=False)
    cluster.anew()
    assert [cluster.ips(name) for name in "abc"] == [["192.0.2.10"], ["192.0.2.11"], ["192.0.2.12"]]
    assert cluster.said("a") == "192.0.2.10 (pool auto)"
    assert {record.reason for record in cluster.records} == {"Assigned"}


def test_an_exhausted_pool_is_told_and_who_waits_gets_what_is_given_back() -> None:
    cluster = Cluster(POOLS)
    cluster.put(*(service(f"s{number}", number) for number in range(5)))
    assert [cluster.ips(f"s{number}") for number in (3, 4)] == [[], []]
    assert cluster.reason("s3") == "PoolExhausted" and "no IPv4 address is free in pool auto" in cluster.said("s3")
    assert cluster.allocator.waiting == 2
    cluster.remove("s1")
    assert (cluster.ips("s3"), cluster.ips("s4")) == (["192.0.2.11"], [])
    cluster.put(service("s0", 0, type="ClusterIP"))
    assert (cluster.ips("s0"), cluster.reason("s0"), cluster.ips("s4")) == ([], "", ["192.0.2.10"])


@pytest.mark.parametrize(
    ("made", "ips", "reason"),
    [
        (service("x", loadBalancerIP="192.0.2.12"), ["192.0.2.12"], "Assigned"),
        (service("x", notes={IPS: "192.0.2.12"}), ["192.0.2.12"], "Assigned"),
        (service("x", notes={IPS: "192.0.2.12,fd00::11"}, **DUAL), ["192.0.2.12", "fd00::11"], "Assigned"),
        (service("x", notes={IPS: "fd00::11"}, ipFamilies=["IPv6"]), ["fd00::11"], "Assigned"),
        (service("x", notes={POOL: "asked"}), ["198.51.100.1"], "Assigned"),
        (service("x", notes={IPS: "198.51.100.0"}), ["198.51.100.0"], "Assigned"),
        (service("x", loadBalancerIP="192.0.2.99"), [], "AddressOutsidePools"),
        (service("x", notes={IPS: "192.0.2.10", POOL: "asked"}), [], "AddressOutsidePools"),
        (service("x", notes={IPS: "fd00::11"}), [], "InvalidRequest"),
        (service("x", notes={IPS: "192.0.2.10,192.0.2.11"}), [], "InvalidRequest"),
        (service("x", notes={IPS: "ten"}), [], "InvalidRequest"),
        (service("x", notes={IPS: "192.0.2.10"}, loadBalancerIP="192.0.2.11"), [], "InvalidRequest"),
        (service("x", notes={POOL: "none"}), [], "NoPool"),
        (service("x", notes={POOL: "shop"}), [], "PoolNotAllowed"),
        (service("x", notes={IPS: "203.0.113.5"}), [], "PoolNotAllowed"),
        (service("x", loadBalancerClass="example.com/other"), [], ""),
        (service("x", loadBalancerClass="glassnet.dev/typo"), [], "UnknownClass"),
        (service("x", loadBalancerClass=CLASS), ["192.0.2.10"], "Assigned"),
        (service("x", **DUAL, ipFamilyPolicy="RequireDualStack"), ["192.0.2.10", "fd00::10"], "Assigned"),
        (service("x", **DUAL, ipFamilyPolicy="PreferDualStack"), ["192.0.2.10", "fd00::10"], "Assigned"),
        (service("x", **DUAL, ipFamilyPolicy="RequireDualStack", notes={POOL: "asked"}), [], "NoPool"),
        (service("x", **DUAL, ipFamilyPolicy="PreferDualStack", notes={POOL: "asked"}), ["198.51.100.1"], "Assigned"),
        (service("x", type="NodePort"), [], ""),
    ],
)  # fmt: skip
def test_what_is_asked_for(made: object, ips: list[str], reason: str) -> None:
    cluster = Cluster(POOLS)
    cluster.put(made)  # type: ignore[arg-type]
    assert (cluster.ips("x"), cluster.reason("x")) == (ips, reason), cluster.said("x")


def test_a_pool_of_a_namespace_comes_first_there() -> None:
    cluster = Cluster(POOLS)
    cluster.put(service("x", namespace="shop"), service("y", 1, namespace="shop"))
    found = [request.shown(cluster.services[Key("shop", name)]) for name in "xy"]
    assert found == [("203.0.113.5",), ("192.0.2.10",)]


def test_without_the_default_class_only_those_that_name_ours() -> None:
    cluster = Cluster(POOLS, default_class=False)
    cluster.put(service("x"), service("y", loadBalancerClass=CLASS))
    assert (cluster.ips("x"), cluster.ips("y")) == ([], ["192.0.2.10"])


def test_a_taken_address_is_named_with_who_has_it_and_comes_when_it_is_free() -> None:
    cluster = Cluster(POOLS)
    cluster.put(service("a", 1, loadBalancerIP="192.0.2.11"), service("b", 2, loadBalancerIP="192.0.2.11"))
    assert cluster.reason("b") == "AddressTaken" and "Service demo/a has it" in cluster.said("b")
    cluster.remove("a")
    assert cluster.ips("b") == ["192.0.2.11"]


def test_an_address_is_shared_by_key_and_different_ports_alone() -> None:
    cluster, key = Cluster(POOLS), {SHARING: "one"}
    cluster.put(service("a", 1, notes=key), service("b", 2, notes=key, ports=(443,)), service("c", 3, notes=key))
    assert cluster.ips("a") == cluster.ips("b") == ["192.0.2.10"] != cluster.ips("c")
    local = {"externalTrafficPolicy": "Local", "notes": {**key, IPS: "192.0.2.10"}}
    cluster.put(service("d", 4, ports=(8080,), **local))  # type: ignore[arg-type]
    assert cluster.reason("d") == "AddressTaken"
    cluster.put(service("b", 2, notes=key, ports=(80,)))  # its port is now that of the older: it moves
    assert (cluster.ips("a"), cluster.ips("b")) == (["192.0.2.10"], ["192.0.2.12"])


def test_what_another_load_balancer_has_written_is_left_and_told() -> None:
    cluster = Cluster(POOLS)
    theirs = {"loadBalancer": {"ingress": [{"ip": "10.9.9.9"}]}}
    cluster.put(
        service("a", state=theirs), service("b", state={"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}})
    )
    assert cluster.ips("a") == ["10.9.9.9"] and cluster.reason("a") == cluster.reason("b") == "OtherLoadBalancer"
    assert "10.9.9.9" in cluster.said("a") and "lb.example.com" in cluster.said("b")
    patches = cluster.patches
    cluster.anew()
    assert cluster.patches == patches


def test_an_address_of_ours_from_before_is_kept() -> None:
    cluster = Cluster(POOLS)
    cluster.put(service("new", 9), work=False)
    cluster.put(service("old", 10, state={"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}}))
    assert (cluster.ips("old"), cluster.ips("new")) == (["192.0.2.10"], ["192.0.2.11"])


def test_pools_that_change_move_only_what_they_must() -> None:
    cluster = Cluster(POOLS)
    cluster.put(*(service(f"s{number}", number) for number in range(3)))
    cluster.anew("pools: [{name: auto, addresses: [192.0.2.11-192.0.2.20]}]")
    assert [cluster.ips(f"s{number}") for number in range(3)] == [["192.0.2.13"], ["192.0.2.11"], ["192.0.2.12"]]


def test_prefer_dual_stack_gets_its_second_address_when_there_is_one() -> None:
    cluster = Cluster("pools: [{name: a, addresses: [192.0.2.0/24, 'fd00::1']}]")
    cluster.put(service("one", 1, ipFamilies=["IPv6"]), service("two", 2, **DUAL, ipFamilyPolicy="PreferDualStack"))
    assert cluster.ips("two") == ["192.0.2.0"]
    cluster.remove("one")
    assert cluster.ips("two") == ["192.0.2.0", "fd00::1"]


def test_a_status_that_somebody_emptied_is_put_back() -> None:
    cluster = Cluster(POOLS)
    cluster.put(service("a", 1), service("b", 2))
    cluster.remove("a")
    old = cluster.services[Key("demo", "b")]
    emptied = service(
        "b",
        2,
        state={
            "conditions": [
                {"type": request.CONDITION, "status": "True", "reason": "Assigned", "message": cluster.said("b")}
            ]
        },
    )
    cluster.services[Key("demo", "b")] = emptied
    cluster.put(emptied)
    assert cluster.ips("b") == [each.ip for each in old.status.load_balancer.ingress] == ["192.0.2.11"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "type", "remove", "anew", "work"]),
        st.integers(0, 7),
        st.sampled_from([(80,), (443,), (80, 443)]),
        st.sampled_from(["", "k1", "k2"]),
        st.sampled_from(["", "192.0.2.10", "192.0.2.11", "fd00::10"]),
        st.sampled_from([["IPv4"], ["IPv6"], ["IPv4", "IPv6"]]),
        st.sampled_from(["Cluster", "Local"]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers())
def test_after_any_events_no_two_collide_and_a_fresh_controller_changes_nothing(steps: list[tuple], seed: int) -> None:  # type: ignore[type-arg]
    cluster, chance = Cluster(POOLS), random.Random(seed)
    for what, number, ports, sharing, ip, families, policy in steps:
        name = f"s{number}"
        if what in ("put", "type"):
            notes = {SHARING: sharing} | ({IPS: ip} if ip else {})
            kind = "ClusterIP" if what == "type" else "LoadBalancer"
            cluster.put(service(name, number, ports=ports, notes=notes, ipFamilies=families, externalTrafficPolicy=policy, type=kind), work=False)  # fmt: skip
        elif what == "remove" and Key("demo", name) in cluster.services:
            cluster.remove(name, work=False)
        elif what == "anew":
            cluster.anew()
        elif what == "work":
            cluster.work(chance)
    cluster.work(chance)
    taken: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for each in cluster.services.values():
        for shown in request.shown(each):
            for port in each.spec.ports:
                taken[shown, port.protocol, port.port].append(each.metadata.name)
    assert all(len(names) == 1 for names in taken.values()), taken
    patches = cluster.patches
    cluster.anew()
    assert cluster.patches == patches


def test_a_thousand_are_decided_quickly_enough_to_be_one_pass() -> None:
    """Each decision asks for one free address: nobody is looked at twice."""
    cluster = Cluster("pools: [{name: a, addresses: [10.0.0.0/16]}]")
    cluster.put(*(service(f"s{number}", number % 3600) for number in range(1000)), work=False)
    cluster.work()
    assert len({request.shown(each) for each in cluster.services.values()}) == 1000
    assert cluster.patches == 1000
