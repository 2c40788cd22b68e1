"""Who hears of a proxy's syncs: metrics, health, and the health check node ports. Each may be absent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from glassnet.kube import kinds
from glassnet.kube.types import Node
from glassnet.kube.view import Event, Key, View
from glassnet.proxy import compute, endpoints
from glassnet.proxy.model import NodeFacts

if TYPE_CHECKING:
    from glassnet.agent.proxy.family import FamilyProxy
    from glassnet.agent.proxy.metrics import ProxyMetrics
    from glassnet.agent.proxy.servers import HealthCheckNodePorts
    from glassnet.proxy.health import ProxyHealth

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


class Observers:
    """Passes on what happens; `wall` gives the time of day, `clock` seconds that never go back."""

    def __init__(
        self,
        metrics: ProxyMetrics | None = None,
        health: ProxyHealth | None = None,
        checks: HealthCheckNodePorts | None = None,
        families: tuple[str, ...] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.metrics, self.health, self.checks, self._families, self._wall = metrics, health, checks, families, wall
        self._triggers: dict[str, list[float]] = {family: [] for family in families}
        self._pending: dict[str, set[Key]] = {"services": set(), "slices": set()}
        self._wanted: dict[Key, tuple[int, int]] = {}
        self._local: dict[str, dict[Key, tuple[int, int]]] = {family: {} for family in families}
        self._full = True
        self.attempted = wall()  # when a sync last came to an end, good or bad

    def queued(self, event: Event, keys: Iterable[Key]) -> None:
        """An event that asks for a sync."""
        now = self._wall()
        for family in self._families:
            if self.health:
                self.health.queued(family, now)
            if self.metrics:
                self.metrics.queued(family, now)
        if not self.metrics:
            return
        self._pending["services" if event.kind is kinds.SERVICE else "slices"] |= set(keys)
        if event.kind is kinds.ENDPOINT_SLICE and event.new is not None:
            stamp = _time(event.new.metadata.annotations.get(TRIGGER, ""))
            if stamp is not None and event.new.address_type in self._triggers:
                self._triggers[event.new.address_type].append(stamp)

    def node(self, node: Node | None) -> None:
        """The node's own object changed, or went."""
        if self.health:
            self.health.set_node(node)

    def without(self, family: str) -> None:
        """A family cannot be done on this machine: nobody waits for it."""
        self._families = tuple(each for each in self._families if each != family)
        if self.health:
            self.health.without(family)

    def synced(self, family: FamilyProxy, seconds: float) -> None:
        """A family's rules are in place."""
        now = self.attempted = self._wall()
        if self.health:
            self.health.updated(family.name, now)
        if not self.metrics:
            return
        self.metrics.sync_done(family.name, seconds, self._full, now)
        triggers, self._triggers[family.name] = self._triggers.get(family.name, []), []
        self.metrics.programmed(family.name, triggers, now)
        state = getattr(family.writer, "state", None)
        if state is not None:
            for table in state.lines:
                self.metrics.iptables_rules(family.name, table, state.lines[table], state.written[table])

    def failed(self, family: str, mode: str) -> None:
        """A sync failed; the next one compares everything."""
        self.attempted = self._wall()
        if self.metrics:
            self.metrics.failed(mode, family, self._full)
        self._full = True

    def conntrack(self, family: str, seconds: float, deleted: int) -> None:
        """Entries of UDP flows were looked through."""
        if self.metrics:
            self.metrics.conntrack(family, seconds, deleted)

    async def after(self, view: View, dirty: Iterable[Key], facts: NodeFacts, node: str) -> None:
        """All families are in place."""
        self._full = False
        if self.metrics:
            self.metrics.changes("endpoint", 0, len(self._pending["slices"]))
            self.metrics.changes("service", 0, len(self._pending["services"]))
            self._pending = {"services": set(), "slices": set()}
        if self.metrics:
            self._count_without_local(view, dirty, facts)
        if self.checks:
            await self._sync_checks(view, dirty, node)

    def _count_without_local(self, view: View, dirty: Iterable[Key], facts: NodeFacts) -> None:
        assert self.metrics is not None
        for family, counts in self._local.items():
            for key in dirty:
                counts.pop(key, None)
                service = view.services.get(key)
                if service is None or "Local" not in (service.spec.internal_traffic_policy, service.spec.external_traffic_policy):  # fmt: skip
                    continue
                ports = compute.service_ports(service, view.slices_of(key), facts, family)
                starved = [port for port in ports if port.any_endpoints and not port.local]
                inside = sum(port.internal_local for port in starved)
                outside = sum(port.external_local and port.externally_accessible for port in starved)
                if inside or outside:
                    counts[key] = (inside, outside)
            self.metrics.no_local_endpoints(family, "internal", sum(inside for inside, _ in counts.values()))
            self.metrics.no_local_endpoints(family, "external", sum(outside for _, outside in counts.values()))

    async def _sync_checks(self, view: View, dirty: Iterable[Key], node: str) -> None:
        assert self.checks is not None
        for key in dirty:
            self._wanted.pop(key, None)
            service = view.services.get(key)
            if service is None or not service.spec.health_check_node_port or not compute.proxied(service):
                continue
            if service.spec.type != "LoadBalancer" or service.spec.external_traffic_policy != "Local":
                continue
            slices = list(view.slices_of(key))
            count = sum(endpoints.local_ready_addresses(slices, family, node) for family in self._families)
            self._wanted[key] = (service.spec.health_check_node_port, count)
        await self.checks.sync({(key.namespace, key.name): each for key, each in self._wanted.items()})


def _time(text: str) -> float | None:
    """Seconds since 1970 of an RFC 3339 time; None for what is none."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else None
    except ValueError:
        return None
