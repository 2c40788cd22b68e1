"""bridge in the kernel: what packets do on it, then what others see of it, then what is left."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cni_site import AGENT, ALONE, REFERENCE, Site, cni_site
from glassnet.kernel.netns import KernelNetNs
from glassnet.net.errors import CommandError
from glassnet.netstack.ops import AddAddress, AddRoute, AddVeth, SetLink

pytestmark = pytest.mark.kernel
_ETH_P_ARP, _ETH_P_TEST = 0x0806, 0x88B5
Json = dict[str, Any]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with cni_site() as made:
        yield made


def conf(*subnets: str, **changes: Any) -> Json:
    ipam: Json = {"type": "host-local", "ranges": [[{"subnet": one}] for one in subnets or ("10.22.0.0/24",)]}
    ipam["routes"] = [{"dst": "::/0" if ":" in one else "0.0.0.0/0"} for one in subnets or ("10.22.0.0/24",)]
    base: Json = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "isGateway": True}
    return {**base, "ipam": ipam, **changes}


DUAL = ("10.22.0.0/24", "fd00:22::/64")


async def joined(site: Site, container: str, configuration: Json, where: str = AGENT, **options: Any) -> Json:
    """A namespace joined to the network; the result."""
    if container not in await site.run("ip", "netns", "list"):
        await site.run("ip", "netns", "add", container)
    answer: Json = await site.call("bridge", "ADD", configuration, container, where=where, **options)
    assert "code" not in answer, answer
    return answer


async def pings(site: Site, container: str, address: str, *more: str) -> bool:
    """Whether one echo request is answered within a second: a first one that had to wait for an address or a port would not be."""
    try:
        return "1 received" in await site.inside(container, "ping", "-c1", "-W0.8", *more, address)
    except CommandError:
        return False


def netns(site: Site, name: str) -> KernelNetNs:
    """A namespace to make sockets in; the caller closes it."""
    return KernelNetNs(name, os.open(site.path(f"/run/netns/{name}"), os.O_RDONLY), kept=True)


def raw(site: Site, name: str, protocol: int = _ETH_P_TEST) -> socket.socket:
    """A packet socket on eth0 of a namespace."""
    inside = netns(site, name)
    sock = inside.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    inside.close()
    sock.bind(("eth0", protocol))
    return sock


async def received(sock: socket.socket, seconds: float = 1.0) -> bytes | None:
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 2048), seconds)
    except TimeoutError:
        return None


def frame(destination: str, source: str, text: bytes) -> bytes:
    addresses = bytes.fromhex((destination + source).replace(":", ""))
    return addresses + struct.pack("!H", _ETH_P_TEST) + text.ljust(46, b"\0")


@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_both_families_work_as_soon_as_add_returns(site: Site, where: str) -> None:
    one = await joined(site, "c1", conf(*DUAL), where)
    assert await pings(site, "c1", "10.22.0.1") and await pings(site, "c1", "fd00:22::1")
    two = await joined(site, "c2", conf(*DUAL), where)
    for ip in one["ips"]:
        assert await pings(site, "c2", ip["address"].partition("/")[0]), ip
    for ip in two["ips"]:
        assert "1 received" in await site.run("ping", "-c1", "-W0.8", ip["address"].partition("/")[0])
    assert "tentative" not in await site.inside("c2", "ip", "addr")
    assert [interface["name"] for interface in two["interfaces"]][::2] == ["br0", "eth0"]
    assert await site.call("bridge", "CHECK", {**conf(*DUAL), "prevResult": two}, "c2", where=where) is None


async def test_enabledad_finds_an_address_that_is_taken(site: Site) -> None:
    static = {"type": "static", "addresses": [{"address": "fd00:22::9/64"}]}
    first = conf(ipam=static, isGateway=False)
    await joined(site, "c1", first)
    started = time.monotonic()
    await site.run("ip", "netns", "add", "c2")
    twice = conf(ipam=static, isGateway=False, enabledad=True, name="other")
    answer = await site.call("bridge", "ADD", twice, "c2")
    assert answer["code"] == 999 and "fd00:22::9 in DADFAILED state" in answer["msg"]
    assert "eth0" not in await site.inside("c2", "ip", "link") and time.monotonic() - started < 9
    free = conf(ipam={"type": "static", "addresses": [{"address": "fd00:22::a/64"}]}, isGateway=False, enabledad=True)
    await joined(site, "c2", free)
    assert "tentative" not in await site.inside("c2", "ip", "addr")
    assert await pings(site, "c2", "fd00:22::9")


@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_a_spoofed_mac_is_dropped_and_the_right_one_is_not(site: Site, where: str) -> None:
    guarded = conf(macspoofchk=True)
    await joined(site, "c1", guarded, where)
    two = await joined(site, "c2", conf(), where)
    mac = two["interfaces"][2]["mac"]
    mine = json.loads(await site.inside("c1", "ip", "-j", "link", "show", "eth0"))[0]["address"]
    sender, receiver = raw(site, "c1"), raw(site, "c2")
    with sender, receiver:
        sender.send(frame(mac, "0a:58:de:ad:be:ef", b"spoofed"))
        sender.send(frame(mac, mine, b"honest"))
        data = await received(receiver)
        assert data is not None and data[14:20] == b"honest"
    assert await pings(site, "c1", "10.22.0.1")
    listed = await site.run("nft", "list", "table", "bridge", "nat")
    assert "cni-br-iface-c1-eth0" in listed and "cni-br-iface-c2" not in listed
    for _ in range(2):
        assert await site.call("bridge", "DEL", guarded, "c1", where=where) is None
        assert "cni-br-iface" not in await site.run("nft", "list", "ruleset")


async def test_the_spoof_check_is_the_references_own(site: Site) -> None:
    guarded = conf(macspoofchk=True, cniVersion="1.0.0", runtimeConfig={"mac": "0a:58:00:00:00:77"})
    await joined(site, "c1", guarded, REFERENCE)
    theirs = await site.run("nft", "list", "table", "bridge", "nat")
    assert await site.call("bridge", "DEL", guarded, "c1") is None  # ours takes away what the reference made
    assert "macspoofchk" not in await site.run("nft", "list", "ruleset")
    answer = await joined(site, "c1", guarded)
    ours = await site.run("nft", "list", "table", "bridge", "nat")
    plain = "\n".join(line for line in ours.splitlines() if line.strip() != 'comment "net: net"')
    port = answer["interfaces"][1]["name"]
    before = next(word.strip('"') for word in theirs.split() if word.startswith('"veth'))
    assert plain.replace(port, before).strip() == theirs.strip()
    assert await site.call("bridge", "CHECK", {**guarded, "prevResult": answer}, "c1") is None
    await site.run("nft", "flush", "chain", "bridge", "nat", "cni-br-iface-c1-eth0-mac")
    refused = await site.call("bridge", "CHECK", {**guarded, "prevResult": answer}, "c1")
    assert refused["msg"].startswith("macspoofchk rules are missing: bridge nat cni-br-iface-c1-eth0-mac")
    await site.call("bridge", "DEL", guarded, "c1", where=REFERENCE)
    assert "macspoofchk" not in await site.run("nft", "list", "ruleset")


async def test_gc_takes_the_rules_of_those_who_are_gone_and_no_others(site: Site) -> None:
    guarded, other = conf(macspoofchk=True), conf("10.23.0.0/24", macspoofchk=True, name="other", bridge="br1")
    for name in ("c1", "c2"):
        await joined(site, name, guarded)
    await joined(site, "c3", other)
    await joined(
        site, "c4", conf("10.24.0.0/24", macspoofchk=True, name="third", bridge="br2", cniVersion="1.0.0"), REFERENCE
    )
    await site.run("ip", "netns", "del", "c4")  # with it goes the link, not what the reference made besides
    await _until_gone(site, "br2")
    valid = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    assert await site.call("bridge", "GC", {**guarded, **valid}, "") is None
    listed = await site.run("nft", "list", "table", "bridge", "nat")
    assert [f"cni-br-iface-{name}-" in listed for name in ("c1", "c2", "c3", "c4")] == [False, True, True, False]
    assert await site.leases("net") == ["10.22.0.3"] and await site.leases("other") == ["10.23.0.2"]
    assert await pings(site, "c2", "10.22.0.1") and await pings(site, "c3", "10.23.0.1")
    assert "eth0" not in await site.inside("c1", "ip", "link")


async def _until_gone(site: Site, bridge: str) -> None:
    deadline = time.monotonic() + 5
    while "master" in await site.run("ip", "link", "show", "master", bridge):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_isolated_ports_reach_the_gateway_and_not_each_other(site: Site) -> None:
    isolated = conf(portIsolation=True)
    await joined(site, "c1", isolated)
    two = await joined(site, "c2", isolated)
    await joined(site, "c3", conf())
    address = two["ips"][0]["address"].partition("/")[0]
    assert await pings(site, "c1", "10.22.0.1") and not await pings(site, "c1", address)
    assert await pings(site, "c3", address)
    assert await site.call("bridge", "CHECK", {**isolated, "prevResult": two}, "c2") is None
    port = two["interfaces"][1]["name"]
    await site.run("bridge", "link", "set", "dev", port, "isolated", "off")
    refused = await site.call("bridge", "CHECK", {**isolated, "prevResult": two}, "c2")
    assert refused["msg"] == f"Interface {port} is not isolated"


@pytest.mark.parametrize("hairpin", [True, False])
async def test_hairpin_gives_a_frame_back_where_it_came_from(site: Site, hairpin: bool) -> None:
    await joined(site, "c1", conf(hairpinMode=hairpin))
    sock = raw(site, "c1")
    with sock:
        mine = json.loads(await site.inside("c1", "ip", "-j", "link", "show", "eth0"))[0]["address"]
        sock.send(frame("ff:ff:ff:ff:ff:ff", mine, b"echo"))
        data = await received(sock, 0.5)
    assert (data is not None) == hairpin


async def test_promiscuous_and_mtu(site: Site) -> None:
    answer = await joined(site, "c1", conf(promiscMode=True, mtu=1400))
    (link,) = json.loads(await site.run("ip", "-d", "-j", "link", "show", "br0"))
    assert link["promiscuity"] == 1 and link["mtu"] == 1400
    assert await pings(site, "c1", "10.22.0.1", "-Mdo", "-s1372")
    assert not await pings(site, "c1", "10.22.0.1", "-Mdo", "-s1373")
    assert [one.get("mtu") for one in answer["interfaces"]] == [1400, 1400, 1400]
    await site.run("ip", "link", "set", "br0", "promisc", "off")
    refused = await site.call("bridge", "CHECK", {**conf(promiscMode=True, mtu=1400), "prevResult": answer}, "c1")
    assert "configured Promisc Mode true doesn't match current state: false" in refused["msg"]
    await joined(site, "c2", conf(promiscMode=True, mtu=1400))
    assert await site.call("bridge", "CHECK", {**conf(promiscMode=True, mtu=1400), "prevResult": answer}, "c1") is None


@pytest.mark.parametrize(
    "options",
    [
        {"runtimeConfig": {"mac": "0A:58:00:00:00:07"}, "args": {"cni": {"mac": "0a:58:00:00:00:08"}}},
        {"args": {"cni": {"mac": "0a:58:00:00:00:07"}}},
        {},
    ],
)
async def test_a_mac_is_asked_for(site: Site, options: Json) -> None:
    answer = await joined(site, "c1", conf(**options), args="" if options else "IgnoreUnknown=1;MAC=0a:58:00:00:00:07")
    assert answer["interfaces"][2]["mac"] == "0a:58:00:00:00:07"
    assert "0a:58:00:00:00:07" in await site.inside("c1", "ip", "link", "show", "eth0")
    assert await pings(site, "c1", "10.22.0.1")


@pytest.mark.parametrize("again", ["0a:58:00:00:00:02", ""])
async def test_neighbours_learn_at_once_who_has_an_address_again(site: Site, again: str) -> None:
    subnets = ("10.22.0.0/29", "fd00:22::/125")
    static = {"type": "static", "addresses": [{"address": "10.22.0.6/29"}, {"address": "fd00:22::6/125"}]}
    await joined(site, "c0", conf(ipam=static, isGateway=False, name="other"))
    network = conf(*subnets, isGateway=False)
    one = await joined(site, "c1", {**network, "runtimeConfig": {"mac": "0a:58:00:00:00:01"}})
    addresses = [ip["address"].partition("/")[0] for ip in one["ips"]]
    for address in addresses:
        assert await pings(site, "c0", address)
        assert "0a:58:00:00:00:01" in await site.inside("c0", "ip", "neigh", "show", address)
    await site.call("bridge", "DEL", network, "c1")
    two = await joined(site, "c2", {**network, "runtimeConfig": {"mac": again, "ips": addresses}})
    mac = two["interfaces"][2]["mac"]
    assert mac == (again or "0a:58:0a:16:00:02")
    for address in addresses:  # with the old entry the echo would go nowhere
        assert mac in await site.inside("c0", "ip", "neigh", "show", address)
        assert await pings(site, "c0", address)


async def test_several_addresses_of_a_family_each_with_its_gateway(site: Site) -> None:
    subnets = ("10.22.0.0/24", "10.23.0.0/24", "fd00:22::/64", "fd00:23::/64")
    answer = await joined(site, "c1", conf(*subnets, isDefaultGateway=True))
    assert len(answer["ips"]) == 4
    for ip in answer["ips"]:
        assert await pings(site, "c1", ip["gateway"]), ip
        assert "1 received" in await site.run("ping", "-c1", "-W0.8", ip["address"].partition("/")[0])
    routes = await site.inside("c1", "ip", "route")
    assert routes.count("default") == 1 and "default via 10.22.0.1" in routes
    assert (
        await site.call("bridge", "CHECK", {**conf(*subnets, isDefaultGateway=True), "prevResult": answer}, "c1")
        is None
    )


async def test_a_range_of_another_subnet_takes_over_when_the_first_is_full(site: Site) -> None:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/30"}, {"subnet": "10.23.0.0/30"}]]}
    await joined(site, "c1", conf(ipam=ipam))
    two = await joined(site, "c2", conf(ipam=ipam))
    assert two["ips"][0]["address"] == "10.23.0.2/30" and await pings(site, "c2", "10.23.0.1")
    assert await pings(site, "c1", "10.22.0.1")


@pytest.mark.parametrize(
    ("first", "second"),
    [("10.22.0.0/24", "10.99.0.0/24"), ("10.22.0.0/24", "10.22.0.0/16"), ("fd00:22::/64", "fd00:22::/56")],
)
async def test_a_second_network_on_the_bridge_is_refused_and_nothing_changes(
    site: Site, first: str, second: str
) -> None:
    await joined(site, "c1", conf(first))
    before = await site.run("ip", "addr", "show", "br0")
    await site.run("ip", "netns", "add", "c2")
    answer = await site.call("bridge", "ADD", conf(second, name="other"), "c2")
    assert answer["code"] == 999 and '"br0" already has an IP address different from' in answer["msg"]
    assert "another network uses this bridge" in answer["details"]
    assert await site.run("ip", "addr", "show", "br0") == before and await site.leases("other") == []
    assert "eth0" not in await site.inside("c2", "ip", "link")
    ports = json.loads(await site.run("ip", "-j", "link", "show", "master", "br0"))
    assert len(ports) == 1
    await joined(site, "c2", conf(second, name="other", forceAddress=True))
    gateway = "fd00:22::1" if ":" in second else second.replace("0/24", "1").replace("0.0/16", "0.1")
    assert await pings(site, "c2", gateway)
    after = await site.run("ip", "addr", "show", "br0")
    assert (first.replace("0/24", "1/24").replace("::/", "::1/")) not in after


async def test_an_interface_left_down(site: Site) -> None:
    bare = {"cniVersion": "1.1.0", "name": "l2", "type": "bridge", "bridge": "br0", "disableContainerInterface": True}
    answer = await joined(site, "c1", bare)
    assert "state DOWN" in await site.inside("c1", "ip", "link", "show", "eth0") and "ips" not in answer
    assert await site.call("bridge", "CHECK", {**bare, "prevResult": answer}, "c1") is None
    await site.run("ip", "netns", "add", "c2")
    refused = await site.call("bridge", "ADD", conf(disableContainerInterface=True), "c2")
    assert refused["msg"] == "cannot use IPAM when DisableContainerInterface flag is set"
    up = await joined(site, "c2", {**bare, "disableContainerInterface": False})
    assert "state UP" in await site.inside("c2", "ip", "link", "show", "eth0")
    (link,) = json.loads(await site.inside("c2", "ip", "-j", "link", "show", "eth0"))
    assert up["interfaces"][2]["mac"] == link["address"]


async def test_the_resolver_is_the_configurations_or_the_address_plugins(site: Site) -> None:
    path = site.path("/etc/resolv-test")
    path.write_text("nameserver 192.0.2.53\nsearch lan\n")
    ipam = {"type": "host-local", "subnet": "10.22.0.0/24", "resolvConf": "/etc/resolv-test"}
    assert (await joined(site, "c1", conf(ipam=ipam)))["dns"] == {"nameservers": ["192.0.2.53"], "search": ["lan"]}
    own = {"nameservers": ["10.22.0.1"], "domain": "cni.lan"}
    assert (await joined(site, "c2", conf(ipam=ipam, dns=own)))["dns"] == own


async def test_what_is_written_into_the_kernel_besides(site: Site) -> None:
    await joined(site, "c1", conf(*DUAL))
    read = {
        "net.ipv6.conf.br0.accept_ra": "0",
        "net.ipv4.ip_forward": "1",
        "net.ipv6.conf.all.forwarding": "1",
    }
    for name, value in read.items():
        assert (await site.run("sysctl", "-n", name)).strip() == value, name
    inside = {
        "net.ipv4.conf.eth0.arp_notify": "1",
        "net.ipv6.conf.eth0.ndisc_notify": "1",
        "net.ipv6.conf.eth0.accept_dad": "0",
    }
    for name, value in inside.items():
        assert (await site.inside("c1", "sysctl", "-n", name)).strip() == value, name
    (port,) = json.loads(await site.run("ip", "-j", "link", "show", "master", "br0"))
    assert port["ifalias"] == "cni net c1 eth0"
    assert "inet" not in await site.run("ip", "addr", "show", "dev", port["ifname"])


async def test_ipv6_is_switched_on_where_it_is_off(site: Site) -> None:
    await site.run("ip", "netns", "add", "c1")
    for name in ("all", "default", "lo"):
        await site.inside("c1", "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
    await joined(site, "c1", conf(*DUAL))
    assert await pings(site, "c1", "fd00:22::1")
    assert (await site.inside("c1", "sysctl", "-n", "net.ipv6.conf.lo.disable_ipv6")).strip() == "0"


@pytest.mark.parametrize("kubernetes", [True, False])
async def test_services_reach_a_pod_of_the_same_node(site: Site, kubernetes: bool) -> None:
    assert site.path("/proc/sys/net/bridge").exists(), "the kernel's br_netfilter is missing: modprobe br_netfilter"
    for name in ("iptables", "ip6tables"):
        await site.run("sysctl", "-qw", f"net.bridge.bridge-nf-call-{name}=0")
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web" if kubernetes else ""
    await joined(site, "c1", conf(), args=args)
    two = await joined(site, "c2", conf(), args=args)
    address = two["ips"][0]["address"].partition("/")[0]
    await site.run("iptables", "-t", "nat", "-A", "PREROUTING", "-d", "10.96.0.10", "-j", "DNAT", "--to", address)
    assert await _answered(site, "c1", "c2", "10.96.0.10") == kubernetes
    assert (await site.run("sysctl", "-n", "net.bridge.bridge-nf-call-iptables")).strip() == str(int(kubernetes))
    status = await site.call("bridge", "STATUS", conf(), "", args="IgnoreUnknown=1;K8S_POD_NAME=web")
    assert status is None


async def _answered(site: Site, client: str, server: str, address: str) -> bool:
    """Whether what a server answers comes back from the address that was asked (ping would take it from anybody)."""
    near, far = netns(site, client), netns(site, server)
    asking, answering = (each.socket(socket.AF_INET, socket.SOCK_DGRAM) for each in (near, far))
    near.close()
    far.close()
    loop = asyncio.get_running_loop()
    with asking, answering:
        answering.bind(("0.0.0.0", 9))
        asking.connect((address, 9))
        asking.send(b"hello")
        async with asyncio.timeout(5):
            data, sender = await loop.sock_recvfrom(answering, 100)
        answering.sendto(data, sender)
        return await received(asking, 0.5) == b"hello"


async def test_containers_of_two_vlans_do_not_meet(site: Site) -> None:
    """On a kernel that filters VLANs; on one that does not, ADD says so and leaves nothing."""
    try:
        await site.run("ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1")
    except CommandError:
        await site.run("ip", "netns", "add", "c1")
        answer = await site.call("bridge", "ADD", conf(vlan=7), "c1")
        assert "vlan_filtering=True" in answer["msg"] and await site.leases("net") == []
        assert "veth" not in await site.run("ip", "-br", "link")
        return
    await joined(site, "c1", conf(vlan=7))
    answer = await joined(site, "c2", conf(vlan=7))
    assert await pings(site, "c1", "10.22.0.3") and await pings(site, "c1", "10.22.0.1")
    assert answer["interfaces"][3]["name"] == "br0.7"
    static = {"type": "static", "addresses": [{"address": "10.22.0.9/24"}]}
    await joined(site, "c3", conf(vlan=8, isGateway=False, ipam=static, name="eight"))
    assert not await pings(site, "c3", "10.22.0.3")
    await joined(
        site,
        "c4",
        conf(vlan=8, isGateway=False, ipam={**static, "addresses": [{"address": "10.22.0.8/24"}]}, name="eight"),
    )
    assert await pings(site, "c4", "10.22.0.9")


async def test_an_add_that_fails_late_leaves_nothing(site: Site) -> None:
    await site.run("ip", "netns", "add", "c1")
    broken = conf(*DUAL, macspoofchk=True, ipMasq=True, ipMasqBackend="nftables")
    broken["ipam"]["routes"] = [{"dst": "10.50.0.0/16", "gw": "192.0.2.1"}]
    answer = await site.call("bridge", "ADD", broken, "c1")
    assert answer["code"] == 999 and "10.50.0.0/16" in answer["msg"]
    assert await site.leases("net") == [] and "veth" not in await site.run("ip", "-br", "link")
    assert "cni-br-iface" not in await site.run("nft", "list", "ruleset")
    await site.inside("c1", "ip", "link", "add", "eth0", "type", "bridge")
    answer = await site.call("bridge", "ADD", conf(), "c1")
    assert answer["msg"] == "container veth name provided (eth0) already exists" and await site.leases("net") == []
    assert "bridge" in await site.inside("c1", "ip", "-d", "link", "show", "eth0")


# -- ipMasq


async def outside(site: Site) -> KernelNetNs:
    """A host beyond the node, 192.0.2.2 and 2001:db8::2, that knows the way back."""
    await site.run("ip", "netns", "add", "far")
    far = netns(site, "far")
    site.machine.netns.apply([AddVeth("eth9", "eth0", peer_netns=far.fd), SetLink("eth9", up=True)])
    site.machine.netns.apply([AddAddress("192.0.2.1/24", "eth9"), AddAddress("2001:db8::1/64", "eth9")])
    far.apply([SetLink("eth0", up=True), AddAddress("192.0.2.2/24", "eth0"), AddAddress("2001:db8::2/64", "eth0")])
    far.apply([AddRoute("10.22.0.0/24", "192.0.2.1", "eth0"), AddRoute("fd00:22::/64", "2001:db8::1", "eth0")])
    return far


async def seen(site: Site, container: str, far: KernelNetNs, address: str) -> str:
    """The address that a host beyond the node sees a container come from."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    pod = netns(site, container)
    server, client = far.socket(family, socket.SOCK_DGRAM), pod.socket(family, socket.SOCK_DGRAM)
    pod.close()
    with server, client:
        server.bind((address, 9))
        client.sendto(b"who am I", (address, 9))
        async with asyncio.timeout(5):
            _, sender = await asyncio.get_running_loop().sock_recvfrom(server, 100)
    return str(sender[0])


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("where", [AGENT, ALONE])
async def test_both_backends_masquerade_both_families(site: Site, backend: str, where: str) -> None:
    masked = conf(*DUAL, ipMasq=True, ipMasqBackend=backend)
    one = await joined(site, "c1", masked, where)
    await joined(site, "c2", conf(*DUAL, name="net"), where)
    far = await outside(site)
    try:
        assert await seen(site, "c1", far, "192.0.2.2") == "192.0.2.1"
        assert await seen(site, "c1", far, "2001:db8::2") == "2001:db8::1"
        assert await seen(site, "c2", far, "192.0.2.2") == "10.22.0.3"
        assert ("cni_plugins_masquerade" in await site.run("nft", "list", "ruleset")) == (backend == "nftables")
        assert await site.call("bridge", "CHECK", {**masked, "prevResult": one}, "c1", where=where) is None
        await _unmask(site, backend)
        refused = await site.call("bridge", "CHECK", {**masked, "prevResult": one}, "c1", where=where)
        assert refused["msg"].startswith("masquerade rules are missing")
        for _ in range(2):
            assert await site.call("bridge", "DEL", {**masked, "prevResult": one}, "c1", where=where) is None
        assert "c1" not in await site.run("nft", "list", "ruleset")
    finally:
        far.close()


async def _unmask(site: Site, backend: str) -> None:
    if backend == "nftables":
        await site.run("nft", "flush", "chain", "inet", "cni_plugins_masquerade", "masq_checks")
    else:
        await site.run("iptables", "-t", "nat", "-D", "POSTROUTING", "1")


async def test_masquerade_rules_of_nftables_are_as_the_reference_makes_them(site: Site) -> None:
    masked = conf(*DUAL, ipMasq=True, ipMasqBackend="nftables", name="mynet")
    await joined(site, "ctr1", masked)
    mark = "d23676b4f2d9fe04-7883a6f9ce71eedb, net: mynet, if: eth0, id: ctr1"
    assert (
        (await site.run("nft", "list", "table", "inet", "cni_plugins_masquerade")).strip()
        == f"""
table inet cni_plugins_masquerade {{
	comment "Masquerading for plugins from github.com/containernetworking/plugins"
	chain masq_checks {{
		comment "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet"
		ip saddr 10.22.0.2 ip daddr != 10.22.0.0/24 masquerade comment "{mark}"
		ip6 saddr fd00:22::2 ip6 daddr != fd00:22::/64 masquerade comment "{mark}"
	}}

	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 224.0.0.0/4 return
		ip6 daddr ff00::/8 return
		goto masq_checks
	}}
}}
""".strip()
    )


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
async def test_gc_and_del_without_anything_known_find_the_rules(site: Site, backend: str) -> None:
    static = {"type": "static", "addresses": [{"address": "10.22.0.7/24", "gateway": "10.22.0.1"}]}
    masked = conf(ipam=static, ipMasq=True, ipMasqBackend=backend)
    for name in ("c1", "c2", "c3"):
        await joined(site, name, masked, args=f"IP=10.22.0.{name[1]}/24")
    await site.call("bridge", "DEL", masked, "c1", netns="", args="IP=10.22.0.1/24")  # neither a result nor a namespace
    rules = await site.run("nft", "list", "ruleset")
    assert [f"10.22.0.{number} " in rules for number in (1, 2, 3)] == [False, True, True]
    valid = {"cni.dev/valid-attachments": [{"containerID": "c3", "ifname": "eth0"}]}
    assert await site.call("bridge", "GC", {**masked, **valid}, "") is None
    rules = await site.run("nft", "list", "ruleset")
    assert [f"10.22.0.{number} " in rules for number in (1, 2, 3)] == [False, False, True]


async def test_two_interfaces_of_a_container_share_the_rules_chain(site: Site) -> None:
    masked = conf(ipMasq=True)
    one = await joined(site, "c1", masked)
    two = await joined(site, "c1", masked, ifname="eth1")
    far = await outside(site)
    try:
        assert await site.call("bridge", "DEL", {**masked, "prevResult": two}, "c1", ifname="eth1") is None
        assert await seen(site, "c1", far, "192.0.2.2") == "192.0.2.1"
        assert await site.call("bridge", "CHECK", {**masked, "prevResult": one}, "c1") is None
        assert await site.call("bridge", "DEL", {**masked, "prevResult": one}, "c1") is None
        assert "CNI-" not in await site.run("iptables-save", "-t", "nat")
    finally:
        far.close()


async def test_masquerade_goes_either_way_between_us_and_the_reference(site: Site) -> None:
    masked = conf(*DUAL, ipMasq=True, cniVersion="1.0.0")
    for made, removed in ((REFERENCE, AGENT), (AGENT, REFERENCE)):
        answer = await joined(site, "c1", masked, made)
        assert "CNI-" in await site.run("ip6tables-save", "-t", "nat")
        await site.call("bridge", "DEL", {**masked, "prevResult": answer}, "c1", where=removed)
        for program in ("iptables-save", "ip6tables-save"):
            assert "CNI-" not in await site.run(program, "-t", "nat")
        assert await site.leases("net") == []
