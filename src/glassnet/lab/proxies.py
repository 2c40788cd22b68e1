"""The Service proxies of a lab's nodes: started together, switched from one mode to the other without a gap."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping

from glassnet.agent.proxy.family import SharedCompute
from glassnet.agent.proxy.loop import ProxyLoop, ProxySettings
from glassnet.agent.proxy.observers import Observers
from glassnet.agent.proxy.servers import HealthCheckNodePorts, Listening, health_handler
from glassnet.kernel.api import Machine
from glassnet.kube.change import Record
from glassnet.kube.view import Key, View
from glassnet.net import address
from glassnet.net.errors import KernelError, LabError
from glassnet.proxy.health import ProxyHealth

log = logging.getLogger(__name__)
HEALTHZ = 10256


class Proxies:
    """One proxy a node."""

    def __init__(
        self, view: View, machines: Mapping[str, Machine], settings: ProxySettings, report: Callable[[Record], None]
    ) -> None:
        self._view, self._machines, self._report = view, machines, report
        self.settings = settings
        self._shared = SharedCompute(view)
        self._loops: dict[str, tuple[ProxyLoop, asyncio.Task[None]]] = {}
        self._health: dict[str, ProxyHealth] = {}
        self._checks: dict[str, HealthCheckNodePorts] = {}
        self._servers: list[Listening] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._switching = asyncio.Lock()

    async def start(self) -> None:
        """A proxy and its health servers on every node."""
        for name, machine in self._machines.items():
            await self._serve_health(name, machine)
            self._run(name)

    def settled(self) -> bool:
        """True when every node's kernel has what the View says."""
        return all(loop.settled.is_set() for loop, _ in self._loops.values())

    async def run(self) -> None:
        """Until a proxy ends, which none should; raises what ended it."""
        await self._ended

    def _run(self, name: str) -> None:
        observers = Observers(None, self._health[name], self._checks[name], self.settings.families)
        machine = self._machines[name]
        loop = ProxyLoop(
            self._view, machine, name, self.settings, shared=self._shared, report=self._report, observers=observers
        )
        task = asyncio.create_task(loop.run())
        task.add_done_callback(self._on_end)
        self._loops[name] = (loop, task)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not self._ended.done() and (error := task.exception()):
            self._ended.set_exception(error)

    async def _serve_health(self, name: str, machine: Machine) -> None:
        """/healthz and /livez on all addresses, as load balancers ask them; health check node ports as Services want them."""
        health = ProxyHealth(self.settings.families, self.settings.sync_period, time.time())
        health.set_node(self._view.nodes.get(Key("", name)))
        self._health[name] = health
        server = Listening(machine.netns, health_handler(health))
        try:
            for place in self._places():
                await server.open(place, HEALTHZ)
        except KernelError as error:
            log.warning("node %s: %s", name, error)
        self._servers.append(server)

        def failed(namespace: str, service: str, port: int, reason: str) -> None:
            about = {"kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": service}
            message = f"node {name} failed to start healthcheck {namespace}/{service} on port {port}: {reason}"
            self._report(Record(about, "Warning", "FailedToStartServiceHealthcheck", message, "glassnet-proxy"))

        self._checks[name] = HealthCheckNodePorts(
            machine.netns, self._places(), lambda: health.healthy(time.time()), failed
        )

    def _places(self) -> tuple[str, ...]:
        """Where health is told: on all addresses of the families there are."""
        return tuple("::" if family == address.IPV6 else "0.0.0.0" for family in self.settings.families)

    async def end(self) -> float:
        """End all; their rules stay, as those of a kube-proxy do that is stopped. The seconds it took."""
        async with self._switching:
            begun = time.monotonic()
            loops, self._loops = self._loops, {}
            for loop, _ in loops.values():
                await loop.stop(sweep=False)
            for server in self._servers:
                await server.close()
            for checks in self._checks.values():
                await checks.close()
            self._servers.clear()
            self._checks.clear()
            return time.monotonic() - begun

    async def switch(self, mode: str, layout: str = "") -> float:
        """Have every node in another mode, or layout of its iptables chains ("": as it is), those that had ended too; the seconds it took.

        The old rules go once the new ones are in place, and translations of connections live in conntrack: none breaks.
        Raises LabError when a node does not get there in 60 s.
        """
        async with self._switching:
            begun, before = time.monotonic(), self.settings
            self.settings = dataclasses.replace(before, mode=mode, iptables_layout=layout or before.iptables_layout)
            if not self._loops:
                await self.start()
            elif self.settings != before:
                for name, (loop, _) in list(self._loops.items()):
                    await loop.stop(sweep=False)
                    self._run(name)
            for name, (loop, task) in self._loops.items():
                waiting = asyncio.ensure_future(loop.first_sync.wait())
                await asyncio.wait([waiting, task], timeout=60, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if not loop.synced:
                    raise LabError(f"node {name} has no rules in mode {mode} yet; see the lab's log")
            return time.monotonic() - begun
