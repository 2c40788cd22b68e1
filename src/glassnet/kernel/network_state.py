"""What a network namespace has, read by netlink without a program: links, addresses, routes, bridge ports.

Sources: rtnetlink(7); include/uapi/linux/{if_link,if_addr,rtnetlink}.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator

from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError
from glassnet.netstack.model import Address, BridgePort, Link, NextHop, Route

_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_IFNAME, _HARDWARE, _MTU, _PEER, _MASTER, _LINKINFO, _IFALIAS, _PROMISCUITY, _CARRIER = 3, 1, 4, 5, 10, 18, 20, 30, 33
_TXQLEN = 13
_INFO_KIND, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 4, 5
_PORT_HAIRPIN, _PORT_ISOLATED = 4, 33
_OPERSTATE, _EXT_MASK, _SKIP_STATS = 16, 29, 8
_STATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")  # RFC 2863, as ip(8) has them
_TENTATIVE, _FAILED = 0x40, 0x08
_UP, _ALLMULTI, _NESTED = 1, 0x200, 0x3FFF
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_MAIN = 254
_DST, _OIF = 1, 4
_NO_ROUTE = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EACCES,
    errno.EINVAL,
)  # none; unreachable, prohibit, blackhole routes


def attributes(data: bytes, position: int, last: int = -1) -> dict[int, bytes]:
    """The attributes of a message from a position on, by type (rtnetlink(7), struct rtattr); up to type `last` (-1: all)."""
    found: dict[int, bytes] = {}
    end = len(data)
    while position + 4 <= end and last not in found:
        length, kind = struct.unpack_from("=HH", data, position)
        if length < 4:
            break
        found[kind & _NESTED] = data[position + 4 : position + length]
        position += (length + 3) & ~3
    return found


def find_link(netns: NetNs, name: str) -> Link | None:
    """A link by its name, None when there is none. Raises KernelError."""
    body = _ask_by_name(netns, name)
    return _link(body, lambda index: _name_of(netns, index)) if body else None


def _ask_by_name(netns: NetNs, name: str) -> bytes:
    encoded = name.encode() + b"\0"
    if len(encoded) > 16:
        return b""
    attribute = struct.pack("=HH", 4 + len(encoded), _IFNAME) + encoded + bytes(-len(encoded) % 4)
    less = struct.pack("=HHI", 8, _EXT_MASK, _SKIP_STATS)
    found = netns.request(_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute + less)
    return found[0] if found else b""


def link_state(netns: NetNs, name: str) -> str:
    """The operational state of a link, as `ip link` shows it in small letters; "" when there is no such link. Raises KernelError."""
    body = _ask_by_name(netns, name)
    state = attributes(body, 16, _OPERSTATE).get(_OPERSTATE, b"\0")[0] if body else -1
    return _STATES[state] if 0 <= state < len(_STATES) else "" if state < 0 else str(state)


def find_port(netns: NetNs, name: str) -> BridgePort | None:
    """A port of a bridge by its name, None when it is no port. Raises KernelError."""
    body = _ask_by_name(netns, name)
    return _port(attributes(body, 16), lambda index: _name_of(netns, index)) if body else None


def link_at(netns: NetNs, index: int) -> Link | None:
    """A link by its number, None when there is none. Raises KernelError."""
    found = netns.request(_GETLINK, struct.pack("=BxHiII", 0, 0, index, 0, 0)) if index > 0 else []
    return _link(found[0], lambda number: _name_of(netns, number)) if found else None


def list_links(netns: NetNs) -> tuple[Link, ...]:
    """Every link. Raises KernelError."""
    bodies = netns.request(_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0), dump=True)
    names = {struct.unpack_from("=i", body, 4)[0]: _string(attributes(body, 16).get(_IFNAME, b"")) for body in bodies}
    return tuple(_link(body, lambda index: names.get(index, "")) for body in bodies)


def list_ports(netns: NetNs) -> tuple[BridgePort, ...]:
    """The ports of every bridge. Raises KernelError."""
    bodies = netns.request(_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0), dump=True)
    parts = [attributes(body, 16) for body in bodies]
    indexes = [struct.unpack_from("=i", body, 4)[0] for body in bodies]
    names = {index: _string(each.get(_IFNAME, b"")) for index, each in zip(indexes, parts, strict=True)}
    found = (_port(each, lambda index: names.get(index, "")) for each in parts)
    return tuple(port for port in found if port is not None)


def _port(parts: dict[int, bytes], name_of: Callable[[int], str]) -> BridgePort | None:
    info = attributes(parts.get(_LINKINFO, b""), 0)
    if info.get(_INFO_SLAVE_KIND, b"").rstrip(b"\0") != b"bridge":
        return None
    port = attributes(info.get(_INFO_SLAVE_DATA, b""), 0)
    hairpin, isolated = (port.get(kind, b"\0")[:1] == b"\1" for kind in (_PORT_HAIRPIN, _PORT_ISOLATED))
    return BridgePort(_string(parts[_IFNAME]), name_of(_number(parts.get(_MASTER))), hairpin=hairpin, isolated=isolated)


def _name_of(netns: NetNs, index: int) -> str:
    found = netns.request(_GETLINK, struct.pack("=BxHiII", 0, 0, index, 0, 0))
    return _string(attributes(found[0], 16).get(_IFNAME, b"")) if found else ""


def _link(body: bytes, name_of: Callable[[int], str]) -> Link:
    index, flags = struct.unpack_from("=iI", body, 4)
    parts = attributes(body, 16)
    master = _number(parts.get(_MASTER))
    hardware = parts.get(_HARDWARE, b"")
    return Link(
        index,
        _string(parts.get(_IFNAME, b"")),
        _number(parts.get(_MTU)),
        bool(flags & _UP),
        _string(attributes(parts.get(_LINKINFO, b""), 0).get(_INFO_KIND, b"")),
        name_of(master) if master else "",
        _number(parts.get(_PEER)),
        hardware.hex(":") if hardware else "",
        _string(parts.get(_IFALIAS, b"")),
        carrier=parts.get(_CARRIER, b"\1")[:1] == b"\1",
        promiscuous=_number(parts.get(_PROMISCUITY)) > 0,
        all_multicast=bool(flags & _ALLMULTI),
        queue=_number(parts.get(_TXQLEN)),
    )


def list_addresses(netns: NetNs, dev: str) -> tuple[Address, ...]:
    """The addresses of a link; none when there is no such link. Raises KernelError."""
    link = _ask_by_name(netns, dev)
    if not link:
        return ()
    wanted = struct.unpack_from("=i", link, 4)[0]
    return tuple(one for index, one in _addresses(netns, dev, wanted) if index == wanted)


def _addresses(netns: NetNs, dev: str, wanted: int) -> Iterator[tuple[int, Address]]:
    """The kernel tells of the wanted link alone where it checks requests strictly (Linux 4.20), of all elsewhere."""
    for body in netns.request(_GETADDR, struct.pack("=BxxxI", 0, wanted), dump=True):
        family, length, _, scope, index = struct.unpack_from("=BBBBI", body, 0)
        parts = attributes(body, 8)
        packed = parts.get(2) or parts.get(1, b"")
        if family in (socket.AF_INET, socket.AF_INET6):
            bits = len(packed) * 8
            flags = _number(parts.get(8)) or body[2]
            yield (
                index,
                Address(
                    int.from_bytes(packed),
                    bits,
                    length,
                    dev,
                    _SCOPES.get(scope, str(scope)),
                    tentative=bool(flags & _TENTATIVE),
                    duplicate=bool(flags & _FAILED),
                ),
            )


def list_routes(netns: NetNs) -> tuple[Route, ...]:
    """The unicast routes of the main table, of both families. Raises KernelError."""
    names = {link.index: link.name for link in list_links(netns)}
    bodies: Iterable[bytes] = netns.request(_GETROUTE, struct.pack("=BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0), dump=True)
    return tuple(route for body in bodies if (route := _route(body, names)) is not None)


def route_device(netns: NetNs, address: str) -> str:
    """The interface that a packet to an address leaves by; "" when there is no route. Raises KernelError."""
    family, size = (socket.AF_INET6, 16) if ":" in address else (socket.AF_INET, 4)
    target = struct.pack("=HH", 4 + size, _DST) + socket.inet_pton(family, address)
    try:
        found = netns.request(_GETROUTE, struct.pack("=BBBBBBBBI", family, size * 8, 0, 0, 0, 0, 0, 0, 0) + target)
    except KernelError as error:
        if error.number in _NO_ROUTE:
            return ""
        raise
    link = link_at(netns, _number(attributes(found[0], 12).get(_OIF))) if found else None
    return link.name if link else ""


def _route(body: bytes, names: dict[int, str]) -> Route | None:
    family, length, _, _, table, _, scope, kind, _ = struct.unpack_from("=BBBBBBBBI", body, 0)
    parts = attributes(body, 12)
    if (_number(parts.get(15)) or table) != _MAIN or kind != 1 or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    bits = 32 if family == socket.AF_INET else 128
    gateway = int.from_bytes(parts[5]) if 5 in parts else None
    hop = NextHop(names.get(_number(parts.get(4)), ""), gateway, gateway_bits=bits if gateway is not None else 0)
    source = int.from_bytes(parts[7]) if 7 in parts else None
    target = int.from_bytes(parts.get(1, b""))
    return Route(
        target, length, bits, hops=(hop,), source=source, metric=_number(parts.get(6)), scope=_SCOPES.get(scope, "")
    )


def _number(data: bytes | None) -> int:
    return int.from_bytes(data[:4], sys.byteorder) if data else 0


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
