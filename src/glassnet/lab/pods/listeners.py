"""Listening sockets in a pod's namespace, served from the lab's one event loop."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from glassnet.kernel.api import NetNs
from glassnet.lab.pods.calls import sctp_socket
from glassnet.lab.pods.http_server import Peer, peer_of

_BACKLOG = 256
_DATAGRAMS_A_TURN = 64

DatagramAnswer = Callable[[bytes, Peer], bytes | None]


def bound_socket(netns: NetNs, protocol: str, port: int) -> socket.socket:
    """A socket on every address of a namespace: dual-stack, or IPv4 where the kernel has no IPv6.

    `protocol` is tcp, udp or sctp. Raises OSError with the text a Go program would log.
    """
    try:
        try:
            sock = _socket(netns, protocol, socket.AF_INET6)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            sock = _socket(netns, protocol, socket.AF_INET)
        _bind(sock, protocol, port)
    except OSError as error:
        raise OSError(error.errno, f"listen {protocol} :{port}: {_words(error)}") from None
    return sock


def _socket(netns: NetNs, protocol: str, family: int) -> socket.socket:
    if protocol == "sctp":
        return sctp_socket(netns, family)
    return netns.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)


def _bind(sock: socket.socket, protocol: str, port: int) -> None:
    try:
        if protocol != "udp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("::" if sock.family == socket.AF_INET6 else "0.0.0.0", port))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or sock.family != socket.AF_INET6:
                raise
            sock.bind(("::ffff:0.0.0.0", port))  # net.ipv6.conf.all.disable_ipv6 is set here
        if protocol != "udp":
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise


def _words(error: OSError) -> str:
    text = (error.strerror or str(error)) if error.errno != errno.EADDRINUSE else "address already in use"
    return f"bind: {text[:1].lower()}{text[1:]}" if error.errno in (errno.EADDRINUSE, errno.EACCES) else text


class Datagrams:
    """A UDP socket that answers each datagram at once. An answer the kernel has no room for is dropped, as UDP is."""

    __slots__ = ("_answer", "_socket")

    def __init__(self, sock: socket.socket, answer: DatagramAnswer) -> None:
        self._socket, self._answer = sock, answer
        asyncio.get_running_loop().add_reader(sock.fileno(), self._ready)

    def _ready(self) -> None:
        for _ in range(_DATAGRAMS_A_TURN):
            try:
                data, name = self._socket.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error for an earlier answer: the socket goes on
                continue
            answer = self._answer(data, peer_of(name))
            if answer is not None:
                with suppress(OSError):
                    self._socket.sendto(answer, name)

    def close(self) -> None:
        """Stop answering and let the port go."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()


class OneAnswer(asyncio.Protocol):
    """A connection that gets one answer and is closed: to its first bytes, or at once with `greets`."""

    __slots__ = ("_answer", "_greets", "_transport")

    def __init__(self, answer: DatagramAnswer, greets: bool) -> None:
        self._answer, self._greets = answer, greets

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._greets:
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        name = self._transport.get_extra_info("peername") or ("", 0)
        answer = self._answer(data[:2048], peer_of(name))
        if answer:
            self._transport.write(answer)
        self._transport.close()


async def serve(
    sock: socket.socket, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None = None
) -> asyncio.Server:
    """Accept connections from a listening socket."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(factory, sock=sock, backlog=_BACKLOG, ssl=context)
