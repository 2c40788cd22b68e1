"""What both kinds of portmap's rules are made from."""

from __future__ import annotations

from collections.abc import Mapping as Table
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

from glassnet.cni.errors import OTHER, CniError

IPTABLES, NFTABLES = BACKENDS = ("iptables", "nftables")
PROTOCOLS = ("tcp", "udp", "sctp")


class Mapping(NamedTuple):
    """A port of the node that leads to one of the container; `host_ip` "" stands for every address of the node."""

    host_port: int
    container_port: int
    protocol: str
    host_ip: str = ""

    def fits(self, family: int) -> bool:
        """Whether packets of a family (4, 6) can meet it: 0.0.0.0 is for IPv4 alone, :: for IPv6, as in the reference plugin."""
        return not self.host_ip or ip_address(self.host_ip).version == family

    @property
    def only(self) -> str:
        """The one address of the node that it is for; "" for all."""
        return "" if not self.host_ip or ip_address(self.host_ip).is_unspecified else self.host_ip


class Conf(NamedTuple):
    """The plugin's keys; `mark` is the value of the one bit, `conditions` go by family."""

    mappings: tuple[Mapping, ...]
    snat: bool
    masq_all: bool
    conditions: Table[int, tuple[str, ...]]
    mark: int
    mark_chain: str
    backend: str


class Target(NamedTuple):
    """A container's address with its prefix length."""

    family: int
    address: str

    @property
    def ip(self) -> str:
        return str(ip_interface(self.address).ip)

    @property
    def network(self) -> str:
        return str(ip_interface(self.address).network)

    def place(self, port: int) -> str:
        """Address and port as a destination of NAT."""
        return f"[{self.ip}]:{port}" if self.family == 6 else f"{self.ip}:{port}"


class Holder(NamedTuple):
    """Who has a port of the node already; `ip` "" stands for every address."""

    network: str
    container_id: str
    port: int
    protocol: str
    ip: str


def refuse(mapping: Mapping, holder: Holder) -> CniError:
    """The error about a port that is taken: the first one in the chain would get all packets, and nobody would know."""
    place = f"{holder.ip}:" if holder.ip else ""
    whose = f' of network "{holder.network}"' if holder.network else ""
    return CniError(
        OTHER,
        f'host port {mapping.host_port}/{mapping.protocol} is held by container "{holder.container_id}"{whose}',
        f"as {place}{holder.port}/{holder.protocol}: take another hostPort or hostIP, or remove that container "
        "(what it left behind goes with DEL or GC)",
    )


def conflict(mapping: Mapping, holder: Holder) -> bool:
    """Whether a packet can mean both."""
    same = (mapping.host_port, mapping.protocol) == (holder.port, holder.protocol)
    return same and (not mapping.only or not holder.ip or ip_address(mapping.only) == ip_address(holder.ip))
