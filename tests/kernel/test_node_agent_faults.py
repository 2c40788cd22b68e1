"""`glassnet agent`, the process, behind a gateway that fails in every way: packets go on finding their pods, and in the end the right ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fault_proxy import Authority, FaultProxy
from glassnet.kube import kinds
from node_agents import VIRTUAL, AgentNode, agent_node

pytestmark = pytest.mark.kernel
PATHS = ("/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/nodes")
FAULTS = (
    "delay", "slow", "cut", "cut-line", "cut-page", "refuse", "410-watch", "410-event", "error-event", "401", "429", "500", "html", "reorder",
    "duplicate", "stale-list", "empty-list", "half-list",
)  # fmt: skip
# the agent as its command starts it, but for the seconds that it waits: a fault lasts for less than one here
IMPATIENT = """
import sys
from glassnet.agent.node import agent
from glassnet.client.belief import Patience
made, patience = agent.NodeAgent, Patience(first=0.05, longest=0.3, refused=0.3, check=0.5, again=0.3, shrunk=5, older=5)
agent.NodeAgent = lambda config, access: made(config, access, patience)
from glassnet.cli.main import main
sys.argv[1:1] = ["agent"]
main()
"""
KUBECONFIG = """
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{port}", certificate-authority: /srv/ca.pem}}}}]
users: [{{name: u, user: {{token: none}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[tuple[AgentNode, FaultProxy]]:
    """An agent that is ready, and the gateway between it and the API server."""
    async with agent_node(tmp_path, api=False) as site:
        site.api.here, site.api.port = True, 0
        await site.api.start()
        authority = Authority()
        proxy = FaultProxy(f"https://127.0.0.1:{site.api.port}", authority, upstream_tls=site.api.context())
        listening = site.api.listening()
        listening.bind(("127.0.0.1", 0))
        await proxy.start(listening)
        site.path("/srv/ca.pem").write_text(authority.pem)
        site.program = ["-c", IMPATIENT]
        site.kubeconfig = KUBECONFIG.format(port=proxy.port)
        try:
            await site.start()
            await site.ready()
            yield site, proxy
        finally:
            await proxy.close()


async def test_packets_find_their_pods_whatever_the_way_to_the_api_does(behind: tuple[AgentNode, FaultProxy]) -> None:
    site, proxy = behind
    for name in ("c1", "c2"):
        await site.pod(name)
        await site.serve(name, name)
    ends = ("10.244.1.2", "10.244.1.3")
    await site.api.service("web", VIRTUAL, ends[0])
    assert await site.until(lambda: site.told(VIRTUAL), bool) == "c1"
    for number, fault in enumerate(FAULTS):
        await proxy.remember(*PATHS)
        proxy.fault, hits, other = fault, proxy.hits, (number + 1) % 2
        if fault not in ("delay", "slow", "reorder", "duplicate"):
            proxy.cut()
        if fault.startswith("410"):
            site.api.server.store._log.clear()  # the history is compacted
        await site.api.endpoints("web", ends[other])
        await site.api.service(f"more{number}", f"10.96.9.{number + 1}", ends[other])
        while proxy.hits == hits:
            assert await site.told(VIRTUAL) in ("c1", "c2"), fault
            await asyncio.sleep(0.05)
        assert await site.told(VIRTUAL) in ("c1", "c2"), fault
        proxy.fault = ""
        assert await site.until(lambda: site.told(VIRTUAL), lambda said, now=f"c{other + 1}": said == now, 40), fault
        assert (
            await site.until(lambda number=number: site.told(f"10.96.9.{number + 1}"), bool, 40) == f"c{other + 1}"
        ), fault
    await site.api.objects.delete(kinds.SERVICE, "demo", "more0")
    await site.until(lambda: site.told("10.96.9.1"), lambda said: not said)
    assert (await site.asked("livez"))[0] == (await site.asked("readyz"))[0] == 200
