"""One pod on one node: its sandbox and network, its containers one after the other or together, its end."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, Protocol

from glassnet.agent import environment, pod_status, probes
from glassnet.agent.cni import Attachment, CniAgent
from glassnet.agent.pod_status import ContainerState, stamp, terminated
from glassnet.agent.probes import EAGER
from glassnet.kernel.api import NetNs
from glassnet.kube import kinds
from glassnet.kube.change import Delete, Patch, Record
from glassnet.kube.runtime import ExitStatus, PodSandbox, RunningContainer
from glassnet.kube.types import Container, Pod, Probe
from glassnet.net.errors import ApiError, GlassnetError

log = logging.getLogger(__name__)
LONG_RUN = 600.0  # seconds after which a container's crashes are forgotten


class Node(Protocol):
    """What a worker needs of its kubelet."""

    name: str
    address: str
    cni: CniAgent

    def now(self) -> datetime: ...
    def current(self, pod: Pod) -> Pod: ...
    def files(self, pod: Pod, pod_ip: str) -> dict[str, str]: ...
    def mounts(self, pod: Pod, container: Container, pod_ip: str) -> dict[str, str]: ...
    def env(self, pod: Pod, container: Container, pod_ip: str) -> dict[str, str]: ...
    def netns(self, sandbox: PodSandbox) -> NetNs: ...
    def stand_in(self, container: Container) -> str: ...
    async def sandbox(self, pod: Pod, files: Mapping[str, str]) -> PodSandbox: ...
    async def write(self, change: Any) -> None: ...
    def ended(self, worker: PodWorker) -> None: ...


class PodWorker:
    """Runs one pod until it is deleted. `update` tells it of a newer version of the object."""

    __slots__ = (
        "_attachment", "_kick", "_node", "_pod", "_probes", "_running", "_sandbox", "_setup", "_start", "_states", "_status", "_stopping", "_tasks",
    )  # fmt: skip

    def __init__(self, node: Node, pod: Pod) -> None:
        self._node, self._pod = node, pod
        self._sandbox: PodSandbox | None = None
        self._attachment: Attachment | None = None
        self._states: dict[str, ContainerState] = {}
        self._running: dict[str, RunningContainer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._probes: dict[str, list[asyncio.Task[None]]] = {}
        self._status: dict[str, Any] = {}
        self._kick: asyncio.TimerHandle | asyncio.Handle | None = None
        self._start = node.now()
        self._stopping: float | None = None
        waiting = "PodInitializing" if pod.spec.init_containers else "ContainerCreating"
        old = {s.name: s for s in (*pod.status.container_statuses, *pod.status.init_container_statuses)}
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            state = ContainerState(state={"waiting": {"reason": waiting}})
            if (before := old.get(container.name)) and before.container_id:
                state.restarts = before.restart_count + 1
            self._states[container.name] = state
        self._setup: asyncio.Task[None] | None = None
        if pod.metadata.deletion_timestamp is None:
            self._setup = self._go(self._bring_up())
        else:
            self.update(pod)

    def _go(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("pod %s/%s", self._pod.metadata.namespace, self._pod.metadata.name, exc_info=error)

    def update(self, pod: Pod) -> None:
        """Take note of a newer version of the pod; a deletion starts its end, a shorter grace hastens it."""
        self._pod = pod
        if pod.metadata.deletion_timestamp is None:
            return
        grace = float(pod.metadata.deletion_grace_period_seconds or 0)
        if self._stopping is None:
            self._stopping = grace
            self._go(self._take_down(grace))
        elif grace < self._stopping:
            self._stopping = grace
            for name in list(self._running):
                self._go(self._stop(name, grace))

    # -- coming up

    async def _bring_up(self) -> None:
        delay = 0.5
        while True:
            try:
                await self._network()
                break
            except GlassnetError as error:
                await self._event("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
                await self._drop_sandbox()
                await asyncio.sleep(delay)
                delay = min(30.0, delay * 2)
        for container in self._pod.spec.init_containers:
            if not await self._initialize(container):
                return
        for container in self._pod.spec.containers:
            self._states[container.name].state = {"waiting": {"reason": "ContainerCreating"}}
            self._go(self._keep_running(container))
        self._show()

    async def _network(self) -> None:
        files: dict[str, str] = {}
        self._sandbox = await self._node.sandbox(self._pod, files)
        if not self._pod.spec.host_network:
            self._attachment = await self._node.cni.add(self._node.netns(self._sandbox), self._container_id())
        files.update(self._node.files(self._pod, self._ip))
        self._show()

    def _container_id(self) -> str:
        """CNI's name for the sandbox: 64 hex digits, as runtimes have them."""
        return self._pod.metadata.uid.replace("-", "") * 2

    @property
    def _ip(self) -> str:
        if self._pod.spec.host_network:
            return self._node.address
        return self._attachment.address if self._attachment else ""

    async def _initialize(self, container: Container) -> bool:
        """Run an init container to its end; a sidecar until it has started. False when the pod failed with it."""
        if container.restart_policy == "Always":
            self._go(self._keep_running(container))
            for delay in itertools.chain(EAGER, itertools.repeat(0.2)):
                if self._states[container.name].started:
                    break
                await asyncio.sleep(delay)
            return True
        while True:
            status = await self._run_once(container)
            if status.code == 0:
                return True
            if self._pod.spec.restart_policy == "Never":
                self._show()
                return False
            await self._back_off(container, status)

    # -- one container

    async def _keep_running(self, container: Container) -> None:
        policy = container.restart_policy or self._pod.spec.restart_policy
        while True:
            status = await self._run_once(container)
            if self._stopping is not None or policy == "Never" or (policy == "OnFailure" and status.code == 0):
                return
            await self._back_off(container, status)

    async def _back_off(self, container: Container, status: ExitStatus) -> None:
        state = self._states[container.name]
        delay = pod_status.crash_delay(state.restarts)
        state.last = state.state if "terminated" in state.state else state.last
        if delay:
            meta = self._pod.metadata
            text = f"back-off {_duration(delay)} restarting failed container={container.name} pod={meta.name}_{meta.namespace}({meta.uid})"
            state.state = {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
            self._show()
            await self._event(
                "Warning",
                "BackOff",
                f"Back-off restarting failed container {container.name} in pod {meta.name}_{meta.namespace}({meta.uid})",
                container,
            )
            await asyncio.sleep(delay)
        state.restarts += 1

    async def _run_once(self, container: Container) -> ExitStatus:
        """Start a container and wait for its end."""
        state = self._states[container.name]
        running = await self._start_container(container)
        if isinstance(running, ExitStatus):
            return running
        self._running[container.name] = running
        state.id, state.state = running.id, {"running": {"startedAt": stamp(running.started_at)}}
        state.started = container.startup_probe is None
        state.ready = state.started and container.readiness_probe is None
        self._start_probes(container)
        self._show()
        if container.lifecycle and container.lifecycle.post_start and self._sandbox:
            await probes.attempt(self._sandbox, container, container.lifecycle.post_start, self._ip, 30)
        status = await running.wait()
        self._stop_probes(container.name)
        self._running.pop(container.name, None)
        ran = (self._node.now() - running.started_at).total_seconds()
        if ran > LONG_RUN:
            state.restarts = min(state.restarts, 1)
        state.ready = state.started = False
        state.state = terminated(
            status.code, status.reason, status.message, running.started_at, self._node.now(), running.id
        )
        self._show()
        return status

    async def _start_container(self, container: Container) -> RunningContainer | ExitStatus:
        """Start it; what keeps it from starting becomes its state."""
        state = self._states[container.name]
        while True:
            try:
                env = self._node.env(self._pod, container, self._ip)
                mounts = self._node.mounts(self._pod, container, self._ip)
                break
            except environment.MissingReference as error:
                state.state = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
                self._show()
                await self._event("Warning", "Failed", f"Error: {error}", container)
                await asyncio.sleep(2)
        assert self._sandbox is not None
        if text := self._node.stand_in(container):
            await self._event("Normal", "StandIn", text, container)
        else:
            await self._event(
                "Normal", "Pulled", f'Container image "{container.image}" already present on machine', container
            )
        try:
            running = await self._sandbox.start(container, env, mounts, state.restarts)
        except GlassnetError as error:
            reason, code = getattr(error, "reason", "StartError"), int(getattr(error, "code", 128))
            now = self._node.now()
            state.state = terminated(code, reason, str(error), now, now, "")
            self._show()
            await self._event("Warning", "Failed", f"Error: {error}", container)
            return ExitStatus(code, reason, str(error))
        await self._event("Normal", "Created", f"Created container: {container.name}", container)
        await self._event("Normal", "Started", f"Started container {container.name}", container)
        return running

    # -- probes

    def _start_probes(self, container: Container) -> None:
        name = container.name
        if container.startup_probe and not self._states[name].started:
            self._watch(container, container.startup_probe, lambda good, text: self._on_startup(container, good, text))
            return
        if container.readiness_probe:
            self._watch(
                container, container.readiness_probe, lambda good, text: self._on_readiness(container, good, text)
            )
        if container.liveness_probe:
            self._watch(
                container,
                container.liveness_probe,
                lambda good, text: self._on_liveness(container, "Liveness", good, text),
            )

    def _watch(self, container: Container, probe: Probe, tell: Callable[[bool, str], None]) -> None:
        assert self._sandbox is not None
        self._probes.setdefault(container.name, []).append(
            self._go(probes.watch(self._sandbox, container, probe, self._ip, tell))
        )

    def _stop_probes(self, name: str) -> None:
        for task in self._probes.pop(name, ()):
            task.cancel()

    def _on_startup(self, container: Container, good: bool, text: str) -> None:
        if not good:
            self._on_liveness(container, "Startup", good, text)
            return
        state = self._states[container.name]
        if not state.started:
            state.started, state.ready = True, container.readiness_probe is None
            self._stop_probes(container.name)
            self._start_probes(container)
            self._show()

    def _on_readiness(self, container: Container, good: bool, text: str) -> None:
        state = self._states[container.name]
        if state.ready != good:
            state.ready = good
            self._show()
        if not good:
            self._go(self._event("Warning", "Unhealthy", f"Readiness probe failed: {text}", container))

    def _on_liveness(self, container: Container, kind: str, good: bool, text: str) -> None:
        if good or container.name not in self._running or self._stopping is not None:
            return
        self._stop_probes(container.name)
        self._go(self._restart(container, kind, text))

    async def _restart(self, container: Container, kind: str, text: str) -> None:
        await self._event("Warning", "Unhealthy", f"{kind} probe failed: {text}", container)
        await self._event(
            "Normal", "Killing", f"Container {container.name} failed {kind.lower()} probe, will be restarted", container
        )
        await self._stop(container.name, self._pod.spec.termination_grace_period_seconds)

    # -- going down

    async def _stop(self, name: str, grace: float) -> None:
        container = next(
            (c for c in (*self._pod.spec.containers, *self._pod.spec.init_containers) if c.name == name), None
        )
        running = self._running.get(name)
        if running is None or container is None:
            return
        if container.lifecycle and container.lifecycle.pre_stop and grace and self._sandbox:
            begun = asyncio.get_running_loop().time()
            await probes.attempt(self._sandbox, container, container.lifecycle.pre_stop, self._ip, grace)
            grace = max(2.0, grace - (asyncio.get_running_loop().time() - begun))
        await running.stop(grace)

    async def _take_down(self, grace: float) -> None:
        if self._setup and not self._setup.done():
            self._setup.cancel()
            await asyncio.wait([self._setup])
        names = list(self._running)
        for name in names:
            container = next((c for c in self._pod.spec.containers if c.name == name), None)
            await self._event("Normal", "Killing", f"Stopping container {name}", container)
        await asyncio.gather(*(self._stop(name, grace) for name in names))
        await asyncio.sleep(0)
        mine = asyncio.current_task()
        for task in [t for t in self._tasks if t is not mine]:
            task.cancel()
        await self._drop_sandbox()
        if self._kick:
            self._kick.cancel()
        await self._write_status(final=True)
        meta = self._pod.metadata
        await self._write(Delete(kinds.POD, meta.namespace, meta.name, meta.uid, grace=0))
        self._node.ended(self)

    async def _drop_sandbox(self) -> None:
        if self._attachment:
            attachment, self._attachment = self._attachment, None
            await self._node.cni.delete(attachment.network, self._container_id(), attachment.host_name)
        if self._sandbox:
            sandbox, self._sandbox = self._sandbox, None
            await sandbox.remove()

    # -- telling

    def _show(self) -> None:
        """Have the status written soon; changes that come together are written together."""
        if self._kick is None:
            self._kick = asyncio.get_running_loop().call_soon(lambda: self._go(self._write_status()))

    async def _write_status(self, final: bool = False) -> None:
        self._kick = None
        pod = self._node.current(self._pod)
        status = pod_status.compute(
            pod,
            self._states,
            self._ip or pod.status.pod_ip,
            self._node.address,
            self._start,
            self._node.now(),
            self._sandbox is not None,
        )
        if final and status["phase"] == "Running":
            good = all(s.exit_code in (0, None) for s in self._states.values())
            status["phase"] = "Succeeded" if good else "Failed"
        if status == self._status:
            return
        changed = {name: value for name, value in status.items() if self._status.get(name) != value}
        self._status = status
        await self._write(Patch(kinds.POD, pod.metadata.namespace, pod.metadata.name, {"status": changed}, "status"))

    async def _event(self, type: str, reason: str, message: str, container: Container | None = None) -> None:
        meta = self._pod.metadata
        about = {"kind": "Pod", "apiVersion": "v1", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid}
        if container is not None:
            about["fieldPath"] = f"spec.containers{{{container.name}}}"
        await self._write(Record(about, type, reason, message, f"kubelet, {self._node.name}"))

    async def _write(self, change: Any) -> None:
        try:
            await self._node.write(change)
        except ApiError as error:
            if error.status not in (404, 409):
                log.warning("pod %s/%s: %s", self._pod.metadata.namespace, self._pod.metadata.name, error)


def _duration(seconds: int) -> str:
    """10s, 1m20s, as Go prints durations."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
