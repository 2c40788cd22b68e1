"""What the profiles become: names, addresses, MACs, routes and rules of every machine."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from glassnet.lab.profiles import catalog
from glassnet.lab.profiles.layout import topology
from glassnet.lab.settings import Settings
from glassnet.lab.topology import Topology
from glassnet.net.errors import UsageError
from glassnet.netstack.ops import AddAddress, AddRoute, AddRule, SetNeighbour

NAMES = catalog.names()


def lab_of(name: str, family: str = "", workers: int = 0) -> Topology:
    return topology(Settings(profile=name, ip_family=family, workers=workers), catalog.load(name))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["ipv4", "dual"])
@pytest.mark.parametrize("name", NAMES)
def test_no_two_machines_share_anything(name: str, family: str) -> None:
    lab = lab_of(name, family, 7)
    nodes = lab.of_role("controller", "worker")
    assert len({m.name for m in lab.machines}) == len(lab.machines)
    addresses = [address for m in lab.machines for address in m.addresses]
    assert len(set(addresses)) == len(addresses)
    assert len({m.public for m in nodes}) == len(nodes)
    assert len({cable.left_hardware for cable in lab.cables}) == len(lab.cables)
    ports = [cable.right_name for cable in lab.cables]
    assert len(set(ports)) == len(ports) and all(len(port) <= 15 for port in ports)
    ranges = [ip_network(cidr) for m in nodes for cidr in m.pod_cidrs]
    assert not any(
        one.overlaps(two) for i, one in enumerate(ranges) for two in ranges[i + 1 :] if one.version == two.version
    )  # type: ignore[arg-type]
    assert {len(m.addresses) for m in nodes} == {2 if family == "dual" else 1}
    assert lab.dual == (family == "dual")


@pytest.mark.parametrize("name", NAMES)
def test_ipv4_alone_has_nothing_of_ipv6(name: str) -> None:
    lab = lab_of(name, "ipv4")
    for machine in lab.machines:
        made = [op for op in machine.setup if isinstance(op, AddAddress | AddRoute | SetNeighbour | AddRule)]
        texts = [
            getattr(op, field) for op in made for field in ("address", "destination", "gateway") if hasattr(op, field)
        ]
        assert not [text for text in texts if ":" in text]
        assert 6 not in machine.iptables
        assert not any("ipv6" in key for key in machine.sysctls) or machine.role in ("controller", "worker")
    assert (lab.cluster_cidr6, lab.service_cidr6) == ("", "")


@pytest.mark.parametrize("name", NAMES)
def test_the_gateway_has_the_mac_that_nodes_know(name: str) -> None:
    lab = lab_of(name, "dual")
    router = next(cable.left_hardware for cable in lab.cables if cable.left == "vpc-router")
    macs = {cable.left: cable.left_hardware for cable in lab.cables}
    for node in lab.of_role("controller", "worker"):
        known = [op for op in node.setup if isinstance(op, SetNeighbour)]
        assert [op.hardware for op in known] == [router, router], node.name
    (vpc,) = lab.of_role("router")
    told = {op.address: op.hardware for op in vpc.setup if isinstance(op, SetNeighbour) and op.dev == "eth0"}
    for node in lab.of_role("controller", "worker"):
        assert [told[address] for address in node.addresses] == [macs[node.name]] * 2


def test_names_and_addresses_as_clouds_give_them() -> None:
    found = {name: [(m.name, m.address) for m in lab_of(name).of_role("worker")] for name in NAMES}
    assert found["aks-kubenet"][2] == ("aks-nodepool1-14807231-vmss000002", "10.240.0.6")
    assert [address for _, address in found["aks-azure-cni"]] == ["10.240.0.4", "10.240.0.35", "10.240.0.66"]
    assert found["aws-vpc-cni"][1] == ("ip-192-168-0-42.ec2.internal", "192.168.0.42")
    names = [name for name, _ in found["gke"]]
    assert all(name.startswith("gke-cluster-1-default-pool-5f3d8b1c-") and len(name) == 40 for name in names)
    assert names == [m.name for m in lab_of("gke", workers=5).of_role("worker")][:3]


@pytest.mark.parametrize("name", ["aks-azure-cni", "aws-vpc-cni"])
def test_the_router_has_routes_for_exactly_the_pods_blocks(name: str) -> None:
    lab = lab_of(name)
    (router,) = lab.of_role("router")
    nodes = sorted(lab.of_role("worker"), key=lambda m: ip_address(m.address))
    step = catalog.load(name).workers.step
    for node in nodes:
        routes = [
            ip_network(op.destination) for op in router.setup if isinstance(op, AddRoute) and op.gateway == node.address
        ]
        covered = {int(address) for network in routes for address in network}
        first = int(ip_address(node.address))
        assert covered == set(range(first + 1, first + step))
        conf = next(text for path, text in node.files.items() if path.startswith("/etc/cni/net.d"))
        assert (
            f'"rangeStart": "{ip_address(first + 1)}"' in conf
            and f'"rangeEnd": "{ip_address(first + step - 1)}"' in conf
        )
    assert lab.cluster_cidr == "" and not any(m.pod_cidr for m in nodes)


def test_user_defined_routes_are_a_table_for_what_nodes_send() -> None:
    lab = lab_of("aks-kubenet", "dual")
    (router,) = lab.of_role("router")
    rules = [op for op in router.setup if isinstance(op, AddRule)]
    assert [(op.family, op.table, op.iif) for op in rules] == [(4, 100, "eth0"), (6, 100, "eth0")]
    assert "100\taks-agentpool-14807231-routetable\n" in router.files["/etc/iproute2/rt_tables"]
    assert lab.route_table == 100 and lab_of("gke").route_table == 254


def test_how_proxies_tell_pods() -> None:
    told = {name: lab_of(name).local_cidrs for name in NAMES}
    assert told["gke"] == ("10.4.0.0/14",) and told["aks-kubenet"] == ("10.244.0.0/16",)
    assert told["aks-azure-cni"] == ("10.240.0.0/16",) and told["aws-vpc-cni"] == ()
    assert lab_of("gke", "dual").local_cidrs == ("10.4.0.0/14", "fd20:4::/48")


def test_a_load_balancer_is_a_machine_between_router_and_nodes() -> None:
    for name in NAMES:
        lab = lab_of(name, "dual")
        edge, (router,) = lab.of_role("cloud"), lab.of_role("router")
        assert len(edge) == (lab.balancer.kind != "none")
        ways = [
            op.gateway for op in router.setup if isinstance(op, AddRoute) and op.destination in lab.balancer.addresses
        ]
        assert ways == (["169.254.200.2", "fd00:6c62::2"] if edge else [])
        for spec in edge:
            assert len([op for op in spec.setup if isinstance(op, AddRule)]) == 2 * len(lab.of_role("worker"))
            assert spec.address not in {node.address for node in lab.of_role("worker", "controller", "router")}
    crowded = catalog.load("hardway")
    with pytest.raises(
        UsageError, match=r"--load-balancer floating-ip: it would have 10\.240\.0\.254, .* worker-234 has it"
    ):
        topology(Settings(workers=235, load_balancer="floating-ip"), crowded)


def test_load_balancers_are_handed_on() -> None:
    kinds = {name: lab_of(name).balancer.kind for name in NAMES}
    assert kinds == {"hardway": "none", "aks-azure-cni": "floating-ip", "aks-kubenet": "floating-ip", "aws-vpc-cni": "node-port-targets", "gke": "pass-through"}  # fmt: skip
    assert lab_of("gke").balancer.addresses == ("198.51.100.0/24",)


def test_without_cni_or_routes_there_are_none() -> None:
    for name in NAMES:
        lab = topology(Settings(cni="none", routes="none", dns="none", load_balancer="none"), catalog.load(name))
        (router,) = lab.of_role("router")
        assert not any("/cni/" in path for m in lab.machines for path in m.files)
        assert not any(isinstance(op, AddRoute) for op in router.setup)
        assert lab.dns_ip == ""
