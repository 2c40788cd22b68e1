"""The agent's end of the plugin programs: a Unix socket, one connection a call. Its other end is `cni_shim`.

A program sends descriptors of its standard input, of its own network namespace and of the container's, and its environment; it gets what it is
to print and its exit status. So paths mean what they mean where the program runs, be it in another mount namespace, and an agent never works for
a program that is in another network than it is itself (rootless podman, a container): that one is told to do the work alone, its input unread.

    request   plugin NUL NAME=VALUE NUL … to the end        descriptors: standard input, own namespace, container's (if it has one)
    answer    "0" or "1" (exit status) and what to print; "-" for "not mine"
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
from pathlib import Path

from glassnet.agent.cni import Node
from glassnet.cni import plugins
from glassnet.cni.errors import body
from glassnet.kernel.netns import KernelNetNs
from glassnet.net.errors import GlassnetError

SOCKET = "/run/glassnet/cni.sock"
_CHUNK, _TIMEOUT, _LIMIT = 1 << 16, 30.0, 1 << 26
_SO_PEERCRED = struct.Struct("=iII")


class CniServer:
    """Answers plugin programs on one machine. `path` is the socket's on the machine."""

    def __init__(self, node: Node, path: str = SOCKET) -> None:
        self._node, self._path = node, node.node.root / path.lstrip("/")
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises GlassnetError when another agent does so already, or the disk refuses."""
        try:
            self._socket = _listening(self._path)
        except OSError as error:
            raise GlassnetError(f"{self._node.node.name}: {SOCKET}: {error.strerror}") from None
        self._accepting = asyncio.create_task(self._accept(self._socket))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listening)
            call = asyncio.create_task(self._serve(connection))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _serve(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            connection.setblocking(False)
            _, uid, _ = _SO_PEERCRED.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED.size)
            )
            if uid in (0, os.geteuid()):
                data = await asyncio.wait_for(_receive(connection, descriptors), _TIMEOUT)
                await asyncio.get_running_loop().sock_sendall(connection, await self._answer(data, descriptors))
        except (OSError, ValueError, TimeoutError):
            pass  # a program that has ended, or is none of ours
        finally:
            connection.close()
            for each in descriptors:
                os.close(each)

    async def _answer(self, data: bytes, descriptors: list[int]) -> bytes:
        plugin, *pairs = data.decode(errors="surrogateescape").split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs if pair.startswith("CNI_") and "=" in pair)
        if len(descriptors) < 2 or os.fstat(descriptors[1]).st_ino != self._node.node.netns.inode:
            return b"-"
        pod = None
        if len(descriptors) > 2:
            pod = KernelNetNs(os.path.basename(environment.get("CNI_NETNS", "")), os.dup(descriptors[2]), kept=True)
        try:
            text = await asyncio.wait_for(_read(descriptors[0]), _TIMEOUT)
            steps = plugins.answer(plugin, environment, text.decode(errors="replace"), pod.fd if pod else -1)
            answer = await self._node.run(steps, pod, environment)
        except GlassnetError as error:
            return b"1" + json.dumps(body(error), indent=4).encode() + b"\n"
        finally:
            if pod is not None:
                pod.close()
        return b"0" + (json.dumps(answer, indent=4).encode() + b"\n" if answer is not None else b"")

    async def close(self) -> None:
        """Listen no more; calls that have begun are brought to their end."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._socket is not None:
            self._socket.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        if self._calls:
            await asyncio.wait(self._calls)


async def _receive(connection: socket.socket, descriptors: list[int]) -> bytes:
    """All that a program sends; the descriptors that come with it."""
    loop, size = asyncio.get_running_loop(), 0
    parts: list[bytes] = []
    while True:
        try:
            data, found, _, _ = socket.recv_fds(connection, _CHUNK, 4)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)
            continue
        descriptors += found
        if not data:
            return b"".join(parts)
        parts.append(data)
        size += len(data)
        if size > _LIMIT:
            raise ValueError("more than any configuration is")


async def _read(descriptor: int) -> bytes:
    """A file, pipe or socket to its end. It is shared with the program and its caller, so it stays as it is: blocking."""
    loop, size, waits = asyncio.get_running_loop(), 0, True
    parts: list[bytes] = []
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # epoll takes no files: they never make anybody wait
        ready.set()
        waits = False
    try:
        while True:
            await ready.wait()
            data = os.read(descriptor, _CHUNK)
            if not data:
                return b"".join(parts)
            parts.append(data)
            size += len(data)
            if size > _LIMIT:
                raise ValueError("more than any configuration is")
            if waits:
                ready.clear()
    finally:
        if waits:
            loop.remove_reader(descriptor)


def _listening(path: Path) -> socket.socket:
    """A socket at a path whose directory is opened first: paths of sockets have 107 bytes at most (unix(7))."""
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    place = f"/proc/self/fd/{directory}/{path.name}"
    try:
        if os.path.lexists(place):
            _must_be_dead(place)
            os.unlink(place)
        listening.bind(place)
        os.chmod(place, 0o600)
        listening.listen(1024)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    finally:
        os.close(directory)
    return listening


def _must_be_dead(place: str) -> None:
    """Raises OSError when somebody answers at a socket's path."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with asking, contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
        asking.connect(place)
        raise OSError(errno.EADDRINUSE, "another agent listens there")
