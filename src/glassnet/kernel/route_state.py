"""What the routes between nodes stand on, read by rtnetlink: routes of one protocol, own addresses, a VXLAN link and what hangs on it.

Sources: rtnetlink(7); include/uapi/linux/{if_link,if_addr,neighbour,rtnetlink}.h; net/core/rtnetlink.c, valid_fdb_dump_strict (a dump of one link).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys

from glassnet.kernel.api import NetNs
from glassnet.kernel.network_state import attributes, link_at, list_addresses
from glassnet.netstack.model import OwnAddress, Vxlan
from glassnet.netstack.ops import AddRoute, SetFdb, SetNeighbour

_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH = 18, 22, 26, 30
_ROUTE, _ADDRESS, _NEIGH = struct.Struct("=BBBBBBBBI"), struct.Struct("=BBBBI"), struct.Struct("=BxxxiHBB")
_LINK = struct.Struct("=BxHiII")
_IFNAME, _HARDWARE, _MTU, _LINKINFO, _AF_SPEC, _IFALIAS = 3, 1, 4, 18, 26, 20
_INFO_KIND, _INFO_DATA, _ID, _LOCAL, _LEARNING, _PORT, _LOCAL6 = 1, 2, 1, 4, 7, 15, 17
_INET_CONF, _RP_FILTER = 1, 8
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_UP, _LOOPBACK, _PERMANENT, _ONLINK = 1, 8, 0x80, 4
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _METRICS, _MULTIPATH, _TABLE = 1, 4, 5, 6, 7, 8, 9, 15
_UNICAST, _IPV6_METRIC = 1, 1024  # the metric of an IPv6 route that was given none (ip-route(8))
_NAMES = 4096  # links in a memory of names; enough for a node


def list_protocol(netns: NetNs, protocol: int) -> list[AddRoute]:
    """The unicast routes of one protocol number, in all tables and both families, as the operations that make them. Raises KernelError.

    Those that glassnet does not make (several next hops, metrics of their own) are told in part: enough to take them away.
    """
    found = []
    names: dict[int, str] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        asked = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
        for body in netns.request(_GETROUTE, asked, dump=True):
            route = read_route(netns, body, names)
            if route is not None and route.protocol == protocol:
                found.append(route)
    return found


def routes_to(netns: NetNs, destinations: set[str]) -> dict[str, AddRoute]:
    """Routes of the main table to exactly these prefixes, whoever made them; of several to one the strongest. Raises KernelError."""
    found: dict[str, AddRoute] = {}
    names: dict[int, str] = {}
    for body in netns.request(_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), dump=True):
        route = read_route(netns, body, names)
        if route is None or route.table != 254 or route.destination not in destinations:
            continue
        if route.destination not in found or route.metric < found[route.destination].metric:
            found[route.destination] = route
    return found


def read_route(netns: NetNs, body: bytes, names: dict[int, str]) -> AddRoute | None:
    """A route message as the operation that makes such a route; None when it is no unicast route. `names` remembers links' names."""
    family, length, _, _, table, protocol, _, kind, flags = _ROUTE.unpack_from(body, 0)
    if (
        kind != _UNICAST or family not in (socket.AF_INET, socket.AF_INET6) or flags & 0x200
    ):  # RTM_F_CLONED: a cached one
        return None
    parts = attributes(body, 12)
    metric = _number(parts.get(_PRIORITY))
    if family == socket.AF_INET6 and metric == _IPV6_METRIC:
        metric = 0
    size = 4 if family == socket.AF_INET else 16
    target = _text(parts.get(_DST, bytes(size)))
    return AddRoute(
        f"{target}/{length}",
        gateway=_text(parts[_GATEWAY]) if _GATEWAY in parts else "",
        dev=_name(netns, _number(parts.get(_OIF)), names),
        source=_text(parts[_PREFSRC]) if _PREFSRC in parts else "",
        metric=metric,
        protocol=protocol,
        table=_number(parts.get(_TABLE)) or table,
        onlink=bool(flags & _ONLINK),
    )


def _name(netns: NetNs, index: int, names: dict[int, str]) -> str:
    if index and index not in names:
        if len(names) > _NAMES:
            names.clear()
        link = link_at(netns, index)
        names[index] = link.name if link else ""
    return names.get(index, "")


def own_addresses(netns: NetNs, without: str = "") -> tuple[OwnAddress, ...]:
    """The addresses of global scope of links that are up, but for loopback and the link `without`. Raises KernelError."""
    found: list[tuple[str, str, int]] = []
    for body in netns.request(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0), dump=True):
        family, length, _, scope, index = _ADDRESS.unpack_from(body, 0)
        if scope == 0 and family in (socket.AF_INET, socket.AF_INET6):
            parts = attributes(body, 8)
            far = parts.get(1) or parts.get(2, b"")
            network = str(ipaddress.ip_network((_text(far), length), strict=False))
            found.append((_text(parts.get(2) or far), network, index))
    links = {index: _facts(netns, index) for index in {index for _, _, index in found}}
    own = []
    for address, subnet, index in sorted(found):
        name, flags, mtu = links[index]
        if name and name != without and flags & _UP and not flags & _LOOPBACK:
            own.append(OwnAddress(address, subnet, name, index, mtu))
    return tuple(own)


def _facts(netns: NetNs, index: int) -> tuple[str, int, int]:
    """A link's name ("" when it has gone), flags and MTU."""
    found = netns.request(_GETLINK, _LINK.pack(0, 0, index, 0, 0))
    if not found:
        return "", 0, 0
    parts = attributes(found[0], 16, _MTU)
    return _string(parts.get(_IFNAME, b"")), struct.unpack_from("=I", found[0], 8)[0], _number(parts.get(_MTU))


def list_vxlans(netns: NetNs) -> list[Vxlan]:
    """Every VXLAN link, without addresses. Raises KernelError."""
    info = _attribute(_INFO_KIND, b"vxlan")
    asked = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_LINKINFO | 0x8000, info)  # the kernel then tells of this kind alone
    bodies = netns.request(_GETLINK, asked, dump=True)
    return [link for body in bodies if (link := _vxlan(body)) is not None]


def vxlan_addresses(netns: NetNs, link: Vxlan) -> tuple[str, ...]:
    """The addresses of global scope of a VXLAN link, with prefix lengths. Raises KernelError."""
    return tuple(
        sorted(f"{one.text}/{one.length}" for one in list_addresses(netns, link.name) if one.scope == "global")
    )


def _vxlan(body: bytes) -> Vxlan | None:
    parts = attributes(body, 16)
    info = attributes(parts.get(_LINKINFO, b""), 0)
    if info.get(_INFO_KIND, b"").rstrip(b"\0") != b"vxlan":
        return None
    index, flags = struct.unpack_from("=iI", body, 4)
    data = attributes(info.get(_INFO_DATA, b""), 0)
    local = data.get(_LOCAL6) or data.get(_LOCAL) or b""
    inet = attributes(attributes(parts.get(_AF_SPEC, b""), 0).get(socket.AF_INET, b""), 0)
    settings = inet.get(_INET_CONF, b"")
    loose = struct.unpack_from("=I", settings, 4 * (_RP_FILTER - 1))[0] if len(settings) >= 4 * _RP_FILTER else 0
    return Vxlan(
        _string(parts.get(_IFNAME, b"")),
        _number(data.get(_ID)),
        int.from_bytes(data.get(_PORT, b"")[:2], "big"),
        _text(local) if local else "",
        data.get(_LEARNING, b"\0")[:1] == b"\1",
        parts.get(_HARDWARE, b"").hex(":"),
        _number(parts.get(_MTU)),
        bool(flags & _UP),
        _string(parts.get(_IFALIAS, b"")),
        index,
        loose,
    )


def list_permanent(netns: NetNs, link: Vxlan) -> list[SetNeighbour]:
    """The permanent neighbours of a link, as the operations that make them. Raises KernelError."""
    names = {link.index: link.name}
    asked = _NEIGH.pack(0, 0, 0, 0, 0) + struct.pack("=HHI", 8, _NDA_IFINDEX, link.index)
    bodies = [body for body in netns.request(_GETNEIGH, asked, dump=True) if _is_of(body, link.index)]
    return [
        entry
        for body in bodies
        if _NEIGH.unpack_from(body, 0)[2] & _PERMANENT and (entry := read_neighbour(netns, body, names))
    ]


def list_fdb(netns: NetNs, link: Vxlan) -> list[SetFdb]:
    """The forwarding database of a VXLAN link: which machine has which MAC. Raises KernelError."""
    names = {link.index: link.name}
    asked = _NEIGH.pack(socket.AF_BRIDGE, link.index, 0, 0, 0)
    bodies = [body for body in netns.request(_GETNEIGH, asked, dump=True) if _is_of(body, link.index)]
    return [entry for body in bodies if (entry := read_fdb(netns, body, names))]


def _is_of(body: bytes, index: int) -> bool:
    there: int = _NEIGH.unpack_from(body, 0)[1]
    return there == index


def read_neighbour(netns: NetNs, body: bytes, names: dict[int, str]) -> SetNeighbour | None:
    """A neighbour message as the operation that makes such an entry; None for one without a MAC."""
    parts = attributes(body, 12)
    if _NDA_DST not in parts or _NDA_LLADDR not in parts:
        return None
    return SetNeighbour(_text(parts[_NDA_DST]), parts[_NDA_LLADDR].hex(":"), _name_in(netns, body, names))


def read_fdb(netns: NetNs, body: bytes, names: dict[int, str]) -> SetFdb | None:
    """A message of the forwarding database as the operation that makes such an entry; None for one that names no machine."""
    parts = attributes(body, 12)
    if _NDA_DST not in parts or _NDA_LLADDR not in parts:
        return None
    return SetFdb(parts[_NDA_LLADDR].hex(":"), _text(parts[_NDA_DST]), _name_in(netns, body, names))


def _name_in(netns: NetNs, body: bytes, names: dict[int, str]) -> str:
    return _name(netns, _NEIGH.unpack_from(body, 0)[1], names)


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def _text(packed: bytes) -> str:
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed)


def _number(data: bytes | None) -> int:
    return int.from_bytes(data[:4], sys.byteorder) if data else 0


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
