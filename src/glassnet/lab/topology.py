"""What a lab is made of, as values: machines, their links, addresses, routes, files, settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from glassnet.netstack.ops import AddAddress, AddRoute, Operation, SetLink, SetNeighbour

Role = Literal["controller", "worker", "router", "internet", "fabric"]


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine. `address`, `public`, `pod_cidr` are "" where it has none; `setup` runs once its links are there."""

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


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair between two machines; at a machine that is a switch its end joins the bridge `VPC_BRIDGE`."""

    left: str
    left_name: str
    left_hardware: str
    right: str
    right_name: str


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab."""

    machines: tuple[MachineSpec, ...]
    cables: tuple[Cable, ...]
    cluster_cidr: str
    service_cidr: str
    service_ip: str
    dns_ip: str  # "" when nobody answers for names
    router: str

    def of_role(self, *roles: Role) -> list[MachineSpec]:
        """The machines of the given roles, in order."""
        return [machine for machine in self.machines if machine.role in roles]


VPC_BRIDGE = "vpc0"


def hardware(address: str | IPv4Address) -> str:
    """The MAC the lab gives an IPv4 address: 0a:58 and its four bytes, as CNI's bridge plugin once made them."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def node_setup(address: str, network: IPv4Network, gateway: str) -> tuple[Operation, ...]:
    """A node's interface as DHCP would set it up, and a neighbour entry for the gateway that never ages."""
    return (
        AddAddress(f"{address}/{network.prefixlen}", "eth0"),
        SetLink("eth0", up=True),
        AddRoute(gateway + "/32", dev="eth0", source=address, metric=100, protocol=16),
        AddRoute("default", gateway=gateway, dev="eth0", source=address, metric=100, protocol=16),
        SetNeighbour(gateway, hardware(gateway), "eth0"),
    )
