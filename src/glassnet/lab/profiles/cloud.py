"""The machine that plays the cloud's load balancer: a leg in the VPC, another at the VPC's router. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from glassnet.lab.profiles.nodes import hosts
from glassnet.lab.profiles.ranges import INTERNET6, Ranges
from glassnet.lab.profiles.vpc import ROUTER_NAME
from glassnet.lab.settings import Settings
from glassnet.lab.topology import INTERNET, Cable, LoadBalancer, MachineSpec, hardware
from glassnet.loadbalancer.edge import routing
from glassnet.loadbalancer.edge.behaviour import NODE_PORT_TARGETS
from glassnet.loadbalancer.edge.model import Target
from glassnet.net.errors import UsageError
from glassnet.netstack.ops import AddAddress, AddRoute, Operation, SetLink, SetNeighbour

NAME = "cloud"
OUTSIDE = (str(INTERNET), str(INTERNET6))
"""Where clients are that are not in the VPC."""
VIPS6 = "2001:db8:51::100/120"
"""Addresses of load balancers in a lab with IPv6 whose profile names none."""
_LINK = ("169.254.200.1", "169.254.200.2", 30)  # between router and cloud; RFC 3927's range: nobody else's business
_LINK6 = ("fd00:6c62::1", "fd00:6c62::2", 126)
_OPEN: dict[str, object] = {f"net.ipv4.conf.{dev}.rp_filter": 0 for dev in ("all", "eth0")}
"""Answers come another way than questions went."""


def balancer(settings: Settings, addresses: Sequence[str], found: Ranges) -> LoadBalancer:
    """Kind and ranges of the load balancer that settled settings ask for."""
    six = found.nodes6 is not None
    ranges = [one for one in addresses if six or ":" not in one]
    if six and not any(":" in one for one in ranges):
        ranges.append(VIPS6)
    return LoadBalancer(settings.load_balancer or "none", tuple(ranges))


def targets(nodes: Iterable[MachineSpec]) -> tuple[Target, ...]:
    """The workers as the load balancer numbers them."""
    workers = (node for node in nodes if node.role == "worker")
    return tuple(Target(node.name, number, node.addresses) for number, node in enumerate(workers, 1))


def machine(nodes: Sequence[MachineSpec], kind: LoadBalancer, prefix: str, found: Ranges) -> MachineSpec:
    """The machine. Raises UsageError when a node has its address."""
    place = found.nodes[-2]
    if rival := next((node for node in nodes if node.address == str(place)), None):
        raise UsageError(
            f"--load-balancer {kind.kind}: it would have {place}, the last address of --node-cidr {found.nodes}, and {rival.name} has it: one worker less, or a larger range"
        )
    place6 = str(found.nodes6[int(place) - int(found.nodes[0])]) if found.nodes6 else ""
    setup: list[Operation] = [
        AddAddress(f"{place}/{found.nodes.prefixlen}", "eth0"),
        AddAddress(f"{_LINK[1]}/{_LINK[2]}", "eth1"),
    ]
    if found.nodes6:
        setup += [
            AddAddress(f"{place6}/{found.nodes6.prefixlen}", "eth0"),
            AddAddress(f"{_LINK6[1]}/{_LINK6[2]}", "eth1"),
        ]
    setup += [SetLink("eth0", up=True), SetLink("eth1", up=True), AddRoute("default", gateway=_LINK[0], dev="eth1")]
    setup += [AddRoute("default", gateway=_LINK6[0], dev="eth1")] if found.nodes6 else []
    setup += [
        SetNeighbour(address, hardware(node.address, prefix), "eth0") for node in nodes for address in node.addresses
    ]
    setup += routing.to_nodes(targets(nodes), "eth0")
    quiet = {f"net.ipv4.conf.{dev}.send_redirects": 0 for dev in ("all", "default", "eth0", "eth1")}
    sysctls = {"net.ipv4.ip_forward": 1, **quiet, **_OPEN, "net.ipv4.conf.eth1.rp_filter": 0}
    return MachineSpec(
        NAME,
        "cloud",
        str(place),
        files={"/etc/hosts": hosts(NAME, "".join(f"{node.address} {node.name}\n" for node in nodes))},
        sysctls=sysctls | ({"net.ipv6.conf.all.forwarding": 1} if found.nodes6 else {}),
        setup=tuple(setup),
        address6=place6,
    )


def joined(router: MachineSpec, kind: LoadBalancer, found: Ranges) -> MachineSpec:
    """The router with a leg to the load balancer, and the way to its addresses."""
    gateways = [_LINK[1]] + ([_LINK6[1]] if found.nodes6 else [])
    more: list[Operation] = [AddAddress(f"{_LINK[0]}/{_LINK[2]}", "eth2")]
    more += [AddAddress(f"{_LINK6[0]}/{_LINK6[2]}", "eth2")] if found.nodes6 else []
    more += [
        SetLink("eth2", up=True),
        *routing.to_balancer(kind.addresses, gateways, "eth2", kind.kind == NODE_PORT_TARGETS),
    ]
    sysctls = {**router.sysctls, **_OPEN, "net.ipv4.conf.eth2.rp_filter": 0, "net.ipv4.conf.eth2.send_redirects": 0}
    return replace(router, setup=(*router.setup, *more), sysctls=sysctls)


def cables(spec: MachineSpec, prefix: str, mtu: int) -> tuple[Cable, ...]:
    """One to the fabric, one to the router."""
    return (
        Cable(NAME, "eth0", hardware(spec.address, prefix), "fabric", NAME, mtu=mtu),
        Cable(NAME, "eth1", hardware(_LINK[1]), ROUTER_NAME, "eth2", mtu=mtu),
    )
