"""A lab's machines and pods as namespaces: implements `kernel.api.Machine` and `Sandbox`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassnet.kernel import libc, mounts, pause
from glassnet.kernel.libc import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS
from glassnet.kernel.netns import KernelNetNs
from glassnet.kernel.spawn import KernelProcess, Spawner, start, whole_or_undone
from glassnet.kernel.sysctl import write_sysctls
from glassnet.net.errors import KernelError
from glassnet.netstack.ops import SetLink

INIT, PAUSE = "/sbin/init", "/pause"


@dataclass(slots=True)
class MachineFactory:
    """What machines of one lab share: the spawner thread, the tmpfs their files live on, whether the lab is rootless."""

    spawner: Spawner
    place: Path
    rootless: bool
    binds: list[str] = field(default_factory=mounts.host_mounts)
    kept: list[str] = field(default_factory=mounts.own_places)

    async def machine(self, name: str, files: Mapping[str, str]) -> LabMachine:
        """Make a machine; `files` (absolute path -> text) lie on its disk. Raises KernelError, PreflightError."""
        place = self.place / name
        for directory in ("upper", "work", "root"):
            (place / directory).mkdir(parents=True)
        mounts.make_tree(place / "upper", files)
        pause.install(place / "root" / "pause", os.uname().machine)
        return await whole_or_undone(self._made(name, place), LabMachine.close)

    async def _made(self, name: str, place: Path) -> LabMachine:
        namespaces, pid = await self.spawner.call(self._create, name, place)
        machine = LabMachine(name, self.spawner, namespaces, KernelProcess(pid))
        try:
            await machine.finish()
        except BaseException:
            await machine.close()
            raise
        return machine

    def _create(self, name: str, place: Path) -> tuple[dict[str, int], int]:
        """In the spawner's thread: new namespaces, a root for them, and their first process."""
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)
            libc.set_host_name(name)
            mounts.enter_root(place, self.binds, self.rootless, self.kept)
            libc.unshare(CLONE_NEWPID)
            pid = start([INIT], {"executable": PAUSE, "env": {}})
            return {kind: _namespace(proc, pid, kind) for kind in ("net", "mnt", "uts", "ipc", "pid")}, pid
        finally:
            self.spawner.come_home()
            os.close(proc)


def _namespace(proc: int, pid: int, kind: str) -> int:
    return os.open(f"{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)


def inner_pid(pid: int) -> int:
    """The number of a process in its own, innermost PID namespace (proc_pid_status(5), NSpid); good in every mount namespace."""
    with os.fdopen(os.open(f"{pid}/status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=_lab_proc())) as file:
        return next(int(line.split()[-1]) for line in file if line.startswith("NSpid:"))


class LabMachine:
    """One machine of the lab. Implements `kernel.api.Machine`."""

    def __init__(self, name: str, spawner: Spawner, namespaces: dict[str, int], init: KernelProcess) -> None:
        self._name, self._spawner, self._init = name, spawner, init
        self.namespaces = namespaces
        self._netns = KernelNetNs(name, namespaces["net"], kept=True)

    @property
    def name(self) -> str:
        return self._name

    @property
    def netns(self) -> KernelNetNs:
        return self._netns

    @property
    def pid(self) -> int:
        """The first process of the machine, as the lab's process numbers it."""
        return self._init.pid

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self._init.pid}/root")

    async def finish(self) -> None:
        """The part of building that takes a process of the machine's own PID namespace: its /proc."""
        self._netns.apply([SetLink("lo", up=True)])
        await self.run(["mount", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", "/proc"])
        await self._spawner.call(self._spawner.within, {"mnt": self.namespaces["mnt"]}, mounts.guard_proc_sys)

    async def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 30.0) -> bytes:
        """Run a program to its end; its standard output. Raises CommandError."""
        return await self._spawner.run(self.namespaces, argv, stdin, timeout)

    async def spawn(self, argv: Sequence[str], **options: Any) -> KernelProcess:
        """Start a program on the machine (see `kernel.api.Sandbox.spawn`)."""
        return await self._spawner.spawn(self.namespaces, argv, **options)

    def sysctl(self, values: Mapping[str, Any]) -> None:
        """Write net.* sysctls in the machine's network namespace. Raises KernelError naming the one that failed."""
        with self._netns.entered():
            write_sysctls(values)

    async def sandbox(
        self, netns_name: str, hostname: str, files: Mapping[str, str], host_network: bool = False
    ) -> LabSandbox:
        """Make a pod's namespaces, held by a pause process; see `kernel.api.Machine`."""

        async def made() -> LabSandbox:
            holder = await self._spawner.start_with(self.namespaces, self._pause, netns_name, hostname, host_network)
            return LabSandbox(self, self._spawner, holder, netns_name, files, host_network)

        return await whole_or_undone(made(), LabSandbox.remove)

    def _pause(self, netns_name: str, hostname: str, host_network: bool) -> int:
        """In the spawner's thread, inside the machine: a pause process with namespaces of its own."""
        if not host_network:
            libc.unshare(CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)
            libc.set_host_name(hostname)
        pid = start([PAUSE], {"env": {}})
        if not host_network:
            try:
                # the machine's /proc, not the lab's, is what this thread sees here
                mounts.bind_namespace(f"/proc/{inner_pid(pid)}/ns/net", f"/run/netns/{netns_name}")
            except (KernelError, OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        return pid

    async def remove_netns(self, netns_name: str) -> None:
        """Take away the name /run/netns/`netns_name`; idempotent."""
        path = f"/run/netns/{netns_name}"
        await self._spawner.call(self._spawner.within, {"mnt": self.namespaces["mnt"]}, mounts.unbind_namespace, path)

    async def close(self) -> None:
        """End the machine: with its first process the kernel ends all others and frees the namespaces. Idempotent."""
        await self._init.kill()
        self._netns.close()
        for kind, descriptor in self.namespaces.items():
            if kind != "net":
                os.close(descriptor)
        self.namespaces = {}


class LabSandbox:
    """The namespaces of one pod. Implements `kernel.api.Sandbox`."""

    __slots__ = (
        "_files",
        "_growing",
        "_host_network",
        "_machine",
        "_netns",
        "_netns_name",
        "_pause",
        "_removed",
        "_shell",
        "_spaces",
        "_spawner",
    )

    def __init__(
        self,
        machine: LabMachine,
        spawner: Spawner,
        pause_process: KernelProcess,
        netns_name: str,
        files: Mapping[str, str],
        host_network: bool,
    ) -> None:
        self._machine, self._spawner, self._pause = machine, spawner, pause_process
        self._netns_name, self._files, self._host_network = netns_name, files, host_network
        self._netns = machine.netns if host_network else KernelNetNs(netns_name, _open(pause_process.pid, "net"))
        self._shell = -1  # pidfd of the pause in the pod's own PID and mount namespaces
        self._spaces: dict[str, int] = {}
        self._growing: asyncio.Task[None] | None = None
        self._removed = False
        if not host_network:
            self._netns.apply([SetLink("lo", up=True)])

    @property
    def netns(self) -> KernelNetNs:
        return self._netns

    @property
    def pid(self) -> int:
        return self._pause.pid

    @property
    def pid_namespace(self) -> int:
        return os.fstat(self._spaces["pid"]).st_ino if self._spaces else 0

    async def spawn(self, argv: Sequence[str], **options: Any) -> KernelProcess:
        """Start a process inside the pod (see `kernel.api.Sandbox.spawn`)."""
        await self._grow()
        try:
            return await self._spawner.spawn(self._spaces, argv, **options)
        except KernelError as error:
            if error.number == errno.ENOMEM:  # pid_namespaces(7): what fork says where the first process has ended
                raise KernelError(error.operation, errno.ESRCH, "the pod's first process has ended") from None
            raise

    async def bind(self, source: str, target: str, read_only: bool = False) -> None:
        """Show the machine's file or directory `source` as `target` in the pod."""
        await self._grow()
        await self._spawner.call(
            self._spawner.within, {"mnt": self._spaces["mnt"]}, mounts.bind_files, [(source, target, read_only)]
        )

    async def terminal(self) -> tuple[int, int]:
        """(master, slave) of a pseudo-terminal that the pod's own /dev/pts names."""
        await self._grow()
        return await self._spawner.call(self._spawner.within, {"mnt": self._spaces["mnt"]}, mounts.open_terminal)

    async def _grow(self) -> None:
        """Give the pod PID and mount namespaces, once: the light sandbox of a built-in server has neither."""
        if not self._removed and not self._spaces:
            if self._growing is None or self._growing.done():
                self._growing = asyncio.create_task(self._grown())
            await asyncio.shield(self._growing)  # a caller who gives up leaves it whole for the next, and for remove()
        if self._removed:
            raise KernelError(f"start a process in pod {self._netns_name}", errno.ESRCH, "the pod's sandbox is gone")

    async def _grown(self) -> None:
        base = {
            **self._machine.namespaces,
            **{kind: _open(self._pause.pid, kind) for kind in ("net", "uts", "ipc")},
        }
        try:
            pid, self._shell = await self._start_shell(base)
            spaces = {kind: _open(pid, kind) for kind in ("net", "mnt", "uts", "ipc", "pid")}
            try:
                mount_proc = ["mount", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", "/proc"]
                await self._spawner.run(spaces, mount_proc, b"", 10)
                within = {"mnt": spaces["mnt"], "net": spaces["net"]}
                await self._spawner.call(self._spawner.within, within, self._furnish)
            except BaseException:
                _close(spaces)
                raise
            self._spaces = spaces
        except BaseException:
            self._end_shell()
            raise
        finally:
            _close({kind: base[kind] for kind in ("net", "uts", "ipc")})

    async def _start_shell(self, base: Mapping[str, int]) -> tuple[int, int]:
        """(pid, pidfd) of a pause that is the first of a PID namespace in the machine's: only a process that is in the one can make the other."""
        words = ["unshare", "--fork", "--pid", "--mount", "--propagation", "private", PAUSE]
        holder = await self._spawner.spawn(base, words, env={"PATH": "/usr/bin:/bin"})
        try:
            pid = await _only_child(holder)
            return pid, os.pidfd_open(pid)
        finally:
            await holder.kill()  # the pause lives on under the machine's first process

    def _end_shell(self) -> None:
        if self._shell >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(
                    self._shell, signal.SIGKILL
                )  # first of its PID namespace: the others go with it
            os.close(self._shell)
            self._shell = -1

    def _furnish(self) -> None:
        """In the spawner's thread, inside the pod: its own /sys, kernel settings, and files such as /etc/hosts."""
        mounts.guard_proc_sys()
        if not self._host_network:
            mounts.mount_sys("/sys")
        place = Path(f"/run/glassnet/pods/{self._netns_name}")
        place.mkdir(parents=True, exist_ok=True)
        for path, text in self._files.items():
            copy = place / path.strip("/").replace("/", "_")
            copy.write_text(text)
            mounts.bind_files([(str(copy), path, False)])

    async def remove(self) -> None:
        """Kill what runs in the pod and take its names away; idempotent."""
        self._removed = True
        if self._growing is not None and not self._growing.done():
            await asyncio.wait([self._growing])
        self._end_shell()
        await self._pause.kill()
        if not self._host_network and self._netns.fd >= 0:
            await self._machine.remove_netns(self._netns_name)
            self._netns.close()
        spaces, self._spaces = self._spaces, {}
        await self._spawner.call(_close, spaces)  # behind whatever still waits for its turn in the thread
        shutil.rmtree(self._machine.root / f"run/glassnet/pods/{self._netns_name}", ignore_errors=True)


def _close(namespaces: Mapping[str, int]) -> None:
    for descriptor in namespaces.values():
        os.close(descriptor)


def _open(pid: int, kind: str) -> int:
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


async def _only_child(parent: KernelProcess) -> int:
    """The pid of a process's child, once it runs our pause. Raises KernelError when it does not appear within 5 s."""
    for delay in (*[0.001] * 20, *[0.02] * 250):
        with contextlib.suppress(OSError, IndexError):
            pid = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(PAUSE.encode()):
                return pid
        await asyncio.sleep(delay)
    raise KernelError("start a pod's first process", errno.ESRCH, f"unshare {parent.pid} has no child")


_proc: list[int] = []


def _lab_proc() -> int:
    """A descriptor of the lab's own /proc, good in every mount namespace."""
    if not _proc:
        raise KernelError("read the lab's /proc", 9, "remember_proc() comes first")
    return _proc[0]


def remember_proc() -> None:
    """Keep the lab's own /proc in reach; called once, in the lab's mount namespace."""
    if not _proc:
        _proc.append(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
