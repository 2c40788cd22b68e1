"""The numbers of cluster DNS for Prometheus: records and changes, the server's process, upstreams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from glassnet.agent.proxy.metrics import CONTENT_TYPE, render_registry

_TIMES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Facts(NamedTuple):
    """How things stand; `upstreams` by address: alive, dead or loop."""

    records: int
    zones: int
    problems: int
    ready: bool
    starts: int
    mended: int
    upstreams: dict[str, str]


class _Now(Collector):
    """What holds when somebody asks."""

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """A series for each fact."""
        facts = self._facts()
        yield GaugeMetricFamily("glassnet_dns_records", "Records that are served", float(facts.records))
        yield GaugeMetricFamily("glassnet_dns_zones", "Zones that are served", float(facts.zones))
        yield GaugeMetricFamily("glassnet_dns_problems", "What Services ask for and do not get", float(facts.problems))
        yield GaugeMetricFamily("glassnet_dns_ready", "1 when queries are answered out of complete zones", float(facts.ready))  # fmt: skip
        yield CounterMetricFamily("glassnet_dns_server_starts", "Starts of the DNS server", float(facts.starts))
        yield CounterMetricFamily("glassnet_dns_server_mended", "Starts because its records could not be changed", float(facts.mended))  # fmt: skip
        upstreams = GaugeMetricFamily("glassnet_dns_upstream", "1 for the state an upstream is in", labels=["server", "state"])  # fmt: skip
        for server, now in facts.upstreams.items():
            for state in ("alive", "dead", "loop"):
                upstreams.add_metric([server, state], float(state == now))
        yield upstreams

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked at registration."""
        return []


class DnsMetrics:
    """One server's numbers, in a registry of its own."""

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Now(facts))
        self._changed = Counter("glassnet_dns_record_changes", "Records that were changed", registry=self.registry)
        self._took = Histogram("glassnet_dns_programming_duration_seconds", "From the event to the new answer", buckets=_TIMES, registry=self.registry)  # fmt: skip
        self._failures = Counter("glassnet_dns_watch_failures", "Watches that failed", ["resource"], registry=self.registry)  # fmt: skip

    def synced(self, changed: int, seconds: float) -> None:
        """So many records changed, so long after the first event of them."""
        self._changed.inc(changed)
        self._took.observe(seconds)

    def watch_failed(self, resource: str) -> None:
        """A watch failed and will be tried again."""
        self._failures.labels(resource).inc()

    def render(self) -> tuple[bytes, str]:
        """The text Prometheus reads, and its content type."""
        return render_registry(self.registry), CONTENT_TYPE
