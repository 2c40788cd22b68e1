"""One pod's sandbox: its namespaces, and the containers in them (implements kube.runtime.PodSandbox)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from glassnet.kernel.api import Machine, Sandbox
from glassnet.kube.runtime import ExitStatus
from glassnet.kube.types import Container
from glassnet.lab.pods import images
from glassnet.lab.pods.calls import open_stream, run
from glassnet.lab.pods.environment import expand, pack, process_env, unpack
from glassnet.lab.pods.hosted import Hosted, Parts
from glassnet.lab.pods.logs import LogRing
from glassnet.lab.pods.processes import ContainerStartError, ProcessContainer, start_process
from glassnet.lab.pods.servers import BuiltIn
from glassnet.lab.pods.sessions import FailedSession, ProcessSession, failure_code, start_exec, start_failure
from glassnet.lab.pods.surroundings import PodIdentity, Surroundings
from glassnet.net.errors import KernelError, LabError


class Instance:
    """A container as it was last started, with what a later exec into it needs."""

    __slots__ = ("cwd", "env", "mounts", "running", "stand_in", "stdin", "stdin_once")

    def __init__(
        self, container: Container, env: Mapping[str, str], mounts: Mapping[str, tuple[str, bool]], stand_in: bool
    ) -> None:
        self.running: BuiltIn | Hosted | ProcessContainer | None = None
        self.env, self.cwd, self.mounts = pack(env), container.working_dir or "/", mounts
        self.stdin, self.stdin_once = container.stdin, container.stdin_once
        self.stand_in = stand_in

    @property
    def status(self) -> ExitStatus | None:
        """How it ended; None while it runs."""
        return self.running.status if self.running is not None else None


class ContainerLogs:
    """The logs of a container: of the running or last instance, and of the one before."""

    __slots__ = ("current", "previous")

    def __init__(self) -> None:
        self.current: LogRing | None = None
        self.previous: LogRing | None = None


class Makings:
    """What all sandboxes of one runtime share: sources of ids and time, how much log to keep, parts of glassnet that pods may run."""

    __slots__ = ("built_in_limit", "machine", "now", "parts", "process_limit", "random")

    def __init__(
        self,
        machine: Machine,
        random: Callable[[int], bytes],
        now: Callable[[], datetime],
        process_limit: int,
        built_in_limit: int,
        parts: Parts,
    ) -> None:
        self.machine, self.random, self.now, self.parts = machine, random, now, parts
        self.process_limit, self.built_in_limit = process_limit, built_in_limit


class LabPod:
    """A pod's sandbox."""

    __slots__ = (
        "_bound",
        "_gone",
        "_instances",
        "_kernel",
        "_makings",
        "_netns_name",
        "_prepared",
        "_tell",
        "identity",
        "logs",
    )

    def __init__(
        self,
        identity: PodIdentity,
        kernel: Sandbox,
        netns_name: str,
        makings: Makings,
        logs: dict[str, ContainerLogs],
        tell: Callable[[LabPod], None],
    ) -> None:
        """`logs` outlive the sandbox; `tell` is called once it is removed."""
        self.identity, self.logs = identity, logs
        self._kernel, self._netns_name, self._makings, self._tell = kernel, netns_name, makings, tell
        self._instances: dict[str, Instance] = {}
        self._bound: dict[str, str] | None = None
        self._prepared: asyncio.Task[None] | None = None
        self._gone = False

    @property
    def kernel(self) -> Sandbox:
        """The namespaces."""
        return self._kernel

    @property
    def netns_path(self) -> str:
        """See PodSandbox.netns_path."""
        return "" if self.identity.host_network else f"/run/netns/{self._netns_name}"

    @property
    def netns_fd(self) -> int:
        """A descriptor of the pod's network namespace."""
        return self._kernel.netns.fd

    def instance(self, container: str) -> Instance | None:
        """A container as last started."""
        return self._instances.get(container)

    # -- containers

    async def start(
        self, container: Container, env: Mapping[str, str], mounts: Mapping[str, str], attempt: int
    ) -> BuiltIn | Hosted | ProcessContainer:
        """See PodSandbox.start; `$(NAME)` in command and args is expanded here. `attempt` changes nothing: each start is a new
        container with a log of its own, the log before it is kept. Raises ContainerStartError."""
        self._must_be_there()
        stand_in = images.is_stand_in(container)
        read_only = {mount.mount_path for mount in container.volume_mounts if mount.read_only}
        instance = Instance(
            container, env, {path: (source, path in read_only) for path, source in mounts.items()}, stand_in
        )
        words = {"command": expand(container.command, env), "args": expand(container.args, env)}
        program = images.program_of(msgspec.structs.replace(container, **words), env)
        id = f"glassnet://{self._makings.random(32).hex()}"
        try:
            if isinstance(program, images.Run):
                instance.running = await self._start_process(program, container, instance, id)
            elif isinstance(program, images.Own):
                instance.running = self._start_own(program, container, instance, id)
            else:
                instance.running = await self._start_built_in(program, container, instance, id)
        except OSError as error:  # the namespaces went meanwhile, or descriptors have run out
            raise LabError(f"pod {self.identity.namespace}/{self.identity.name}: {error}") from None
        try:
            self._must_be_there()
        except LabError:  # removed while this was being started
            await instance.running.stop(0)
            raise
        self._instances[container.name] = instance
        return instance.running

    def _must_be_there(self) -> None:
        if self._gone:
            raise LabError(f"pod {self.identity.namespace}/{self.identity.name}: its sandbox has been removed")

    def _new_log(self, container: str, limit: int) -> LogRing:
        logs = self.logs.setdefault(container, ContainerLogs())
        if logs.current is not None:
            logs.previous = logs.current
        logs.current = LogRing(limit)
        return logs.current

    def _place(self, container: Container, instance: Instance) -> Surroundings:
        log = self._new_log(container.name, self._makings.built_in_limit)
        root = self._makings.machine.root
        volumes = {path: root / source.lstrip("/") for path, (source, _) in instance.mounts.items()}
        return Surroundings(
            self.identity, container.name, container.image, self._kernel, log, self._makings.now, volumes or _NO_VOLUMES
        )

    async def _start_built_in(
        self, program: images.Program, container: Container, instance: Instance, id: str
    ) -> BuiltIn:
        delay = program.delay_shutdown if isinstance(program, images.Netexec) else 0
        server = BuiltIn(id, self._place(container, instance), delay)
        await server.start(program)
        return server

    def _start_own(self, program: images.Own, container: Container, instance: Instance, id: str) -> Hosted:
        part = self._makings.parts.get(program.command)
        if part is None:
            words = " ".join(program.command)
            raise ContainerStartError(
                f"`glassnet {words}` does not work in the process of this lab; as `command` it is a process of its own"
            )
        place = self._place(container, instance)
        return Hosted(id, place, part(place, program.args))

    async def _start_process(
        self, program: images.Run, container: Container, instance: Instance, id: str
    ) -> ProcessContainer:
        await self._furnish(instance)
        env = process_env(unpack(instance.env), self.identity.hostname, container.tty)
        if container.tty and (missing := await self._missing(program.argv[0], env)):
            raise ContainerStartError(start_failure(program.argv[0], missing))
        log = self._new_log(container.name, self._makings.process_limit)
        return await start_process(
            self._kernel, program.argv, env, instance.cwd, id, container.stdin, container.tty, log, self._makings.now
        )

    async def _furnish(self, instance: Instance) -> None:
        """Before the first process: a /tmp of the pod's own, and the volumes of a container."""
        if self._prepared is None:
            self._prepared = asyncio.create_task(self._own_tmp())
        await asyncio.shield(self._prepared)
        if self._bound is None:
            self._bound = {}
        for path, (source, read_only) in instance.mounts.items():
            if self._bound.get(path) != source:
                self._bound[path] = source
                await self._kernel.bind(source, path, read_only)

    async def _own_tmp(self) -> None:
        argv = ("mount", "-t", "tmpfs", "-o", "mode=1777,nosuid,nodev,size=64m", "tmpfs", "/tmp")
        code, output = await run(self._kernel, argv, 10.0)
        if code:
            raise LabError(f"pod {self.identity.name}: {' '.join(argv)}: {output.decode(errors='replace').strip()}")

    # -- into containers

    async def exec(
        self, container: str, command: Sequence[str], stdin: bool, tty: bool
    ) -> ProcessSession | FailedSession:
        """Start a program in a container's surroundings; returns an ExecSession."""
        instance = self._instances[container]
        await self._furnish(instance)
        env = process_env(unpack(instance.env), self.identity.hostname, tty)
        if tty and (missing := await self._missing(command[0], env)):
            return FailedSession(start_failure(command[0], missing), failure_code(missing), tty)
        return await start_exec(self._kernel, command, env, instance.cwd, stdin, tty)

    async def _missing(self, program: str, env: Mapping[str, str]) -> KernelError | None:
        """On a terminal a program is started by another one (setsid), so whether it is there is asked first."""
        code, _ = await run(self._kernel, ("/bin/sh", "-c", 'command -v -- "$1"', "sh", program), 10.0, env)
        return KernelError(f"start {program}", errno.ENOENT) if code else None

    async def exec_probe(self, container: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """See PodSandbox.exec_probe. In a stand-in every command succeeds: what it asks for is in the image nobody has."""
        instance = self._instances.get(container)
        if instance is None:
            return 1, f"container {container} has not been started"
        if instance.stand_in:
            return 0, "not run: a stand-in has none of its image's programs\n"
        await self._furnish(instance)
        env = process_env(unpack(instance.env), self.identity.hostname, tty=False)
        try:
            code, output = await run(self._kernel, tuple(command), timeout, env, instance.cwd)
        except KernelError as error:
            return failure_code(error), start_failure(command[0], error)
        return code, output.decode("utf-8", "replace")

    async def dial(self, host: str, port: int, timeout: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See PodSandbox.dial."""
        return await open_stream(self._makings.machine.netns, host, port, timeout)

    # -- the end

    async def remove(self) -> None:
        """See PodSandbox.remove."""
        if self._gone:
            return
        self._gone = True
        running = [instance.running for instance in self._instances.values() if instance.running is not None]
        for container in running:
            if container.status is None:
                await container.stop(0)
        if self._prepared is not None:
            await asyncio.wait([self._prepared])
        await self._kernel.remove()
        self._tell(self)


_NO_VOLUMES: Mapping[str, Path] = {}
