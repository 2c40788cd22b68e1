"""ADD and DEL on a machine of namespaces: packets between pods, what lies on disk, what is left afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pods_machine import Node, node_of_namespaces

from glassnet.agent.cni.runtime import CniAgent
from glassnet.cni.masquerade import chain_name
from glassnet.kernel.api import Sandbox
from glassnet.kernel.links import delete_links
from glassnet.net.errors import CommandError, GlassnetError, KernelError
from glassnet.netstack.ops import AddAddress, AddRoute, AddVeth, SetLink

pytestmark = pytest.mark.kernel


def conf(**changes: Any) -> str:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    base = {"cniVersion": "0.3.1", "name": "bridge", "type": "bridge", "bridge": "cnio0", "isGateway": True,
            "ipMasq": True, "ipam": ipam}  # fmt: skip
    return json.dumps({**base, **changes}, indent=4)


class Site:
    """A machine with a configuration, its agent and bare pods; `outside` is a host behind the machine's other interface."""

    def __init__(self, node: Node) -> None:
        self.node, self.machine = node, node.machine
        self.agent = CniAgent(node.machine, os.urandom, permanent_neighbours=True)
        self.pods: list[Sandbox] = []

    def configure(self, **changes: Any) -> None:
        (self.machine.root / "etc/cni/net.d/10-bridge.conf").write_text(conf(**changes))

    async def sandbox(self) -> Sandbox:
        made = await self.machine.sandbox(f"cni-{len(self.pods)}", f"pod-{len(self.pods)}", {})
        self.pods.append(made)
        return made

    async def pod(self, container_id: str) -> tuple[Sandbox, str]:
        sandbox = await self.sandbox()
        attachment = await self.agent.add(sandbox.netns, container_id)
        return sandbox, attachment.address

    async def inside(self, sandbox: Sandbox, *argv: str) -> str:
        """Run a program in a pod's network namespace, as the node's shell does."""
        return await self.node.run("nsenter", f"--net=/run/netns/{sandbox.netns.name}", *argv)

    def leases(self) -> list[str]:
        return sorted(p.name for p in (self.machine.root / "var/lib/cni/networks/bridge").glob("10.*"))

    async def nat(self) -> str:
        return await self.node.run("iptables", "-t", "nat", "-S")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with node_of_namespaces() as node:
        made = Site(node)
        made.configure()
        try:
            yield made
        finally:
            await made.agent.close()
            for sandbox in made.pods:
                await sandbox.remove()


async def test_pods_reach_each_other_and_the_node(site: Site) -> None:
    one, first = await site.pod("c1")
    _, second = await site.pod("c2")
    assert (first, second) == ("10.200.0.2", "10.200.0.3")
    assert "1 received" in await site.inside(one, "ping", "-c1", "-W2", second)
    assert "1 received" in await site.inside(one, "ping", "-c1", "-W2", "10.200.0.1")
    assert "1 received" in await site.node.run("ping", "-c1", "-W2", first)


async def test_what_a_pod_and_its_node_show(site: Site) -> None:
    one, _ = await site.pod("c1")
    routes = await site.inside(one, "ip", "route")
    assert routes.splitlines()[0].startswith("default via 10.200.0.1 dev eth0")
    assert "10.200.0.0/24 dev eth0 proto kernel scope link src 10.200.0.2" in routes
    link = json.loads(await site.inside(one, "ip", "-j", "link", "show", "eth0"))[0]
    assert link["address"] == "0a:58:0a:c8:00:02" and link["link_index"] > 1
    ports = json.loads(await site.node.run("bridge", "-j", "link"))
    assert [port["master"] for port in ports] == ["cnio0"] and ports[0]["ifindex"] == link["link_index"]
    assert len(ports[0]["ifname"]) == 12 and ports[0]["ifname"].startswith("veth")
    for where in (site.inside(one, "ip", "neigh"), site.node.run("ip", "neigh")):
        assert "PERMANENT" in await where
    kept = json.loads((site.machine.root / "var/lib/cni/results/bridge-c1-eth0").read_text())
    assert kept["result"]["ips"][0]["address"] == "10.200.0.2/24" and kept["netns"] == "/run/netns/cni-0"
    place = site.machine.root / "var/lib/cni/networks/bridge"
    assert (place / "10.200.0.2").read_bytes() == b"c1\r\neth0" and (place / "lock").exists()
    assert (place / "last_reserved_ip.0").read_text() == "10.200.0.2"
    assert (await site.node.run("cat", "/proc/sys/net/ipv4/ip_forward")).strip() == "1"


async def outside(site: Site) -> Sandbox:
    """A host beyond the machine: 192.0.2.2, which knows the way back to the pods."""
    host = await site.sandbox()
    site.machine.netns.apply(
        [
            AddVeth("eth9", "eth0", peer_netns=host.netns.fd),
            AddAddress("192.0.2.1/24", "eth9"),
            SetLink("eth9", up=True),
        ]
    )
    host.netns.apply(
        [
            AddAddress("192.0.2.2/24", "eth0"),
            SetLink("eth0", up=True),
            AddRoute("10.200.0.0/24", gateway="192.0.2.1", dev="eth0"),
        ]
    )
    return host


async def ask(pod: Sandbox, host: Sandbox) -> str:
    """Send a datagram from the pod to the host; the address the host sees."""
    server = host.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client = pod.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        server.bind(("192.0.2.2", 9))
        client.sendto(b"who am I", ("192.0.2.2", 9))
        async with asyncio.timeout(5):
            _, (address, _) = await asyncio.get_running_loop().sock_recvfrom(server, 100)
        return str(address)
    finally:
        server.close()
        client.close()


@pytest.mark.parametrize(("masquerade", "seen"), [(True, "192.0.2.1"), (False, "10.200.0.2")])
async def test_what_leaves_is_masqueraded_or_not(site: Site, masquerade: bool, seen: str) -> None:
    site.configure(ipMasq=masquerade)
    pod, address = await site.pod("c1")
    other, second = await site.pod("c2")
    assert await ask(pod, await outside(site)) == seen
    if masquerade:
        listed = await site.node.run("conntrack", "-L", "-s", address, "-p", "udp")
        (entry,) = listed.splitlines()
        assert "src=192.0.2.2 dst=192.0.2.1" in entry  # the reply comes to the node's address
        chain = chain_name("bridge", "c1")
        counters = await site.node.run("iptables-save", "-c", "-t", "nat")
        assert f"[1:36] -A {chain} ! -d 224.0.0.0/4" in counters
    else:
        assert "CNI-" not in await site.nat()
    assert "1 received" in await site.inside(other, "ping", "-c1", "-W2", address)
    assert (address, second) == ("10.200.0.2", "10.200.0.3")


async def test_del_leaves_nothing_and_may_come_twice(site: Site) -> None:
    before = await site.nat()
    pod = await site.sandbox()
    await site.agent.add(pod.netns, "c1")
    assert chain_name("bridge", "c1") in await site.nat()
    for _ in range(2):
        await site.agent.delete("bridge", "c1", pod.netns)
        assert await site.nat() == before
        assert site.leases() == [] and not list((site.machine.root / "var/lib/cni/results").glob("bridge-*"))
        assert "veth" not in await site.node.run("ip", "-br", "link")
        assert await site.node.run("ip", "neigh", "show", "10.200.0.2") == ""
    again = await site.agent.add(pod.netns, "c2")
    assert again.address == "10.200.0.3"  # round robin: not at once the one given back


async def test_many_pods_at_once_share_one_restore(site: Site) -> None:
    runs: list[str] = []
    spawn = site.machine.spawn

    async def counted(argv: Any, **options: Any) -> Any:
        runs.append(argv[0])
        return await spawn(argv, **options)

    site.machine.spawn = counted  # type: ignore[method-assign]
    pods = [await site.sandbox() for _ in range(60)]
    made = await asyncio.gather(*(site.agent.add(pod.netns, f"c{n}") for n, pod in enumerate(pods)))
    assert len({attachment.address for attachment in made}) == 60 and runs == ["iptables-restore"]
    site.machine.spawn = spawn  # type: ignore[method-assign]
    assert (await site.nat()).count("-j MASQUERADE") == 60
    assert "1 received" in await site.inside(pods[0], "ping", "-c1", "-W2", made[59].address)
    await asyncio.gather(*(site.agent.delete("bridge", f"c{n}", pod.netns) for n, pod in enumerate(pods)))
    assert "CNI-" not in await site.nat() and site.leases() == []


async def test_a_flushed_table_hinders_no_del(site: Site) -> None:
    pods = [await site.sandbox() for _ in range(3)]
    await asyncio.gather(*(site.agent.add(pod.netns, f"c{n}") for n, pod in enumerate(pods)))
    await site.node.run("iptables", "-t", "nat", "-D", "POSTROUTING", "1")
    await asyncio.gather(*(site.agent.delete("bridge", f"c{n}", pod.netns) for n, pod in enumerate(pods)))
    assert "CNI-" not in await site.nat() and site.leases() == []


async def test_a_failed_add_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = await site.sandbox()
    restores = site.agent.node.restores[4]

    async def refused(lines: str, table: str = "nat") -> None:
        raise CommandError(["iptables-restore"], 2, "no nat table here")

    monkeypatch.setattr(restores, "restore", refused)
    with pytest.raises(CommandError, match="no nat table here"):
        await site.agent.add(pod.netns, "c1")
    assert site.leases() == [] and "veth" not in await site.node.run("ip", "-br", "link")
    monkeypatch.undo()
    assert (await site.agent.add(pod.netns, "c1")).address == "10.200.0.3"


async def test_a_refused_restore_says_why_and_the_next_one_works(site: Site) -> None:
    program = site.agent.node.restores[4]
    await program.restore(":MINE - [0:0]\n")
    with pytest.raises(CommandError, match=r"line [0-9]+ failed"):
        await program.restore("-D POSTROUTING -j MINE\n")
    await program.restore("-A MINE -j ACCEPT\n")
    assert "-A MINE -j ACCEPT" in await site.nat()


async def test_a_cancelled_add_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pod, reached = await site.sandbox(), asyncio.Event()

    async def stuck(lines: str, table: str = "nat") -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(site.agent.node.restores[4], "restore", stuck)
    task = asyncio.create_task(site.agent.add(pod.netns, "c1"))
    await asyncio.wait_for(reached.wait(), 5)
    assert site.leases() == ["10.200.0.2"]
    monkeypatch.undo()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert site.leases() == [] and "CNI-" not in await site.nat()
    assert "veth" not in await site.node.run("ip", "-br", "link")


async def test_an_exhausted_range_says_so_and_gives_again(site: Site) -> None:
    site.configure(ipam={"type": "host-local", "subnet": "10.200.0.0/30"})
    pod, other = await site.sandbox(), await site.sandbox()
    first = await site.agent.add(pod.netns, "c1")
    with pytest.raises(GlassnetError, match=r"no IP addresses available in range set: 10\.200\.0\.1-10\.200\.0\.2"):
        await site.agent.add(other.netns, "c2")
    await site.agent.delete("bridge", "c1", pod.netns)
    assert (await site.agent.add(other.netns, "c2")).address == first.address


async def test_a_bridge_taken_away_comes_back(site: Site) -> None:
    await site.pod("c1")
    await site.node.run("ip", "link", "del", "cnio0")
    await site.node.run("ip", "link", "add", "other", "type", "bridge")  # takes the next number: a stale one would show
    pod, _ = await site.pod("c2")
    assert "1 received" in await site.inside(pod, "ping", "-c1", "-W2", "10.200.0.1")


async def test_a_bridge_of_another_network_is_left_alone(site: Site) -> None:
    await site.node.run("ip", "link", "add", "cnio0", "type", "bridge")
    await site.node.run("ip", "addr", "add", "10.200.0.77/16", "dev", "cnio0")
    pod = await site.sandbox()
    with pytest.raises(GlassnetError, match="already has an IP address different from"):
        await site.agent.add(pod.netns, "c1")
    assert site.leases() == []
    site.configure(forceAddress=True)
    await site.agent.add(pod.netns, "c1")
    assert "1 received" in await site.inside(pod, "ping", "-c1", "-W2", "10.200.0.1")


async def test_hairpin_or_a_promiscuous_bridge(site: Site) -> None:
    site.configure(hairpinMode=True, mtu=1400)
    pod, _ = await site.pod("c1")
    (port,) = json.loads(await site.node.run("bridge", "-d", "-j", "link"))
    assert port["hairpin"] is True
    site.configure(promiscMode=True)
    await site.pod("c2")
    (link,) = json.loads(await site.node.run("ip", "-d", "-j", "link", "show", "cnio0"))
    assert "PROMISC" in link["flags"] and link["mtu"] == 1400
    assert json.loads(await site.inside(pod, "ip", "-j", "link", "show", "eth0"))[0]["mtu"] == 1400


async def test_an_agent_started_anew_sweeps_what_the_last_one_left(site: Site) -> None:
    pods = [await site.sandbox() for _ in range(3)]
    for number, pod in enumerate(pods):
        await site.agent.add(pod.netns, f"c{number}")
    fresh = CniAgent(site.machine, os.urandom)
    await fresh.sweep(keep={"c1"})
    await fresh.close()
    assert site.leases() == ["10.200.0.3"]
    assert (await site.nat()).count("-j MASQUERADE") == 1


async def test_no_configuration_and_a_bad_one(site: Site) -> None:
    path = site.machine.root / "etc/cni/net.d/10-bridge.conf"
    path.unlink()
    with pytest.raises(
        GlassnetError, match=r"node-a: cni plugin not initialized: no network config found in /etc/cni/net\.d"
    ):
        site.agent.network()
    path.write_text('{"name": "bridge",\n "type": }')
    with pytest.raises(GlassnetError, match=r"^node-a:/etc/cni/net\.d/10-bridge\.conf:2:10: "):
        site.agent.network()


async def test_links_go_as_a_group_and_no_other_with_them(site: Site) -> None:
    names = [f"gone{number}" for number in range(130)]
    for name in [*names, "stays"]:
        site.machine.netns.apply([AddVeth(name, f"{name}p")])
    delete_links(site.machine.netns, ["absent", *names])
    left = {link["ifname"] for link in json.loads(await site.node.run("ip", "-j", "link"))}
    assert left == {"lo", "stays", "staysp"}
    delete_links(site.machine.netns, ["absent"])
    delete_links(site.machine.netns, ["stays"])
    assert "stays" not in await site.node.run("ip", "link")
    with pytest.raises(KernelError, match="delete interface lo: Operation not supported"):
        delete_links(site.machine.netns, ["lo"])
