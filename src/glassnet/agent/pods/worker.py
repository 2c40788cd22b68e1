"""One pod on one node: its volumes, sandbox and network, its containers one after the other or together, its end."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol

from glassnet.agent.cni.runtime import Attachment, CniAgent
from glassnet.agent.pods import environment, pod_status
from glassnet.agent.pods.capabilities import bandwidth
from glassnet.agent.pods.container_loop import REMIND, RETRY, ContainerLoop
from glassnet.agent.pods.pod_status import ContainerState, Ended
from glassnet.agent.pods.probes import EAGER
from glassnet.kernel.api import NetNs
from glassnet.kube import kinds
from glassnet.kube.change import Delete, Patch, Record
from glassnet.kube.runtime import PodSandbox
from glassnet.kube.types import Container, Pod
from glassnet.net.errors import ApiError, GlassnetError

log = logging.getLogger(__name__)
DEADLINE = Ended("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
LAST_WORDS = 1.0  # seconds a stopped container's loop has to take note of its end


def _growing() -> Iterator[float]:
    """Seconds to wait between tries of what has to work in the end."""
    delay = 0.5
    while True:
        yield delay
        delay = min(30.0, delay * 2)


class Node(Protocol):
    """What a worker needs of its kubelet."""

    name: str
    address: str
    addresses: tuple[str, ...]
    cni: CniAgent

    def now(self) -> datetime: ...
    def current(self, pod: Pod) -> Pod: ...
    def files(self, pod: Pod, pod_ip: str) -> dict[str, str]: ...
    def env(self, pod: Pod, container: Container, pod_ip: str) -> dict[str, str]: ...
    async def volumes(self, pod: Pod) -> dict[str, str]: ...
    def discard_volumes(self, pod: Pod) -> None: ...
    def netns(self, sandbox: PodSandbox) -> NetNs: ...
    def stand_in(self, container: Container) -> str: ...
    async def sandbox(self, pod: Pod, files: Mapping[str, str]) -> PodSandbox: ...
    async def write(self, change: Any) -> None: ...


class PodWorker:
    """Runs one pod until it is gone. `update` tells it of a newer version of the object. Implements `container_loop.Home`."""

    __slots__ = (
        "_attachment", "_deadline", "_dirty", "_failure", "_loops", "_networking", "_node", "_places", "_pod", "_sandbox", "_setup", "_start",
        "_status", "_stopping", "_tasks", "_way", "_writer",
    )  # fmt: skip

    def __init__(self, node: Node, pod: Pod) -> None:
        self._node, self._pod = node, pod
        self._sandbox: PodSandbox | None = None
        self._attachment: Attachment | None = None
        self._places: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._setup: asyncio.Task[None] | None = None
        self._networking: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._dirty = False
        self._status: dict[str, Any] = {}
        self._failure: Ended | None = None
        self._stopping: float | None = None
        self._way: Callable[[float], Coroutine[Any, Any, None]] | None = None
        self._start = pod.status.start_time or node.now()
        self._loops = self._make_loops()
        if pod.metadata.deletion_timestamp is not None:
            self.update(pod)
        elif not pod.finished():
            self._setup = self.spawn(self._bring_up())
            self._set_deadline()

    def _make_loops(self) -> dict[str, ContainerLoop]:
        """One per container; an agent started anew goes on counting the restarts where the last one stopped."""
        spec, status = self._pod.spec, self._pod.status
        waiting = "PodInitializing" if spec.init_containers else "ContainerCreating"
        old = {s.name: s for s in (*status.container_statuses, *status.init_container_statuses)}
        loops = {}
        for container in (*spec.init_containers, *spec.containers):
            state = ContainerState(state={"waiting": {"reason": waiting}})
            if (before := old.get(container.name)) and before.container_id:
                state.restarts = before.restart_count + 1
            loops[container.name] = ContainerLoop(self, container.name, state)
        return loops

    def _set_deadline(self) -> None:
        if self._pod.spec.active_deadline_seconds is not None:
            active = (self._node.now() - self._start).total_seconds()
            left = max(0.0, self._pod.spec.active_deadline_seconds - active)
            self._deadline = asyncio.get_running_loop().call_later(left, self._on_deadline)

    def _on_deadline(self) -> None:
        if self._stopping is None:
            self._failure = DEADLINE
            self.spawn(self.event("Normal", DEADLINE.reason, DEADLINE.message))
            self.spawn(self._finish(self.grace))

    # -- what container loops ask

    @property
    def stopping(self) -> bool:
        return self._stopping is not None

    @property
    def grace(self) -> float:
        return float(self._pod.spec.termination_grace_period_seconds)

    @property
    def ips(self) -> tuple[str, ...]:
        if self._pod.spec.host_network:
            return self._node.addresses
        return self._attachment.addresses if self._attachment else ()

    @property
    def ip(self) -> str:
        return self.ips[0] if self.ips else ""

    @property
    def restart_policy(self) -> str:
        return self._pod.spec.restart_policy

    @property
    def full_name(self) -> str:
        meta = self._pod.metadata
        return f"{meta.name}_{meta.namespace}({meta.uid})"

    def sandbox(self) -> PodSandbox:
        if self._sandbox is None:
            raise GlassnetError(f"pod {self._pod.metadata.namespace}/{self._pod.metadata.name}: its sandbox has gone")
        return self._sandbox

    def now(self) -> datetime:
        return self._node.now()

    def container(self, name: str) -> Container:
        return next(c for c in (*self._pod.spec.containers, *self._pod.spec.init_containers) if c.name == name)

    def settings(self, container: Container) -> tuple[dict[str, str], dict[str, str]]:
        env = self._node.env(self._pod, container, self.ip)
        return env, environment.mounts(container, self._places)

    def stand_in(self, container: Container) -> str:
        return self._node.stand_in(container)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("pod %s/%s", self._pod.metadata.namespace, self._pod.metadata.name, exc_info=error)

    # -- what the kubelet tells

    def update(self, pod: Pod) -> None:
        """Take note of a newer version of the pod; a deletion starts its end, a shorter grace hastens it, a new image a restart."""
        before, self._pod = self._pod, pod
        if pod.metadata.deletion_timestamp is not None:
            self._end(float(pod.metadata.deletion_grace_period_seconds or 0), self._take_down)
        elif self._stopping is None:
            images = {c.name: c.image for c in (*before.spec.init_containers, *before.spec.containers)}
            for container in (*pod.spec.init_containers, *pod.spec.containers):
                if images.get(container.name, container.image) != container.image:
                    self._loops[container.name].redefine()

    def vanished(self) -> None:
        """The object is gone from the API, as after a forced deletion: nothing is left to report to."""
        self._end(0.0, self._clean_up)

    def _end(self, grace: float, way: Callable[[float], Coroutine[Any, Any, None]]) -> None:
        if self._way is None:
            self._way = way
        if self._stopping is None:
            self._stopping = grace
            self.spawn(self._way(grace))
        elif grace < self._stopping:
            self._stopping = grace
            for loop in self._loops.values():
                self.spawn(loop.stop(grace))

    async def close(self) -> None:
        """The agent itself ends: take the pod's parts down, leave its object alone."""
        self._stopping = 0.0
        await self._clean_up(0.0)

    # -- coming up

    async def _bring_up(self) -> None:
        await self._lay_out()
        await self._connect()
        for container in self._pod.spec.init_containers:
            if not await self._initialize(container):
                await self._finish(self.grace)
                return
        for container in self._pod.spec.containers:
            loop = self._loops[container.name]
            loop.task = self.spawn(self._run(loop))
        self.show()

    async def _lay_out(self) -> None:
        """The volumes come first: without them a pod gets neither sandbox nor address."""
        complaint, since = "", 0.0
        while True:
            try:
                self._places = await self._node.volumes(self._pod)
                return
            except environment.MissingReference as error:
                time = asyncio.get_running_loop().time()
                if str(error) != complaint or time - since >= REMIND:
                    complaint, since = str(error), time
                    self.show()
                    await self.event("Warning", "FailedMount", complaint)
                await asyncio.sleep(RETRY)

    async def _connect(self) -> None:
        for delay in _growing():
            try:
                self._networking = asyncio.create_task(self._network())
                # a pod deleted now must not lose half a sandbox: its end waits for this instead of cancelling it
                await asyncio.shield(self._networking)
                return
            except (GlassnetError, OSError) as error:
                self.show()
                await self.event("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
                await self._drop_sandbox()
                await self._lay_out()
                await asyncio.sleep(delay)

    async def _network(self) -> None:
        files: dict[str, str] = {}
        self._sandbox = await self._node.sandbox(self._pod, files)
        if not self._pod.spec.host_network:
            netns, pod = self._node.netns(self._sandbox), self._pod.metadata
            identity = (
                ("IgnoreUnknown", "1"),
                ("K8S_POD_NAMESPACE", pod.namespace),
                ("K8S_POD_NAME", pod.name),
                ("K8S_POD_INFRA_CONTAINER_ID", self._container_id()),
                ("K8S_POD_UID", pod.uid),
            )
            mapped = port_mappings(self._pod)
            able = {**bandwidth(pod.annotations), **({"portMappings": mapped} if mapped else {})}
            self._attachment = await self._node.cni.add(
                netns, self._container_id(), arguments=identity, capabilities=able
            )
        files.update(self._node.files(self._pod, self.ip))
        self.show()

    def _container_id(self) -> str:
        """CNI's name for the sandbox: 64 hex digits, as runtimes have them."""
        return self._pod.metadata.uid.replace("-", "") * 2

    async def _initialize(self, container: Container) -> bool:
        """Run an init container to its end; a sidecar until it has started. False when the pod failed with it."""
        loop = self._loops[container.name]
        if container.restart_policy == "Always":
            loop.task = self.spawn(loop.keep_running())
            for delay in itertools.chain(EAGER, itertools.repeat(0.2)):
                if loop.state.started:
                    break
                await asyncio.sleep(delay)
            return True
        while True:
            status = await loop.run_once()
            if status.code == 0:
                loop.state.ready = True
                self.show()
                return True
            if self.restart_policy == "Never":
                return False
            await loop.back_off()

    async def _run(self, loop: ContainerLoop) -> None:
        """A container's life; with that of the last one the pod's is over."""
        await loop.keep_running()
        others = [self._loops[c.name].task for c in self._pod.spec.containers if c.name != loop.name]
        if self._stopping is None and all(task is None or task.done() for task in others):
            self.spawn(self._finish(self.grace))

    # -- going down

    async def _finish(self, grace: float) -> None:
        """The pod has run its course: stop what is left, give its address back; its object stays, with its last address."""
        if self._stopping is not None:
            return
        self._stopping = grace
        await self._stop_containers(grace)
        await self._clean_up(grace)
        if self._way is not None:  # deleted meanwhile
            await self._way(0.0)
            return
        self._stopping = None  # a deletion will still have its own part to do
        self.show()

    async def _take_down(self, grace: float) -> None:
        await self._stop_containers(grace)
        await self._clean_up(grace)
        if self._writer is not None:
            self._writer.cancel()
        if self._setup is not None:
            await self._write_status(final=True)
        meta = self._pod.metadata
        for delay in _growing():
            if await self._write(Delete(kinds.POD, meta.namespace, meta.name, meta.uid, grace=0)):
                return
            await asyncio.sleep(delay)

    async def _settle_setup(self) -> None:
        """Nothing new is started from here on; a sandbox that is being made is finished first."""
        mine = asyncio.current_task()
        if self._setup is not None and self._setup is not mine and not self._setup.done():
            self._setup.cancel()
            await asyncio.wait([self._setup])
        if self._networking is not None and not self._networking.done():
            await asyncio.wait([self._networking])
        if self._networking is not None and not self._networking.cancelled():
            self._networking.exception()  # taken note of: the pod's end takes down what it left

    async def _stop_containers(self, grace: float) -> None:
        """All at once, sidecars after the others and in reverse order (KEP-753)."""
        await self._settle_setup()
        sidecars = [c.name for c in self._pod.spec.init_containers if c.restart_policy == "Always"]
        await asyncio.gather(*(self._stop(loop, grace) for loop in self._loops.values() if loop.name not in sidecars))
        for name in reversed(sidecars):
            await self._stop(self._loops[name], grace)

    async def _stop(self, loop: ContainerLoop, grace: float) -> None:
        if loop.running is None:
            if loop.task is not None:
                loop.task.cancel()
            return
        grace = min(grace, self._stopping if self._stopping is not None else grace)
        await loop.kill(f"Stopping container {loop.name}", grace)
        if loop.task is not None:
            await asyncio.wait([loop.task], timeout=LAST_WORDS)

    async def _clean_up(self, grace: float) -> None:
        """Everything of the pod's on the node goes; what refuses is tried again until it does."""
        await self._settle_setup()
        if self._deadline is not None:
            self._deadline.cancel()
        mine = asyncio.current_task()
        for task in [t for t in self._tasks if t is not mine and t is not self._writer]:
            task.cancel()
        await self._drop_sandbox()

    async def _drop_sandbox(self) -> None:
        """Give back address, namespaces and volumes; what refuses is tried again until it does."""
        for delay in _growing():
            try:
                if self._attachment:
                    netns = self._node.netns(self._sandbox) if self._sandbox else None
                    await self._node.cni.delete(self._attachment.network, self._container_id(), netns)
                    self._attachment = None
                if self._sandbox:
                    await self._sandbox.remove()
                    self._sandbox = None
                self._node.discard_volumes(self._pod)
                return
            except (GlassnetError, OSError) as error:
                await self.event("Warning", "FailedKillPod", f"error killing pod: {error}")
                await asyncio.sleep(delay)

    # -- telling

    def show(self) -> None:
        """Have the status written soon; changes that come together are written together."""
        self._dirty = True
        if self._writer is None:
            self._writer = self.spawn(self._write_statuses())

    async def _write_statuses(self) -> None:
        try:
            while self._dirty:
                self._dirty = False
                if not await self._write_status():
                    self._dirty = True
                    await asyncio.sleep(RETRY)
        finally:
            self._writer = None

    async def _write_status(self, final: bool = False) -> bool:
        """Write what has changed; False when the API could not take it."""
        pod = self._node.current(self._pod)
        states = {name: loop.state for name, loop in self._loops.items()}
        status = pod_status.compute(
            pod,
            states,
            self.ips or tuple(one.ip for one in pod.status.pod_ips),
            self._node.addresses,
            self._start,
            self._node.now(),
            self._sandbox is not None,
            self._failure,
        )
        if final and status["phase"] == "Running":
            status["phase"] = pod_status.phase_at_end(states.values())
        changed = {name: value for name, value in status.items() if self._status.get(name) != value}
        if not changed:
            return True
        meta = pod.metadata
        if await self._write(Patch(kinds.POD, meta.namespace, meta.name, {"status": changed}, "status")):
            self._status = status
            return True
        return False

    async def event(self, type: str, reason: str, message: str, container: str = "") -> None:
        """Record an Event about the pod, or a container of it."""
        meta = self._pod.metadata
        about = {"kind": "Pod", "apiVersion": "v1", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid}
        if container:
            inits = any(c.name == container for c in self._pod.spec.init_containers)
            about["fieldPath"] = f"spec.{'initContainers' if inits else 'containers'}{{{container}}}"
        await self._write(Record(about, type, reason, message, f"kubelet, {self._node.name}"))

    async def _write(self, change: Any) -> bool:
        """True when the API took it, or never will as the object is gone."""
        try:
            await self._node.write(change)
        except ApiError as error:
            if error.status in (404, 409):
                return True
            log.warning("pod %s/%s: %s", self._pod.metadata.namespace, self._pod.metadata.name, error)
            return False
        except Exception:
            # an API that breaks must not take the pods with it: they go on, and what is owed to it is tried again
            log.exception("pod %s/%s: write to the API", self._pod.metadata.namespace, self._pod.metadata.name)
            return False
        return True


def port_mappings(pod: Pod) -> list[dict[str, Any]]:
    """The host ports of a pod as the capability portMappings has them, those of sidecars too (kubelet's MakePortMappings)."""
    sidecars = [one for one in pod.spec.init_containers if one.restart_policy == "Always"]
    return [
        {
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol.lower(),
            **({"hostIP": port.host_ip} if port.host_ip else {}),
        }
        for container in (*sidecars, *pod.spec.containers)
        for port in container.ports
        if port.host_port
    ]
