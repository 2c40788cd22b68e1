"""Sockets of the netfilter netlink family: requests, listings, transactions, and notice of what others change.

Sources: include/uapi/linux/netfilter/nfnetlink.h, net/netfilter/nfnetlink.c; netlink(7) for errors and extended acknowledgements;
socket(7) and filter.txt for SO_ATTACH_FILTER.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Iterator

from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError

NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _NO_ENOBUFS = 270, 1, 10, 11, 5
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 32, 33, 26
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_HEADER = struct.Struct("=IHHII")
_RECEIVE = 1 << 20


class Refusal(KernelError):
    """An error with the message it is about: `sequence` numbers it, `offset` is the place in it that the kernel named (0: none)."""

    def __init__(self, number: int, sequence: int, offset: int, detail: str) -> None:
        self.sequence, self.offset = sequence, offset
        super().__init__("netfilter", number, detail)


class NfNetlink:
    """One socket in a network namespace. The kernel has done all it will do when `send` returns: answers are read without waiting."""

    def __init__(self, netns: NetNs) -> None:
        self._socket = netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        for option, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            _enlarge(self._socket, option, plain)
        self._sequence = 0
        self.interrupted = False  # whether something changed while the last listing was made: it may lack things then

    @property
    def port(self) -> int:
        """The number that tells this socket's messages from others'."""
        return int(self._socket.getsockname()[0])

    @property
    def longest(self) -> int:
        """Bytes that one send may have."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 4096

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, data: bytes) -> list[Refusal]:
        """Send messages; what the kernel said against them. Raises KernelError when it does not take them at all."""
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelError(f"send {len(data)} bytes to netfilter", error.errno or 0) from None
        return [error for error in self._answers() if isinstance(error, Refusal)]

    def request(self, kind: int, body: bytes, flags: int, family: int = 0) -> Iterator[bytes]:
        """Answers to one request, each without its headers (20 bytes). Raises Refusal."""
        self._sequence += 1
        message = (
            _HEADER.pack(20 + len(body), kind, 1 | flags, self._sequence, 0) + struct.pack("=BBH", family, 0, 0) + body
        )
        self._socket.send(message)
        self.interrupted = False
        for answer in self._answers():
            if isinstance(answer, Refusal):
                raise answer
            yield answer

    def _answers(self) -> Iterator[bytes | Refusal]:
        """What is there to read, up to the end mark of a listing (the kernel makes its parts as they are fetched) or until there is no more."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                raise KernelError("read netfilter's answer", error.errno or 0) from None
            place = 0
            while place + 16 <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, place)
                if flags & _INTERRUPTED and kind != _ERROR:
                    self.interrupted = True
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    refusal = _refusal(data[place : place + length], flags, sequence)
                    if refusal:
                        yield refusal
                elif kind > _OVERRUN:
                    yield data[place + 20 : place + length]
                place += (length + 3) & ~3


def _enlarge(sock: socket.socket, forced: int, plain: int, size: int = 1 << 27) -> None:
    """Ask for a large buffer: beyond the machine's limit where we may, up to it elsewhere."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except OSError:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, plain, size)


def _refusal(message: bytes, flags: int, sequence: int) -> Refusal | None:
    (number,) = struct.unpack_from("=i", message, 16)
    if not number:
        return None
    text, offset, place = "", 0, 36  # the header of the refused message follows the number, no more (NLM_F_CAPPED)
    while flags & 0x200 and place + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, place)
        if kind == 1:
            text = message[place + 4 : place + length].rstrip(b"\0").decode(errors="replace")
        elif kind == 2:
            (offset,) = struct.unpack_from("=I", message, place + 4)
        place += max(4, (length + 3) & ~3)
    return Refusal(-number, sequence, offset, text)


class Listener:
    """Hears what others change in a netfilter subsystem: messages of `own` sockets are filtered out by the kernel."""

    def __init__(self, netns: NetNs, group: int, own: int) -> None:
        self._socket = netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        _enlarge(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, 1 << 22)
        _not_from(self._socket, own)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """For an event loop."""
        return self._socket.fileno()

    def read(self) -> list[tuple[int, int, bytes]] | None:
        """(type, family, body behind the headers) of the messages that came; None when some were lost."""
        out: list[tuple[int, int, bytes]] = []
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return out
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise KernelError("listen to netfilter", error.errno or 0) from None
            place = 0
            while place + 20 <= len(data):
                length, kind = struct.unpack_from("=IH", data, place)
                out.append((kind, data[place + 16], data[place + 20 : place + length]))
                place += max(16, (length + 3) & ~3)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _not_from(sock: socket.socket, port: int) -> None:
    """Let no message through that carries a port number: load the word at 12 (nlmsg_pid), drop when equal, accept otherwise."""
    word = socket.htonl(port)  # the filter machine reads in network order
    program = b"".join(
        struct.pack("=HBBI", *step)
        for step in ((0x20, 0, 0, 12), (0x15, 0, 1, word), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 4, ctypes.addressof(buffer)))
