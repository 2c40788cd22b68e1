"""Containers of real processes: the host's programs in the pod's own network, UTS, PID and mount namespaces."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from glassnet.kernel.api import Process, Sandbox
from glassnet.kube.runtime import ExitStatus
from glassnet.lab.pods.descriptors import InputFeed, OutputPump, set_window_size
from glassnet.lab.pods.logs import LineWriter, LogRing
from glassnet.lab.pods.sessions import OutputQueue, Pipes, start_failure
from glassnet.net.errors import KernelError, LabError

_MAX_ATTACHED = 4 * 1024 * 1024


class ContainerStartError(LabError):
    """A container that cannot be started. `reason` is what kubectl shows (StartError), `code` the exit code (128)."""

    def __init__(self, message: str) -> None:
        self.reason, self.code = "StartError", 128
        super().__init__(f"unable to start container process: {message}")


class ProcessContainer:
    """A container's first process and the session it leads (RunningContainer)."""

    def __init__(
        self, id: str, process: Process, pid_namespace: int, pipes: Pipes, log: LogRing, clock: Callable[[], datetime]
    ) -> None:
        """`pid_namespace` is the number of the process's: asked of a process that may have ended already, the kernel knows none."""
        self.id, self.started_at, self.log = id, clock(), log
        self.status: ExitStatus | None = None
        self._process, self._terminal, self._namespace = process, pipes.terminal, pid_namespace
        self._attached: list[OutputQueue] = []
        self._input = InputFeed(pipes.stdin, self.tty, pipes.stdin == pipes.terminal) if pipes.stdin >= 0 else None
        self._writers = [LineWriter(log, stream, clock) for stream in pipes.outputs]
        self._pumps = [
            OutputPump(fd, self._sink(stream, writer), shared=fd == pipes.terminal)
            for (stream, fd), writer in zip(pipes.outputs.items(), self._writers, strict=True)
        ]
        self._watcher = asyncio.create_task(self._watch())

    @property
    def tty(self) -> bool:
        """Whether it runs on a terminal."""
        return self._terminal >= 0

    def _sink(self, stream: int, writer: LineWriter) -> Callable[[bytes], None]:
        def sink(data: bytes) -> None:
            writer.feed(data)
            for queue in self._attached:
                if queue.size < _MAX_ATTACHED:  # a client that does not read loses output, the container goes on
                    queue.put(stream, data)

        return sink

    async def _watch(self) -> ExitStatus:
        status = await self._process.wait()
        for pump in self._pumps:
            pump.drain()
        for writer in self._writers:
            writer.finish()
        if self._input is not None:
            self._input.close()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
        end_session(self._process.pid, self._namespace)
        code = status if status >= 0 else 128 - status
        self.status = ExitStatus(code, "Completed" if code == 0 else "Error")
        self.log.close()
        for queue in self._attached:
            queue.end()
        return self.status

    async def wait(self) -> ExitStatus:
        """See RunningContainer.wait."""
        return await asyncio.shield(self._watcher)

    async def stop(self, grace: float) -> ExitStatus:
        """SIGTERM, and SIGKILL when `grace` seconds are over; what else runs in the session ends with it."""
        if grace > 0:
            self._process.signal(signal.SIGTERM)
            with suppress(TimeoutError):
                return await asyncio.wait_for(self.wait(), grace)
        self._process.signal(signal.SIGKILL)
        return await self.wait()

    def attach(self, stdin: bool, stdin_once: bool) -> AttachSession:
        """A client's view of the running process, from now on."""
        return AttachSession(self, stdin, stdin_once)

    def join(self, queue: OutputQueue) -> None:
        """Send output to a client too."""
        self._attached.append(queue)

    def leave(self, queue: OutputQueue) -> None:
        """Send a client nothing more."""
        if queue in self._attached:
            self._attached.remove(queue)

    async def feed(self, data: bytes) -> None:
        """Feed standard input, if the container asked for one."""
        if self._input is not None:
            await self._input.write(data)

    async def end_input(self) -> None:
        """End standard input."""
        if self._input is not None:
            await self._input.end()

    def resize(self, columns: int, rows: int) -> None:
        """Set the terminal's size; nothing without one."""
        if self._terminal >= 0:
            set_window_size(self._terminal, columns, rows)


class AttachSession:
    """An attachment to a running process (ExecSession)."""

    def __init__(self, container: ProcessContainer, stdin: bool, stdin_once: bool) -> None:
        self._container, self._stdin, self._once = container, stdin, stdin_once
        self._queue = OutputQueue(lambda full: None)
        container.join(self._queue)
        if container.status is not None:
            self._queue.end()

    async def read(self) -> tuple[int, bytes]:
        """See ExecSession.read."""
        return await self._queue.get()

    async def write(self, data: bytes) -> None:
        """See ExecSession.write."""
        if self._stdin:
            await self._container.feed(data)

    async def close_stdin(self) -> None:
        """The client's input has ended; the container's goes on unless it asked for one client's only (stdinOnce)."""
        if self._stdin and self._once:
            await self._container.end_input()

    def resize(self, columns: int, rows: int) -> None:
        """See ExecSession.resize."""
        self._container.resize(columns, rows)

    async def wait(self) -> int:
        """The container's exit code, once it has ended."""
        return (await self._container.wait()).code

    async def close(self) -> None:
        """The client has gone; the process goes on."""
        self._container.leave(self._queue)
        self._queue.end()
        await self.close_stdin()


async def start_process(
    sandbox: Sandbox,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    id: str,
    stdin: bool,
    tty: bool,
    log: LogRing,
    clock: Callable[[], datetime],
) -> ProcessContainer:
    """Start a container's process. Raises ContainerStartError."""
    pipes = Pipes(stdin, await sandbox.terminal() if tty else None)
    try:
        process = await sandbox.spawn(
            argv, env=env, cwd=cwd, stdin=pipes.theirs[0], stdout=pipes.theirs[1], stderr=pipes.theirs[2], tty=tty
        )
    except KernelError as error:
        pipes.close_ours()
        raise ContainerStartError(start_failure(argv[0], error)) from None
    except BaseException:
        pipes.close_ours()
        raise
    finally:
        pipes.close_theirs()
    return ProcessContainer(id, process, sandbox.pid_namespace, pipes, log, clock)


def _pid_namespace(pid: int) -> int:
    """The number of a process's PID namespace; 0 when it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def end_session(leader: int, namespace: int) -> None:
    """Kill what a session's leader left running: the processes of its session (credentials(7)) in its PID namespace."""
    for name in os.listdir("/proc"):
        if name.isdigit() and _session(int(name)) == leader:
            with suppress(OSError):
                held = os.pidfd_open(int(name))
                try:
                    if _session(int(name)) == leader and _pid_namespace(int(name)) == namespace:
                        signal.pidfd_send_signal(held, signal.SIGKILL)
                finally:
                    os.close(held)


def _session(pid: int) -> int:
    """The session of a process: the fourth field behind its name in /proc/PID/stat (proc(5)); 0 when it has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[3])
    except OSError:
        return 0
