"""The numbers of Ingress for Prometheus. No label has a value that a request chooses: series are bounded by the Ingresses there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from glassnet.agent.ingress.access import BUCKETS, Count, Owner
from glassnet.agent.ingress.loop import Took
from glassnet.agent.ingress.nginx import Nginx
from glassnet.agent.proxy.metrics import CONTENT_TYPE, render_registry

_TIMES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LABELS = ["namespace", "ingress"]


class Facts(NamedTuple):
    """How things stand; `connections` are the numbers of NGINX's stub_status ({} when it does not answer)."""

    nginx: Nginx | None
    ready: bool
    leading: bool
    ingresses: int
    servers: int
    problems: Mapping[str, int]
    counts: Mapping[Owner, Count]
    unread: int
    skipped: int
    connections: Mapping[str, int]
    statuses: tuple[int, int]  # written, failed


class _Now(Collector):
    """What holds when somebody asks."""

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """A series for each fact."""
        facts = self._facts()
        yield _gauge("ready", "1 when the first configuration is in force", facts.ready)
        yield _gauge("leader", "1 when this replica writes the status of Ingresses", facts.leading)
        yield _gauge("ingresses", "Ingresses that are served", facts.ingresses)
        yield _gauge("servers", "Hosts that are served", facts.servers)
        problems = GaugeMetricFamily(
            "glassnet_ingress_problems", "What objects ask for and do not get", labels=["reason"]
        )
        for reason, number in facts.problems.items():
            problems.add_metric([reason], number)
        yield problems
        yield _counter("status_updates", "Ingress statuses that were written", facts.statuses[0])
        yield _counter("status_update_failures", "Ingress statuses that could not be written", facts.statuses[1])
        yield _counter("access_log_unread_lines", "Lines of the access log that could not be read", facts.unread)
        yield _counter("access_log_skipped_bytes", "Octets of the access log that were skipped", facts.skipped)
        if facts.nginx is not None:
            yield from _of_nginx(facts.nginx)
        yield from _of_connections(facts.connections)
        yield from _of_requests(facts.counts)

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked at registration."""
        return []


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"glassnet_ingress_{name}", text, float(value))


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"glassnet_ingress_{name}", text, float(value))


def _of_nginx(nginx: Nginx) -> Iterable[Metric]:
    yield _counter("nginx_starts", "Starts of NGINX", nginx.starts)
    yield _counter("reloads", "Configurations that came into force by a reload", nginx.reloads)
    yield _counter("reload_failures", "Reloads after which the configuration before went on", nginx.failed)
    yield _counter("refusals", "Configurations that nginx -t refused", nginx.refused)
    yield _counter("generations_cut", "Old configurations whose last connections were closed to make room", nginx.cut)
    yield _gauge("old_generations", "Configurations that still finish what they began", nginx.old_generations)
    yield _gauge("config_last_reload_successful", "1 when nothing has gone wrong since", not nginx.error)
    yield _gauge("config_last_reload_successful_timestamp_seconds", "When the configuration in force came into force", nginx.since)  # fmt: skip


def _of_connections(connections: Mapping[str, int]) -> Iterable[Metric]:
    now = GaugeMetricFamily("glassnet_ingress_nginx_connections", "Client connections", labels=["state"])
    for state in ("active", "reading", "writing", "waiting"):
        if state in connections:
            now.add_metric([state], connections[state])
    yield now
    for name, text in (
        ("accepted", "Connections that came"),
        ("handled", "Connections that were handled"),
        ("requests", "Requests that came"),
    ):
        if name in connections:
            yield _counter(f"nginx_{name}", text, connections[name])


def _of_requests(counts: Mapping[Owner, Count]) -> Iterable[Metric]:
    requests = CounterMetricFamily("glassnet_ingress_requests", "Requests by Ingress and class of status; no Ingress: nobody has a rule for them", labels=[*_LABELS, "status"])  # fmt: skip
    durations = HistogramMetricFamily("glassnet_ingress_request_duration_seconds", "From a request's first octet to the last of its response", labels=_LABELS)  # fmt: skip
    for owner, count in counts.items():
        for status, number in sorted(count.classes.items()):
            requests.add_metric([*owner, status], number)
        total, buckets = 0, []
        for limit, number in zip((*map(str, BUCKETS), "+Inf"), count.buckets, strict=True):
            total += number
            buckets.append((limit, total))
        durations.add_metric(list(owner), buckets, count.seconds)
    yield requests
    yield durations


class IngressMetrics:
    """One controller's numbers, in a registry of its own."""

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Now(facts))
        self._took = {
            name: Histogram(f"glassnet_ingress_{name}_duration_seconds", text, buckets=_TIMES, registry=self.registry)
            for name, text in (
                ("programming", "From the first event to the configuration in force"), ("compute", "To compute what NGINX is to do"),
                ("render", "To write its configuration"), ("apply", "To check it and have it in force"),
            )
        }  # fmt: skip
        self._failed = Counter("glassnet_ingress_config_failures", "Configurations that did not come into force", ["what"], registry=self.registry)  # fmt: skip
        self._watches = Counter("glassnet_ingress_watch_failures", "Watches that failed", ["resource"], registry=self.registry)  # fmt: skip

    def applied(self, took: Took) -> None:
        """A configuration came into force."""
        for name, seconds in (
            ("programming", took.total),
            ("compute", took.compute),
            ("render", took.render),
            ("apply", took.apply),
        ):
            self._took[name].observe(seconds)

    def failed(self, what: str) -> None:
        """One did not."""
        self._failed.labels(what).inc()

    def watch_failed(self, resource: str) -> None:
        """A watch failed and will be tried again."""
        self._watches.labels(resource).inc()

    def render(self) -> tuple[bytes, str]:
        """The text Prometheus reads, and its content type."""
        return render_registry(self.registry), CONTENT_TYPE
