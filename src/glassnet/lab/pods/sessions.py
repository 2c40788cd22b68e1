"""Sessions with processes in pods: exec, attach, and what a client sees when there is nothing to run (ExecSession)."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from glassnet.kernel.api import Process, Sandbox
from glassnet.lab.pods.descriptors import InputFeed, OutputPump, set_window_size
from glassnet.lab.pods.logs import LogRing
from glassnet.net.errors import KernelError

_HIGH_WATER = 256 * 1024
NOT_FOUND, NOT_EXECUTABLE = 127, 126
STDOUT, STDERR = 1, 2


def start_failure(command: str, error: KernelError) -> str:
    """Why a program could not be started, in the words of the container runtimes that kubectl users know."""
    if error.number == errno.ENOENT:
        missing = (
            f"stat {command}: no such file or directory" if "/" in command else "executable file not found in $PATH"
        )
        return f'exec: "{command}": {missing}'
    if error.number == errno.EACCES:
        return f'exec: "{command}": permission denied'
    return f'exec: "{command}": {error}'


def failure_code(error: KernelError) -> int:
    """The exit code a shell would give for a program that cannot be started."""
    return NOT_FOUND if error.number == errno.ENOENT else NOT_EXECUTABLE


class OutputQueue:
    """Output on its way to one client; `full` is told True when the client falls behind, False when it has caught up."""

    __slots__ = ("_chunks", "_ended", "_full", "_size", "_waiter")

    def __init__(self, full: Callable[[bool], None]) -> None:
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._size, self._full, self._ended = 0, full, False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        """Bytes waiting."""
        return self._size

    def put(self, stream: int, data: bytes) -> None:
        """Add a chunk."""
        self._chunks.append((stream, data))
        self._size += len(data)
        if self._size > _HIGH_WATER:
            self._full(True)
        self._wake()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> tuple[int, bytes]:
        """The next chunk; (0, b"") at the end."""
        while not self._chunks:
            if self._ended:
                return 0, b""
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        stream, data = self._chunks.popleft()
        self._size -= len(data)
        if self._size <= _HIGH_WATER:
            self._full(False)
        return stream, data


class ProcessSession:
    """A process started by exec (ExecSession). When it ends, what it has written is read to its end and no further:
    a background child that holds its output open keeps nobody waiting."""

    def __init__(self, process: Process, outputs: Mapping[int, int], stdin: int, terminal: int) -> None:
        """`outputs`: stream -> descriptor; `terminal`: a pty's master, owned by the session like the rest, or -1."""
        self._process, self._terminal = process, terminal
        self._queue = OutputQueue(self._throttle)
        self._pumps = [
            OutputPump(fd, lambda data, stream=stream: self._queue.put(stream, data), shared=fd == terminal)  # type: ignore[misc]
            for stream, fd in outputs.items()
        ]
        self._input = InputFeed(stdin, tty=terminal >= 0, shared=stdin == terminal) if stdin >= 0 else None
        self._code: asyncio.Task[int] = asyncio.create_task(self._watch())

    def _throttle(self, full: bool) -> None:
        for pump in self._pumps:
            pump.pause(full)

    async def _watch(self) -> int:
        try:
            status = await self._process.wait()
            for pump in self._pumps:
                pump.drain()
            return status if status >= 0 else 128 - status
        finally:
            self._release()

    def _release(self) -> None:
        for pump in self._pumps:
            pump.close()
        if self._input is not None:
            self._input.close()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
        self._queue.end()

    async def read(self) -> tuple[int, bytes]:
        """See ExecSession.read."""
        return await self._queue.get()

    async def write(self, data: bytes) -> None:
        """See ExecSession.write."""
        if self._input is not None:
            await self._input.write(data)

    async def close_stdin(self) -> None:
        """See ExecSession.close_stdin."""
        if self._input is not None:
            await self._input.end()

    def resize(self, columns: int, rows: int) -> None:
        """See ExecSession.resize."""
        if self._terminal >= 0:
            set_window_size(self._terminal, columns, rows)

    async def wait(self) -> int:
        """See ExecSession.wait."""
        return await asyncio.shield(self._code)

    async def close(self) -> None:
        """Kill the process if it still runs; a terminal's other processes get SIGHUP as it closes."""
        if not self._code.done():
            self._process.signal(signal.SIGKILL)
        await asyncio.shield(self._code)


class FailedSession:
    """What a client sees of a program that could not be started: the reason on standard error, and its exit code."""

    def __init__(self, text: str, code: int, tty: bool) -> None:
        self._chunks = [(STDOUT if tty else STDERR, f"{text}\r\n".encode() if tty else f"{text}\n".encode())]
        self._status = code

    async def read(self) -> tuple[int, bytes]:
        """See ExecSession.read."""
        return self._chunks.pop() if self._chunks else (0, b"")

    async def write(self, data: bytes) -> None:
        """Nobody reads it."""

    async def close_stdin(self) -> None:
        """Nobody reads it."""

    def resize(self, columns: int, rows: int) -> None:
        """There is no terminal."""

    async def wait(self) -> int:
        """See ExecSession.wait."""
        return self._status

    async def close(self) -> None:
        """There is nothing to end."""


class LogSession:
    """An attachment to a built-in server: its log from now on, no input."""

    def __init__(self, ring: LogRing, code: Callable[[], int]) -> None:
        self._ring, self._code, self._place = ring, code, ring.end
        self._closed = False

    async def read(self) -> tuple[int, bytes]:
        """See ExecSession.read."""
        while not self._closed:
            for place, line in self._ring.lines(self._place):
                self._place = place
                return line.stream, line.text + b"\n"
            if self._ring.closed:
                break
            await self._ring.changed()
        return 0, b""

    async def write(self, data: bytes) -> None:
        """A built-in server reads no input."""

    async def close_stdin(self) -> None:
        """A built-in server reads no input."""

    def resize(self, columns: int, rows: int) -> None:
        """A built-in server has no terminal."""

    async def wait(self) -> int:
        """The container's exit code, once it has ended."""
        while not self._ring.closed:
            await self._ring.changed()
        return self._code()

    async def close(self) -> None:
        """The client has gone; the server goes on."""
        self._closed = True


async def start_exec(
    sandbox: Sandbox, argv: Sequence[str], env: Mapping[str, str], cwd: str, stdin: bool, tty: bool
) -> ProcessSession | FailedSession:
    """Start a program in a pod and open a session with it."""
    pipes = Pipes(stdin, await sandbox.terminal() if tty else None)
    try:
        process = await sandbox.spawn(
            argv, env=env, cwd=cwd, stdin=pipes.theirs[0], stdout=pipes.theirs[1], stderr=pipes.theirs[2], tty=tty
        )
    except KernelError as error:
        pipes.close_ours()
        return FailedSession(start_failure(argv[0], error), failure_code(error), tty)
    except BaseException:
        pipes.close_ours()
        raise
    finally:
        pipes.close_theirs()
    return ProcessSession(process, pipes.outputs, pipes.stdin, pipes.terminal)


class Pipes:
    """The descriptors between us and a process to come: three pipes, or one terminal.

    `theirs` are for the process (-1: /dev/null), `outputs` (stream -> descriptor) and `stdin` are ours.
    """

    __slots__ = ("outputs", "stdin", "terminal", "theirs")

    def __init__(self, stdin: bool, terminal: tuple[int, int] | None) -> None:
        self.stdin = self.terminal = -1
        if terminal:
            self.terminal, theirs = terminal
            self.theirs = (theirs, theirs, theirs)
            self.outputs = {STDOUT: self.terminal}
            self.stdin = self.terminal if stdin else -1
            return
        their_stdin = -1
        if stdin:
            their_stdin, self.stdin = os.pipe()
        (our_out, their_out), (our_err, their_err) = os.pipe(), os.pipe()
        self.theirs = (their_stdin, their_out, their_err)
        self.outputs = {STDOUT: our_out, STDERR: our_err}

    def close_theirs(self) -> None:
        """Close the process's ends: it has its own copies, or will never be."""
        for fd in {fd for fd in self.theirs if fd >= 0}:
            os.close(fd)

    def close_ours(self) -> None:
        """Close our ends."""
        for fd in {fd for fd in (*self.outputs.values(), self.stdin, self.terminal) if fd >= 0}:
            os.close(fd)
