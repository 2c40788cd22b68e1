"""What a lab is made of, as values: machines, their links, addresses, routes, files, settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from glassnet.netstack.ops import Operation

# "cloud": the place of a load balancer at the VPC's edge, a machine of its own
Role = Literal["controller", "worker", "router", "internet", "fabric", "cloud"]

INTERNET = IPv4Network("192.0.2.0/24")  # RFC 5737, TEST-NET-1
MAIN_TABLE = 254
VPC_BRIDGE = "vpc0"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine. `address`, `public`, `pod_cidr` are "" where it has none; `setup` runs once its links are there.

    What ends in 6 is the same for IPv6, and "" in a lab of IPv4 alone. `iptables` are inputs of iptables-restore (4) and ip6tables-restore (6).
    """

    name: str
    role: Role
    address: str = ""
    public: str = ""
    pod_cidr: str = ""
    zone: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, object] = field(default_factory=dict)
    setup: tuple[Operation, ...] = ()
    rules: str = ""  # an nft script of ours
    address6: str = ""
    pod_cidr6: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    iptables: Mapping[int, str] = field(default_factory=dict)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses on the nodes' network, IPv4 first."""
        return tuple(filter(None, (self.address, self.address6)))

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """The ranges of its pods, IPv4 first."""
        return tuple(filter(None, (self.pod_cidr, self.pod_cidr6)))


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair between two machines; at a machine that is a switch its end joins the bridge `VPC_BRIDGE`, where `isolated` ports
    exchange frames with the others only. `mtu` 0 is the kernel's choice."""

    left: str
    left_name: str
    left_hardware: str
    right: str
    right_name: str
    isolated: bool = False
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """What the cloud gives a Service of type LoadBalancer: how packets reach the nodes (a word of `profiles.model.WORDS`), and the ranges
    VIPs come from."""

    kind: str = "none"
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab. `cluster_cidr` is "" when nodes have no pod CIDRs; `local_cidrs` are what proxies tell pods by (none: they do not)."""

    machines: tuple[MachineSpec, ...]
    cables: tuple[Cable, ...]
    cluster_cidr: str
    service_cidr: str
    service_ip: str
    dns_ip: str  # "" when nobody answers for names
    router: str
    cluster_cidr6: str = ""
    service_cidr6: str = ""
    local_cidrs: tuple[str, ...] = ()
    node_mask: int = 24
    route_table: int = MAIN_TABLE  # of the router, for routes to pods
    balancer: LoadBalancer = LoadBalancer()

    def of_role(self, *roles: Role) -> list[MachineSpec]:
        """The machines of the given roles, in order."""
        return [machine for machine in self.machines if machine.role in roles]

    @property
    def cluster_cidrs(self) -> tuple[str, ...]:
        """The ranges of all pods, IPv4 first."""
        return tuple(filter(None, (self.cluster_cidr, self.cluster_cidr6)))

    @property
    def dual(self) -> bool:
        """Whether nodes, pods and Services have IPv6 too."""
        return bool(self.service_cidr6)


def hardware(address: str | IPv4Address, prefix: str = "0a:58") -> str:
    """The MAC the lab gives an IPv4 address: `prefix`, then as many of its last bytes as fit.

    0a:58 is what CNI's bridge plugin once made MACs of; 42:01 is Google's, 00:0d:3a and 00:22:48 are Microsoft's (IEEE registry).
    """
    given = prefix.split(":")
    return ":".join([*given, *(f"{byte:02x}" for byte in IPv4Address(address).packed[len(given) - 2 :])])
