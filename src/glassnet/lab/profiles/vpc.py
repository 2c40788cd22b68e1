"""The VPC around the nodes: its router, the fabric that joins them, the internet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glassnet.lab.profiles.model import Profile
from glassnet.lab.profiles.names import port_of
from glassnet.lab.profiles.nodes import hosts, resolver
from glassnet.lab.profiles.ranges import HOST, INTERNET6, ROUTER, Ranges, internet_address, worker_place
from glassnet.lab.settings import Settings
from glassnet.lab.topology import INTERNET, MAIN_TABLE, VPC_BRIDGE, Cable, MachineSpec, hardware
from glassnet.netstack.ops import (
    AddAddress,
    AddBridge,
    AddRoute,
    AddRule,
    Operation,
    SetLink,
    SetNeighbour,
    SetProxyDelay,
)
from glassnet.routes.vpc import PROTOCOL

ROUTER_NAME = "vpc-router"
SYSCTLS: dict[str, object] = {
    "net.ipv4.ip_forward": 1,
    # a cloud's router does not tell instances of a shorter way: there is none
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
}
SIX: dict[str, object] = {"net.ipv6.conf.all.forwarding": 1}
ANSWERS_FOR_ALL: dict[str, object] = {"net.ipv4.conf.eth0.proxy_arp_pvlan": 1}
TABLES = "/etc/iproute2/rt_tables"
_TABLES = "255\tlocal\n254\tmain\n253\tdefault\n0\tunspec\n"


def router(nodes: Sequence[MachineSpec], settings: Settings, profile: Profile, found: Ranges) -> MachineSpec:
    """The VPC's router, which has the nodes' gateway and the public addresses."""
    known = "".join(f"{spec.address} {spec.name}\n" for spec in nodes)
    table, dual = profile.vpc.route_table, found.nodes6 is not None
    files = {"/etc/hosts": hosts(ROUTER_NAME, known)}
    if table.name:
        files[TABLES] = f"{_TABLES}{table.number}\t{table.name}\n"
    return MachineSpec(
        ROUTER_NAME,
        "router",
        found.gateway,
        internet_address(ROUTER, False)[0],
        files=files,
        sysctls={**SYSCTLS, **(SIX if dual else {}), **(ANSWERS_FOR_ALL if profile.vpc.link == "routed" else {})},
        setup=(*_links(nodes, profile, found), *_pod_routes(settings, profile, found)),
        rules=_public_rules(nodes),
        address6=found.gateway6,
    )


def _links(nodes: Sequence[MachineSpec], profile: Profile, found: Ranges) -> Iterable[Operation]:
    yield AddAddress(f"{found.gateway}/{found.nodes.prefixlen}", "eth0")
    if found.nodes6 is not None:
        yield AddAddress(f"{found.gateway6}/{found.nodes6.prefixlen}", "eth0")
    yield SetLink("eth0", up=True)
    if profile.vpc.link == "routed":
        yield SetProxyDelay("eth0")  # else an answer waits for up to 0.8 s
    for length, address in zip(
        (INTERNET.prefixlen, INTERNET6.prefixlen), internet_address(ROUTER, found.nodes6 is not None), strict=False
    ):
        yield AddAddress(f"{address}/{length}", "eth1")
    yield SetLink("eth1", up=True)
    for node in nodes:
        for address in node.addresses:
            yield SetNeighbour(address, hardware(node.address, profile.vpc.hardware_prefix), "eth0")
    there = internet_address(HOST, found.nodes6 is not None)
    for address in there:
        yield SetNeighbour(address, hardware(there[0]), "eth1")


def table_of(profile: Profile) -> int:
    """The router's table for routes to pods."""
    return profile.vpc.route_table.number if profile.vpc.route_table.name else MAIN_TABLE


def _pod_routes(settings: Settings, profile: Profile, found: Ranges) -> Iterable[Operation]:
    """What of the way to pods is there from the beginning: the table's rule, and nodes' blocks of addresses."""
    table = table_of(profile)
    if table != MAIN_TABLE:
        for family in (4, 6) if found.nodes6 is not None else (4,):
            yield AddRule(table, family=family, priority=table, iif="eth0")
    if not profile.on_nodes_network() or settings.routes == "none":
        return
    for number in range(settings.workers):
        place = worker_place(number, profile, found)
        for prefix in place.block_prefixes():
            yield AddRoute(prefix, gateway=str(place.address), dev="eth0", protocol=PROTOCOL, table=table)
        if place.pod_cidr6:
            yield AddRoute(place.pod_cidr6, gateway=place.address6, dev="eth0", protocol=PROTOCOL, table=table)


def internet(settings: Settings, found: Ranges) -> MachineSpec:
    """The host outside, where names are asked for and clients come from."""
    dual = found.nodes6 is not None
    here, gateways = internet_address(HOST, dual), internet_address(ROUTER, dual)
    setup: list[Operation] = [AddAddress(f"{here[0]}/{INTERNET.prefixlen}", "eth0")]
    setup += [AddAddress(f"{address}/{INTERNET6.prefixlen}", "eth0") for address in here[1:]]
    setup.append(SetLink("eth0", up=True))
    setup += [AddRoute("default", gateway=gateway, dev="eth0") for gateway in gateways]
    return MachineSpec(
        "internet",
        "internet",
        here[0],
        files={"/etc/hosts": hosts("internet", ""), "/etc/resolv.conf": resolver(settings)},
        setup=tuple(setup),
        address6="".join(here[1:]),
    )


def fabric() -> MachineSpec:
    """The switch under the nodes' network."""
    return MachineSpec(
        "fabric",
        "fabric",
        files={"/etc/hosts": hosts("fabric", "")},
        sysctls={"net.bridge.bridge-nf-call-iptables": 0, "net.bridge.bridge-nf-call-ip6tables": 0},
        setup=(AddBridge(VPC_BRIDGE), SetLink(VPC_BRIDGE, up=True)),
    )


def cables(nodes: Sequence[MachineSpec], profile: Profile, found: Ranges) -> tuple[Cable, ...]:
    """Every node and the router to the fabric, `internet` to the router."""
    vpc, counts = profile.vpc, {"controller": 0, "worker": 0}
    out = []
    for node in nodes:
        port = port_of(node.name, node.role, counts[node.role])
        counts[node.role] += 1
        mac = hardware(node.address, vpc.hardware_prefix)
        out.append(Cable(node.name, "eth0", mac, "fabric", port, vpc.link != "shared", vpc.mtu))
    gateway = vpc.gateway_hardware or hardware(found.gateway, vpc.hardware_prefix)
    out.append(Cable(ROUTER_NAME, "eth0", gateway, "fabric", ROUTER_NAME, mtu=vpc.mtu))
    out.append(Cable("internet", "eth0", hardware(internet_address(HOST, False)[0]), ROUTER_NAME, "eth1", mtu=vpc.mtu))
    return tuple(out)


def _public_rules(nodes: Sequence[MachineSpec]) -> str:
    """One-to-one NAT between public and private addresses; also for a node that speaks to another's public address."""
    inward = ", ".join(f"{node.public} : {node.address}" for node in nodes)
    outward = ", ".join(f"{node.address} : {node.public}" for node in nodes)
    return f"""table ip glassnet-public {{
    comment "glassnet: public addresses of the lab's instances"
    map to_private {{
        type ipv4_addr : ipv4_addr
        elements = {{ {inward} }}
    }}
    map to_public {{
        type ipv4_addr : ipv4_addr
        elements = {{ {outward} }}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat
        dnat to ip daddr map @to_private
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname "eth1" snat to ip saddr map @to_public
        iifname "eth0" oifname "eth0" ct status dnat snat to ip saddr map @to_public
    }}
}}
"""
