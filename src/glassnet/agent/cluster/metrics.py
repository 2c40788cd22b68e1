"""The controller's numbers. leader_election_master_status is the name Kubernetes' own components use (component-base)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from glassnet.agent.leader import Standing
from glassnet.agent.proxy.metrics import CONTENT_TYPE

Facts = Callable[[], tuple[Standing, dict[str, int]]]


class _Now(Collector):
    """What holds at the moment somebody asks."""

    def __init__(self, lease: str, facts: Facts) -> None:
        self._lease, self._facts = lease, facts

    def collect(self) -> Iterable[GaugeMetricFamily]:
        standing, reasons = self._facts()
        master = GaugeMetricFamily("leader_election_master_status", "1 for the one that works, 0 for one that waits", labels=["name"])  # fmt: skip
        master.add_metric([self._lease], float(standing.leading))
        yield master
        yield GaugeMetricFamily("glassnet_controller_lease_transitions", "How often the Lease changed hands", float(standing.transitions))  # fmt: skip
        yield GaugeMetricFamily("glassnet_controller_lease_contact_age_seconds", "Since the Lease was last read or written; -1 never", standing.contact_age)  # fmt: skip
        nodes = GaugeMetricFamily("glassnet_controller_nodes", "Nodes by the reason of their NetworkUnavailable condition", labels=["reason"])  # fmt: skip
        for reason, count in sorted(reasons.items()):
            nodes.add_metric([reason], float(count))
        yield nodes

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing is asked at registration."""
        return []


class ControllerMetrics:
    """One controller's numbers, in a registry of its own; `facts` tells how it stands and Nodes by reason."""

    def __init__(self, lease: str, facts: Facts) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Now(lease, facts))
        self._patches = Counter("glassnet_controller_patches", "Patches of Nodes", ["what"], registry=self.registry)
        self._failures = Counter("glassnet_controller_watch_failures", "Watches of Nodes that failed", registry=self.registry)  # fmt: skip
        for what in ("conditions", "podcidrs"):
            self._patches.labels(what)

    def patched(self, what: str) -> None:
        """A patch went through: "conditions" or "podcidrs"."""
        self._patches.labels(what).inc()

    def watch_failed(self) -> None:
        """A watch failed and will be tried again."""
        self._failures.inc()

    def render(self) -> tuple[bytes, str]:
        """The text Prometheus reads, and its content type."""
        lines = generate_latest(self.registry).splitlines(keepends=True)
        return b"".join(line for line in lines if b"_created" not in line), CONTENT_TYPE
