"""Tables of the legacy kind read and written whole, as the legacy tools do it: by socket options, under the tools' lock.

The kernel knows no smaller change than a whole table. Sources: linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h
(whose struct ipt_replace and options are alike), linux/netfilter/x_tables.h.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import NamedTuple

from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError

_INFO, _ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES
_REPLACE, _ADD_COUNTERS = 64, 65  # IPT_SO_SET_REPLACE, IPT_SO_SET_ADD_COUNTERS
_info = struct.Struct("=32sI5I5III")  # name, valid hooks, hook entries, underflows, number of entries, bytes
_replace = struct.Struct(
    "=32sIII5I5IIQ"
)  # name, valid hooks, entries, bytes, hook entries, underflows, number of counters, their place
_GET_HEAD = 40  # struct ipt_get_entries: name, bytes, padding
_COUNTERS_HEAD = 40  # struct xt_counters_info: name, number, padding
ROOM = _replace.size  # bytes that have to be free in front of the entries
COUNTER = 16
_libc = ctypes.CDLL(None, use_errno=True)


class Info(NamedTuple):
    """What the kernel says of a table: which hooks it has, where their chains begin and where their policies are, entries and bytes."""

    hooks: int
    places: tuple[int, ...]
    entries: int
    bytes: int


class LegacyTable:
    """One table (nat, filter, ...) of one network namespace and family. Works in any thread."""

    def __init__(self, netns: NetNs, family: str, table: str) -> None:
        """Raises OSError without the right to raw sockets."""
        v4 = family == "IPv4"
        self._level = socket.IPPROTO_IP if v4 else socket.IPPROTO_IPV6
        self._socket = netns.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._family, self._table = family, table

    def info(self) -> Info:
        """What the table looks like now. Raises KernelError."""
        buffer = bytearray(_info.size)
        buffer[:32] = self._name()
        self._get(_INFO, buffer, "ask for")
        _, hooks, *places, entries, size = _info.unpack(buffer)
        return Info(hooks, tuple(places), entries, size)

    def read(self, info: Info) -> bytearray:
        """All entries behind ROOM free bytes. Raises KernelError with EAGAIN when the table has changed since `info`."""
        buffer = bytearray(ROOM + info.bytes)
        start = ROOM - _GET_HEAD
        struct.pack_into("=32sI", buffer, start, self._name(), info.bytes)
        self._get(_ENTRIES, buffer, "read", start)
        return buffer

    def replace(self, info: Info, buffer: bytearray, entries: int) -> bytearray:
        """Put the entries in `buffer` (behind ROOM bytes) in place of the table of `info`; the counters of what was there.

        Raises KernelError, and changes nothing: EAGAIN when the table has another number of entries than `info` says.
        """
        counters = bytearray(info.entries * COUNTER)
        place = (ctypes.c_char * len(counters)).from_buffer(counters)
        size = len(buffer) - ROOM
        _replace.pack_into(
            buffer, 0, self._name(), info.hooks, entries, size, *info.places, info.entries, ctypes.addressof(place)
        )
        self._set(_REPLACE, buffer, "replace")
        return counters

    def add_counters(self, counters: bytearray) -> None:
        """Add to the counters of all entries. Raises KernelError."""
        head = struct.pack("=32sI4x", self._name(), len(counters) // COUNTER)
        self._set(_ADD_COUNTERS, bytearray(head + counters), "add counters to")

    def _name(self) -> bytes:
        return self._table.encode().ljust(32, b"\0")

    def _get(self, option: int, buffer: bytearray, verb: str, start: int = 0) -> None:
        length = ctypes.c_uint32(len(buffer) - start)
        place = ctypes.byref((ctypes.c_char * len(buffer)).from_buffer(buffer), start)
        if _libc.getsockopt(self._socket.fileno(), self._level, option, place, ctypes.byref(length)):
            self._refused(verb)

    def _set(self, option: int, buffer: bytearray, verb: str) -> None:
        place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        if _libc.setsockopt(self._socket.fileno(), self._level, option, place, ctypes.c_uint32(len(buffer))):
            self._refused(verb)

    def _refused(self, verb: str) -> None:
        raise KernelError(f"{verb} the legacy {self._family} table {self._table}", ctypes.get_errno())

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def usable() -> bool:
    """Whether this process has the layout of structs described here: that of 64-bit machines."""
    return ctypes.sizeof(ctypes.c_long) == 8 and os.name == "posix"
