"""What /healthz, /livez and /readyz say, and that a silent API or a route that fails takes no node out."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from glassnet.agent.node.health import AgentHealth
from glassnet.agent.node.metrics import AgentMetrics
from glassnet.client.watches import Standing
from glassnet.kube import kinds
from glassnet.kube.types import Meta, Node
from glassnet.proxy.health import ProxyHealth


def made(
    standing: list[Standing], done: dict[str, bool], proxy: Any = None, problems: dict[str, str] | None = None
) -> AgentHealth:
    routes = SimpleNamespace(routes=3, problems=problems or {})
    return AgentHealth(lambda: standing, None, proxy, routes, lambda: done)


def proxied(stuck: bool, waits: float) -> Any:
    health = ProxyHealth(("IPv4",), 30.0, time.time())
    health.set_node(Node(Meta("a")))
    if waits:
        health.queued("IPv4", time.time() - waits)
    return SimpleNamespace(health=health, stuck=lambda now: stuck, mode="nftables")


def test_a_silent_api_and_failing_routes_are_told_and_take_nothing_out() -> None:
    away = Standing(kinds.SERVICE, True, time.monotonic() - 7200, "connection refused", False, 1, 9)
    health = made([away], {"proxy": True, "routes": True}, proxied(False, 0), {"far": "NoVXLAN"})
    assert [health.healthz()[0], health.livez()[0], health.readyz()[0]] == [200, 200, 200]
    parts = health.parts()
    assert not parts["api"]["answering"]
    assert parts["api"]["lastContactSeconds"] == pytest.approx(7200, abs=5)
    assert parts["api"]["kinds"]["services"]["error"] == "connection refused"
    assert parts["routes"]["problems"] == {"far": "NoVXLAN"}


def test_rules_that_wait_are_unhealthy_and_only_a_process_that_hangs_is_dead() -> None:
    failing = made([], {"proxy": True, "routes": True}, proxied(False, 300))
    assert [failing.healthz()[0], failing.livez()[0]] == [503, 200]
    stuck = made([], {"proxy": True, "routes": True}, proxied(True, 300))
    assert [stuck.healthz()[0], stuck.livez()[0]] == [503, 503]


def test_ready_when_every_part_has_been_programmed() -> None:
    assert made([], {"cni": True, "routes": False}).readyz() == (
        503,
        {"ready": False, "parts": {"cni": True, "routes": False}},
    )
    assert made([], {"cni": True, "routes": True}).readyz()[0] == 200


def test_metrics_name_what_is_forbidden_and_count_calls() -> None:
    never = Standing(kinds.ENDPOINT_SLICE, False, 0.0, "forbidden", True, 2, 1)
    metrics = AgentMetrics(lambda: [never], None)
    for command, good in (("ADD", True), ("ADD", False), ("rm -rf", False)):
        metrics.call(command, good, 0.003)
    text = metrics.render()[0].decode()
    for line in (
        'glassnet_watch_last_contact_seconds{resource="endpointslices"} -1.0',
        'glassnet_watch_forbidden{resource="endpointslices"} 1.0',
        'glassnet_watch_restarts_total{resource="endpointslices"} 1.0',
        'glassnet_watch_relists_total{resource="endpointslices"} 2.0',
        'glassnet_cni_requests_total{command="ADD",result="success"} 1.0',
        'glassnet_cni_requests_total{command="other",result="error"} 1.0',
        'glassnet_cni_request_duration_seconds_bucket{command="ADD",le="0.005"} 2.0',
    ):
        assert line in text.splitlines()
