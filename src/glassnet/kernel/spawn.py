"""Starting processes inside other namespaces, from one big process, cheaply.

One thread does it. It has stopped sharing its file system attributes (CLONE_FS), so it may change mount namespace on its own; it joins
the wanted namespaces, starts the program (vfork inside, no copy of our memory), and comes back. Sources: setns(2), unshare(2),
pid_namespaces(7), subprocess (vfork is used when there is no preexec_fn).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from glassnet.kernel.libc import (
    CLONE_FS,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    setns,
    unshare,
)
from glassnet.net.errors import CommandError, KernelError

T = TypeVar("T")
KINDS = {"net": CLONE_NEWNET, "mnt": CLONE_NEWNS, "uts": CLONE_NEWUTS, "ipc": CLONE_NEWIPC, "pid": CLONE_NEWPID}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def whole_or_undone(work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]]) -> T:
    """Await work that must not stop half-way: a caller who is cancelled meanwhile leaves it to end and be undone.

    What was made and belongs to nobody would stay: a child without a parent that waits for it even keeps its PID namespace from ending.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            rest = asyncio.ensure_future(_undo(task, undo))
            _undoing.add(rest)  # the loop itself holds tasks weakly
            rest.add_done_callback(_undoing.discard)
        raise


_undoing: set[asyncio.Future[None]] = set()


async def _undo(task: asyncio.Future[T], undo: Callable[[T], Awaitable[None]]) -> None:
    try:
        made = await task
    except KernelError:  # nothing came of it, and its caller has gone
        return
    await undo(made)


class Spawner:
    """The thread, and the namespaces it comes home to."""

    def __init__(self) -> None:
        self._home: dict[str, int] = {}
        self._thread = ThreadPoolExecutor(1, "spawner", self._settle)

    def _settle(self) -> None:
        unshare(CLONE_FS)
        for kind in KINDS:
            path = "/proc/self/ns/pid" if kind == "pid" else f"/proc/thread-self/ns/{kind}"
            self._home[kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def come_home(self) -> None:
        """In the thread: back to the lab's own namespaces."""
        for kind, descriptor in self._home.items():
            setns(descriptor, KINDS[kind])

    def within(self, namespaces: Mapping[str, int], function: Callable[..., T], *arguments: Any) -> T:
        """In the thread: call a function inside namespaces (kind -> descriptor; "pid" is for children only)."""
        try:
            for kind in ("pid", "ipc", "uts", "net", "mnt"):
                if kind in namespaces:
                    setns(namespaces[kind], KINDS[kind])
            return function(*arguments)
        finally:
            self.come_home()

    async def spawn(self, namespaces: Mapping[str, int], argv: Sequence[str], **options: Any) -> KernelProcess:
        """Start a program inside namespaces; options as of `start`. When the caller is cancelled meanwhile, the program is killed."""
        return await whole_or_undone(self.start_with(namespaces, start, argv, options), KernelProcess.kill)

    async def start_with(
        self, namespaces: Mapping[str, int], starter: Callable[..., int], *arguments: Any
    ) -> KernelProcess:
        """The process that a function, called in the thread and inside namespaces, starts and gives the pid of."""
        return KernelProcess(await self.call(self.within, namespaces, starter, *arguments))

    async def run(
        self, namespaces: Mapping[str, int], argv: Sequence[str], stdin: bytes, timeout: float, cwd: str = "/"
    ) -> bytes:
        """Run a program to its end; its standard output. Raises CommandError (status, or timeout in seconds).

        On a timeout, or when the caller is cancelled, the program and its children are killed.
        """
        files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
        try:
            if stdin:
                _write_all(files[0], stdin)
                os.lseek(files[0], 0, os.SEEK_SET)
            env = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
            process = await self.spawn(
                namespaces, argv, env=env, cwd=cwd, stdin=files[0], stdout=files[1], stderr=files[2]
            )
            try:
                status = await asyncio.wait_for(process.wait(), timeout)
            except TimeoutError:
                process.kill_session()
                raise CommandError(argv, 124, f"no end after {timeout:g} s") from None
            except asyncio.CancelledError:
                process.kill_session()
                raise
            if status:
                raise CommandError(argv, status, _read_all(files[2]).decode(errors="replace"))
            return _read_all(files[1])
        finally:
            for descriptor in files:
                os.close(descriptor)

    def close(self) -> None:
        """End the thread, once it has done what it was asked for."""
        self._thread.submit(self._leave)
        self._thread.shutdown(wait=False)

    def _leave(self) -> None:
        for descriptor in self._home.values():
            os.close(descriptor)
        self._home.clear()


def start(argv: Sequence[str], options: Mapping[str, Any]) -> int:
    """In the thread: start a program; its pid. Options: env, cwd, stdin, stdout, stderr (descriptors, -1 for /dev/null), tty, executable.

    With `tty` the program gets a session of its own with the standard input as controlling terminal.
    Raises KernelError (ENOENT, EACCES, …).
    """
    words = ["setsid", "--ctty", "--wait", *argv] if options.get("tty") else list(argv)
    stdin, stdout, stderr = (_stream(options.get(name, -1)) for name in ("stdin", "stdout", "stderr"))
    try:
        # the Popen object is only a way to vfork: the process is waited for through its pidfd
        process = subprocess.Popen(
            words,
            executable=options.get("executable"),
            env=dict(options.get("env") or {"PATH": PATH}),
            cwd=options.get("cwd") or "/",
            start_new_session=not options.get("tty"),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
    except OSError as error:
        raise KernelError(f"start {words[0]}", error.errno or errno.EINVAL, error.filename or "") from None
    process.returncode = 0
    return process.pid


def _stream(descriptor: int) -> int:
    return subprocess.DEVNULL if descriptor < 0 else descriptor


class KernelProcess:
    """A started process, held by a pidfd. Implements `kernel.api.Process`."""

    __slots__ = ("_fd", "_pid", "_status")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._fd = os.pidfd_open(pid)
        loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = loop.create_future()
        loop.add_reader(self._fd, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED)
        os.close(self._fd)
        self._fd = -1
        if result and not self._status.done():
            self._status.set_result(result.si_status if result.si_code == os.CLD_EXITED else -result.si_status)

    @property
    def pid(self) -> int:
        return self._pid

    async def wait(self) -> int:
        """Exit status 0..255, or -N when signal N ended it."""
        return await asyncio.shield(self._status)

    def signal(self, number: int) -> None:
        """Send a signal; nothing when the process has ended."""
        if self._fd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                signal.pidfd_send_signal(self._fd, number)

    def kill_session(self) -> None:
        """Kill the process and those it started, if it leads a process group: while it is not reaped, the group's number is its own."""
        if self._fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)

    async def kill(self) -> None:
        """End the process for sure, and wait until it has."""
        self.signal(signal.SIGKILL)
        await self.wait()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_all(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
