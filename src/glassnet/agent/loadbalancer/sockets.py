"""A link's ARP and neighbour discovery, spoken through packet sockets: the kernel never has the addresses, and when this process ends nobody answers.

Sources: packet(7), socket(7) (SO_ATTACH_FILTER), ipv6(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import socket
import struct
from collections.abc import Callable, Collection

from glassnet.kernel.api import NetNs
from glassnet.loadbalancer import neighbour
from glassnet.loadbalancer.neighbour import ARP, IPV6, Heard
from glassnet.net.errors import KernelError

log = logging.getLogger(__name__)
_ATTACH_FILTER, _SOL_PACKET, _ADD_MEMBERSHIP, _ALLMULTI = 26, 263, 1, 2
_AT_ONCE = 64  # frames that are read before others have their turn
_LOAD, _EQUAL, _RETURN = 0x30, 0x15, 0x06  # BPF: ldb [k]; jeq #k, jt, jf; ret #k
_NEIGHBOURS = (
    (_LOAD, 0, 0, 20),  # next header
    (_EQUAL, 0, 4, 58),
    (_LOAD, 0, 0, 54),  # type of ICMPv6
    (_EQUAL, 1, 0, 135),
    (_EQUAL, 0, 1, 136),
    (_RETURN, 0, 0, 0xFFFF),
    (_RETURN, 0, 0, 0),
)


class LinkSockets:
    """One link's sockets. `hear` is called with each question and each claim that others send. Raises KernelError when they cannot be opened."""

    def __init__(self, netns: NetNs, name: str, index: int, hear: Callable[[Heard], None]) -> None:
        self.name, self.index, self._netns, self._hear = name, index, netns, hear
        self._groups: dict[bytes, set[str]] = {}
        self._all = False
        self._members: socket.socket | None = None
        self._arp = self._open(ARP, ())
        try:
            self._ndp = self._open(IPV6, _NEIGHBOURS)
        except KernelError:
            self._arp.close()
            raise
        self.mac: bytes = self._arp.getsockname()[4]
        loop = asyncio.get_running_loop()
        for each in (self._arp, self._ndp):
            loop.add_reader(each.fileno(), self._read, each)

    def _open(self, protocol: int, program: tuple[tuple[int, int, int, int], ...]) -> socket.socket:
        try:
            made = self._netns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # 0: deaf until it is bound
        except OSError as error:
            raise KernelError(f"open a packet socket for {self.name}", error.errno or 1) from None
        try:
            if program:
                code = b"".join(struct.pack("=HBBI", *each) for each in program)
                memory = ctypes.create_string_buffer(code, len(code))
                made.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(memory)))  # fmt: skip
            with self._netns.entered():
                made.bind((self.name, protocol))
        except OSError as error:
            made.close()
            raise KernelError(f"bind a packet socket to {self.name}", error.errno or 1) from None
        return made

    # -- speaking

    def answer(self, heard: Heard) -> None:
        """Tell who asked that this link has the address."""
        self._send(heard.ip, neighbour.answer(heard, self.mac))

    def announce(self, ip: str) -> None:
        """Tell everybody on the link."""
        for frame in neighbour.announce(ip, self.mac):
            self._send(ip, frame)

    def probe(self, ip: str) -> None:
        """Ask whether anybody has an address."""
        self._send(ip, neighbour.probe(ip, self.mac))

    def _send(self, ip: str, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # the link is down, or its queue full: it is said again, and asked again
            (self._ndp if ":" in ip else self._arp).send(frame)

    # -- hearing

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                frame = sock.recv(2048)
            except BlockingIOError:
                return
            except OSError as error:  # ENETDOWN, once each time the link goes down
                log.debug("%s: %s", self.name, error)
                return
            if (heard := neighbour.read(frame)) is not None and heard.mac != self.mac:
                self._hear(heard)

    def join(self, ip: str) -> None:
        """Hear solicitations for an address: they come by multicast, which the link's filter and snooping switches keep from who has not joined."""
        if ":" not in ip:
            return
        group = neighbour.solicited_group(ip)
        names = self._groups.setdefault(group, set())
        if not names and not self._all:
            try:
                self._membership(socket.IPV6_JOIN_GROUP, group)
            except OSError as error:  # more groups than the kernel lets a socket have (net.core.optmem_max)
                log.info("%s: %s: all multicast is listened to from now on", self.name, error)
                self._ndp.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("=iHH8s", self.index, _ALLMULTI, 0, b""))
                self._all = True
        names.add(ip)

    def leave_all_but(self, ips: Collection[str]) -> None:
        """No longer hear those for other addresses."""
        for group, names in tuple(self._groups.items()):
            names.intersection_update(ips)
            if not names:
                del self._groups[group]
                with contextlib.suppress(OSError):
                    self._membership(socket.IPV6_LEAVE_GROUP, group)

    def _membership(self, option: int, group: bytes) -> None:
        if self._members is None:
            self._members = self._netns.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._members.setsockopt(socket.IPPROTO_IPV6, option, group + struct.pack("@I", self.index))

    def close(self) -> None:
        """Say and hear nothing more."""
        loop = asyncio.get_running_loop()
        for each in (self._arp, self._ndp):
            loop.remove_reader(each.fileno())
            each.close()
        if self._members is not None:
            self._members.close()
