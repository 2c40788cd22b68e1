"""host-local: which address a container gets. On disk a lease is a file named by the address, holding container id and interface.

Source: behaviour and files of the reference plugin (containernetworking/plugins, host-local): round robin after the last one given out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from glassnet.cni.config import Ipam
from glassnet.net.errors import GlassnetError

LAST = "last_reserved_ip.0"


class Lease(NamedTuple):
    """An address with its prefix length, and the gateway of its range."""

    address: str
    gateway: str

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]


class Exhausted(GlassnetError):
    """A range has no free address left."""


def choose(ipam: Ipam, taken: Collection[str], last: str) -> Lease:
    """The next free address after `last` (the last one given out, "" for none). Raises Exhausted naming the ranges."""
    for subnet, gateway in ipam.ranges:
        network = IPv4Network(subnet)
        first, end = int(network[1]), int(network[-2])
        way = gateway or str(network[1])
        begin = int(IPv4Address(last)) + 1 if last and IPv4Address(last) in network else first
        for number in (*range(begin, end + 1), *range(first, begin)):
            address = str(IPv4Address(number))
            if address != way and address not in taken:
                return Lease(f"{address}/{network.prefixlen}", way)
    spans = ", ".join(f"{IPv4Network(s)[1]}-{IPv4Network(s)[-2]}" for s, _ in ipam.ranges)
    raise Exhausted(f"failed to allocate for range 0: no IP addresses available in range set: {spans}")


def lease_text(container_id: str, ifname: str) -> str:
    """Content of a lease file."""
    return f"{container_id}\r\n{ifname}"


def owned(files: Mapping[str, str], container_id: str, ifname: str) -> list[str]:
    """Names of the lease files that belong to a container's interface."""
    wanted = lease_text(container_id, ifname)
    return [name for name, text in files.items() if text.strip() in (wanted, container_id)]
