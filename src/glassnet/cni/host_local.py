"""host-local: which address a container gets. On disk a lease is a file named by the address, holding container id and interface.

Source: behaviour and files of the reference plugin (containernetworking/plugins, host-local): round robin after the last one given out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Any, NamedTuple

from glassnet.cni.config import Ipam, Range
from glassnet.net.errors import GlassnetError

LAST, LOCK = "last_reserved_ip.0", "lock"


class Lease(NamedTuple):
    """An address with its prefix length, and the gateway of its range."""

    address: str
    gateway: str

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]


class Exhausted(GlassnetError):
    """A range set has no free address left."""


def choose(ipam: Ipam, taken: Collection[str], last: str) -> Lease:
    """The next free address after `last` (the last one given out, "" for none). Raises Exhausted naming the ranges."""
    for one, address in _after(ipam.ranges, last):
        text = str(address)
        if address != one.gateway and text not in taken:
            return Lease(f"{text}/{one.subnet.prefixlen}", str(one.gateway))
    spans = ",".join(str(one) for one in ipam.ranges)
    raise Exhausted(f"failed to allocate for range 0: no IP addresses available in range set: {spans}")


def lease_of(ipam: Ipam, ip: str) -> Lease | None:
    """The lease that an address of the set stands for; None when no range has it."""
    found = next((one for one in ipam.ranges if IPv4Address(ip) in one.subnet), None)
    return None if found is None else Lease(f"{ip}/{found.subnet.prefixlen}", str(found.gateway))


def lease_text(container_id: str, ifname: str) -> str:
    """Content of a lease file."""
    return f"{container_id}\r\n{ifname}"


def owned(files: Mapping[str, str], container_id: str, ifname: str) -> list[str]:
    """Names of the lease files that belong to a container's interface; a file without interface is from an old plugin and counts."""
    wanted = (lease_text(container_id, ifname), container_id)
    return [name for name, text in files.items() if is_lease(name) and text.strip() in wanted]


def is_lease(name: str) -> bool:
    """True for a lease's file name, false for the others that lie beside them."""
    try:
        IPv4Address(name)
    except AddressValueError:
        return False
    return True


def result(version: str, lease: Lease, ipam: Ipam) -> dict[str, Any]:
    """What host-local alone answers to ADD."""
    return {"cniVersion": version, "ips": [ip_result(version, lease)], "routes": routes_result(ipam), "dns": {}}


def ip_result(version: str, lease: Lease) -> dict[str, Any]:
    """An entry of `ips`; its `version` went away with CNI 1.0.0."""
    old = {"version": "4"} if version.startswith("0.") else {}
    return {**old, "address": lease.address, "gateway": lease.gateway}


def routes_result(ipam: Ipam) -> list[dict[str, str]]:
    """The entries of `routes`."""
    return [{"dst": dst, **({"gw": gw} if gw else {})} for dst, gw in ipam.routes]


def _after(ranges: tuple[Range, ...], last: str) -> Iterator[tuple[Range, IPv4Address]]:
    """Every address of a set once, from the one after `last` on; from the beginning when `last` is in no range."""
    begin, number = 0, int(ranges[0].start)
    if is_lease(last):
        for index, one in enumerate(ranges):
            if one.start <= IPv4Address(last) <= one.end:
                begin, number = index, int(IPv4Address(last)) + 1
    for step in range(len(ranges) + 1):
        one = ranges[(begin + step) % len(ranges)]
        low = number if step == 0 else int(one.start)
        high = number - 1 if step == len(ranges) else int(one.end)
        for value in range(low, high + 1):
            yield one, IPv4Address(value)
