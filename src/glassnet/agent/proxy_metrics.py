"""kube-proxy's metrics, under its names, so that dashboards and alerts that know them work.

Source: kube-proxy 1.36, pkg/proxy/metrics: names, labels, buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SYNC = [0.001 * 2**power for power in range(15)]
_PROGRAMMING = [0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30)]
_FAMILY = ["ip_family"]


class ProxyMetrics:
    """One proxy's numbers. `counters` reads an nfacct object of the iptables mode."""

    def __init__(self, started: float, counters: Callable[[str], int] | None = None) -> None:
        self._started = started
        self.registry = CollectorRegistry()
        self._sync = self._histogram("sync_proxy_rules_duration_seconds", "Time a sync takes.", _SYNC)
        self._full = self._histogram(
            "sync_full_proxy_rules_duration_seconds", "Time a sync of everything takes.", _SYNC
        )
        self._partial = self._histogram("sync_partial_proxy_rules_duration_seconds", "Time a sync of what changed takes.", _SYNC)  # fmt: skip
        self._last = self._gauge("sync_proxy_rules_last_timestamp_seconds", "When rules were last in place.")
        self._queued = self._gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for.")
        self._programming = self._histogram("network_programming_duration_seconds", "From the change of a pod to rules in place.", _PROGRAMMING)  # fmt: skip
        self._changes = {
            kind: (
                self._gauge(f"sync_proxy_rules_{kind}_changes_pending", f"Changes of {kind}s that wait.", []),
                self._counter(f"sync_proxy_rules_{kind}_changes", f"Changes of {kind}s that were carried out.", []),
            )
            for kind in ("endpoint", "service")
        }
        self._no_local = self._gauge("sync_proxy_rules_no_local_endpoints_total", "Service ports without an endpoint for a Local policy.", [*_FAMILY, "traffic_policy"])  # fmt: skip
        self._conntrack = self._histogram("conntrack_reconciler_sync_duration_seconds", "Time to look for stale UDP flows.", _SYNC)  # fmt: skip
        self._deleted = self._counter("conntrack_reconciler_deleted_entries", "Stale UDP flows that were ended.")
        self._healthz = self._counter("proxy_healthz", "Answers of /healthz.", ["code"])
        self._livez = self._counter("proxy_livez", "Answers of /livez.", ["code"])
        table = [*_FAMILY, "table"]
        self._rules = self._gauge("sync_proxy_rules_iptables_total", "Rules of ours in a table.", table)
        self._written = self._gauge("sync_proxy_rules_iptables_last", "Rules written by the last sync.", table)
        self._restore = self._counter("sync_proxy_rules_iptables_restore_failures", "Failed loads of rules.")
        self._partial_restore = self._counter("sync_proxy_rules_iptables_partial_restore_failures", "Failed loads of what changed.")  # fmt: skip
        self._nftables = self._counter("sync_proxy_rules_nftables_sync_failures", "Failed transactions.")
        self._cleanup = self._counter("sync_proxy_rules_nftables_cleanup_failures", "Failed removals of old chains.")
        if counters is not None:
            for name, counter in (("ct_state_invalid_dropped", "ct_state_invalid_dropped_pkts"), ("localhost_nodeports_accepted", "localhost_nps_accepted_pkts")):  # fmt: skip
                gauge = self._gauge(f"iptables_{name}_packets_total", "Packets counted by a rule.", [])
                gauge.set_function(lambda name=counter: float(counters(name)))  # type: ignore[misc]

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(f"kubeproxy_{name}", text, _FAMILY, registry=self.registry, buckets=tuple(buckets))

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(f"kubeproxy_{name}", text, _FAMILY if labels is None else labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"kubeproxy_{name}", text, _FAMILY if labels is None else labels, registry=self.registry)

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
        """A sync failed."""
        if mode == "nftables":
            self._nftables.labels(family).inc()
        else:
            (self._restore if full else self._partial_restore).labels(family).inc()

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
        """The text Prometheus reads, and its content type; without the times at which series were made."""
        text = generate_latest(self.registry)
        kept = [line for line in text.splitlines(keepends=True) if b"_created" not in line]
        return b"".join(kept), CONTENT_TYPE_LATEST
