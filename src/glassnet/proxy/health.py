"""Whether a proxy is healthy, and what its health servers say. Pure: time comes in as seconds since 1970.

Source: kube-proxy 1.36, pkg/proxy/healthcheck: healthy means that no update waits for longer than twice the sync period.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from glassnet.kube.types import Node

AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"


class ProxyHealth:
    """What is known of each IP family's syncs, and of the node."""

    def __init__(self, families: Iterable[str], sync_period: float, now: float) -> None:
        self._timeout = 2 * sync_period
        self._queued: dict[str, float] = {}
        self._updated = dict.fromkeys(families, now)
        self.node_eligible = False

    def queued(self, family: str, now: float) -> None:
        """An update waits; the oldest one counts."""
        self._queued.setdefault(family, now)

    def updated(self, family: str, now: float) -> None:
        """All that waited is in place."""
        self._queued.pop(family, None)
        self._updated[family] = now

    def without(self, family: str) -> None:
        """A family is not done here after all."""
        self._queued.pop(family, None)
        self._updated.pop(family, None)

    def set_node(self, node: Node | None) -> None:
        """The node's object, or None when there is none: is it to get traffic of load balancers?"""
        self.node_eligible = (
            node is not None
            and node.metadata.deletion_timestamp is None
            and all(taint.key != AUTOSCALER_TAINT for taint in node.spec.taints)
        )

    def family_healthy(self, family: str, now: float) -> bool:
        """False when an update of a family waits for too long."""
        return now - self._queued.get(family, now) <= self._timeout

    def healthy(self, now: float) -> bool:
        """True when every family is."""
        return all(self.family_healthy(family, now) for family in self._updated)

    def healthz(self, now: float) -> tuple[int, str]:
        """Status and body of /healthz: 200 when healthy on a node that is to get traffic."""
        good = self.healthy(now) and self.node_eligible
        return self._answer(good, now, {"nodeEligible": self.node_eligible})

    def livez(self, now: float) -> tuple[int, str]:
        """Status and body of /livez: 200 when healthy."""
        return self._answer(self.healthy(now), now, {})

    def _answer(self, good: bool, now: float, more: dict[str, Any]) -> tuple[int, str]:
        last = now if good else max(self._updated.values())
        body = {
            "lastUpdated": _stamp(last),
            "currentTime": _stamp(now),
            **more,
            "healthy": self.healthy(now),
            "status": {
                family: {"lastUpdated": _stamp(when), "healthy": self.family_healthy(family, now)}
                for family, when in self._updated.items()
            },
        }
        return (200 if good else 503), json.dumps(body, separators=(",", ":"))


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")


def node_port_answer(namespace: str, name: str, count: int, healthy: bool) -> tuple[int, dict[str, str], str]:
    """Status, headers and body that a health check node port answers with: 200 when there are local endpoints and the proxy is healthy."""
    body = json.dumps(
        {"service": {"namespace": namespace, "name": name}, "localEndpoints": count, "serviceProxyHealthy": healthy},
        indent="\t",
    )
    headers = {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(count),
    }
    return (200 if count and healthy else 503), headers, body
