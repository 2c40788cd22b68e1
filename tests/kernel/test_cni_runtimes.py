"""CNI plugins called by real runtimes: Debian's containerd (by its ctr) and podman, with containers of busybox that talk to each other."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import runtime_calls
import runtimes
from glassnet.agent.cni import programs as cni_shim
from glassnet.agent.cni.node import Node as CniNode
from glassnet.agent.cni.server import CniServer
from glassnet.cni.plugins import PLUGINS
from runtimes import (
    CONFIG,
    LEASES,
    NODE_ADDRESS,
    OUTSIDE_ADDRESS,
    REFERENCE_PLUGINS,
    RESULTS,
    Ctr,
    Plugins,
    Podman,
    RuntimeNode,
    containerd,
    poll,
    runtime_node,
)

pytestmark = pytest.mark.kernel


async def install_ours(node: RuntimeNode) -> None:
    """Put glassnet's own plugins into the node's /opt/cni/bin; what we have none of is the reference's (podman's networks name a firewall)."""
    cni_shim.install(node.at(runtimes.PLUGINS))
    for name in node.names("/run/reference"):
        if name not in PLUGINS:
            node.at(f"{runtimes.PLUGINS}/{name}").symlink_to(f"/run/reference/{name}")


async def install_with_agent(node: RuntimeNode) -> None:
    """Ours, and the agent that they hand their calls to."""
    await install_ours(node)
    cni = CniNode(node.machine, os.urandom)
    server = CniServer(cni)
    await server.start()
    node.at_end += [server.close, cni.close]


TYPES = frozenset({*PLUGINS, "firewall"})
ALONE = Plugins("alone", install_ours, TYPES, forgets_masquerade=False)
AGENT = Plugins("agent", install_with_agent, TYPES, forgets_masquerade=False)
ALL = (REFERENCE_PLUGINS, ALONE, AGENT)
FOR_PODMAN = [plugins for plugins in ALL if plugins.types >= {"bridge", "host-local", "portmap", "firewall", "tuning"}]
WEB = ("/bin/httpd", "-f", "-p", "80", "-h", "/www")
IDLE = ("/bin/sleep", "1000")


@pytest.fixture
async def node(request: pytest.FixtureRequest) -> AsyncIterator[RuntimeNode]:
    async with runtime_node(request.param) as made:
        yield made


@pytest.fixture
async def ctr(node: RuntimeNode) -> AsyncIterator[Ctr]:
    """containerd on the node, and a network made of what plugins there are."""
    parts = [part for part in runtime_calls.LIST["plugins"] if part["type"] in node.plugins.types]
    node.write(f"{CONFIG}/10-net.conflist", json.dumps({**runtime_calls.LIST, "plugins": parts}))
    async with containerd(node) as made:
        yield made


@pytest.fixture
async def podman(node: RuntimeNode) -> Podman:
    """podman on the node, with a network `one`."""
    made = Podman(node)
    await made("network", "create", "--subnet", "10.89.0.0/24", "one")
    return made


def held(node: RuntimeNode, network: str) -> list[str]:
    """The addresses that are given out in a network."""
    return [name for name in node.names(f"{LEASES}/{network}") if name[0].isdigit()]


async def veths(node: RuntimeNode) -> list[str]:
    return [name for name in await node.links() if name.startswith("veth")]


@pytest.mark.parametrize("node", ALL, indirect=True, ids=str)
async def test_containers_of_containerd_talk(node: RuntimeNode, ctr: Ctr) -> None:
    await node.outside()
    await ctr.run("web", *WEB)
    await ctr.run("client", *IDLE)
    assert held(node, "net") == ["10.200.0.2", "10.200.0.3"] and len(await veths(node)) == 2
    assert "1 packets received" in await ctr.exec("client", "/bin/ping", "-c1", "-W2", "10.200.0.2")
    assert await ctr.exec("client", "/bin/wget", "-qO-", "http://10.200.0.2") == "web\n"
    assert "1 packets received" in await ctr.exec("web", "/bin/ping", "-c1", "-W2", "10.200.0.3")
    assert await node.run("curl", "-sS", "-m5", "http://10.200.0.2") == "web\n"
    # the neighbour outside has no way back to 10.200.0.0/24: the address it sees is the node's
    assert "1 packets received" in await ctr.exec("client", "/bin/ping", "-c1", "-W2", OUTSIDE_ADDRESS)


@pytest.mark.parametrize("node", ALL, indirect=True, ids=str)
async def test_a_container_of_containerd_leaves_nothing(node: RuntimeNode, ctr: Ctr) -> None:
    await ctr.run("stays", *IDLE)
    before = await node.rules()
    for _ in range(2):
        await ctr.run("goes", *IDLE)
        assert any("default-goes" in rule for rule in await node.rules())
        assert await ctr.kill("goes") == 128 + 9
        assert held(node, "net") == ["10.200.0.2"] and node.names(RESULTS) == ["net-default-stays-eth0"]
        assert len(await veths(node)) == 1
    # ctr calls DEL when the container is gone, with an empty CNI_NETNS
    after = await node.rules()
    assert any("default-goes" in rule for rule in after) if node.plugins.forgets_masquerade else after == before
    assert await ctr.kill("stays") == 128 + 9
    assert held(node, "net") == [] and node.names(RESULTS) == [] and await veths(node) == []
    assert (await ctr("container", "ls", "--quiet")).strip() == ""


@pytest.mark.parametrize("node", ALL, indirect=True, ids=str)
async def test_containers_of_containerd_at_once(node: RuntimeNode, ctr: Ctr) -> None:
    names = [f"c{number}" for number in range(6)]
    await asyncio.gather(*(ctr.run(name, *IDLE) for name in names))
    assert len(held(node, "net")) == len(await veths(node)) == 6
    await asyncio.gather(*(ctr.kill(name) for name in names))
    assert held(node, "net") == [] and await veths(node) == []


@pytest.mark.parametrize("node", FOR_PODMAN, indirect=True, ids=str)
async def test_containers_of_podman_talk(node: RuntimeNode, podman: Podman) -> None:
    await node.outside()
    await podman.run("web", *WEB, options=("--network", "one", "--publish", "8080:80"))
    await podman.run("client", *IDLE, options=("--network", "one"))
    assert (await podman.addresses("web"), await podman.addresses("client")) == (
        {"one": "10.89.0.2"},
        {"one": "10.89.0.3"},
    )
    assert "1 packets received" in await podman.exec("client", "ping", "-c1", "-W2", "10.89.0.2")
    assert await podman.exec("client", "wget", "-qO-", "http://10.89.0.2") == "web\n"
    published = f"http://{NODE_ADDRESS}:8080"
    assert await node.run("curl", "-sS", "-m5", published) == "web\n"
    assert await node.run("curl", "-sS", "-m5", "http://127.0.0.1:8080") == "web\n"
    assert await node.run("ip", "netns", "exec", "outside", "curl", "-sS", "-m5", published) == "web\n"
    for container in ("client", "web"):
        assert await podman.exec(container, "wget", "-qO-", published) == "web\n"
    assert "1 packets received" in await podman.exec("client", "ping", "-c1", "-W2", OUTSIDE_ADDRESS)


@pytest.mark.parametrize("node", FOR_PODMAN, indirect=True, ids=str)
async def test_a_container_of_podman_leaves_nothing(node: RuntimeNode, podman: Podman) -> None:
    await podman.run("stays", *WEB, options=("--network", "one", "--publish", "8080:80"))
    before = await node.rules()
    await podman.run("goes", *WEB, options=("--network", "one", "--publish", "8081:80"))
    assert await node.rules() != before and held(node, "one") == ["10.89.0.2", "10.89.0.3"]
    await podman("rm", "--force", "--time", "0", "goes")
    assert await node.rules() == before and held(node, "one") == ["10.89.0.2"]
    assert len(await veths(node)) == len(node.names("/run/netns")) == len(node.names(RESULTS)) == 1
    await podman("rm", "--force", "--time", "0", "stays")
    rules = "\n".join(await node.rules())
    assert "10.89.0" not in rules and "DNAT --to" not in rules
    assert await veths(node) == node.names("/run/netns") == node.names(RESULTS) == held(node, "one") == []
    await podman("network", "rm", "one")
    assert await node.links() == ["lo"]


@pytest.mark.parametrize("node", FOR_PODMAN, indirect=True, ids=str)
async def test_a_container_of_podman_that_ends_by_itself(node: RuntimeNode, podman: Podman) -> None:
    await podman.run("short", "/bin/true", options=("--network", "one", "--publish", "8080:80"))

    async def gone() -> bool:
        return not (held(node, "one") or node.names("/run/netns"))

    await poll(gone, "conmon has podman clean up")
    assert await veths(node) == [] and not any("DNAT --to" in rule for rule in await node.rules())


@pytest.mark.parametrize("node", FOR_PODMAN, indirect=True, ids=str)
async def test_what_a_container_of_podman_asks_for(node: RuntimeNode, podman: Podman) -> None:
    asked = ("--network", "one", "--ip", "10.89.0.77", "--mac-address", "02:00:00:00:00:77")
    await podman.run("web", *WEB, options=(*asked, "--publish", "127.0.0.1:8080:80"))
    await podman("network", "create", "--subnet", "10.89.1.0/24", "two")
    shown = await podman.exec("web", "ip", "addr", "show", "dev", "eth0")
    assert "inet 10.89.0.77/24" in shown and "link/ether 02:00:00:00:00:77" in shown
    await podman("network", "connect", "two", "web")
    assert await podman.addresses("web") == {"one": "10.89.0.77", "two": "10.89.1.2"}
    assert "inet 10.89.1.2/24" in await podman.exec("web", "ip", "addr", "show", "dev", "eth1")
    await podman("network", "disconnect", "one", "web")
    assert (held(node, "one"), held(node, "two")) == ([], ["10.89.1.2"])
    assert "eth0" not in await podman.exec("web", "ip", "link")


@pytest.mark.parametrize("runtime", ["containerd", "podman"])
async def test_runtimes_call_plugins_as_recorded(runtime: str) -> None:
    record = {"containerd": runtime_calls.record_containerd, "podman": runtime_calls.record_podman}[runtime]
    seen = runtime_calls.comparable(await record())
    kept = runtime_calls.comparable(json.loads(runtime_calls.RECORDED.read_text())[runtime])
    assert [step["did"] for step in seen] == [step["did"] for step in kept]
    for now, then in zip(seen, kept, strict=True):
        assert now == then


def state_of_the_machine() -> list[object]:
    """The network of the machine the tests run on."""
    asked = ["addr", "route show table all", "-6 route show table all", "rule", "neigh", "netns"]
    shown = [subprocess.run(["ip", *words.split()], capture_output=True, check=True).stdout for words in asked]
    settings = Path("/proc/sys/net/ipv4")
    values = {str(path): path.read_text() for path in (settings / "ip_forward", *settings.glob("conf/*/*"))}
    return [re.sub(rb"valid_lft.*|expires \d+sec", b"", text) for text in shown] + [values]


async def test_nothing_of_the_machine_is_touched() -> None:
    before = state_of_the_machine()
    async with runtime_node(REFERENCE_PLUGINS) as node, containerd(node) as ctr:
        node.write(f"{CONFIG}/10-net.conflist", json.dumps(runtime_calls.LIST))
        await ctr.run("web", *WEB)
        podman = Podman(node)
        await podman("network", "create", "one")
        await podman.run("web", *WEB, options=("--network", "one", "--publish", "8080:80"))
        processes = await node.run("ps", "ax")
        assert "containerd-shim" in processes and "conmon" in processes
        cgroups = [path for path in Path("/sys/fs/cgroup").rglob(node.name) if path.is_dir()]
        assert state_of_the_machine() == before
    assert state_of_the_machine() == before
    assert cgroups and not any(path.exists() for path in cgroups)
    assert not Path("/dev/shm", node.name).exists()
