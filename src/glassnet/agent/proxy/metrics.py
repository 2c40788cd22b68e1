"""kube-proxy's metrics, under its names, so that dashboards and alerts that know them work.

Source: kube-proxy 1.36, pkg/proxy/metrics: names, labels, buckets; Kubernetes reference, "Kubernetes Metrics Reference".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WHOLE = re.compile(rb'le="(\d+)\.0"')
_NFACCT = (
    ("iptables_ct_state_invalid_dropped_packets_total", "ct_state_invalid_dropped_pkts", "Packets in no valid connection that a rule dropped"),
    ("iptables_localhost_nodeports_accepted_packets_total", "localhost_nps_accepted_pkts", "Packets to node ports on 127.0.0.1"),
)  # fmt: skip
_SYNC = [0.001 * 2**power for power in range(15)]
_PROGRAMMING = [0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30)]
_FAMILY = ["ip_family"]


class _Packets(Collector):
    """What rules of the iptables mode count, read when somebody asks."""

    def __init__(self, counters: Callable[[str], int]) -> None:
        self._counters = counters

    def collect(self) -> Iterable[CounterMetricFamily]:
        for name, counter, text in _NFACCT:
            yield CounterMetricFamily(f"kubeproxy_{name}", f"[ALPHA] {text}", float(self._counters(counter)))

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Their names, without reading the counters."""
        return [CounterMetricFamily(f"kubeproxy_{name}", text) for name, _, text in _NFACCT]


class ProxyMetrics:
    """One proxy's numbers, in a registry of its own. `started`: seconds since 1970; `counters` reads an nfacct object of the iptables mode."""

    def __init__(self, started: float, counters: Callable[[str], int] | None = None) -> None:
        self._started = started
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        latency = "Seconds a sync takes"
        self._sync = self._histogram("sync_proxy_rules_duration_seconds", latency, _SYNC)
        self._full = self._histogram(
            "sync_full_proxy_rules_duration_seconds", f"{latency} that compares everything", _SYNC
        )
        self._partial = self._histogram("sync_partial_proxy_rules_duration_seconds", f"{latency} of what changed", _SYNC)  # fmt: skip
        self._last = self._gauge("sync_proxy_rules_last_timestamp_seconds", "When rules were last in place")  # fmt: skip
        self._queued = self._gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for")  # fmt: skip
        self._programming = self._histogram("network_programming_duration_seconds", "Seconds from a change of endpoints to rules in place", _PROGRAMMING)  # fmt: skip
        self._changes = {
            kind.lower(): (
                self._gauge(f"sync_proxy_rules_{kind.lower()}_changes_pending", f"{kind} changes that wait", []),
                self._counter(f"sync_proxy_rules_{kind.lower()}_changes", f"{kind} changes carried out", []),
            )
            for kind in ("Endpoint", "Service")
        }  # fmt: skip
        self._no_local = self._gauge("sync_proxy_rules_no_local_endpoints_total", "Service ports whose Local policy has no endpoint here", [*_FAMILY, "traffic_policy"])  # fmt: skip
        self._conntrack = self._histogram("conntrack_reconciler_sync_duration_seconds", "Seconds a search for stale UDP flows takes", _SYNC)  # fmt: skip
        self._deleted = self._counter("conntrack_reconciler_deleted_entries", "Stale UDP flows that were ended")  # fmt: skip
        self._healthz = self._counter("proxy_healthz", "Answers of /healthz", ["code"])
        self._livez = self._counter("proxy_livez", "Answers of /livez", ["code"])
        table = [*_FAMILY, "table"]
        self._rules = self._gauge("sync_proxy_rules_iptables_total", "Rules of ours in a table", table)  # fmt: skip
        self._written = self._gauge("sync_proxy_rules_iptables_last", "Rules the last sync wrote", table)  # fmt: skip
        self._restore = self._counter("sync_proxy_rules_iptables_restore_failures", "Loads of rules that failed")  # fmt: skip
        self._partial_restore = self._counter("sync_proxy_rules_iptables_partial_restore_failures", "Loads of changed rules that failed")  # fmt: skip
        self._nftables = self._counter("sync_proxy_rules_nftables_sync_failures", "Transactions that failed")  # fmt: skip
        self._cleanup = self._counter("sync_proxy_rules_nftables_cleanup_failures", "Removals of old chains that failed")  # fmt: skip
        if counters is not None:
            self.registry.register(_Packets(counters))

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        text = f"[ALPHA] {text}"
        return Histogram(f"kubeproxy_{name}", text, _FAMILY, registry=self.registry, buckets=tuple(buckets))

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        labels = _FAMILY if labels is None else labels
        return Gauge(f"kubeproxy_{name}", f"[ALPHA] {text}", labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        """`name` is without the "_total" that the exposition adds."""
        labels = _FAMILY if labels is None else labels
        return Counter(f"kubeproxy_{name}", f"[ALPHA] {text}", labels, registry=self.registry)

    def sync_done(self, family: str, seconds: float, full: bool, now: float) -> None:
        """A family's rules are in place."""
        self._sync.labels(family).observe(seconds)
        (self._full if full else self._partial).labels(family).observe(seconds)
        self._last.labels(family).set(now)

    def queued(self, family: str, now: float) -> None:
        """A sync is asked for."""
        self._queued.labels(family).set(now)

    def programmed(self, family: str, triggers: Iterable[float], now: float) -> None:
        """Changes that happened at these times are in place; those from before our start say nothing about us."""
        for when in triggers:
            if when >= self._started:
                self._programming.labels(family).observe(max(0.0, now - when))

    def changes(self, kind: str, pending: int, done: int) -> None:
        """Changes of "endpoint"s or "service"s that wait, and further ones carried out."""
        gauge, counter = self._changes[kind]
        gauge.set(pending)
        counter.inc(done)

    def iptables_rules(self, family: str, table: str, total: int, written: int) -> None:
        """Rules of a table."""
        self._rules.labels(family, table).set(total)
        self._written.labels(family, table).set(written)

    def failed(self, mode: str, family: str, full: bool) -> None:
        """A sync failed. As with kube-proxy, a failed partial one counts among all failures, too."""
        if mode == "nftables":
            self._nftables.labels(family).inc()
            return
        self._restore.labels(family).inc()
        if not full:
            self._partial_restore.labels(family).inc()

    def no_local_endpoints(self, family: str, policy: str, count: int) -> None:
        """Service ports that drop traffic of a policy ("internal", "external")."""
        self._no_local.labels(family, policy).set(count)

    def conntrack(self, family: str, seconds: float, deleted: int) -> None:
        """Stale UDP flows were looked for."""
        self._conntrack.labels(family).observe(seconds)
        self._deleted.labels(family).inc(deleted)

    def answered(self, path: str, code: int) -> None:
        """An answer of /healthz or /livez."""
        (self._healthz if path == "/healthz" else self._livez).labels(str(code)).inc()

    def render(self) -> tuple[bytes, str]:
        """The text Prometheus reads, and its content type."""
        return render_registry(self.registry), CONTENT_TYPE


def render_registry(registry: CollectorRegistry) -> bytes:
    """The text Prometheus reads; without the times at which series were made, bounds spelled as Go does (1, not 1.0)."""
    text = generate_latest(registry)
    kept = [line for line in text.splitlines(keepends=True) if b"_created" not in line]
    return _WHOLE.sub(rb'le="\1"', b"".join(kept))
