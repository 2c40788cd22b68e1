"""The agent's end of the plugin programs: a Unix socket, one connection a call. Its other end is `programs`.

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
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from glassnet.agent.cni.effects import container_netns
from glassnet.agent.cni.node import Node
from glassnet.cni import plugins
from glassnet.cni.errors import IO_FAILURE, CniError, body, unexpected
from glassnet.cni.request import written_version
from glassnet.kernel.netns import KernelNetNs
from glassnet.net.errors import GlassnetError

SOCKET = "/run/glassnet/cni.sock"
_CHUNK, _TIMEOUT, _LIMIT = 1 << 16, 10.0, 1 << 26
_AT_ONCE = 200  # calls: each takes some descriptors, of which a process has 1024 by default; the others wait in the socket's queue
_SO_PEERCRED = struct.Struct("=iII")


class CniServer:
    """Answers plugin programs on one machine. `path` is the socket's on the machine.

    `observe` hears of each call that was carried out: its command (ADD, …), whether it succeeded, and how long it took in seconds.
    """

    def __init__(
        self, node: Node, path: str = SOCKET, observe: Callable[[str, bool, float], None] = lambda *call: None
    ) -> None:
        self._observe = observe
        self._node, self._path = node, node.node.root / path.lstrip("/")
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._unread: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def start(self) -> None:
        """Listen; put back rules that were lost meanwhile. Raises GlassnetError when another agent does so already, or the disk refuses."""
        for name in plugins.PLUGINS:
            plugins.plugin_module(name)  # now, not in the first call
        try:
            self._socket = _listening(self._path)
        except OSError as error:
            raise GlassnetError(f"{self._node.node.name}: {SOCKET}: {error.strerror}") from None
        self._node.keeper.start()
        self._accepting = asyncio.create_task(self._accept(self._socket))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._free.acquire()
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError:  # too many open files, or a caller who has gone
                self._free.release()
                await asyncio.sleep(0.05)
                continue
            call = asyncio.create_task(self._serve(connection))
            self._calls.add(call)
            self._unread.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._unread.discard(call)
        self._free.release()

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
        if not data.endswith(b"\0"):
            raise ValueError("half a request: its program has ended")
        plugin, *pairs = data.decode(errors="surrogateescape").split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs if pair.startswith("CNI_") and "=" in pair)
        if len(descriptors) < 2 or not _same_namespace(descriptors[1], self._node.node.netns.fd):
            return b"-"
        text, pod, absent = "", None, ""
        command, begun, good = environment.get("CNI_COMMAND", ""), time.monotonic(), False
        try:
            text = await self._input(descriptors[0])
            if len(descriptors) > 2 and not (
                absent := container_netns(descriptors[2], self._node.node.netns, environment)
            ):
                name = os.path.basename(environment.get("CNI_NETNS", ""))
                pod = KernelNetNs(name, os.dup(descriptors[2]), kept=True)
            steps = plugins.answer(plugin, environment, text, pod.fd if pod else -1, absent)
            answer = await self._node.run(steps, pod, environment)
            good = True
        except Exception as error:
            told = error if isinstance(error, GlassnetError) else unexpected(error)
            return b"1" + json.dumps(body(told, written_version(text)), indent=4).encode() + b"\n"
        finally:
            self._observe(command, good, time.monotonic() - begun)
            if pod is not None:
                pod.close()
        return b"0" + (json.dumps(answer, indent=4).encode() + b"\n" if answer is not None else b"")

    async def _input(self, descriptor: int) -> str:
        """A program's standard input. Raises CniError (5). Until it has come whole nothing is done, and nobody waits for it at the end."""
        try:
            text = await asyncio.wait_for(_read(descriptor), _TIMEOUT)
        except TimeoutError:
            raise CniError(IO_FAILURE, f"error reading from stdin: no end within {_TIMEOUT:g} s") from None
        except (OSError, ValueError) as error:
            raise CniError(IO_FAILURE, f"error reading from stdin: {error}") from None
        if (task := asyncio.current_task()) is not None:
            self._unread.discard(task)
        return text.decode(errors="replace")

    async def close(self) -> None:
        """Listen no more; calls that have begun are brought to their end, those that have not told what they want are not waited for."""
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
        for call in self._unread:
            call.cancel()
        if self._socket is not None:
            self._socket.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        if self._calls:
            await asyncio.wait(self._calls)


async def _receive(connection: socket.socket, descriptors: list[int]) -> bytes:
    """All that a program sends; the descriptors that come with it. Raises OSError when there is no room for those."""
    loop, size = asyncio.get_running_loop(), 0
    parts: list[bytes] = []
    while True:
        try:
            data, found, flags, _ = socket.recv_fds(connection, _CHUNK, 4)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)
            continue
        descriptors += found
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
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
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    place = f"/proc/self/fd/{directory}/{path.name}"
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # two agents that start at once: the second sees the first
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


def _same_namespace(one: int, other: int) -> bool:
    mine, theirs = os.fstat(one), os.fstat(other)
    return (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino)


def _must_be_dead(place: str) -> None:
    """Raises OSError when somebody answers at a socket's path."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with asking, contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
        asking.connect(place)
        raise OSError(errno.EADDRINUSE, "another agent listens there")
