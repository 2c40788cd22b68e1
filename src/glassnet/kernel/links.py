"""Interfaces of a namespace in ways that do not grow with their number: reading one by ioctl (netdevice(7)), deleting many as a group.

Deleting a bridge's port takes the kernel some 20 ms, nearly all of it waiting for readers of the port to be done (RCU). Links of one
device group that go in one request share that wait: 50 take 40 ms instead of one second (rtnetlink(7), IFLA_GROUP; `ip link del group`).
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, ip_interface
from typing import NamedTuple

from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError

_SIOCGIFADDR, _SIOCGIFNETMASK, _SIOCGIFHWADDR, _SIOCGIFINDEX = 0x8915, 0x891B, 0x8927, 0x8933
_NEWLINK, _DELLINK, _ERROR, _REQUEST, _ACK = 16, 17, 2, 0x1, 0x4
_IFLA_IFNAME, _IFLA_GROUP = 3, 27
_MANY = 100  # messages a datagram
GROUP = 0x676C6173  # "glas": links are put into it when they are about to go, and only then


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


def has_link(netns: NetNs, name: str) -> bool:
    """Whether there is an interface of that name; unlike a question by rtnetlink this waits for nobody."""
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16s24x", name.encode()))
        except OSError:
            return False
    return True


def delete_links(netns: NetNs, names: Sequence[str]) -> None:
    """Delete interfaces by name, all in one request; absent ones are fine. Raises KernelError for anything else."""
    with link_socket(netns) as sock:
        delete_links_on(sock, names)


def link_socket(netns: NetNs) -> socket.socket:
    """A blocking rtnetlink socket of a namespace, for `delete_links_on` in another thread (only this one may go into namespaces)."""
    sock = netns.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    sock.setblocking(True)
    return sock


def delete_links_on(sock: socket.socket, names: Sequence[str]) -> None:
    """As `delete_links`, on a socket of the namespace."""
    named = [_attribute(_IFLA_IFNAME, name.encode() + b"\0") for name in names]
    group = _attribute(_IFLA_GROUP, struct.pack("=I", GROUP))
    if len(named) < 2:
        _ask(sock, [_message(_DELLINK, each) for each in named], names)
        return
    for begin in range(0, len(named), _MANY):
        part = slice(begin, begin + _MANY)
        _ask(sock, [_message(_NEWLINK, name + group) for name in named[part]], names[part])
    _ask(sock, [_message(_DELLINK, group)], ["group of links"])


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def _message(kind: int, attributes: bytes) -> bytes:
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK, 0, 0) + body


def _ask(sock: socket.socket, messages: Sequence[bytes], names: Sequence[str]) -> None:
    """Send messages and read the kernel's answer to each, in their order."""
    if not messages:
        return
    sock.send(b"".join(messages))
    answers = _answers(sock)
    failed = [(name, number) for name, number in zip(names, answers, strict=False) if number not in (0, errno.ENODEV)]
    if failed:
        raise KernelError(f"delete interface {failed[0][0]}", failed[0][1])


def _answers(sock: socket.socket) -> Iterator[int]:
    """Error numbers as they come, 0 for success."""
    while True:
        data, position = sock.recv(1 << 16), 0
        while position + 20 <= len(data):
            length, kind = struct.unpack_from("=IH", data, position)
            if kind == _ERROR:
                yield -struct.unpack_from("=i", data, position + 16)[0]
            position += (length + 3) & ~3
