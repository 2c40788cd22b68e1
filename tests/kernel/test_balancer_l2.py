"""Addresses of load balancers on a link: one node answers, another takes over, in both families."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from balancer_site import CLIENT, NODES, VIP, VIP6, Site, balanced_site, until

from glassnet.kernel.network_state import find_link
from glassnet.loadbalancer import elect, neighbour
from glassnet.netstack.ops import AddAddress, SetLink

pytestmark = pytest.mark.kernel


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with balanced_site() as made:
        yield made


@pytest.mark.parametrize("ip", [VIP, VIP6])
async def test_one_node_answers_for_an_address_and_the_address_is_on_none(site: Site, ip: str) -> None:
    site.service(ips=(VIP, VIP6))
    site.endpoints(*NODES)
    await site.start()
    owner = await site.owner(ip)
    assert owner == elect.winner(ip, NODES)
    who, saw = (await site.reached(ip)).split()
    assert who in NODES and saw in {"10.240.0.9", "fd40::9", *(each for ips in NODES.values() for each in ips)}
    assert await site.neighbours(ip) == {site.mac(owner)}
    for node in site.nodes.values():
        assert ip not in await node.run("ip", "address")
        assert ip not in await node.run("ip", "route", "show", "table", "all")


async def test_another_node_takes_over_when_the_owner_dies_and_gives_back_when_it_lives(site: Site) -> None:
    site.service(ips=(VIP, VIP6))
    site.endpoints(*NODES)
    await site.start()
    first = elect.winner(VIP, NODES)
    await until(lambda: site.owners() == [first], 10)
    assert await site.reached()
    site.endpoints(*(name for name in NODES if name != first))
    await site.nodes[first].die()
    second = await site.owner(without=first)
    assert second == elect.winner(VIP, [name for name in NODES if name != first])
    assert first not in await site.reached()
    assert first not in await site.reached(VIP6)


async def test_an_agent_that_ends_hands_over_and_takes_back(site: Site) -> None:
    site.service()
    site.endpoints(*NODES)
    await site.start()
    first = elect.winner(VIP, NODES)
    await until(lambda: site.owners() == [first], 10)
    reader, writer, hello = await site.connect()
    await site.nodes[first].stop()
    second = await site.owner(without=first)
    assert await site.neighbours() == {site.mac(second)}
    writer.write(b"still there\n")
    async with asyncio.timeout(5):
        assert await reader.readline() == b"still there\n", hello
    await site.nodes[first].start()
    await until(lambda: site.owners() == [first], 10)
    writer.write(b"and now\n")
    async with asyncio.timeout(5):
        assert await reader.readline() == b"and now\n"
    writer.close()


async def test_local_policy_is_honoured(site: Site) -> None:
    site.service(externalTrafficPolicy="Local", healthCheckNodePort=30999)
    site.endpoints("node-b")
    await site.start()
    assert await site.owner() == "node-b"
    assert await site.reached() == f"node-b {CLIENT[0]}"
    site.endpoints("node-c")
    await until(lambda: site.owners() == ["node-c"])
    assert await site.reached() == f"node-c {CLIENT[0]}"
    site.endpoints()
    await until(lambda: site.owners() == [])
    assert await site.neighbours() == set()


async def test_nodes_that_do_not_hear_each_other_ask_before_they_answer(site: Site) -> None:
    """The port of the signs of life is blocked everywhere: still one answers, and the others say why they do not."""
    for node in site.nodes.values():
        await node.run("nft", "add table ip blocked; add chain ip blocked in { type filter hook input priority -5; }; add rule ip blocked in udp dport 10270 drop")  # fmt: skip
    site.service()
    site.endpoints(*NODES)
    await site.start(hear=False)
    await until(lambda: any(node.told("AddressConflict") for node in site.nodes.values()), 10)
    owner = await site.owner()
    assert await site.neighbours() == {site.mac(owner)}
    told = [text for node in site.nodes.values() for text in node.told("AddressConflict")]
    assert all("leaves it to that one" in text and site.mac(owner) in text for text in told), told


async def test_after_a_split_exactly_one_answers_and_the_split_is_told(site: Site) -> None:
    site.service()
    site.endpoints(*NODES)
    await site.start()
    first = elect.winner(VIP, NODES)
    await until(lambda: site.owners() == [first], 10)
    site.switch.netns.apply([SetLink(f"to-{first}", up=False)])
    await until(lambda: len(site.owners()) == 2, 10)  # one on each side, as it must be
    site.switch.netns.apply([SetLink(f"to-{first}", up=True)])
    await until(lambda: site.owners() == [first], 10)
    others = [node for name, node in site.nodes.items() if name != first]
    await until(lambda: any(node.told("NodesSplit") for node in others))
    assert any(f"node {first} was not heard" in text for node in others for text in node.told("NodesSplit"))
    for _ in range(10):  # who gives it up answers until it hears the other, a second at most
        if (found := await site.neighbours()) == {site.mac(first)}:
            break
    assert found == {site.mac(first)}
    assert await site.reached()


async def test_a_stranger_with_the_address_is_told_of(site: Site) -> None:
    site.service()
    site.endpoints(*NODES)
    await site.start()
    owner = site.nodes[await site.owner()]
    await site.reached()
    site.router.netns.apply([AddAddress(f"{VIP}/32", "eth0")])
    own = find_link(site.router.netns, "eth0")
    assert own is not None
    with site.router.netns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        with site.router.netns.entered():
            sock.bind(("eth0", 0))
        for frame in neighbour.announce(VIP, bytes.fromhex(own.hardware.replace(":", ""))):
            sock.send(frame)
    await until(lambda: owner.told("AddressConflict"))
    assert own.hardware in owner.told("AddressConflict")[0]
    assert "no node that was heard of" in owner.told("AddressConflict")[0]


async def test_a_labelled_node_is_drained_and_no_address_moves_without_need(site: Site) -> None:
    ips = [f"10.240.0.{number}" for number in range(100, 112)]
    for number, ip in enumerate(ips):
        site.service(f"web-{number}", (ip,))
        site.endpoints(*NODES, name=f"web-{number}")
    await site.start()
    before = {ip: await site.owner(ip) for ip in ips}
    assert len(set(before.values())) > 1
    gone = before[ips[0]]
    site.node(gone, labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""})
    await until(lambda: not any(site.nodes[gone].holds(ip) for ip in ips))
    after = {ip: await site.owner(ip) for ip in ips}
    assert all(after[ip] == before[ip] for ip in ips if before[ip] != gone)
    assert await site.reached(ips[0])
    site.forget("web-0")
    await until(lambda: site.owners(ips[0]) == [])
