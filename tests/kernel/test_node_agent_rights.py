"""The agent needs all of the rights that deploy/rbac.yaml gives it, and no others: every request of its own is recorded and compared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api_rights import Guard, read_rights, render
from glassnet.kube import kinds
from glassnet.lab.programs import find_kubectl
from node_agents import ADDRESS, NAME, VIRTUAL, AgentNode, agent_node

pytestmark = pytest.mark.kernel
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
USER = "kubernetes-admin"  # whose certificate the agent of these tests has; what it may do is what the account may


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[AgentNode]:
    async with agent_node(tmp_path) as made:
        yield made


async def test_the_agent_needs_all_of_its_rights_and_no_others(site: AgentNode) -> None:
    guard = Guard()
    rights = read_rights(render(DEPLOY, find_kubectl()))["system:serviceaccount:glassnet-system:glassnet-agent"]
    guard.bind({USER: rights})
    await site.api.stop()
    site.api.authorize = guard
    await site.api.start()
    await site.start()
    await site.ready()
    await site.pod("c1")
    await site.api.service("web", VIRTUAL, "10.244.1.2")
    await site.api.node("other", "10.244.9.0/24", "192.0.2.9")
    await site.until(lambda: site.run("ip", "route", "show", "10.244.9.0/24"), bool)
    for times in (1, 2):  # the same Event again is counted up in one: that takes a patch
        await _address(site)
        await site.until(lambda: _told(site), lambda count, times=times: count >= times)
        await _address(site, ADDRESS)
        await site.until(lambda: site.asked("readyz"), lambda found: found[0] == 200)
    await site.until(lambda: _unused(guard), lambda unused: not unused)
    assert guard.refused == []
    assert await site.end() == 0


async def _address(site: AgentNode, *ips: str) -> None:
    addresses = [{"type": "InternalIP", "address": ip} for ip in ips] or None
    await site.api.objects.patch(kinds.NODE, "", NAME, {"status": {"addresses": addresses}}, "status")


async def _told(site: AgentNode) -> int:
    """How often the agent has told that its Node has no address."""
    events = await site.api.objects.list(kinds.EVENT)
    return sum(each["count"] for each in events if "InternalIP" in each["message"])


async def _unused(guard: Guard) -> set[tuple[str, str]]:
    return {(right.verb, right.resource) for right in guard.unused(USER)}
