"""Notice of what happens to routes of one protocol, to links, addresses and a tunnel's neighbours. Source: rtnetlink(7), its multicast groups.

A filter in the socket (packet(7), SO_ATTACH_FILTER; netlink sockets take it too) leaves out what nobody here asks for, so that a routing daemon
with a million routes, or a node's neighbour table, costs this process nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import sys
from dataclasses import dataclass, field

from glassnet.kernel.api import NetNs
from glassnet.kernel.network_state import attributes
from glassnet.kernel.route_state import read_fdb, read_neighbour, read_route
from glassnet.net.errors import KernelError
from glassnet.netstack.ops import AddRoute, SetFdb, SetNeighbour

_GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400  # links, neighbours, addresses and routes of both families
_NEW_LINK, _DEL_LINK, _NEW_ADDRESS, _DEL_ADDRESS, _NEW_ROUTE, _DEL_ROUTE, _DEL_NEIGHBOUR = 16, 17, 20, 21, 24, 25, 29
_REPLACE, _UP = 0x100, 1
_ROOM, _AT_ONCE = 4 << 20, 512  # bytes in the kernel; notices taken in before others have their turn
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_LDW, _LDH, _LDB, _JEQ, _JSET, _RET = 0x20, 0x28, 0x30, 0x15, 0x45, 0x06
_HEADER = 16


@dataclass(slots=True)
class Noticed:
    """What has happened since one looked last; `lost`: more than could be told.

    `routes` have gone, or stand under another's name; `links` are (number, is it up, MTU), both 0 for one that has gone.
    """

    routes: list[AddRoute] = field(default_factory=list)
    neighbours: list[SetFdb | SetNeighbour] = field(default_factory=list)
    links: set[tuple[int, bool, int]] = field(default_factory=set)
    addresses: bool = False
    lost: bool = False
    more: bool = False


class RouteWatch:
    """A socket that hears of changes; `fileno` is for an event loop."""

    def __init__(self, netns: NetNs, protocol: int) -> None:
        self._netns, self._protocol, self._names = netns, protocol, dict[int, str]()
        try:
            self._socket = netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            with contextlib.suppress(OSError):  # needs CAP_NET_ADMIN in the first user namespace: else the usual room
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            self.follow(0)
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            raise KernelError("listen to rtnetlink", error.errno or 0) from None

    def fileno(self) -> int:
        """Readable when something has happened."""
        return self._socket.fileno()

    def follow(self, link: int) -> None:
        """From now on tell of the neighbours of the link with this number (0: of none). Raises KernelError."""
        code = b"".join(struct.pack("=HBBI", *each) for each in filter_for(self._protocol, link))
        buffer = ctypes.create_string_buffer(code)
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        self._names.clear()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        except OSError as error:
            raise KernelError("filter rtnetlink's notices", error.errno or 0) from None

    def drain(self) -> Noticed:
        """What came; never waits. `more` says that there is more to come."""
        found = Noticed()
        for _ in range(_AT_ONCE):
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError("listen to rtnetlink", error.errno or 0) from None
                found.lost = True
                continue
            self._take(data, found)
        found.more = True
        return found

    def _take(self, data: bytes, found: Noticed) -> None:
        position = 0
        while position + _HEADER <= len(data):
            length, kind, _ = struct.unpack_from("=IHH", data, position)
            body = data[position + _HEADER : position + length]
            if kind in (_NEW_LINK, _DEL_LINK):
                self._take_link(kind, body, found)
            elif kind in (_NEW_ADDRESS, _DEL_ADDRESS):
                found.addresses = True
            elif kind in (_NEW_ROUTE, _DEL_ROUTE):
                route = read_route(self._netns, body, self._names)
                found.routes += [route] if route else []
            elif kind == _DEL_NEIGHBOUR:
                bridge = body[:1] == bytes([socket.AF_BRIDGE])
                entry = (read_fdb if bridge else read_neighbour)(self._netns, body, self._names)
                found.neighbours += [entry] if entry else []
            position += max(_HEADER, (length + 3) & ~3)

    def _take_link(self, kind: int, body: bytes, found: Noticed) -> None:
        family, _, index, flags = struct.unpack_from("=BxHiI", body, 0)
        if family != socket.AF_UNSPEC:  # a bridge tells of its ports
            return
        self._names.pop(index, None)
        parts = attributes(body, 16, 4)
        mtu = int.from_bytes(parts.get(4, b"")[:4], sys.byteorder)
        found.links.add((index, bool(flags & _UP), mtu) if kind == _NEW_LINK else (index, False, 0))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def filter_for(protocol: int, link: int) -> list[tuple[int, int, int, int]]:
    """The filter as instructions (code, jump if true, jump if false, value).

    It lets pass: links; addresses of global scope; routes of the protocol that were deleted, and any that took another's place; neighbours of
    the link that were deleted. Numbers are loaded as the network has them, and stand in the message as this machine has them.
    """

    def half(value: int) -> int:
        return int.from_bytes(struct.pack("=H", value), "big")

    def word(value: int) -> int:
        return int.from_bytes(struct.pack("=i", value), "big")

    return [
        (_LDH, 0, 0, 4),  # 0: the message's type
        (_JEQ, 15, 0, half(_NEW_LINK)),
        (_JEQ, 14, 0, half(_DEL_LINK)),
        (_JEQ, 4, 0, half(_NEW_ADDRESS)),
        (_JEQ, 3, 0, half(_DEL_ADDRESS)),
        (_JEQ, 4, 0, half(_NEW_ROUTE)),
        (_JEQ, 5, 0, half(_DEL_ROUTE)),
        (_JEQ, 6, 8, half(_DEL_NEIGHBOUR)),
        (_LDB, 0, 0, _HEADER + 3),  # 8: ifa_scope
        (_JEQ, 7, 6, 0),
        (_LDH, 0, 0, 6),  # 10: flags of the message
        (_JSET, 5, 4, half(_REPLACE)),
        (_LDB, 0, 0, _HEADER + 5),  # 12: rtm_protocol
        (_JEQ, 3, 2, protocol),
        (_LDW, 0, 0, _HEADER + 4),  # 14: ndm_ifindex
        (_JEQ, 1, 0, word(link)),
        (_RET, 0, 0, 0),
        (_RET, 0, 0, 0xFFFFFFFF),
    ]
