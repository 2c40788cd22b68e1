"""The connection table of one machine, by netlink: UDP entries, and the end of some.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c for CTA_FILTER (Linux 5.8).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator

from glassnet.kernel.api import NetNs
from glassnet.kernel.nfnetlink import NfNetlink, Refusal
from glassnet.netstack.conntrack import Flow
from glassnet.ruleset.nft_messages import attr, nest
from glassnet.ruleset.nft_reader import attributes

_SUBSYSTEM, _GET, _DELETE = 1 << 8, 1, 2
_ORIGINAL, _REPLY, _ID, _FILTER = 1, 2, 12, 25
_IP, _PROTO = 1, 2
_DUMP = 0x300
_UDP = 17
_PROTO_NUMBER = 1 << 5  # of CTA_FILTER_ORIG_FLAGS: CTA_FILTER_FLAG(CTA_PROTO_NUM)


class Conntrack:
    """Entries of a network namespace."""

    def __init__(self, netns: NetNs) -> None:
        self._socket = NfNetlink(netns)

    def udp(self, family: str) -> Iterator[Flow]:
        """UDP entries of an IP family. Raises KernelError."""
        number_ = socket.AF_INET if family == "IPv4" else socket.AF_INET6
        only = nest(_ORIGINAL, nest(_PROTO, attr(1, bytes([_UDP])))) + nest(
            _FILTER, _native(1, _PROTO_NUMBER), _native(2, 0)
        )
        try:
            answers = list(self._socket.request(_SUBSYSTEM | _GET, only, _DUMP, number_))
        except Refusal:  # an older kernel knows no filter of this kind
            answers = list(self._socket.request(_SUBSYSTEM | _GET, b"", _DUMP, number_))
        for answer in answers:
            if flow := _flow(answer, number_):
                yield flow

    def delete(self, flows: Iterable[Flow]) -> int:
        """End entries; those that ended by themselves meanwhile are passed over. How many there were."""
        count = 0
        for flow in flows:
            with contextlib.suppress(Refusal):
                list(self._socket.request(_SUBSYSTEM | _DELETE, flow.handle[1:], 4, flow.handle[0]))
                count += 1
        return count

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _native(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def _flow(body: bytes, family: int) -> Flow | None:
    parts = attributes(body)
    if _ORIGINAL not in parts or _REPLY not in parts:
        return None
    original, reply = attributes(parts[_ORIGINAL]), attributes(parts[_REPLY])
    ports, answered = attributes(original[_PROTO]), attributes(reply[_PROTO])
    if ports[1][0] != _UDP:
        return None
    source, destination = (1, 2) if family == socket.AF_INET else (3, 4)
    handle = bytes([family]) + attr(0x8000 | _ORIGINAL, parts[_ORIGINAL])
    if _ID in parts:
        handle += attr(_ID, parts[_ID])
    return Flow(
        socket.inet_ntop(family, attributes(original[_IP])[destination]),
        int.from_bytes(ports[3], "big"),
        socket.inet_ntop(family, attributes(reply[_IP])[source]),
        int.from_bytes(answered[2], "big"),
        handle,
    )
