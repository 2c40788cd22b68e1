"""`glassnet agent`, the process, on a node of namespaces: packets through what it makes, with and without an API server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_agents import NAME, POD_CIDR, VIRTUAL, AgentNode, agent_node

pytestmark = pytest.mark.kernel


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[AgentNode]:
    async with agent_node(tmp_path) as made:
        yield made


async def test_a_pod_is_joined_and_a_service_leads_to_it(site: AgentNode) -> None:
    """From nothing: programs and a network for the runtime, facts for plugins, a Service's address by packet."""
    await site.start()
    await site.ready()
    assert json.loads(site.path("/run/glassnet/node.json").read_text())["podCIDRs"] == [POD_CIDR]
    network = json.loads(site.path("/srv/net.d/10-glassnet.conflist").read_text())
    assert network["plugins"][0] == {"type": "glassnet"}
    joined = await site.pod("c1")
    assert joined["ips"][0]["address"] == "10.244.1.2/24"
    await site.serve("c1", "hello from c1")
    await site.api.service("web", VIRTUAL, "10.244.1.2")
    assert await site.until(lambda: site.told(VIRTUAL), bool) == "hello from c1"
    health = await site.health()
    assert health["healthy"] and health["nodeEligible"]
    assert health["parts"]["api"]["answering"] and health["parts"]["cni"]["ready"]
    _, metrics = await site.asked("metrics", 10249)
    assert 'glassnet_cni_requests_total{command="ADD",result="success"} 1.0' in metrics
    assert 'glassnet_watch_last_contact_seconds{resource="services"}' in metrics
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}' in metrics
    assert await site.end() == 0
    assert await site.told(VIRTUAL) == "hello from c1"
    assert "ended: SIGTERM" in site.log.read_text()
    assert NAME in site.log.read_text()
