"""The first packet of a real connection, sent from a namespace in such a way that it is known again wherever it comes.

What no translation changes marks it: a TCP sequence number chosen before the connection (TCP_REPAIR, tcp(7) of Linux), the payload of a
datagram or an echo request, the initiate tag of an SCTP association (RFC 9260). SCTP goes by a raw socket: few kernels have the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from glassnet.kernel.api import NetNs
from glassnet.kernel.nftrace import Check, Mark
from glassnet.net import address
from glassnet.net.errors import LabError
from glassnet.ruleset.nft_expressions import NETWORK, TRANSPORT

PATIENCE = {6: 2.0, 132: 2.0, 17: 1.0, 1: 2.0, 58: 2.0}
_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ, _SEND_QUEUE, _OFF = 19, 20, 21, 2, -1
_TCP, _UDP, _SCTP, _ICMP = 6, 17, 132, 1


class Flow(msgspec.Struct, frozen=True):
    """What to send. `answers` are (source, port, destination, port or 0) that answers may have on the way, as numbers."""

    bits: int
    protocol: int
    dst: str
    dport: int = 0
    sport: int = 0
    length: int = 60
    answers: tuple[tuple[int, int, int, int], ...] = ()


class Sender:
    """One packet to be sent; `marks` know it again."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.token = flow, secrets.token_bytes(8)
        self.sequence = secrets.randbelow(1 << 31) + 1
        self.source = ""

    @property
    def marks(self) -> list[Mark]:
        """The packet, and its answer."""
        flow, protocol = self.flow, self.flow.protocol
        if protocol == _TCP:
            there, back = struct.pack(">I", self.sequence), struct.pack(">I", self.sequence + 1)
            return [
                Mark(protocol, (Check(TRANSPORT, 4, there), Check(TRANSPORT, 13, b"", b"\2"))),
                Mark(protocol, (Check(TRANSPORT, 8, back), Check(TRANSPORT, 13, b"", b"\6")), True),
            ]
        if protocol == _SCTP:
            tag = struct.pack(">I", self.sequence)
            return [
                Mark(protocol, (Check(TRANSPORT, 12, b"\1"), Check(TRANSPORT, 16, tag))),
                Mark(protocol, (Check(TRANSPORT, 4, tag),), True),
            ]
        if protocol == _UDP:
            return [
                Mark(protocol, (Check(TRANSPORT, 8, self.token),)),
                *(Mark(protocol, _tuple(flow.bits, each), True) for each in flow.answers),
            ]
        asks, answers = (b"\x08", b"\0") if protocol == _ICMP else (b"\x80", b"\x81")
        return [
            Mark(protocol, (Check(TRANSPORT, 0, asks), Check(TRANSPORT, 8, self.token))),
            Mark(protocol, (Check(TRANSPORT, 0, answers), Check(TRANSPORT, 8, self.token)), True),
        ]

    async def send(self, netns: NetNs) -> str:
        """Send it; what the sender is told: connected, answered, unanswered, refused, timeout, or the name of an errno in small letters."""
        protocol = self.flow.protocol
        try:
            sock = self._socket(netns)
        except OSError as error:
            raise LabError(f"no socket to send from: {error.strerror}") from None
        try:
            async with asyncio.timeout(PATIENCE[protocol]):
                if protocol == _TCP:
                    return await self._connect(sock)
                return await self._ask(sock)
        except TimeoutError:
            return "unanswered" if protocol == _UDP else "timeout"
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                return "refused"
            return errno.errorcode.get(error.errno or 0, str(error)).lower()
        finally:
            if protocol == _TCP:  # a reset leaves no TIME_WAIT that would hold the port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    def _socket(self, netns: NetNs) -> socket.socket:
        family = socket.AF_INET if self.flow.bits == 32 else socket.AF_INET6
        kind = {_TCP: socket.SOCK_STREAM, _UDP: socket.SOCK_DGRAM}.get(self.flow.protocol, socket.SOCK_RAW)
        sock = netns.socket(family, kind, self.flow.protocol)
        if self.flow.protocol == _TCP:
            for option, value in (
                (_TCP_REPAIR, 1),
                (_TCP_REPAIR_QUEUE, _SEND_QUEUE),
                (_TCP_QUEUE_SEQ, self.sequence),
                (_TCP_REPAIR, _OFF),
            ):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock

    async def _connect(self, sock: socket.socket) -> str:
        self._bind(sock)
        with contextlib.suppress(BlockingIOError):
            sock.connect((self.flow.dst, self.flow.dport))
        self._note(sock)
        await asyncio.get_running_loop().sock_connect(sock, (self.flow.dst, self.flow.dport))
        return "connected"

    async def _ask(self, sock: socket.socket) -> str:
        """A packet, and the first answer to it. Errors by ICMP reach a connected socket."""
        protocol = self.flow.protocol
        if protocol == _UDP:
            self._bind(sock)
        sock.connect((self.flow.dst, self.flow.dport if protocol == _UDP else 0))
        self._note(sock)
        sock.send(self._packet())
        while True:
            data = await asyncio.get_running_loop().sock_recv(sock, 65536)
            if self._is_answer(data):
                return (
                    "refused"
                    if protocol == _SCTP and data[_header(self.flow.bits, data) + 12 :][:1] == b"\6"
                    else "answered"
                )

    def _bind(self, sock: socket.socket) -> None:
        try:
            sock.bind(("", self.flow.sport))
        except OSError as error:
            raise LabError(
                f"source port {self.flow.sport} of the sender: {error.strerror}; --sport takes another"
            ) from None

    def _note(self, sock: socket.socket) -> None:
        name = sock.getsockname()
        ported = self.flow.protocol in (_TCP, _UDP, _SCTP)
        self.source = address.with_port(name[0], self.flow.sport) if ported else name[0]

    def _packet(self) -> bytes:
        flow = self.flow
        rest = flow.length - (28 if flow.bits == 32 else 48)
        payload = self.token.ljust(max(rest, len(self.token)), b"\0")
        if flow.protocol == _UDP:
            return payload
        if flow.protocol == _SCTP:
            return _init(flow.sport, flow.dport, self.sequence)
        kind = 8 if flow.protocol == _ICMP else 128
        body = struct.pack("!BBHHH", kind, 0, 0, flow.sport, 1) + payload
        return body[:2] + struct.pack("!H", _checksum(body)) + body[4:] if flow.protocol == _ICMP else body

    def _is_answer(self, data: bytes) -> bool:
        if self.flow.protocol == _UDP:
            return True
        body = data[_header(self.flow.bits, data) :]
        if self.flow.protocol == _SCTP:
            return body[4:8] == struct.pack(">I", self.sequence)
        return body[:1] in (b"\0", b"\x81") and body[8:16] == self.token


def _tuple(bits: int, ends: Sequence[int]) -> tuple[Check, ...]:
    """Checks for addresses and ports; port 0 is any."""
    length, places = (4, (12, 16)) if bits == 32 else (16, (8, 24))
    src, sport, dst, dport = ends
    found = [
        Check(NETWORK, places[0], src.to_bytes(length, "big")),
        Check(NETWORK, places[1], dst.to_bytes(length, "big")),
        Check(TRANSPORT, 0, struct.pack(">H", sport)),
    ]
    return (*found, *([Check(TRANSPORT, 2, struct.pack(">H", dport))] if dport else []))


def _header(bits: int, data: bytes) -> int:
    """Length of the IP header that a raw socket shows: IPv4's, and none of IPv6."""
    return 4 * (data[0] & 15) if bits == 32 else 0


def _init(sport: int, dport: int, tag: int) -> bytes:
    """An INIT chunk: type, flags, length, initiate tag, window, streams out and in, TSN (RFC 9260, 3.3.2)."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, tag, 65536, 1, 1, 1)
    body = struct.pack("!HHII", sport, dport, 0, 0) + chunk
    return body[:8] + struct.pack("<I", _crc32c(body)) + body[12:]


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def ask_of(words: dict[str, Any]) -> Flow:
    """A flow out of plain values. Raises msgspec.ValidationError."""
    return msgspec.convert(words, Flow, strict=False)
