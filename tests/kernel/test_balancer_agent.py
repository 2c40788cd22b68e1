"""`glassnet agent` with its load balancer: announces what the API says, with the rights of deploy/, and nobody answers when it is dead."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api_rights import Guard, read_rights
from glassnet.kernel.network_state import find_link
from glassnet.kube import kinds
from glassnet.lab.programs import find_kubectl
from glassnet.loadbalancer import neighbour, request
from node_agents import AgentNode, agent_node

pytestmark = pytest.mark.kernel
USER, VIP = (
    "kubernetes-admin",
    "192.0.2.100",
)  # whose certificate the agent of these tests has; what it may do is what the account may
COMPONENT = Path(__file__).resolve().parents[2] / "deploy"
POOLS = """
pools: [{name: public, addresses: [192.0.2.100-192.0.2.101], announce: both}]
bgp: {asn: 64512, peers: [{address: 192.0.2.254, asn: 64500}]}
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[AgentNode]:
    async with agent_node(tmp_path) as made:
        made.config["loadBalancer"] = {"enabled": True}
        made.config["cni"] = {"enabled": False}
        yield made


def agent_rights(tmp_path: Path) -> set[object]:
    """Of the agent, with the component."""
    import subprocess

    import yaml

    subprocess.run(["cp", "-r", str(COMPONENT), str(tmp_path / "deploy")], check=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["../deploy"], "components": ["../deploy/components/load-balancer"]})
    )
    text = subprocess.run(
        [find_kubectl(), "kustomize", str(tmp_path / "mine")], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    return read_rights([each for each in yaml.safe_load_all(text) if each])[
        "system:serviceaccount:glassnet-system:glassnet-agent"
    ]  # type: ignore[return-value]


async def answers(site: AgentNode) -> bool:
    """Whether somebody answers ARP for the address outside."""
    outside, loop = site.pods["outside"], asyncio.get_running_loop()
    own = find_link(outside, "eth0")
    assert own is not None
    with outside.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        with outside.entered():
            sock.bind(("eth0", neighbour.ARP))
        await loop.sock_sendall(sock, neighbour.probe(VIP, bytes.fromhex(own.hardware.replace(":", ""))))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    heard = neighbour.read(await loop.sock_recv(sock, 2048))
                    if heard is not None and not heard.asks and heard.ip == VIP:
                        return True
    return False


async def balanced(site: AgentNode) -> None:
    """The configuration, and a Service that has been given an address."""
    await site.api.create(
        kinds.CONFIG_MAP,
        {"metadata": {"name": "glassnet-loadbalancer"}, "data": {"pools.yaml": POOLS}},
        "glassnet-system",
    )
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    await site.api.create(
        kinds.SERVICE, {"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "ports": ports}}, "demo"
    )
    condition = {
        "type": request.CONDITION,
        "status": "True",
        "reason": "Assigned",
        "message": request.message((VIP,), ("public",)),
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"loadBalancer": {"ingress": [{"ip": VIP, "ipMode": "VIP"}]}, "conditions": [condition]}
    await site.api.objects.patch(kinds.SERVICE, "demo", "web", {"status": status}, "status")


async def test_the_agent_announces_with_its_rights_alone_and_a_dead_one_does_not(
    site: AgentNode, tmp_path: Path
) -> None:
    guard = Guard()
    guard.bind({USER: agent_rights(tmp_path)})  # type: ignore[dict-item]
    await site.api.stop()
    site.api.authorize = guard
    await site.api.start()
    await balanced(site)
    await site.start()
    await site.ready()
    await site.until(lambda: answers(site), bool)
    found = (await site.health())["parts"]
    assert found["loadBalancer"]["announced"] == [VIP]
    assert VIP not in await site.run("ip", "address")
    await site.until(lambda: site.sh("pgrep -x bird || true"), lambda text: len(text.split()) == 1)
    assert guard.refused == []
    assert "configmaps" not in {right.resource for right in guard.unused(USER)}
    await site.end(signal.SIGKILL)
    assert not await answers(site)
    await site.until(lambda: site.sh("pgrep -x bird || true"), lambda text: not text.split())
    removed = await site.command("--config", "/srv/agent.yaml", "--cleanup")
    assert "/run/glassnet/bird" in removed
    assert not site.path("/run/glassnet/bird").exists()


async def test_a_key_that_cannot_be_used_is_refused(site: AgentNode) -> None:
    await site.sh("echo short > /srv/key")
    (site.path("/srv") / "kubeconfig").write_text(site.api.kubeconfig())
    site.config["loadBalancer"] = {"enabled": True, "heartbeatKeyFile": "/srv/key"}
    site.path("/srv/agent.yaml").write_text(json.dumps(site.config))
    said = await site.command("--config", "/srv/agent.yaml", status=2)
    assert "5 octets are too few for a key" in said and "short" not in said
