"""Packets between pods of three nodes, two on one link and one behind a router, by host routes and by VXLAN."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from routes_site import ADDRESSES, CIDRS, CLUSTER, OUTSIDE, Member, Site, node, three_nodes, until

from glassnet.kernel.api import Sandbox
from glassnet.netstack.ops import AddAddress, DelAddress
from glassnet.routes.model import Mode, RoutesSettings

pytestmark = pytest.mark.kernel
POD = {name: (v4.replace("0/24", "2"), v6.replace("/64", "2")) for name, (v4, v6) in CIDRS.items()}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with three_nodes() as made:
        yield made


async def reaches(member: Member, pod: Sandbox | None, address: str, *words: str) -> bool:
    """One echo, from a pod or from the node itself."""
    argv = ("ping", "-c1", "-W2", *words, address)
    told = await (member.inside(pod, *argv) if pod else member.run("sh", "-c", f"{' '.join(argv)} || true"))
    return "1 received" in told


@contextlib.asynccontextmanager
async def echo(pod: Sandbox, address: str) -> AsyncIterator[int]:
    """A TCP server in a pod that tells who calls, then sends back what it gets; its port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = pod.netns.socket(family, socket.SOCK_STREAM)
    listening.bind((address, 0))
    listening.listen()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("peername")[0].encode().ljust(64))
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, sock=listening)
    try:
        yield listening.getsockname()[1]
    finally:
        server.close()


async def talk(pod: Sandbox, address: str, port: int, much: int) -> str:
    """Send `much` bytes to the server and have them back; whom it saw."""
    calling = pod.netns.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    async with asyncio.timeout(10):
        await asyncio.get_running_loop().sock_connect(calling, (address, port))
        reader, writer = await asyncio.open_connection(sock=calling)
        seen = (await reader.readexactly(64)).decode().strip()
        writer.write(bytes(much))
        assert await reader.readexactly(much) == bytes(much)
        writer.close()
    return seen


async def fragments(member: Member) -> int:
    """How many packets a node has cut to pieces or put together."""
    text = await member.run("nstat", "-asz", "IpReasmReqds", "IpFragCreates", "Ip6ReasmReqds", "Ip6FragCreates")
    return sum(int(line.split()[1]) for line in text.splitlines()[1:])


@pytest.mark.parametrize("mode", ["direct", "auto", "vxlan"])
async def test_pods_reach_each_other_with_full_packets(site: Site, mode: Mode) -> None:
    names = ["node-a", "node-b"] if mode == "direct" else list(ADDRESSES)
    await site.start(RoutesSettings(mode=mode, cluster_cidrs=CLUSTER), *names)
    pods = {name: await site.members[name].pod() for name in names}
    for source in names:
        here = site.members[source]
        assert here.routes is not None
        assert here.routes.pod_mtu == (1500 if mode == "direct" else 1450)
        for target in names:
            for head, address in zip((28, 48), POD[target], strict=True):
                full = ("-M", "do", "-s", str(here.routes.pod_mtu - head))
                assert await reaches(here, pods[source], address, *full), (source, target, address)
                assert await reaches(here, None, address), (source, target, address)  # from the node, and back to it
    for member in (site.members[name] for name in names):
        assert member.routes is not None
        assert member.routes.routes == (2 * (len(names) - 1))
        assert set(member.routes.problems) == ({"node-c"} if mode == "direct" else set())
        assert await fragments(member) == 0


@pytest.mark.parametrize("mode", ["auto", "vxlan"])
async def test_a_pod_keeps_its_address_inside_the_cluster_and_loses_it_outside(site: Site, mode: Mode) -> None:
    await site.start(RoutesSettings(mode=mode, cluster_cidrs=CLUSTER))
    source = await site.a.pod()
    for target in (site.b, site.c):
        far = await target.pod()
        for own, address in zip(POD["node-a"], POD[target.name], strict=True):
            async with echo(far, address) as port:
                assert await talk(source, address, port, 2_000_000) == own
    stranger = await site.outside.sandbox("cni-x", "x", {}, host_network=True)
    try:
        for own, address in zip(ADDRESSES["node-a"], OUTSIDE, strict=True):
            async with echo(stranger, address) as port:
                assert await talk(source, address, port, 1000) == own
    finally:
        await stranger.remove()
    assert [await fragments(member) for member in site.members.values()] == [0, 0, 0]


async def test_what_is_programmed(site: Site) -> None:
    await site.a.start(RoutesSettings())
    assert await site.a.ours() == [
        "10.200.2.0/24 via 10.240.0.12 dev eth0",
        "10.200.3.0/24 via 10.200.3.0 dev glassnet-vxlan onlink",
        "fd00:200:0:2::/64 via fd40::12 dev eth0 metric 1024 pref medium",
        "fd00:200:0:3::/64 via fd00:200:0:3:: dev glassnet-vxlan metric 1024 onlink pref medium",
    ]
    link = await site.a.run("ip", "-d", "addr", "show", "glassnet-vxlan")
    for words in ("vxlan id 1 local 10.240.0.11", "dstport 8472 nolearning", "alias glassnet routes between nodes", "mtu 1450"):  # fmt: skip
        assert words in link
    assert "inet 10.200.1.0/32 scope global" in link and "inet6 fd00:200:0:1::/128 scope global" in link
    assert "fe80" not in link and "UP,LOWER_UP" in link
    assert (await site.a.run("bridge", "fdb", "show", "dev", "glassnet-vxlan")).split()[1:4] == ["dst", "10.240.1.13", "self"]  # fmt: skip
    assert (await site.a.run("ip", "neigh", "show", "dev", "glassnet-vxlan")).count("PERMANENT") == 2
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        assert (await site.a.run("sysctl", "-n", name)).strip() == "1"
    accepts = await site.a.run("sysctl", "-n", "net.ipv6.conf.eth0.accept_ra")
    assert accepts.strip() == "2"  # or a router's advertisements, and with them the default route, would be lost


async def test_nodes_come_go_and_change(site: Site) -> None:
    site.take("node-c")
    await site.start(RoutesSettings(), "node-a", "node-b")
    pod = await site.a.pod()
    routes = site.a.routes
    assert routes is not None and routes.routes == 2
    site.put(node("node-c", CIDRS["node-c"], ADDRESSES["node-c"]))
    await until(lambda: routes.routes == 4)
    await site.start(RoutesSettings(), "node-c")
    await site.c.pod()
    assert await reaches(site.a, pod, POD["node-c"][0])
    # another address: the tunnel ends elsewhere
    site.c.machine.netns.apply([DelAddress("10.240.1.13/24", "eth0"), AddAddress("10.240.1.99/24", "eth0")])
    await site.c.run("ip", "route", "replace", "default", "via", "10.240.1.1")
    site.put(node("node-c", CIDRS["node-c"], ("10.240.1.99", "fd41::13")))
    deadline = asyncio.get_running_loop().time() + 15
    while not await reaches(site.a, None, POD["node-c"][0]):
        assert asyncio.get_running_loop().time() < deadline
    for machine, words, told in (
        (site.c, ("ip", "-d", "link", "show", "glassnet-vxlan"), "local 10.240.1.99"),
        (site.a, ("bridge", "fdb", "show", "dev", "glassnet-vxlan"), "dst 10.240.1.99"),
    ):
        while told not in (said := await machine.run(*words)):
            assert asyncio.get_running_loop().time() < deadline, said
            await asyncio.sleep(0.02)
    # other pod CIDRs
    site.put(node("node-b", ("10.200.77.0/24",), ADDRESSES["node-b"]))
    await until(lambda: routes.routes == 3)
    assert "10.200.77.0/24 via 10.240.0.12 dev eth0" in await site.a.ours()
    assert not [line for line in await site.a.ours() if line.startswith(("10.200.2.0", "fd00:200:0:2:"))]
    site.put(node("node-b", (), ADDRESSES["node-b"]))
    await until(lambda: routes.routes == 2)
    assert "no spec.podCIDRs" in routes.problems["node-b"]
    site.take("node-c")
    await until(lambda: routes.routes == 0)
    assert await site.a.ours() == [] and await site.a.run("bridge", "fdb", "show", "dev", "glassnet-vxlan") == ""
    assert await site.a.run("ip", "neigh", "show", "dev", "glassnet-vxlan") == ""
    site.take("node-b")
    await until(lambda: routes.problems == {})


@pytest.mark.parametrize("mode", ["auto", "vxlan"])
async def test_a_restart_cuts_no_connection(site: Site, mode: Mode) -> None:
    await site.start(RoutesSettings(mode=mode))
    pods = [await member.pod() for member in site.members.values()]
    before = await site.a.run("ip", "-d", "link", "show", "glassnet-vxlan"), await site.a.ours()
    count = 250
    for address in (POD["node-b"][0], POD["node-c"][1]):
        pinging = asyncio.create_task(site.a.inside(pods[0], "ping", "-i0.004", f"-c{count}", "-W2", address))
        for _ in range(3):
            await site.a.stop()
            await site.a.start(RoutesSettings(mode=mode))
        assert not pinging.done()  # it went on all the time
        assert f"{count} received" in await pinging
    assert (await site.a.run("ip", "-d", "link", "show", "glassnet-vxlan"), await site.a.ours()) == before


async def test_what_changed_while_nobody_looked_is_caught_up_with(site: Site) -> None:
    await site.start(RoutesSettings())
    await site.a.stop()
    site.take("node-b")
    site.put(node("node-c", ("10.200.33.0/24",), ADDRESSES["node-c"]))
    await site.a.run("ip", "route", "del", "10.200.3.0/24")
    await site.a.run("ip", "route", "add", "10.200.9.0/24", "via", "10.240.0.12", "proto", "114")
    await site.a.start(RoutesSettings())
    assert await site.a.ours() == ["10.200.33.0/24 via 10.200.33.0 dev glassnet-vxlan onlink"]


async def test_from_one_mode_to_another(site: Site) -> None:
    pods: list[Sandbox] = []
    for mode, dev in (("vxlan", "glassnet-vxlan"), ("direct", "eth0"), ("auto", "eth0")):
        await site.start(RoutesSettings(mode=mode), "node-a", "node-b")  # type: ignore[arg-type]
        pods = pods or [await site.a.pod(), await site.b.pod()]
        assert f"dev {dev}" in await site.a.run("ip", "route", "get", POD["node-b"][0])
        assert ("glassnet-vxlan" in await site.a.run("ip", "-br", "link")) == (mode != "direct")
        for address in POD["node-b"]:
            assert await reaches(site.a, pods[0], address)
        await site.a.stop()
        await site.b.stop()


async def test_tunnels_over_ipv6(site: Site) -> None:
    for name, (_, wide) in ADDRESSES.items():
        site.put(node(name, CIDRS[name], [wide]))
    await site.start(RoutesSettings(mode="vxlan", link="tunnels", vxlan_port=4789, vxlan_id=77))
    pods = [await member.pod() for member in site.members.values()]
    assert site.a.routes is not None and site.a.routes.pod_mtu == 1430
    assert "vxlan id 77 local fd40::11" in await site.a.run("ip", "-d", "link", "show", "tunnels")
    for head, address in zip((28, 48), POD["node-c"], strict=True):
        assert await reaches(site.a, pods[0], address, "-M", "do", "-s", str(1430 - head))


async def test_a_strict_reverse_path_filter_stops_nobody(site: Site) -> None:
    strict = {"net.ipv4.conf.all.rp_filter": 1, "net.ipv4.conf.default.rp_filter": 1, "net.ipv4.conf.eth0.rp_filter": 1}
    for member in (site.b, site.c):
        member.machine.sysctl(strict)
    await site.start(RoutesSettings())
    pods = [await member.pod() for member in site.members.values()]
    for source, pod in ((site.a, pods[0]), (site.b, pods[1])):
        assert await reaches(source, pod, POD["node-c"][0])
        assert await reaches(source, None, POD["node-c"][0])
    site.a.machine.sysctl({"net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.eth0.rp_filter": 0})
    bound = ("-I", ADDRESSES["node-a"][0])  # to node-c by the tunnel, and back by the links
    assert await reaches(site.a, None, POD["node-c"][0], *bound)
