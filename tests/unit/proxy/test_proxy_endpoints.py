"""Which endpoints count: readiness, termination, hints, policies, doublets, families."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.kube import kinds
from glassnet.kube.types import EndpointSlice, Service, decode
from glassnet.proxy.compute import service_ports
from glassnet.proxy.endpoints import local_ready_addresses
from glassnet.proxy.model import NodeFacts, ServicePort


def service(labels: dict[str, str] | None = None, ingress: list[Any] | None = None, **spec: Any) -> Service:
    body = {"clusterIP": "172.30.0.1", "ports": [{"name": "p", "port": 80, "protocol": "TCP"}], **spec}
    meta = {"name": "web", "namespace": "demo", "labels": labels or {}}
    status = {"loadBalancer": {"ingress": ingress or []}}
    made: Service = decode(kinds.SERVICE, json.dumps({"metadata": meta, "spec": body, "status": status}))
    return made


def endpoint(
    number: int, node: str = "b", zones: list[str] | None = None, nodes: list[str] | None = None, **conditions: Any
) -> Any:
    hints = {"forZones": [{"name": z} for z in zones or []], "forNodes": [{"name": n} for n in nodes or []]}
    return {"addresses": [f"10.0.0.{number}"], "nodeName": node, "conditions": conditions, "hints": hints}


def piece(*endpoints: Any, ports: Any = None, address_type: str = "IPv4", **labels: str) -> EndpointSlice:
    body = {
        "metadata": {"name": "x", "namespace": "demo", "labels": labels},
        "addressType": address_type,
        "endpoints": list(endpoints),
        "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}] if ports is None else ports,
    }
    made: EndpointSlice = decode(kinds.ENDPOINT_SLICE, json.dumps(body))
    return made


def port(
    of: Service, *slices: EndpointSlice, node: str = "a", zone: str = "z1", ips: tuple[str, ...] = ()
) -> ServicePort:
    (made,) = service_ports(of, slices, NodeFacts(node, zone, ips))
    return made


def numbers(endpoints: Any) -> list[int]:
    return [int(e.ip.rpartition(".")[2]) for e in endpoints]


DRAINING = {"ready": False, "serving": True, "terminating": True}


@pytest.mark.parametrize(
    ("conditions", "used"),
    [
        ({}, True),  # nil means ready
        ({"ready": True}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True}, False),
        ({"ready": False, "serving": True, "terminating": False}, False),
        (DRAINING, True),
        ({"ready": False, "terminating": True}, True),  # serving nil means serving
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_conditions_of_a_lone_endpoint(conditions: dict[str, bool], used: bool) -> None:
    found = port(service(), piece(endpoint(1, **conditions)))
    assert bool(found.cluster) is used
    assert found.any_endpoints is used


def test_terminating_endpoints_are_a_last_resort() -> None:
    assert numbers(port(service(), piece(endpoint(1, **DRAINING), endpoint(2))).cluster) == [2]
    assert numbers(port(service(), piece(endpoint(1, **DRAINING), endpoint(2, ready=False))).cluster) == [1]


def test_each_policy_falls_back_for_itself() -> None:
    of = service(type="NodePort", externalTrafficPolicy="Local", ports=[{"name": "p", "port": 80, "nodePort": 30000}])
    found = port(of, piece(endpoint(1, "a", **DRAINING), endpoint(2, "b")))
    assert (numbers(found.cluster), numbers(found.local)) == ([2], [1])
    assert numbers(found.reachable) == [1, 2]


def test_none_here_is_not_none_anywhere() -> None:
    of = service(internalTrafficPolicy="Local")
    found = port(of, piece(endpoint(1, "b")))
    assert (numbers(found.local), found.any_endpoints) == ([], True)
    assert port(of, piece(endpoint(1, "b", ready=False))).any_endpoints is False


def test_local_policy_needs_a_way_in_from_outside() -> None:
    assert not port(service(externalTrafficPolicy="Local"), piece(endpoint(1))).uses_local
    assert port(service(externalTrafficPolicy="Local", externalIPs=["198.51.100.1"]), piece(endpoint(1))).uses_local


@pytest.mark.parametrize(
    ("endpoints", "used"),
    [
        ([endpoint(1, zones=["z1"]), endpoint(2, zones=["z2"])], [1]),
        ([endpoint(1, zones=["z1"]), endpoint(2)], [1, 2]),  # one without a hint: no topology for anybody
        ([endpoint(1, zones=["z1"]), endpoint(2, ready=False)], [1]),  # what is not ready has no say
        ([endpoint(1, zones=["z2"]), endpoint(2, zones=["z2"])], [1, 2]),  # none for this zone
        ([endpoint(1, zones=["z1"], nodes=["b"]), endpoint(2, zones=["z1"], nodes=["a"])], [2]),
        ([endpoint(1, zones=["z1"], nodes=["b"]), endpoint(2, zones=["z2"], nodes=["b"])], [1]),  # no node: zone
        ([endpoint(1, zones=["z1"], **DRAINING), endpoint(2, zones=["z2"], **DRAINING)], [1, 2]),
    ],
)
def test_hints(endpoints: list[Any], used: list[int]) -> None:
    assert numbers(port(service(), piece(*endpoints)).cluster) == used


def test_hints_leave_the_local_set_alone_and_need_a_zone() -> None:
    both = piece(endpoint(1, "a", zones=["z2"]), endpoint(2, "b", zones=["z1"]))
    found = port(service(internalTrafficPolicy="Local"), both)
    assert numbers(found.local) == [1]
    assert numbers(port(service(), both, zone="").cluster) == [1, 2]


def test_ports_join_by_name_and_protocol_never_by_number() -> None:
    ports = [
        {"name": "p", "port": 1, "protocol": "UDP"},
        {"name": "q", "port": 2},
        {"port": 3},
        {"name": "p"},
        {"name": "p", "port": 5},
    ]
    assert [e.port for e in port(service(), piece(endpoint(1), ports=ports)).cluster] == [5]
    two = (piece(endpoint(1)), piece(endpoint(2), ports=[{"name": "p", "port": 9090}]))
    assert [e.text for e in port(service(), *two).cluster] == ["10.0.0.1:8080", "10.0.0.2:9090"]


def test_of_doublets_the_one_that_lives_counts() -> None:
    dying, living = piece(endpoint(1, **DRAINING)), piece(endpoint(1))
    assert numbers(port(service(), dying, living).cluster) == numbers(port(service(), living, dying).cluster) == [1]
    more = (living, dying, piece(endpoint(2)))
    assert numbers(port(service(), *more).cluster) == [1, 2]


def test_order_is_that_of_the_text() -> None:
    assert numbers(port(service(), piece(endpoint(2), endpoint(10), endpoint(1))).cluster) == [10, 1, 2]


@pytest.mark.parametrize(
    "of",
    [
        service(clusterIP="None"),
        service(clusterIP=""),
        service(type="ExternalName"),
        service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
        service(clusterIP="fd00::1"),
    ],
)
def test_services_that_are_not_ours(of: Service) -> None:
    assert service_ports(of, [piece(endpoint(1))]) == ()


def test_slices_that_are_not_ours() -> None:
    others = (piece(endpoint(1), address_type="IPv6"), piece(endpoint(2), **{"service.kubernetes.io/headless": ""}))
    assert port(service(), *others).cluster == ()


def test_load_balancer_addresses_of_mode_proxy_are_left_alone() -> None:
    ingress = [
        {"ip": "1.1.1.1"},
        {"ip": "1.1.1.2", "ipMode": "VIP"},
        {"ip": "1.1.1.3", "ipMode": "Proxy"},
        {"hostname": "x"},
        {"ip": "fd00::1"},
    ]
    assert port(service(ingress=ingress, type="LoadBalancer")).load_balancer_ips == ("1.1.1.1", "1.1.1.2")


@pytest.mark.parametrize(
    ("ranges", "wanted"),
    [
        ([" 203.0.113.0/24"], ("203.0.113.0/24",)),
        (["203.0.113.0/24", "0.0.0.0/0"], ()),
        (["fd00::/8"], ()),
        (["10.9.0.0/16", "fd00::/8"], ("10.9.0.0/16",)),
        (["192.168.0.0/16"], ("192.168.0.0/16", "1.1.1.1/32")),  # holds the node: the VIP may be a source too
        (["nonsense"], ()),
    ],
)
def test_source_ranges(ranges: list[str], wanted: tuple[str, ...]) -> None:
    of = service(ingress=[{"ip": "1.1.1.1"}], type="LoadBalancer", loadBalancerSourceRanges=ranges)
    assert port(of, ips=("192.168.0.2",)).source_ranges == wanted


def test_affinity_has_a_default() -> None:
    assert port(service()).affinity_seconds == 0
    assert port(service(sessionAffinity="ClientIP")).affinity_seconds == 10800
    config = {"clientIP": {"timeoutSeconds": 7}}
    assert port(service(sessionAffinity="ClientIP", sessionAffinityConfig=config)).affinity_seconds == 7


def test_addresses_of_old_objects_are_read_as_kubernetes_reads_them() -> None:
    body = piece({"addresses": ["010.000.0.01"]}, {"addresses": ["nonsense"]}, {"addresses": []})
    assert [e.text for e in port(service(), body).cluster] == ["10.0.0.1:8080"]
    assert port(service(externalIPs=["198.051.100.1", "198.51.100.1", "::ffff:1.2.3.4", "x"])).external_ips == (
        "198.51.100.1",
        "1.2.3.4",
    )


def test_slices_of_names_are_for_nobody() -> None:
    assert port(service(), piece(endpoint(1), address_type="FQDN")).cluster == ()


@pytest.mark.parametrize("number", [None, 0])
def test_a_slice_port_without_a_number_is_for_nobody(number: int | None) -> None:
    assert port(service(), piece(endpoint(1), ports=[{"name": "p", "port": number}])).cluster == ()


def test_each_family_has_its_own_addresses() -> None:
    both = service(
        clusterIP="172.30.0.1", clusterIPs=["172.30.0.1", "fd00::1"], ipFamilies=["IPv4", "IPv6"], type="LoadBalancer",
        externalIPs=["198.51.100.1", "2001:DB8::0001"], ingress=[{"ip": "1.1.1.1"}, {"ip": "2001:db8::2"}],
        loadBalancerSourceRanges=["203.0.113.0/24"],
    )  # fmt: skip
    six = piece({"addresses": ["fd00:1::1"]}, address_type="IPv6")
    (four,) = service_ports(both, [piece(endpoint(1)), six])
    (other,) = service_ports(both, [piece(endpoint(1)), six], family="IPv6")
    assert (four.cluster_ip, four.external_ips, four.load_balancer_ips) == (
        "172.30.0.1",
        ("198.51.100.1",),
        ("1.1.1.1",),
    )
    assert (other.cluster_ip, other.external_ips, other.load_balancer_ips) == ("fd00::1", ("2001:db8::1",), ("2001:db8::2",))  # fmt: skip
    assert [e.text for e in other.cluster] == ["[fd00:1::1]:8080"]
    assert (four.source_ranges, other.source_ranges) == (("203.0.113.0/24",), ())
    assert service_ports(service(ipFamilies=["IPv4"]), [six], family="IPv6") == ()


def test_what_a_health_check_node_port_counts() -> None:
    slices = [
        piece(endpoint(1, "a"), endpoint(2, "a", **DRAINING), endpoint(3, "b")),
        piece(endpoint(1, "a"), ports=[{"name": "q", "port": 443}]),
    ]
    assert local_ready_addresses(slices, "IPv4", "a") == 1
    assert local_ready_addresses(slices, "IPv4", "c") == 0
