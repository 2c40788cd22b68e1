"""ClusterIPs and node ports: who gets which, what is refused, and what a Service keeps when its type changes."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.apiserver.schema import ServiceAllocator, default, load, prepare_create, prepare_update, validate_update
from glassnet.kube import kinds
from glassnet.net.errors import ApiError

Obj = dict[str, Any]


def allocator(cidr: str = "10.32.0.0/24", ports: tuple[int, int] = (30000, 32767)) -> ServiceAllocator:
    return ServiceAllocator(cidr, ports, random.Random(7))


def service(name: str = "web", **spec: Any) -> Obj:
    obj: Obj = {"metadata": {"name": name, "namespace": "demo"}, "spec": {"ports": [{"port": 80}], **spec}}
    default(load(), kinds.SERVICE, obj)
    return obj


def stored(ledger: ServiceAllocator, obj: Obj) -> Obj:
    ledger.assign(obj, None)
    ledger.reserve(obj)
    return obj


def number(address: str) -> int:
    return int(address.rpartition(".")[2])


def test_a_service_gets_an_address_of_the_upper_band() -> None:
    ledger = allocator()
    found = {number(stored(ledger, service(f"s{n}"))["spec"]["clusterIP"]) for n in range(100)}
    assert len(found) == 100
    assert min(found) > 16
    assert max(found) <= 254


def test_without_chance_the_lowest_free_value_of_the_band_is_taken() -> None:
    ledger = ServiceAllocator("10.32.0.0/24")
    found = [stored(ledger, service(f"s{n}", type="NodePort"))["spec"] for n in range(2)]
    assert [spec["clusterIP"] for spec in found] == ["10.32.0.17", "10.32.0.18"]
    assert [spec["ports"][0]["nodePort"] for spec in found] == [30086, 30087]


def test_the_lower_band_serves_when_the_upper_is_full_and_then_it_is_over() -> None:
    ledger = allocator("10.32.0.0/27")
    found = [number(stored(ledger, service(f"s{n}"))["spec"]["clusterIP"]) for n in range(30)]
    assert sorted(found) == list(range(1, 31))
    assert min(found[:14]) > max(found[14:])
    with pytest.raises(ApiError, match="range is full"):
        ledger.assign(service("more"), None)


def test_a_named_address_is_given_once() -> None:
    ledger = allocator()
    made = stored(ledger, service("dns", clusterIP="10.32.0.10"))
    assert made["spec"]["clusterIPs"] == ["10.32.0.10"]
    with pytest.raises(ApiError) as refused:
        ledger.assign(service("other", clusterIP="10.32.0.10"), None)
    assert refused.value.status == 422
    assert refused.value.message == (
        'Service "other" is invalid: spec.clusterIPs: Invalid value: ["10.32.0.10"]: '
        "failed to allocate IP 10.32.0.10: provided IP is already allocated"
    )
    ledger.release(made)
    ledger.assign(service("other", clusterIP="10.32.0.10"), None)


@pytest.mark.parametrize("address", ["10.33.0.1", "10.32.0.0", "10.32.0.255"])
def test_an_address_outside_is_refused_with_the_range(address: str) -> None:
    with pytest.raises(ApiError) as refused:
        allocator().assign(service(clusterIP=address), None)
    assert refused.value.status == 422
    assert "is not in the valid range. The range of valid IPs is 10.32.0.0/24" in refused.value.message


def test_headless_and_external_names_take_no_address() -> None:
    ledger = allocator("10.32.0.0/30")
    for n in range(5):
        assert stored(ledger, service(f"h{n}", clusterIP="None"))["spec"]["clusterIPs"] == ["None"]
        assert "clusterIP" not in stored(ledger, service(f"e{n}", type="ExternalName", externalName="a.test"))["spec"]
    assert stored(ledger, service())["spec"]["clusterIP"] in ("10.32.0.1", "10.32.0.2")


def test_assigning_leaves_the_ledger_alone_until_the_write_is_reserved() -> None:
    ledger = allocator("10.32.0.0/30")
    for _ in range(5):
        ledger.assign(service(clusterIP="10.32.0.1"), None)


def test_node_ports() -> None:
    ledger = allocator()
    made = stored(ledger, service(type="NodePort"))
    given_port = made["spec"]["ports"][0]["nodePort"]
    assert 30086 <= given_port <= 32767, "the lowest 86 ports wait for those who name theirs"
    with pytest.raises(ApiError) as refused:
        ledger.assign(service("other", type="NodePort", ports=[{"port": 1, "nodePort": given_port}]), None)
    assert refused.value.message == (
        f'Service "other" is invalid: spec.ports[0].nodePort: Invalid value: {given_port}: provided port is already allocated'
    )
    with pytest.raises(ApiError) as refused:
        ledger.assign(service("other", type="NodePort", ports=[{"port": 1, "nodePort": 80}]), None)
    assert refused.value.message.endswith(
        "Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    )


def test_node_ports_run_out() -> None:
    ledger = allocator(ports=(30000, 30001))
    stored(ledger, service("a", type="NodePort"))
    stored(ledger, service("b", type="NodePort"))
    with pytest.raises(ApiError, match="range is full"):
        ledger.assign(service("c", type="NodePort"), None)


def test_two_protocols_of_a_service_may_share_a_node_port() -> None:
    ports = [
        {"name": "t", "port": 53, "protocol": "TCP", "nodePort": 30053},
        {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053},
    ]
    assert stored(allocator(), service(type="NodePort", ports=ports))["spec"]["ports"] == [
        {**p, "targetPort": 53} for p in ports
    ]


def test_load_balancers_may_do_without_node_ports() -> None:
    made = stored(allocator(), service(type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert "nodePort" not in made["spec"]["ports"][0]


def test_local_load_balancers_get_a_health_check_port() -> None:
    made = stored(allocator(), service(type="LoadBalancer", externalTrafficPolicy="Local"))
    assert made["spec"]["healthCheckNodePort"] != made["spec"]["ports"][0]["nodePort"]
    assert 30000 <= made["spec"]["healthCheckNodePort"] <= 32767


def replaced(ledger: ServiceAllocator, old: Obj, new: Obj) -> Obj:
    """A write to the object, as the server does it: the ledger moves with it."""
    prepare_update(kinds.SERVICE, new, old)
    default(load(), kinds.SERVICE, new)
    assert [str(fault) for fault in validate_update(kinds.SERVICE, new, old)] == []
    ledger.assign(new, old)
    ledger.release(old)
    ledger.reserve(new)
    return new


def changed(ledger: ServiceAllocator, old: Obj, **spec: Any) -> Obj:
    new = copy.deepcopy(old)
    new["spec"].update(spec)
    new["spec"] = {name: value for name, value in new["spec"].items() if value is not None}
    return replaced(ledger, old, new)


def test_a_replacement_without_the_allocated_values_keeps_them() -> None:
    ledger = allocator()
    old = stored(ledger, service(type="NodePort"))
    new = replaced(
        ledger,
        old,
        {"metadata": dict(old["metadata"]), "spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}},
    )
    assert new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
    assert new["spec"]["clusterIPs"] == old["spec"]["clusterIPs"]
    assert new["spec"]["ports"][0]["nodePort"] == old["spec"]["ports"][0]["nodePort"]


def test_back_to_cluster_ip_frees_the_node_port() -> None:
    ledger = allocator()
    old = stored(ledger, service(type="NodePort"))
    port = old["spec"]["ports"][0]["nodePort"]
    new = changed(ledger, old, type="ClusterIP")
    assert "nodePort" not in new["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in new["spec"]
    assert new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
    ledger.assign(service("other", type="NodePort", ports=[{"port": 1, "nodePort": port}]), None)


def test_from_node_port_to_load_balancer_the_port_stays() -> None:
    ledger = allocator()
    old = stored(ledger, service(type="NodePort"))
    new = changed(ledger, old, type="LoadBalancer")
    assert new["spec"]["ports"][0]["nodePort"] == old["spec"]["ports"][0]["nodePort"]
    assert new["spec"]["allocateLoadBalancerNodePorts"] is True
    back = changed(ledger, new, type="NodePort")
    assert "allocateLoadBalancerNodePorts" not in back["spec"]


def test_to_external_name_and_back_gives_a_fresh_address() -> None:
    ledger = allocator("10.32.0.0/30")
    old = stored(ledger, service())
    gone = changed(ledger, old, type="ExternalName", externalName="a.test")
    assert not {"clusterIP", "clusterIPs", "ipFamilies"} & gone["spec"].keys()
    for n in range(2):
        stored(ledger, service(f"other{n}"))
    with pytest.raises(ApiError, match="range is full"):
        changed(ledger, gone, type="ClusterIP", externalName=None)


def test_the_health_check_port_goes_with_the_policy() -> None:
    ledger = allocator()
    old = stored(ledger, service(type="LoadBalancer", externalTrafficPolicy="Local"))
    assert "healthCheckNodePort" not in changed(ledger, old, externalTrafficPolicy="Cluster")["spec"]


def test_a_new_service_has_an_empty_load_balancer_status() -> None:
    obj = {**service(), "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}
    prepare_create(kinds.SERVICE, obj)
    assert obj["status"] == {"loadBalancer": {}}


types = st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abcd"), types), max_size=25))
def test_no_two_services_ever_share_an_address_or_a_port(history: list[tuple[str, str]]) -> None:
    ledger, live = allocator("10.32.0.0/28", (30000, 30007)), dict[str, Obj]()
    for name, kind in history:
        external = {"externalName": "a.test"} if kind == "ExternalName" else {"externalName": None}
        if name not in live:
            live[name] = stored(ledger, service(name, type=kind, **{k: v for k, v in external.items() if v}))
        elif live[name]["spec"]["type"] == kind:
            ledger.release(live.pop(name))
        else:
            live[name] = changed(ledger, live[name], type=kind, **external)
        specs = [obj["spec"] for obj in live.values()]
        addresses = [spec["clusterIP"] for spec in specs if spec.get("clusterIP")]
        ports = [port["nodePort"] for spec in specs for port in spec["ports"] if port.get("nodePort")]
        assert len(addresses) == len(set(addresses)) == sum(spec["type"] != "ExternalName" for spec in specs)
        assert len(ports) == len(set(ports)) == sum(spec["type"] in ("NodePort", "LoadBalancer") for spec in specs)


SIX = "fd00:32::/112"


def dual(**spec: Any) -> Obj:
    ledger = allocator()
    ledger.ranges([SIX])
    return stored(ledger, service(**spec))["spec"]


@pytest.mark.parametrize(
    ("spec", "families", "policy"),
    [
        ({}, ["IPv4"], "SingleStack"),
        ({"ipFamilies": ["IPv6"]}, ["IPv6"], "SingleStack"),
        ({"ipFamilyPolicy": "PreferDualStack"}, ["IPv4", "IPv6"], "PreferDualStack"),
        ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, ["IPv6", "IPv4"], "RequireDualStack"),
        ({"ipFamilies": ["IPv6", "IPv4"]}, ["IPv6", "IPv4"], "RequireDualStack"),
        ({"clusterIPs": ["10.32.0.9", "fd00:32::9"]}, ["IPv4", "IPv6"], "RequireDualStack"),
    ],
)
def test_a_dual_stack_cluster_gives_the_families_that_are_asked_for(
    spec: Obj, families: list[str], policy: str
) -> None:
    found = dual(**spec)
    assert (found["ipFamilies"], found["ipFamilyPolicy"]) == (families, policy)
    assert [f"IPv{6 if ':' in ip else 4}" for ip in found["clusterIPs"]] == families
    assert found["clusterIP"] == found["clusterIPs"][0]
    assert set(spec.get("clusterIPs", ())) <= set(found["clusterIPs"])


def test_a_single_stack_cluster_refuses_two_families_and_prefers_one() -> None:
    found = stored(allocator(), service(ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv4", "IPv6"]))["spec"]
    assert (found["ipFamilies"], len(found["clusterIPs"])) == (["IPv4"], 1)
    with pytest.raises(ApiError, match="not configured for dual-stack"):
        allocator().assign(service(ipFamilyPolicy="RequireDualStack"), None)
    with pytest.raises(ApiError, match=r"spec.ipFamilies\[0\].*not configured on this cluster"):
        allocator().assign(service(ipFamilies=["IPv6"]), None)


def test_a_second_address_comes_and_goes_with_the_policy() -> None:
    ledger = allocator()
    ledger.ranges([SIX])
    first = stored(ledger, service())
    more = service(ipFamilyPolicy="PreferDualStack", clusterIP=first["spec"]["clusterIP"])
    ledger.assign(more, first)
    assert more["spec"]["clusterIPs"][0] == first["spec"]["clusterIP"] and len(more["spec"]["clusterIPs"]) == 2
    less = service(ipFamilyPolicy="SingleStack", clusterIP=first["spec"]["clusterIP"])
    ledger.assign(less, more)
    assert less["spec"]["clusterIPs"] == [first["spec"]["clusterIP"]]
