"""Reading one interface of a namespace without a dump of all: netdevice(7) ioctls, whose answer does not grow with the namespace."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from ipaddress import IPv4Address, ip_interface
from typing import NamedTuple

from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError

_SIOCGIFADDR, _SIOCGIFNETMASK, _SIOCGIFHWADDR = 0x8915, 0x891B, 0x8927


class Link(NamedTuple):
    """An interface's first IPv4 address with prefix length ("" when it has none) and its MAC."""

    address: str
    mac: str


def read_link(netns: NetNs, name: str) -> Link | None:
    """The interface as it is, None when there is none of that name. Raises KernelError for anything else."""
    request = struct.pack("16s24x", name.encode())
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            mac = fcntl.ioctl(sock, _SIOCGIFHWADDR, request)[18:24].hex(":")
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise KernelError(f"read interface {name}", error.errno or 0) from None
        try:
            address = IPv4Address(fcntl.ioctl(sock, _SIOCGIFADDR, request)[20:24])
            mask = IPv4Address(fcntl.ioctl(sock, _SIOCGIFNETMASK, request)[20:24])
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
                return Link("", mac)
            raise KernelError(f"read the address of interface {name}", error.errno or 0) from None
    return Link(ip_interface(f"{address}/{mask}").with_prefixlen, mac)
