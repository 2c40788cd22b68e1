"""Routes between nodes where others are at work too: what they take away, what is theirs, what the kernel refuses, an API that lost its Nodes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from routes_site import ADDRESSES, CIDRS, CLUSTER, Member, Site, node, three_nodes, until

from glassnet.agent.routes.loop import NodeRoutes
from glassnet.routes.model import RoutesSettings

pytestmark = pytest.mark.kernel
POD_B, POD_C = "10.200.2.2", "10.200.3.2"
TO_B, TO_C = "10.200.2.0/24 via 10.240.0.12 dev eth0", "10.200.3.0/24 via 10.200.3.0 dev glassnet-vxlan onlink"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with three_nodes() as made:
        yield made


async def state(member: Member) -> str:
    """All that a node shows of routes, links, neighbours and the forwarding database."""
    asked = ("ip route", "ip -6 route", "ip -d link", "ip neigh show nud permanent", "bridge fdb show", "ip addr")
    return "\n".join([await member.run(*words.split()) for words in asked])


async def soon(condition: Callable[[], Awaitable[object]], seconds: float = 5.0) -> float:
    """Ask until it is true; how many seconds that took."""
    begin = time.monotonic()
    while not await condition():
        assert time.monotonic() - begin < seconds, "the condition did not come true in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - begin


async def started(member: Member, settings: RoutesSettings | None = None) -> NodeRoutes:
    return await member.start(settings or RoutesSettings())


# -- what others take away


@pytest.mark.parametrize(
    "words",
    [
        "ip route del 10.200.2.0/24",
        "ip -6 route del fd00:200:0:3::/64",
        "ip route flush proto 114",
        "ip neigh del 10.200.3.0 dev glassnet-vxlan",
        "bridge fdb del MAC dev glassnet-vxlan self",
        "ip link del glassnet-vxlan",
        "ip link set glassnet-vxlan down",
        "ip link set glassnet-vxlan mtu 1200",
        "ip addr del 10.200.1.0/32 dev glassnet-vxlan",
        "ip link set eth0 down",
    ],
)
async def test_what_somebody_takes_away_comes_back(site: Site, words: str) -> None:
    routes = await started(site.a)
    fdb = await site.a.run("bridge", "fdb", "show", "dev", "glassnet-vxlan")
    before = await state(site.a)
    await site.a.run(*words.replace("MAC", fdb.split()[0]).split())
    if words == "ip link set eth0 down":
        await site.a.run("sh", "-c", "ip link set eth0 up; ip addr add fd40::11/64 dev eth0; ip route add default via 10.240.0.1; ip -6 route add default via fd40::1")  # fmt: skip
    kept = {line for line in before.splitlines() if "glassnet-vxlan" in line or "10.200" in line or "fd00:200" in line}
    kept = {line.partition(": ")[2] or line for line in kept}  # links have other numbers

    async def as_before() -> bool:
        now = await state(site.a)
        return all(line in now for line in kept)

    took = await soon(as_before)
    assert took < 2 and routes.routes == 4 and routes.problems == {}


async def test_a_route_is_back_within_a_tenth_of_a_second(site: Site) -> None:
    routes = await started(site.a)
    await site.a.run("ip", "route", "del", "10.200.2.0/24")
    gone = asyncio.get_running_loop().time()
    await until(lambda: routes.routes == 4, 1)
    assert asyncio.get_running_loop().time() - gone < 0.1
    assert TO_B in await site.a.ours()


async def test_who_deletes_again_and_again_is_not_fought(site: Site) -> None:
    await started(site.a)
    deleted, end = 0, time.monotonic() + 1.5
    while time.monotonic() < end:
        deleted += await site.a.run("sh", "-c", "ip route del 10.200.2.0/24 2>/dev/null && echo gone || true") != ""
        await asyncio.sleep(0.01)
    assert 2 <= deleted <= 6  # at once, then after 0.2, 0.4, 0.8 seconds
    await soon(lambda: site.a.run("ip", "route", "show", "10.200.2.0/24", "proto", "114"), 10)


# -- what is theirs


async def test_what_is_others_stays(site: Site) -> None:
    site.a.machine.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})  # these stay when ours go
    for words in (
        "ip route add 10.99.0.0/16 via 10.240.0.12",
        "ip route add 10.98.0.0/16 via 10.240.0.12 proto 113",
        "ip link add vx9 type vxlan id 9 dstport 8472 local 10.240.0.11 nolearning",
        "ip link set vx9 up",
        "bridge fdb append 02:00:00:00:00:99 dev vx9 dst 10.240.0.12",
        "ip neigh add 10.97.0.1 lladdr 02:00:00:00:00:99 dev vx9 nud permanent",
    ):
        await site.a.run(*words.split())
    before = await state(site.a)
    routes = await started(site.a)
    pod, _ = await site.a.pod(), await started(site.c)
    await site.c.pod()
    assert "1 received" in await site.a.inside(pod, "ping", "-c1", "-W2", POD_C)
    during = await state(site.a)
    assert all(line.strip() in during for line in before.splitlines())
    await site.a.stop()
    for each in site.a.pods:
        await site.a.cni.delete("pods", "node-a-1", each.netns)
        await each.remove()
    site.a.pods.clear()
    await site.a.run("ip", "link", "del", "cni0")
    await routes.sweep()
    assert await state(site.a) == before
    await routes.sweep()  # there is nothing to take away, which is fine


async def test_anothers_route_stands_and_ours_waits_behind_it(site: Site) -> None:
    """As when another network plugin is taken off a node: no moment without a route."""
    await site.a.run("ip", "route", "add", "10.200.2.0/24", "via", "10.240.0.1", "dev", "eth0", "proto", "static")
    await site.a.run("ip", "-6", "route", "add", "fd00:200:0:2::/64", "via", "fd40::1", "dev", "eth0")
    routes = await started(site.a)
    assert "another route to 10.200.2.0/24 (via 10.240.0.1 dev eth0 proto 4) comes first" in routes.problems["node-b"]
    assert [line for line in await site.a.ours() if "10.200.2.0" in line] == [f"{TO_B} metric 30114"]
    assert "via 10.240.0.1 " in await site.a.run("ip", "route", "get", POD_B)
    (record,) = [record for record in site.a.records if record.reason == "NoRoute"]
    assert record.regarding["name"] == "node-a" and "Node node-b" in record.message
    await site.a.run("ip", "route", "del", "10.200.2.0/24", "proto", "static")
    assert "via 10.240.0.12 " in await site.a.run("ip", "route", "get", POD_B)  # at once: nothing has to be done for it
    await site.a.run("ip", "-6", "route", "del", "fd00:200:0:2::/64", "via", "fd40::1")
    await until(lambda: routes.problems == {})
    await soon(lambda: _no_metric(site.a))
    assert TO_B in await site.a.ours()


async def _no_metric(member: Member) -> bool:
    return "metric 30114" not in "".join(await member.ours())


async def test_a_route_that_somebody_puts_in_place_of_ours_stays(site: Site) -> None:
    routes = await started(site.a)
    await site.a.run("ip", "route", "replace", "10.200.2.0/24", "via", "10.240.0.1", "proto", "boot")
    await until(lambda: "node-b" in routes.problems)
    assert "via 10.240.0.1 dev eth0" in await site.a.run("ip", "route", "show", "10.200.2.0/24", "proto", "boot")
    assert f"{TO_B} metric 30114" in await site.a.ours()


async def test_a_foreign_link_of_our_name_is_left_alone(site: Site) -> None:
    await site.a.run("ip", "link", "add", "glassnet-vxlan", "type", "vxlan", "id", "5", "dstport", "9999")
    before = await site.a.run("ip", "-d", "link", "show", "glassnet-vxlan")
    routes = await started(site.a)
    assert await site.a.run("ip", "-d", "link", "show", "glassnet-vxlan") == before
    assert "without our mark" in routes.problems["node-a"] and "no VXLAN link here" in routes.problems["node-c"]
    assert [line for line in await site.a.ours() if "10.200" in line] == [TO_B]  # what needs no tunnel goes on
    assert [record.reason for record in site.a.records if record.regarding["name"] == "node-a"] == [
        "NoVXLAN",
        "NoRoute",
    ]
    await site.a.run("ip", "link", "del", "glassnet-vxlan")
    await until(lambda: routes.problems == {}, 10)
    assert TO_C in await site.a.ours()


async def test_a_vxlan_of_our_number_is_named(site: Site) -> None:
    await site.a.run(
        "ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472", "local", "10.240.0.11"
    )
    routes = await started(site.a)
    assert "already exists" in routes.problems["node-a"] and "vxlan_id" in routes.problems["node-a"]
    assert routes.routes == 2


async def test_a_udp_port_that_is_taken_is_named(site: Site) -> None:
    taken = site.a.machine.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("0.0.0.0", 8472))
    try:
        routes = await started(site.a)
        assert "another program has the UDP port" in routes.problems["node-a"] and routes.routes == 2
    finally:
        taken.close()
    await until(lambda: routes.problems == {} and routes.routes == 4, 10)


async def test_an_mtu_that_does_not_fit_is_named(site: Site) -> None:
    routes = await started(site.a, RoutesSettings(mtu=1500))
    assert routes.pod_mtu == 1500 and "the node's links let 1450 through" in routes.problems["node-a"]
    await site.a.stop()
    routes = await started(site.a, RoutesSettings(mtu=1000))
    assert routes.pod_mtu == 1000 and "need 1280 at least" in routes.problems["node-a"]
    await site.a.stop()
    routes = await started(site.a, RoutesSettings(mtu=1300))
    assert routes.pod_mtu == 1300 and routes.problems == {} and routes.routes == 4


async def test_a_link_of_ours_with_another_name_goes(site: Site) -> None:
    await started(site.a, RoutesSettings(link="old-name"))
    await site.a.stop()
    routes = await started(site.a)
    shown = await site.a.run("ip", "-br", "link")
    assert "glassnet-vxlan" in shown and "old-name" not in shown and routes.routes == 4


# -- what is refused, and what is wrong with Nodes


async def test_a_refused_route_is_named_and_the_others_do_not_wait(site: Site) -> None:
    # the node's own address with a subnet, but no route to it: the kernel refuses gateways there
    await site.a.run("ip", "addr", "add", "10.250.0.1/24", "dev", "eth0", "noprefixroute")
    site.put(node("node-x", ("10.200.50.0/24",), ("10.250.0.2",)))
    routes = await started(site.a)
    assert "Nexthop has invalid gateway" in routes.problems["node-x"]
    assert routes.routes == 4 and set(routes.problems) == {"node-x"}
    await site.a.run("ip", "route", "add", "10.250.0.0/24", "dev", "eth0")
    await until(lambda: routes.problems == {})
    assert "10.200.50.0/24 via 10.250.0.2 dev eth0" in await site.a.ours()


async def test_overlapping_pod_cidrs(site: Site) -> None:
    rival = node("a-rival", ("10.200.2.128/25",), ("10.240.0.77",), born="2026-06-01T00:00:00Z")
    site.put(rival)
    here, there = await started(site.a), await started(site.b)
    assert "overlaps 10.200.2.0/24" in here.problems["a-rival"] and "which is older" in here.problems["a-rival"]
    assert not [line for line in await site.a.ours() if "10.200.2.128" in line] and TO_B in await site.a.ours()
    # told once, by the Node that it concerns: not by every agent of the cluster
    assert [record.regarding["name"] for record in site.b.records] == ["a-rival"] and site.a.records == []
    assert site.b.records[0].reason == "PodCIDROverlap" and site.b.records[0].type == "Warning"
    assert "a-rival" in there.problems
    site.take("node-b")
    await until(lambda: "10.200.2.128/25" in {key[1] for key in here._table.there})
    assert "a-rival" not in here.problems
    site.put(node("node-b", CIDRS["node-b"], ADDRESSES["node-b"]))
    await until(lambda: "a-rival" in here.problems)
    assert not [line for line in await site.a.ours() if "10.200.2.128" in line]


async def test_our_own_pods_stay_when_another_node_claims_their_range(site: Site) -> None:
    site.put(node("elder", CIDRS["node-a"], ("10.240.0.12", "fd40::12"), born="2020-01-01T00:00:00Z"))
    routes = await started(site.a)
    pod = await site.a.pod()
    assert "1 received" in await site.a.run("ping", "-c1", "-W2", "10.200.1.2")
    assert "elder" in routes.problems and "elder, which is older" in routes.problems["node-a"]
    assert not [line for line in await site.a.ours() if line.startswith("10.200.1.")]
    assert {record.reason for record in site.a.records if record.regarding["name"] == "node-a"} >= {"PodCIDROverlap"}
    assert pod in site.a.pods


async def test_an_api_without_nodes_empties_no_node(site: Site) -> None:
    routes = await started(site.a)
    before = await site.a.ours()
    for name in ADDRESSES:
        site.take(name)
    await until(lambda: "is not in the API" in routes.problems.get("node-a", ""))
    assert await site.a.ours() == before
    await site.a.run("ip", "route", "del", "10.200.2.0/24")  # it is put back all the same
    await soon(lambda: _equal(site.a, before))
    site.put(*(node(name, CIDRS[name], ADDRESSES[name]) for name in ADDRESSES if name != "node-c"))
    await until(lambda: routes.routes == 2 and routes.problems == {})


async def _equal(member: Member, wanted: list[str]) -> bool:
    return await member.ours() == wanted


async def test_without_its_own_node_nothing_is_begun(site: Site) -> None:
    site.take("node-a")
    await site.a.run("ip", "route", "add", "10.200.2.0/24", "via", "10.240.0.12", "proto", "114")
    routes = NodeRoutes(site.view, site.a.machine.netns, "node-a", RoutesSettings())
    task = asyncio.create_task(routes.run())
    await until(lambda: "node-a" in routes.problems)
    assert not routes.first_sync.is_set() and await site.a.ours() == [TO_B]
    site.put(node("node-a", CIDRS["node-a"], ADDRESSES["node-a"]))
    await asyncio.wait_for(routes.first_sync.wait(), 5)
    assert routes.routes == 4
    task.cancel()


# -- the node's own links


async def test_another_address_of_this_node(site: Site) -> None:
    routes = await started(site.a, RoutesSettings(cluster_cidrs=CLUSTER))
    await site.a.run(
        "ip", "addr", "del", "10.240.0.11/24", "dev", "eth0"
    )  # the last of IPv4: its routes go without a word
    await site.a.run("ip", "addr", "add", "10.240.0.44/24", "dev", "eth0")
    site.put(node("node-a", CIDRS["node-a"], ("10.240.0.44", "fd40::11")))
    await soon(lambda: _has(site.a, TO_B))
    await until(lambda: routes.problems == {})
    assert "local 10.240.0.44" in await site.a.run("ip", "-d", "link", "show", "glassnet-vxlan")


async def _has(member: Member, line: str) -> bool:
    return line in await member.ours()


async def test_a_link_that_comes_to_be_shared(site: Site) -> None:
    site.put(node("node-c", CIDRS["node-c"], ("10.240.0.13", "fd41::13")))
    await site.a.run("ip", "addr", "del", "10.240.0.11/24", "dev", "eth0")
    await site.a.run("ip", "addr", "add", "10.240.0.11/32", "dev", "eth0")
    routes = await started(site.a)
    assert "10.200.3.0/24 via 10.200.3.0 dev glassnet-vxlan onlink" in await site.a.ours()
    await site.a.run("ip", "addr", "add", "10.240.0.14/24", "dev", "eth0")
    await soon(lambda: _has(site.a, "10.200.3.0/24 via 10.240.0.13 dev eth0"))
    await site.a.run("ip", "link", "set", "eth0", "mtu", "1400")
    await until(lambda: routes.pod_mtu == 1350)
    assert "mtu 1350" in await site.a.run("ip", "link", "show", "glassnet-vxlan")
    site.put(node("node-a", ("10.200.44.0/24",), ADDRESSES["node-a"]))
    await soon(lambda: site.a.run("sh", "-c", "ip addr show dev glassnet-vxlan | grep -w 10.200.44.0/32 || true"))
    assert "10.200.1.0" not in await site.a.run("ip", "addr", "show", "dev", "glassnet-vxlan")
