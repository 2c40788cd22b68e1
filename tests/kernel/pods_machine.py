"""A machine of namespaces for the tests of pods: pods on it get a veth each, and commands run on it as on a node."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from glassnet.kernel.machine import LabMachine, MachineFactory, remember_proc
from glassnet.kernel.spawn import Spawner
from glassnet.kube import kinds
from glassnet.kube.types import Container, Pod, decode
from glassnet.kube.view import Key, View
from glassnet.lab.pods.runtime import LabRuntime
from glassnet.lab.pods.sandbox import LabPod
from glassnet.lab.pods.streams import LabStreams
from glassnet.netstack.ops import AddAddress, AddRoute, AddVeth, SetLink

NODE_IP = "10.99.0.1"


class Node:
    """A machine, its runtime, and what the API would know of its pods."""

    def __init__(self, machine: LabMachine) -> None:
        self.machine, self.runtime = machine, LabRuntime(machine, "node-a")
        self.view = View()
        self.streams = LabStreams({"node-a": self.runtime}, self.view)
        self.sandboxes: list[LabPod] = []

    async def pod(self, name: str, *containers: str, **spec: Any) -> tuple[LabPod, str, tuple[Container, ...]]:
        """A sandbox with a veth to the node, unless hostNetwork; (sandbox, address, containers as the API shows them)."""
        extra = "".join(f', "{key}": {value}' for key, value in spec.items())
        text = (
            f'{{"metadata": {{"name": "{name}", "namespace": "demo", "uid": "uid-{name}"}},'
            f' "spec": {{"nodeName": "node-a", "containers": [{", ".join(containers)}]{extra}}}}}'
        )
        pod: Pod = decode(kinds.POD, text)
        self.view.apply(kinds.POD, pod)
        files = {"/etc/hosts": f"127.0.0.1 localhost\n10.99.0.1 thenode\n# {name}\n"}
        sandbox = await self.runtime.sandbox(pod, files)
        self.sandboxes.append(sandbox)
        if sandbox.identity.host_network:
            return sandbox, "127.0.0.1", pod.spec.containers
        address = f"10.99.0.{len(self.sandboxes) + 1}"
        link = f"veth{len(self.sandboxes)}"
        self.machine.netns.apply(
            [
                AddVeth(link, "eth0", peer_netns=sandbox.netns_fd),
                SetLink(link, up=True),
                AddAddress(f"{NODE_IP}/32", link, exist_ok=True),
                AddRoute(f"{address}/32", dev=link, source=NODE_IP),
            ]
        )
        sandbox.kernel.netns.apply(
            [
                AddAddress(f"{address}/24", "eth0"),
                SetLink("eth0", up=True),
            ]
        )
        return sandbox, address, pod.spec.containers

    async def run(self, *argv: str, stdin: bytes = b"") -> str:
        """Run a program on the node; what it printed."""
        return (await self.machine.run(list(argv), stdin, timeout=10)).decode()

    async def curl(self, *args: str) -> str:
        """curl from the node."""
        return await self.run("curl", "-sS", "--max-time", "5", *args)

    async def logs(self, pod: str, container: str = "", **options: Any) -> str:
        """A container's log as `kubectl logs` gets it."""
        parts = [part async for part in self.streams.logs(Key("demo", pod), container, options)]
        return b"".join(parts).decode()

    async def close(self) -> None:
        for sandbox in self.sandboxes:
            await sandbox.remove()
        await self.machine.close()


@contextlib.asynccontextmanager
async def node_of_namespaces() -> AsyncIterator[Node]:
    """A machine made of namespaces; nothing is left of it."""
    remember_proc()
    place = Path(tempfile.mkdtemp(prefix="glassnet-test-", dir="/dev/shm"))
    spawner = Spawner()
    try:
        node = Node(
            await MachineFactory(spawner, place, rootless=False).machine("node-a", {"/etc/hostname": "node-a\n"})
        )
        try:
            yield node
        finally:
            await node.close()
    finally:
        spawner.close()
        shutil.rmtree(place)


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Poll until a condition holds; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)
    return value
