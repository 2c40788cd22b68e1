"""Routes to many nodes: what is left after a churn, and how long one Node's change takes among five thousand."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator

import pytest
from routes_site import CIDRS, Site, node, three_nodes, until

from glassnet.kernel.route_state import list_fdb, list_permanent, list_protocol, list_vxlans
from glassnet.routes.compute import Mesh
from glassnet.routes.model import RoutesSettings, peer_of
from glassnet.routes.plan import entries, key_of
from glassnet.routes.vpc import PROTOCOL

pytestmark = pytest.mark.kernel


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with three_nodes() as made:
        yield made


@pytest.mark.parametrize("seed", range(4))
async def test_after_a_churn_the_kernel_has_what_a_fresh_start_would_make(site: Site, seed: int) -> None:
    chance, settings = random.Random(seed), RoutesSettings()
    routes = await site.a.start(settings)
    ranges = [
        "10.200.8.0/24",
        "10.200.9.0/24",
        "10.200.8.0/23",
        "fd00:200:0:8::/64",
        "fd00:200:0:9::/64",
        "10.240.0.0/24",
    ]
    places = ["10.240.0.50", "10.240.0.51", "10.240.7.50", "fd40::50", "fd47::50"]
    for _ in range(150):
        name = f"node-{chance.randrange(4)}"
        if chance.random() < 0.25:
            site.take(name)
        else:
            born = f"202{chance.randrange(5)}-01-01T00:00:00Z"
            site.put(
                node(name, chance.sample(ranges, chance.randrange(3)), chance.sample(places, chance.randrange(3)), born)
            )
        if chance.random() < 0.5:
            await asyncio.sleep(0)  # the routes' turn
        if chance.random() < 0.1:
            await site.a.run("ip", "route", "flush", "proto", "114")
        if chance.random() < 0.05:
            await site.a.stop()
            routes = await site.a.start(settings)
    fresh = Mesh("node-a", settings)
    fresh.own(routes._mesh._own)
    for each in site.view.nodes.values():
        fresh.put(peer_of(each))
    wanted = {key: entry for name in fresh.names() for key, entry in entries(fresh.ways(name), settings.link).items()}
    netns = site.a.machine.netns

    def as_wanted() -> bool:
        (link,) = list_vxlans(netns)
        found = [*list_protocol(netns, PROTOCOL), *list_permanent(netns, link), *list_fdb(netns, link)]
        return {key_of(entry): entry for entry in found} == wanted

    await until(as_wanted, 70)  # who flushes again and again is not fought
    assert routes.routes == sum(1 for kind, _ in wanted if kind == "route")
    assert set(routes.problems) == {name for name in fresh.names() if fresh.ways(name).problems}


@pytest.mark.parametrize("mode", ["direct", "vxlan"])
async def test_one_node_among_five_thousand(site: Site, mode: str) -> None:
    def one(at: int, host: int) -> None:
        cidr = f"10.{128 + at // 256}.{at % 256}.0/24"
        site.put(node(f"n{at}", [cidr], [f"172.16.{host // 250}.{host % 250 + 1}"]))

    await site.a.run("ip", "addr", "add", "172.16.255.254/16", "dev", "eth0")
    site.take("node-b")
    site.take("node-c")
    for at in range(5000):
        one(at, at)
    site.put(node("node-a", CIDRS["node-a"], ("172.16.255.254",)))
    routes = await site.a.start(RoutesSettings(mode="direct" if mode == "direct" else "vxlan"))
    assert routes.routes == 5000
    took = []
    for number in range(40):
        at = (number % 19) * 256 + 7
        key = ("route", f"10.{128 + at // 256}.{at % 256}.0/24")
        site.take(f"n{at}")
        await until(lambda key=key: key not in routes._table.there)  # type: ignore[misc]
        begin = time.perf_counter()
        one(at, 6000 + number)
        while key not in routes._table.there:  # noqa: ASYNC110
            await asyncio.sleep(0)
        took.append(time.perf_counter() - begin)
    assert statistics.median(took) < 0.02
    assert len(list_protocol(site.a.machine.netns, PROTOCOL)) == 5000
