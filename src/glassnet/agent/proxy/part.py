"""The Service proxy as one part of a process that has a View of the API: the loop with its health, metrics and health check node ports."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from glassnet.agent.proxy.loop import ProxyLoop
from glassnet.agent.proxy.metrics import ProxyMetrics
from glassnet.agent.proxy.observers import Observers
from glassnet.agent.proxy.servers import HealthCheckNodePorts
from glassnet.agent.proxy.settings import NodeRanges, check_addresses, families, proxy_settings
from glassnet.kernel.api import Host
from glassnet.kernel.counters import Counters
from glassnet.kube.change import Record
from glassnet.kube.view import Key, View
from glassnet.proxy.config import ProxyConfig, seconds
from glassnet.proxy.health import ProxyHealth

log = logging.getLogger(__name__)


class ProxyPart:
    """A node's proxy. `report` takes Events; `ended` hears why it cannot go on as it is (the node's ranges moved)."""

    def __init__(
        self,
        config: ProxyConfig,
        view: View,
        machine: Host,
        node: str,
        report: Callable[[Record], None],
        ended: Callable[[str], None],
        *,
        iptables_tool: str = "",
        ranges: NodeRanges | None = None,
    ) -> None:
        self.config, self._view, self._machine, self._node = config, view, machine, node
        self._report, self._tool = report, iptables_tool
        self._ranges = ranges or NodeRanges(view, node, ended)
        self.mode = config.mode or "iptables"
        self.health = ProxyHealth(families(), seconds(config.backend.sync_period), time.time())
        counters = Counters(machine.netns)
        self.metrics = ProxyMetrics(time.time(), counters.packets if self.mode == "iptables" else None)
        self.first_sync = asyncio.Event()
        self.observers: Observers | None = None
        self._checks: HealthCheckNodePorts | None = None
        self._loop: ProxyLoop | None = None

    async def run(self) -> None:
        """Until `stop`. Start it when the View has Services and EndpointSlices whole."""
        settings = await proxy_settings(self.config, self._view, self._ranges, self._tool)
        self._checks = HealthCheckNodePorts(
            self._machine.netns,
            check_addresses(self.config, self._machine),
            lambda: self.health.healthy(time.time()),
            self._check_failed,
        )
        self.observers = Observers(self.metrics, self.health, self._checks, settings.families)
        self.health.set_node(self._view.nodes.get(Key("", self._node)))
        self._loop = ProxyLoop(
            self._view, self._machine, self._node, settings, report=self._report, observers=self.observers
        )
        self._loop.first_sync = self.first_sync
        log.info("proxy of %s: mode %s, %s", self._node, self.mode, " and ".join(settings.families))
        await self._loop.run()

    async def stop(self) -> None:
        """End `run`, never in the middle of a transaction; rules stay."""
        if self._loop is not None:
            await self._loop.stop(sweep=False)
        if self._checks is not None:
            await self._checks.close()

    def stuck(self, now: float) -> bool:
        """Whether a change waits and for twice the sync period no sync has come to an end, good or bad. `now` in seconds since 1970."""
        tried = self.observers.attempted if self.observers else 0.0
        patience = 2 * seconds(self.config.backend.sync_period)
        return not self.health.healthy(now) and bool(tried) and now - tried > patience

    def _check_failed(self, namespace: str, name: str, port: int, reason: str) -> None:
        about = {"kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": name}
        message = f"node {self._node} failed to start healthcheck {namespace}/{name} on port {port}: {reason}"
        self._report(Record(about, "Warning", "FailedToStartServiceHealthcheck", message, "glassnet-proxy"))


def about_node(node: str) -> dict[str, Any]:
    """A reference to a Node, as its own kubelet makes it for Events."""
    return {"kind": "Node", "apiVersion": "v1", "name": node, "uid": node}
