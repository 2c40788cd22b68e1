"""The agent's numbers for Prometheus: its watches, routes, CNI calls, the event loop. The proxy's are kube-proxy's, in `agent.proxy.metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from glassnet import __version__
from glassnet.agent.proxy.metrics import CONTENT_TYPE, ProxyMetrics, render_registry
from glassnet.client.watches import Standing

_CALLS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_LAG = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
TICK = 1.0  # seconds between looks at how late the event loop is


class _Watches(Collector):
    """How the watches stand, read when somebody asks."""

    def __init__(self, standing: Callable[[], list[Standing]]) -> None:
        self._standing = standing

    def collect(self) -> Iterable[Metric]:
        """One series a kind."""
        age = GaugeMetricFamily(
            "glassnet_watch_last_contact_seconds",
            "Seconds since the API server last spoke of a kind; -1: never",
            labels=["resource"],
        )
        synced = GaugeMetricFamily("glassnet_watch_synced", "1 when the first list of a kind came whole", labels=["resource"])  # fmt: skip
        forbidden = GaugeMetricFamily("glassnet_watch_forbidden", "1 when we may not watch a kind", labels=["resource"])
        restarts = CounterMetricFamily("glassnet_watch_restarts", "Watches that began anew", labels=["resource"])
        relists = CounterMetricFamily("glassnet_watch_relists", "Lists that were asked for", labels=["resource"])
        now = time.monotonic()
        for each in self._standing():
            name = [each.kind.plural]
            age.add_metric(name, now - each.last_contact if each.last_contact else -1.0)
            synced.add_metric(name, float(each.synced))
            forbidden.add_metric(name, float(each.forbidden))
            restarts.add_metric(name, float(each.restarts))
            relists.add_metric(name, float(each.relists))
        return [age, synced, forbidden, restarts, relists]

    def describe(self) -> Iterable[Metric]:
        """None: they are the same whenever somebody asks."""
        return []


class AgentMetrics:
    """All numbers of one agent; `proxy` are those of its proxy, if it has one."""

    def __init__(self, standing: Callable[[], list[Standing]], proxy: ProxyMetrics | None) -> None:
        self._proxy = proxy
        self.registry = CollectorRegistry()
        if proxy is None:
            ProcessCollector(registry=self.registry)
        self.registry.register(_Watches(standing))
        build = Gauge("glassnet_build_info", "The version that runs", ["version"], registry=self.registry)
        build.labels(__version__).set(1)
        self.routes = Gauge(
            "glassnet_routes", "Routes to pods of other nodes that are in place", registry=self.registry
        )
        self.problems = Gauge("glassnet_route_problems", "Nodes whose pods have no route", registry=self.registry)
        self.ready = Gauge("glassnet_part_ready", "1 when a part of the agent is programmed", ["part"], registry=self.registry)  # fmt: skip
        self._calls = Counter("glassnet_cni_requests", "CNI calls", ["command", "result"], registry=self.registry)
        self._took = Histogram("glassnet_cni_request_duration_seconds", "Seconds a CNI call takes", ["command"], buckets=_CALLS, registry=self.registry)  # fmt: skip
        self._lag = Histogram("glassnet_event_loop_lag_seconds", "How late the event loop comes to what is due", buckets=_LAG, registry=self.registry)  # fmt: skip

    def call(self, command: str, good: bool, seconds: float) -> None:
        """A CNI call has ended. What a caller names that is no command counts as "other"."""
        name = command if command in COMMANDS else "other"
        self._calls.labels(name, "success" if good else "error").inc()
        self._took.labels(name).observe(seconds)

    async def measure_lag(self, tick: Callable[[], None]) -> None:
        """Until cancelled: once a second look how late the loop is, then `tick`."""
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self._lag.observe(max(0.0, time.monotonic() - due))
            tick()

    def render(self) -> tuple[bytes, str]:
        """The text Prometheus reads, and its content type."""
        rest = self._proxy.render()[0] if self._proxy is not None else b""
        return render_registry(self.registry) + rest, CONTENT_TYPE
