"""The addresses of one machine's interfaces, and notice of their changes. Source: rtnetlink(7), RTNLGRP_IPV4_IFADDR and RTNLGRP_IPV6_IFADDR."""

from __future__ import annotations

import ipaddress
import socket
import struct

from glassnet.kernel.api import NetNs
from glassnet.ruleset.nft_reader import attributes

_GET_ADDRESS, _NEW_ADDRESS, _DUMP, _DONE, _ERROR = 22, 20, 0x301, 3, 2
_GROUPS = 0x10 | 0x100
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


class Addresses:
    """Interface addresses of a network namespace."""

    def __init__(self, netns: NetNs) -> None:
        self._netns = netns
        self._socket = netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """For an event loop: readable when addresses have changed."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Take in the notices that came."""
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:  # some were lost: all the more reason to look
                continue

    def all(self) -> tuple[str, ...]:
        """Every address now."""
        found: list[str] = []
        with self._netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
            asking.send(struct.pack("=IHHIIBxxxI", 24, _GET_ADDRESS, _DUMP, 1, 0, 0, 0))
            while True:
                data = asking.recv(1 << 16)
                place = 0
                while place + 16 <= len(data):
                    length, kind = struct.unpack_from("=IH", data, place)
                    if kind in (_DONE, _ERROR):
                        return tuple(found)
                    if kind == _NEW_ADDRESS:
                        parts = attributes(data, place + 24, place + length)
                        if ip := parts.get(_IFA_LOCAL) or parts.get(_IFA_ADDRESS):
                            found.append(str(ipaddress.ip_address(ip)))
                    place += (length + 3) & ~3

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
