"""A proxy's health: what waits for how long, which nodes get traffic, and the exact bodies."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from glassnet.kube.types import Meta, Node, NodeSpec, Taint
from glassnet.proxy.health import ProxyHealth, node_port_answer

START = 1_795_209_553.25
BOTH = ("IPv4", "IPv6")


def node(*taints: str, **more: Any) -> Node:
    return Node(Meta(name="n", **more), NodeSpec(taints=tuple(Taint(key, "NoSchedule") for key in taints)))


@pytest.fixture
def health() -> ProxyHealth:
    """Healthy, on a node that is to get traffic."""
    made = ProxyHealth(BOTH, 30.0, START)
    made.set_node(node())
    return made


def stamps(body: str) -> dict[str, Any]:
    """A body with times as seconds since START."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(each) for key, each in value.items()}
        if isinstance(value, str):
            assert value.endswith("Z")
            return datetime.fromisoformat(value).timestamp() - START
        return value

    out: dict[str, Any] = walk(json.loads(body))
    return out


def test_a_proxy_is_healthy_before_its_first_sync_however_long_that_takes(health: ProxyHealth) -> None:
    assert health.healthy(START) and health.healthy(START + 10_000)


def test_an_update_may_wait_for_two_sync_periods(health: ProxyHealth) -> None:
    health.queued("IPv4", START)
    assert health.healthy(START + 60)
    assert not health.healthy(START + 60.1)
    assert not health.family_healthy("IPv4", START + 60.1) and health.family_healthy("IPv6", START + 60.1)


def test_the_oldest_waiting_update_counts(health: ProxyHealth) -> None:
    health.queued("IPv4", START)
    health.queued("IPv4", START + 50)
    assert not health.healthy(START + 61)
    health.updated("IPv4", START + 62)
    assert health.healthy(START + 63)
    health.queued("IPv4", START + 100)
    assert health.healthy(START + 160) and not health.healthy(START + 161)


def test_a_sync_of_one_family_says_nothing_of_the_other(health: ProxyHealth) -> None:
    for family in BOTH:
        health.queued(family, START)
    health.updated("IPv4", START + 1)
    assert not health.healthy(START + 61)


@pytest.mark.parametrize(
    ("found", "eligible"),
    [
        (None, False),
        (node(), True),
        (node("node.kubernetes.io/unschedulable"), True),
        (node("ToBeDeletedByClusterAutoscaler"), False),
        (node("other", "ToBeDeletedByClusterAutoscaler"), False),
        (node(deletion_timestamp=datetime(2026, 1, 1, tzinfo=UTC)), False),
    ],
)
def test_which_nodes_are_to_get_traffic(found: Node | None, eligible: bool) -> None:
    health = ProxyHealth(BOTH, 30.0, START)
    assert not health.node_eligible  # unknown yet
    health.set_node(found)
    assert health.node_eligible is eligible
    assert health.healthz(START)[0] == (200 if eligible else 503)
    assert health.livez(START)[0] == 200


def test_what_healthz_says_of_a_healthy_proxy(health: ProxyHealth) -> None:
    health.updated("IPv4", START + 1)
    status, body = health.healthz(START + 5)
    assert status == 200
    assert stamps(body) == {
        "lastUpdated": 5,  # a healthy proxy is up to date
        "currentTime": 5,
        "nodeEligible": True,
        "healthy": True,
        "status": {"IPv4": {"lastUpdated": 1, "healthy": True}, "IPv6": {"lastUpdated": 0, "healthy": True}},
    }
    assert list(json.loads(body)) == ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]


def test_what_healthz_says_of_an_unhealthy_proxy(health: ProxyHealth) -> None:
    health.updated("IPv4", START + 1)
    health.queued("IPv6", START + 2)
    status, body = health.healthz(START + 100)
    assert status == 503
    assert stamps(body) == {
        "lastUpdated": 1,  # the latest of the families
        "currentTime": 100,
        "nodeEligible": True,
        "healthy": False,
        "status": {"IPv4": {"lastUpdated": 1, "healthy": True}, "IPv6": {"lastUpdated": 0, "healthy": False}},
    }


def test_a_healthy_proxy_on_a_node_that_goes_is_alive_but_wants_no_traffic(health: ProxyHealth) -> None:
    health.updated("IPv4", START + 1)
    health.set_node(None)
    status, body = health.healthz(START + 5)
    said = stamps(body)
    assert (status, said["nodeEligible"], said["healthy"], said["lastUpdated"]) == (503, False, True, 1)
    status, body = health.livez(START + 5)
    assert status == 200
    assert list(json.loads(body)) == ["lastUpdated", "currentTime", "healthy", "status"]


@pytest.mark.parametrize(
    ("count", "healthy", "status"), [(2, True, 200), (1, True, 200), (0, True, 503), (2, False, 503), (0, False, 503)]
)
def test_what_a_health_check_node_port_says(count: int, healthy: bool, status: int) -> None:
    found, headers, body = node_port_answer("shop", "web", count, healthy)
    assert found == status
    assert headers == {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(count),
    }
    assert body == (
        '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n'
        f'\t"localEndpoints": {count},\n\t"serviceProxyHealthy": {"true" if healthy else "false"}\n}}'
    )
