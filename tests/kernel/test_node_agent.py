"""`glassnet agent`, the process, on a node of namespaces: packets through what it makes, with and without an API server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from glassnet.kube import kinds
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


async def test_the_node_works_on_while_the_api_is_away(site: AgentNode) -> None:
    """The data path stays, health says who is silent, pods are joined; what changed meanwhile arrives when the API is back."""
    await site.start()
    await site.ready()
    await site.pod("c1")
    await site.serve("c1", "one")
    await site.api.service("web", VIRTUAL, "10.244.1.2")
    assert await site.until(lambda: site.told(VIRTUAL), bool) == "one"
    await site.api.stop()
    health = await site.until(site.health, lambda found: not found["parts"]["api"]["answering"])
    assert health["healthy"] and health["parts"]["api"]["kinds"]["services"]["error"]
    assert (await site.asked("livez"))[0] == (await site.asked("readyz"))[0] == 200
    assert await site.told(VIRTUAL) == "one"
    joined = await site.pod("c2")
    assert joined["ips"][0]["address"] == "10.244.1.3/24"
    await site.serve("c2", "two")
    await site.api.endpoints("web", "10.244.1.3")
    assert await site.told(VIRTUAL) == "one"
    await site.api.start()
    assert await site.until(lambda: site.told(VIRTUAL), lambda said: said == "two", 40) == "two"
    health = await site.until(site.health, lambda found: found["parts"]["api"]["answering"])
    assert "error" not in health["parts"]["api"]["kinds"]["endpointslices"]
    assert site.log.read_text().count("watch of services") <= 4  # it says so once, not with every try


async def test_an_agent_that_finds_no_api_joins_pods_all_the_same(site: AgentNode) -> None:
    """It starts with what its predecessor left; nothing that was programmed is touched."""
    await site.start()
    await site.ready()
    await site.pod("c1")
    await site.serve("c1", "one")
    await site.api.service("web", VIRTUAL, "10.244.1.2")
    assert await site.until(lambda: site.told(VIRTUAL), bool) == "one"
    assert await site.end() == 0
    await site.api.stop()
    rules = await site.run("nft", "-s", "list", "ruleset")
    await site.start()
    await site.until(lambda: site.asked("livez"), lambda found: found[0] == 200)
    assert (await site.pod("c2"))["ips"][0]["address"] == "10.244.1.3/24"
    status, body = await site.asked("readyz")
    assert (status, json.loads(body)["parts"]) == (503, {"cni": True, "proxy": False, "routes": False})
    assert await site.told(VIRTUAL) == "one"
    assert await site.run("nft", "-s", "list", "ruleset") == rules
    health = await site.health()
    assert health["parts"]["api"]["lastContactSeconds"] is None
    await site.api.start()
    await site.ready()
    assert await site.told(VIRTUAL) == "one"


async def test_a_server_that_comes_back_empty_empties_no_node(site: AgentNode) -> None:
    await site.start()
    await site.ready()
    await site.pod("c1")
    await site.serve("c1", "one")
    for number in range(12):
        await site.api.service(f"web{number}", f"10.96.0.{77 + number}", "10.244.1.2")
    assert await site.until(lambda: site.told("10.96.0.88"), bool) == "one"
    await site.api.stop()
    site.api.empty()
    await site.api.start()
    asked = len(site.api.asked)
    await site.until(site.lists_since(asked), bool, 40)
    assert await site.told(VIRTUAL) == await site.told("10.96.0.88") == "one"
    assert json.loads(site.path("/run/glassnet/node.json").read_text())["podCIDRs"] == [POD_CIDR]
    assert (await site.pod("c2"))["ips"][0]["address"] == "10.244.1.3/24"


async def test_routes_lead_to_the_pods_of_other_nodes(site: AgentNode) -> None:
    """A Node comes, moves, goes; the MTU of pods leaves room for the tunnel."""
    site.config["routes"] = {"mode": "auto"}
    await site.start()
    await site.ready()
    facts = json.loads(site.path("/run/glassnet/node.json").read_text())
    assert facts["mtu"] == 1400  # the link's 1450 less 50 for VXLAN over IPv4
    await site.pod("c1")
    assert "mtu 1400" in await site.run("ip", "netns", "exec", "c1", "ip", "link", "show", "eth0")
    await site.api.node("other", "10.244.9.0/24", "192.0.2.9")

    async def route() -> str:
        return await site.run("ip", "route", "show", "10.244.9.0/24")

    assert "via 192.0.2.9 dev ens3" in await site.until(route, bool)
    health = await site.until(site.health, lambda found: found["parts"]["routes"]["routes"])
    assert health["parts"]["routes"]["routes"] == 1
    assert await site.end() == 0
    assert "via 192.0.2.9 dev ens3" in await route()


async def test_a_node_without_a_pod_cidr_waits_for_one(tmp_path: Path) -> None:
    """The runtime has no network before there is a range: kubelet takes the node for not ready until then; the proxy works meanwhile."""
    async with agent_node(tmp_path, node=False) as site:
        await site.api.node(cidr="")
        await site.start()
        await site.says("has no spec.podCIDRs (yet)")
        await site.until(lambda: site.asked("readyz"), lambda found: found[0] == 503 and '"proxy":true' in found[1])
        assert not site.path("/srv/net.d/10-glassnet.conflist").exists()
        assert not site.path("/run/glassnet/node.json").exists()
        early = await site.pod("c1", conf={"cniVersion": "1.1.0", "name": "glassnet", "type": "glassnet"})
        assert early["code"] == 11
        await site.api.objects.patch(kinds.NODE, "", NAME, {"spec": {"podCIDR": POD_CIDR, "podCIDRs": [POD_CIDR]}})
        await site.ready()
        assert (await site.pod("c1"))["ips"][0]["address"] == "10.244.1.2/24"


async def test_a_kind_that_is_forbidden_is_named_and_the_rest_goes_on(site: AgentNode) -> None:
    site.api.forbidden = {"endpointslices"}
    await site.start()
    await site.until(lambda: site.asked("readyz"), lambda found: '{"cni":true,"proxy":false,"routes":true}' in found[1])
    health = await site.until(site.health, lambda found: found["parts"]["api"]["forbidden"])
    assert health["parts"]["api"]["forbidden"] == ["endpointslices.discovery.k8s.io"]
    assert (await site.pod("c1"))["ips"][0]["address"] == "10.244.1.2/24"
    assert "endpointslices is forbidden" in site.log.read_text()
    assert 'glassnet_watch_forbidden{resource="endpointslices"} 1.0' in (await site.asked("metrics", 10249))[1]

    async def told() -> list[str]:
        return [one["reason"] for one in await site.api.objects.list(kinds.EVENT)]

    assert "WatchForbidden" in await site.until(told, lambda found: "WatchForbidden" in found)


async def test_detection_by_the_nodes_range_waits_for_it_and_ends_when_it_moves(tmp_path: Path) -> None:
    async with agent_node(tmp_path, node=False) as site:
        site.config["proxy"]["config"]["detectLocalMode"] = "NodeCIDR"
        await site.api.node(cidr="")
        await site.start()
        await site.until(lambda: site.asked("readyz"), lambda found: '"routes":true' in found[1])
        assert '"proxy":false' in (await site.asked("readyz"))[1]
        await site.api.objects.patch(kinds.NODE, "", NAME, {"spec": {"podCIDR": POD_CIDR, "podCIDRs": [POD_CIDR]}})
        await site.ready()
        await site.api.objects.delete(kinds.NODE, "", NAME)
        await site.api.node(cidr="10.244.7.0/24")
        await site.says("ended: the node's pod CIDRs changed from 10.244.1.0/24 to 10.244.7.0/24")
