"""A kubelet's surroundings for tests: a clock that jumps to the next timer, a real API server in memory, and a runtime without a kernel.

The runtime's fake is held to the contract of `kube.runtime` by mypy's reading of its Protocols, and to the real one's behaviour by
tests/kernel/test_kubelet_pods.py, which runs the same pods on the real runtime.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from glassnet.agent.cni.runtime import Attachment
from glassnet.agent.pods.kubelet import Kubelet, NodeConfig, dispatch
from glassnet.apiserver.local import LocalApi, feed
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.runtime import ExitStatus
from glassnet.kube.types import Container, Pod
from glassnet.kube.view import View
from glassnet.net.errors import GlassnetError

T = TypeVar("T")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for time to pass it lets the loop's clock jump."""

    jumped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout:
            self.jumped += timeout
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose hours pass in milliseconds."""

    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.jumped


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a jumping clock."""
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class FakeRunning:
    """A container that ends when told to, or when stopped."""

    def __init__(self, world: World, name: str, attempt: int) -> None:
        self.id = f"glassnet://{name}-{attempt}"
        self.started_at = world.now()
        self.name, self.attempt = name, attempt
        self.deaf = False  # to SIGTERM
        self.stopped_with: list[float] = []
        self._end: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    def exit(self, code: int, reason: str = "") -> None:
        if not self._end.done():
            self._end.set_result(ExitStatus(code, reason or ("Completed" if code == 0 else "Error")))

    async def wait(self) -> ExitStatus:
        return await asyncio.shield(self._end)

    async def stop(self, grace: float) -> ExitStatus:
        self.stopped_with.append(grace)
        if not self.deaf:
            self.exit(0)
        elif grace:
            await asyncio.wait([self._end], timeout=grace)
        self.exit(137)
        return await self.wait()


class FakeSandbox:
    """A sandbox without namespaces."""

    def __init__(self, world: World, pod: Pod, files: Mapping[str, str]) -> None:
        self.world, self.pod, self.files = world, pod, files
        self.netns_path, self.netns_fd, self.kernel = "/run/netns/cni-x", -1, self
        self.netns = self
        self.running: dict[str, FakeRunning] = {}
        self.removed = False

    async def start(
        self, container: Container, env: Mapping[str, str], mounts: Mapping[str, str], attempt: int
    ) -> FakeRunning:
        if self.removed:
            raise GlassnetError("its sandbox has been removed")
        if error := self.world.start_errors.get(container.name):
            raise error
        made = self.running[container.name] = FakeRunning(self.world, container.name, attempt)
        self.world.started.append((container.name, container.image, dict(env), dict(mounts), attempt))
        self.world.on_start.get(container.name, lambda _: None)(made)
        return made

    async def exec_probe(self, container: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        answer = self.world.probe_answers.get(command[0], (0, ""))
        if callable(answer):
            return await answer()
        return answer

    async def dial(self, host: str, port: int, timeout: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise ConnectionRefusedError(111, "Connection refused")

    async def remove(self) -> None:
        self.removed = True
        for running in self.running.values():
            running.exit(137)


class FakeRuntime:
    def __init__(self, world: World) -> None:
        self.world = world

    async def sandbox(self, pod: Pod, files: Mapping[str, str]) -> FakeSandbox:
        await asyncio.sleep(0.01)  # making namespaces takes a moment
        if self.world.sandbox_errors:
            raise self.world.sandbox_errors.pop(0)
        made = FakeSandbox(self.world, pod, files)
        self.world.sandboxes.append(made)
        return made

    def stand_in(self, container: Container) -> str:
        return ""


class FakeCni:
    """Addresses without links; knows which are out."""

    def __init__(self) -> None:
        self.out: dict[str, str] = {}
        self.number = 1
        self.delete_errors: list[GlassnetError] = []

    async def add(self, netns: Any, container_id: str, **options: Any) -> Attachment:
        assert container_id not in self.out, "a container is added once"
        self.number += 1
        self.out[container_id] = f"10.200.0.{self.number}"
        await asyncio.sleep(0.005)
        return Attachment((self.out[container_id],), "bridge")

    async def delete(self, network: str, container_id: str, netns: Any = None, ifname: str = "eth0") -> None:
        if self.delete_errors:
            raise self.delete_errors.pop(0)
        self.out.pop(container_id, None)

    async def sweep(self, keep: Any = ()) -> None:
        return None

    async def serve(self) -> None:
        return None

    async def close(self) -> None:
        return None


class FakeMachine:
    """A machine whose disk is a directory."""

    def __init__(self, root: Path) -> None:
        self.name, self.root, self.netns = "worker-0", root, None

    async def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 30.0) -> bytes:
        raise AssertionError(f"no programs here: {argv}")


class World:
    """A node's kubelet on an API of its own."""

    def __init__(self, root: Path) -> None:
        self.loop = asyncio.get_running_loop()
        self.view = View()
        self.server = ApiServer(Store(":memory:"), now=self.now, random=random.Random(1), service_cidr="10.32.0.0/24")
        self.api = LocalApi(self.server)
        feed(self.server, self.view)
        self.sandboxes: list[FakeSandbox] = []
        self.started: list[tuple[str, str, dict[str, str], dict[str, str], int]] = []
        self.on_start: dict[str, Callable[[FakeRunning], None]] = {}
        self.probe_answers: dict[str, tuple[int, str] | Callable[[], Awaitable[tuple[int, str]]]] = {}
        self.start_errors: dict[str, GlassnetError] = {}
        self.sandbox_errors: list[Exception] = []
        self.patches = 0
        self.root = root
        self.kubelet = self.new_kubelet()
        self._unsubscribe = dispatch(self.view, {"worker-0": self.kubelet})

    def new_kubelet(self) -> Kubelet:
        config = NodeConfig("worker-0", "10.240.0.20", "203.0.113.20", "10.200.0.0/24")
        made = Kubelet(self.view, self.api, FakeMachine(self.root), FakeRuntime(self), config, now=self.now)  # type: ignore[arg-type]
        self.cni = FakeCni()
        made.cni = self.cni  # type: ignore[assignment]
        return made

    async def restart_agent(self) -> None:
        """The process ends, its sandboxes with it; a new one finds the objects."""
        self._unsubscribe()
        await self.kubelet.stop()
        self.kubelet = self.new_kubelet()
        self._unsubscribe = dispatch(self.view, {"worker-0": self.kubelet})

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.loop.time())

    @property
    def seconds(self) -> float:
        return self.loop.time()

    async def pod(self, *containers: dict[str, Any], name: str = "web", **spec: Any) -> None:
        """Create a pod bound to the node."""
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "worker-0", "containers": list(containers), **spec},
        }
        await self.api.create(kinds.POD, "default", body)

    async def status(self, name: str = "web") -> dict[str, Any]:
        return dict((await self.api.get(kinds.POD, "default", name)).get("status") or {})

    async def conditions(self, name: str = "web") -> dict[str, dict[str, Any]]:
        return {c["type"]: c for c in (await self.status(name))["conditions"]}

    async def container(self, which: int = 0, name: str = "web", key: str = "containerStatuses") -> dict[str, Any]:
        return dict((await self.status(name))[key][which])

    async def events(self, reason: str = "") -> list[str]:
        found = await self.api.list(kinds.EVENT, "default")
        return [event["message"] for event in found if not reason or event["reason"] == reason]

    def running(self, container: str = "c") -> FakeRunning:
        return self.sandboxes[-1].running[container]

    async def exists(self, name: str = "web") -> bool:
        return any(pod["metadata"]["name"] == name for pod in await self.api.list(kinds.POD, "default"))

    async def delete(self, grace: int | None = None, name: str = "web") -> None:
        await self.api.delete(kinds.POD, "default", name, grace=grace)

    async def until(self, seconds: float) -> None:
        """Let the clock reach so many seconds since the beginning."""
        await asyncio.sleep(max(0.0, seconds - self.seconds))


def c(name: str = "c", image: str = "nginx", **more: Any) -> dict[str, Any]:
    """A container."""
    return {"name": name, "image": image, **more}


def scenario(root: Path, play: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Play in a fresh world on a jumping clock."""

    async def whole() -> None:
        world = World(root)
        for name in ("default", "kube-node-lease"):
            try:
                await world.api.create(kinds.NAMESPACE, "", {"metadata": {"name": name}})
            except GlassnetError:
                continue  # the server makes some by itself
        await play(world)
        await world.kubelet.stop()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()

    run(whole())
