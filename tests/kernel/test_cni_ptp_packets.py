"""ptp in the kernel: what packets do, what routes there are, what is left."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cni_site import AGENT, ALONE, REFERENCE, Site, cni_site
from glassnet.kernel.netns import KernelNetNs
from glassnet.net.errors import CommandError
from glassnet.netstack.ops import AddAddress, AddVeth, SetLink

pytestmark = pytest.mark.kernel
Json = dict[str, Any]
DUAL = ("10.22.0.0/24", "fd00:22::/64")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with cni_site() as made:
        yield made


def conf(*subnets: str, **changes: Any) -> Json:
    ipam: Json = {"type": "host-local", "ranges": [[{"subnet": one}] for one in subnets or DUAL]}
    ipam["routes"] = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}] if not subnets else []
    return {"cniVersion": "1.1.0", "name": "p2p", "type": "ptp", "ipam": ipam, **changes}


async def joined(site: Site, container: str, configuration: Json, where: str = AGENT, **options: Any) -> Json:
    """A namespace joined to the network; the result."""
    if container not in await site.run("ip", "netns", "list"):
        await site.run("ip", "netns", "add", container)
    answer: Json = await site.call("ptp", "ADD", configuration, container, where=where, **options)
    assert "code" not in answer, answer
    return answer


async def pings(site: Site, container: str, address: str, *more: str) -> bool:
    """Whether one echo request is answered within a second: a first one that had to wait would not be."""
    try:
        return "1 received" in await site.inside(container, "ping", "-c1", "-W0.8", *more, address)
    except CommandError:
        return False


async def routes(site: Site, container: str = "") -> set[str]:
    """The routes of a namespace, or of the node, without those the kernel makes."""
    lines = ""
    for family in ("-4", "-6"):
        words = ["ip", family, "route"]
        lines += await (site.inside(container, *words) if container else site.run(*words))
    kept = (line for line in lines.splitlines() if "proto kernel" not in line)
    return {" ".join(word for word in line.replace("pref medium", "").split()) for line in kept}


@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_both_families_work_as_soon_as_add_returns(site: Site, where: str) -> None:
    one = await joined(site, "c1", conf(), where)
    for ip in one["ips"]:
        assert await pings(site, "c1", ip["gateway"])
        assert "1 received" in await site.run("ping", "-c1", "-W0.8", ip["address"].partition("/")[0])
    await joined(site, "c2", conf(), where)
    for ip in one["ips"]:
        assert await pings(site, "c2", ip["address"].partition("/")[0]), "through the node, though in one network"
    assert [interface["name"] for interface in one["interfaces"]][1:] == ["eth0"]
    assert [ip["interface"] for ip in one["ips"]] == [1, 1]
    assert await site.call("ptp", "CHECK", {**conf(), "prevResult": one}, "c1", where=where) is None
    for _ in range(2):
        assert await site.call("ptp", "DEL", conf(), "c1", where=where) is None
        assert await site.leases("p2p") == ["10.22.0.3", "fd00:22::3"]
        assert len(json.loads(await site.run("ip", "-j", "link", "show", "type", "veth"))) == 1


async def test_addresses_and_routes_are_as_the_reference_makes_them(site: Site) -> None:
    found = []
    for where in (REFERENCE, AGENT):
        wanted = conf(cniVersion="1.0.0", runtimeConfig={"ips": ["10.22.0.7", "fd00:22::7"]})
        answer = await joined(site, "c1", wanted, where)
        name = answer["interfaces"][0]["name"]
        host = {line.replace(name, "VETH") for line in await routes(site)}
        addresses = [
            line.split("scope")[0].strip().replace(name, "VETH")
            for line in (await site.run("ip", "addr", "show", "dev", name)).splitlines()
            if "inet" in line and "fe80" not in line
        ]
        found.append((await routes(site, "c1"), host, addresses, answer["ips"], answer.get("routes")))
        await site.call("ptp", "DEL", wanted, "c1")  # ours takes away what the reference made
        assert await site.leases("p2p") == []
    assert found[0] == found[1]


async def test_the_node_is_told_no_routes_and_has_no_more_than_it_needs(site: Site) -> None:
    answer = await joined(site, "c1", conf())
    name = answer["interfaces"][0]["name"]
    assert (await site.run("sysctl", "-n", f"net.ipv6.conf.{name}.accept_ra")).strip() == "0"
    assert (await site.run("sysctl", "-n", "net.ipv4.ip_forward")).strip() == "1"
    assert (await site.run("sysctl", "-n", "net.ipv6.conf.all.forwarding")).strip() == "1"
    assert json.loads(await site.run("ip", "-j", "link", "show", name))[0]["ifalias"] == "cni p2p c1 eth0"


async def test_mtu_and_resolver(site: Site) -> None:
    answer = await joined(site, "c1", conf(mtu=1400, dns={"nameservers": ["192.0.2.53"]}))
    assert answer["dns"] == {"nameservers": ["192.0.2.53"]}
    assert await pings(site, "c1", "10.22.0.1", "-Mdo", "-s1372")
    assert not await pings(site, "c1", "10.22.0.1", "-Mdo", "-s1373")


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
async def test_what_leaves_is_masqueraded(site: Site, backend: str) -> None:
    masked = conf(ipMasq=True, ipMasqBackend=backend)
    answer = await joined(site, "c1", masked)
    await site.run("ip", "netns", "add", "far")
    far, pod = (
        KernelNetNs(name, os.open(site.path(f"/run/netns/{name}"), os.O_RDONLY), kept=True) for name in ("far", "c1")
    )
    site.machine.netns.apply([AddVeth("eth9", "eth0", peer_netns=far.fd), SetLink("eth9", up=True)])
    site.machine.netns.apply([AddAddress("192.0.2.1/24", "eth9")])
    far.apply([SetLink("eth0", up=True), AddAddress("192.0.2.2/24", "eth0")])
    server, client = (each.socket(socket.AF_INET, socket.SOCK_DGRAM) for each in (far, pod))
    far.close()
    pod.close()
    with server, client:
        server.bind(("192.0.2.2", 9))
        client.sendto(b"who am I", ("192.0.2.2", 9))
        async with asyncio.timeout(5):
            _, sender = await asyncio.get_running_loop().sock_recvfrom(server, 100)
    assert sender[0] == "192.0.2.1"
    assert await site.call("ptp", "CHECK", {**masked, "prevResult": answer}, "c1") is None
    assert await site.call("ptp", "GC", {**masked, "cni.dev/valid-attachments": []}, "") is None
    assert "10.22.0.2" not in await site.run("nft", "list", "ruleset")
    assert await site.leases("p2p") == [] and "eth0" not in await site.inside("c1", "ip", "link")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("ip route del 10.22.0.2", "the route to 10.22.0.2 by {port} is missing on the node"),
        ("ip addr del 10.22.0.1/32 dev {port}", "interface {port} has lost the gateway's address 10.22.0.1"),
        ("ip link set {port} down", "Interface {port} is down"),
        ("ip link del {port}", "Container Interface name in prevResult: eth0 not found"),
        ("ip netns exec c1 ip route del default", "Expected Route 0.0.0.0/0 not found in routing table"),
    ],
)
async def test_check_tells_what_is_missing(site: Site, spoil: str, says: str) -> None:
    answer = await joined(site, "c1", conf())
    port = answer["interfaces"][0]["name"]
    await site.sh(spoil.format(port=port))
    refused = await site.call("ptp", "CHECK", {**conf(), "prevResult": answer}, "c1")
    assert says.format(port=port) in refused["msg"]


async def test_an_add_that_fails_leaves_nothing(site: Site) -> None:
    await site.run("ip", "netns", "add", "c1")
    bare = conf(ipam={"type": "static", "addresses": [{"address": "10.22.0.2/24"}]})
    answer = await site.call("ptp", "ADD", bare, "c1")
    assert answer["msg"] == "failed to add IP addr to veth: 10.22.0.2/24 has no gateway"
    broken = conf()
    broken["ipam"]["routes"] = [{"dst": "10.50.0.0/16", "gw": "192.0.2.1"}]
    assert "10.50.0.0/16" in (await site.call("ptp", "ADD", broken, "c1"))["msg"]
    assert (await site.call("ptp", "ADD", conf(ipam={}), "c1"))["msg"] == "no plugin name provided"
    assert await site.leases("p2p") == [] and "veth" not in await site.run("ip", "-br", "link")
    assert "eth0" not in await site.inside("c1", "ip", "link")


async def test_del_with_the_namespace_gone(site: Site) -> None:
    masked = conf(ipMasq=True)
    answer = await joined(site, "c1", masked)
    holder = os.open(site.path("/run/netns/c1"), os.O_RDONLY)  # something holds the namespace, its name is gone
    try:
        await site.run("ip", "netns", "del", "c1")
        assert await site.call("ptp", "DEL", {**masked, "prevResult": answer}, "c1") is None
        assert "veth" not in await site.run("ip", "-br", "link") and await site.leases("p2p") == []
        assert "CNI-" not in await site.run("iptables-save", "-t", "nat")
    finally:
        os.close(holder)


async def test_status_says_when_the_node_does_not_forward(site: Site) -> None:
    assert await site.call("ptp", "STATUS", conf(), "") is None
    await joined(site, "c1", conf())
    assert await site.call("ptp", "STATUS", conf(), "") is None
    await site.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    assert (await site.call("ptp", "STATUS", conf(), ""))["code"] == 51
