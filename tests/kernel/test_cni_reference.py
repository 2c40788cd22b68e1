"""Ours beside the reference plugin of Debian's containernetworking-plugins: same rules, leases, results; each goes on where the other left off."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pods_machine import Node, node_of_namespaces
from test_cni_agent import conf

from glassnet.agent import cni_plugin

pytestmark = pytest.mark.kernel
REFERENCE, OURS = "/usr/lib/cni", "/opt/cni/bin"


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    assert Path(REFERENCE, "bridge").exists(), (
        "the reference plugins are missing: apt-get install containernetworking-plugins"
    )
    async with node_of_namespaces() as made:
        cni_plugin.install(made.machine.root)
        yield made


async def call(node: Node, plugin: str, command: str, container_id: str, text: str, netns: str = "") -> Any:
    """Run a plugin as a runtime does; its answer."""
    variables = f"CNI_COMMAND={command} CNI_CONTAINERID={container_id} CNI_NETNS=/run/netns/{netns or container_id} CNI_IFNAME=eth0"
    line = f"CNI_PATH=/usr/lib/cni {variables} PATH=$PATH:/usr/sbin:/sbin {plugin} || true"
    answer = await node.run("sh", "-c", line, stdin=text.encode())
    return json.loads(answer) if answer.strip() else None


async def state(node: Node) -> dict[str, Any]:
    """All a plugin leaves on a node, without the MACs and names drawn by lot."""
    files = {
        str(path.name): path.read_bytes()
        for path in sorted((node.machine.root / "var/lib/cni/networks/bridge").iterdir())
    }
    return {
        "nat": await node.run("iptables", "-t", "nat", "-S"),
        "addresses": await node.run("sh", "-c", "ip -4 -o addr show dev cnio0 | sed 's/^[0-9]*: //'"),
        "ports": (await node.run("bridge", "link")).count("master cnio0 state forwarding"),
        "routes": await node.run("ip", "route"),
        "files": files,
    }


async def inside(node: Node, netns: str) -> str:
    text = await node.run("sh", "-c", f"ip -n {netns} -4 addr show dev eth0; ip -n {netns} route")
    text = re.sub(r" *qlen \d+ ?", " ", text)
    return re.sub(r"@if\d+|^\d+: | +(?= link-netnsid)", "", text, flags=re.MULTILINE)


def shape(result: dict[str, Any]) -> Any:
    """A result without what is drawn by lot or (our MACs) made otherwise."""
    text = re.sub(r"veth[0-9a-f]{8}", "veth", json.dumps(result, sort_keys=True))
    return json.loads(re.sub(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC", text))


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.parametrize("masquerade", [True, False])
async def test_the_same_traces_on_a_node(node: Node, version: str, masquerade: bool) -> None:
    text = conf(cniVersion=version, ipMasq=masquerade)
    seen = []
    for place in (REFERENCE, OURS):
        await node.run("rm", "-rf", "/var/lib/cni/networks/bridge")
        pods = ["c1", "c2"]
        results, insides = [], []
        for pod in pods:
            await node.run("ip", "netns", "add", pod)
            results.append(shape(await call(node, f"{place}/bridge", "ADD", pod, text)))
            insides.append(await inside(node, pod))
        added = await state(node)
        await call(node, f"{place}/bridge", "DEL", "c1", text)
        await call(node, f"{place}/bridge", "DEL", "c1", text)
        half = await state(node)
        await call(node, f"{place}/bridge", "DEL", "c2", text)
        seen.append({"results": results, "insides": insides, "added": added, "half": half, "gone": await state(node)})
        await node.run("sh", "-c", "ip netns del c1; ip netns del c2; ip link del cnio0")
    reference, ours = seen
    assert ours == reference
    assert len(ours["added"]["files"]) == 4


async def test_each_takes_over_from_the_other(node: Node) -> None:
    text = conf(cniVersion="1.0.0")
    addresses = []
    for number, place in enumerate((REFERENCE, OURS, REFERENCE, OURS)):
        await node.run("ip", "netns", "add", f"c{number}")
        result = await call(node, f"{place}/bridge", "ADD", f"c{number}", text)
        addresses.append(result["ips"][0]["address"])
    assert addresses == [f"10.200.0.{n}/24" for n in (2, 3, 4, 5)]
    for one, other in ((0, 1), (1, 2), (3, 0)):
        target = addresses[other].split("/")[0]
        assert "1 received" in await node.run("ip", "netns", "exec", f"c{one}", "ping", "-c1", "-W2", target)
    for number, place in enumerate((OURS, REFERENCE, OURS, REFERENCE)):
        assert await call(node, f"{place}/bridge", "DEL", f"c{number}", text) is None
    left = await state(node)
    assert "CNI-" not in left["nat"] and sorted(left["files"]) == ["last_reserved_ip.0", "lock"] and left["ports"] == 0
    await node.run("sh", "-c", "for n in 0 1 2 3; do ip netns del c$n; done")


async def test_the_same_words_for_failures(node: Node) -> None:
    small = conf(ipam={"type": "host-local", "subnet": "10.200.0.0/30"})
    cases = [("first", small, "first"), ("second", small, "second")]
    for plugin in (REFERENCE, OURS):
        await node.run("rm", "-rf", "/var/lib/cni/networks/bridge")
        for name, text, netns in cases:
            await node.run("ip", "netns", "add", netns)
            answer = await call(node, f"{plugin}/bridge", "ADD", name, text, netns)
        assert (answer["code"], answer["msg"]) == (
            999,
            "failed to allocate for range 0: no IP addresses available in range set: 10.200.0.1-10.200.0.2",
        )
        answer = await call(node, f"{plugin}/bridge", "ADD", "first", small, "first")
        assert (answer["code"], answer["msg"]) == (999, "container veth name provided (eth0) already exists")
        answer = await call(node, f"{plugin}/bridge", "CHECK", "first", small)
        assert (answer["code"], answer["msg"]) == (1, "config version does not allow CHECK")
        answer = await call(node, f"{plugin}/bridge", "ADD", "x", conf(cniVersion="9.9"), "first")
        assert (answer["code"], answer["msg"]) == (1, "incompatible CNI versions")
        assert (await call(node, f"{plugin}/bridge", "ADD", "x", "{", "first"))["code"] == 6
        await call(node, f"{plugin}/bridge", "DEL", "first", small)
        await node.run("sh", "-c", "ip netns del first; ip netns del second; ip link del cnio0")


async def test_host_local_alone(node: Node) -> None:
    text = conf()
    answers = []
    for plugin in (REFERENCE, OURS):
        await node.run("rm", "-rf", "/var/lib/cni/networks/bridge")
        first = await call(node, f"{plugin}/host-local", "ADD", "c1", text)
        again = await call(node, f"{plugin}/host-local", "ADD", "c1", text)
        again.pop("cniVersion", None)  # the specification wants it in an error, the reference leaves it out
        await call(node, f"{plugin}/host-local", "DEL", "c1", text)
        answers.append((first, again, await call(node, f"{plugin}/host-local", "ADD", "c2", text)))
    assert answers[0] == answers[1]
