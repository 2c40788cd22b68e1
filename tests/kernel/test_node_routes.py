"""Packets between pods of three nodes, two on one link and one behind a router, by host routes and by VXLAN."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from routes_site import CIDRS, CLUSTER, Site, three_nodes

from glassnet.routes.model import Mode, RoutesSettings

pytestmark = pytest.mark.kernel
FIRST_PODS = {name: (v4.replace("0/24", "2"), v6.replace("/64", "2")) for name, (v4, v6) in CIDRS.items()}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with three_nodes() as made:
        yield made


@pytest.mark.parametrize("mode", ["direct", "auto", "vxlan"])
async def test_pods_reach_each_other(site: Site, mode: Mode) -> None:
    names = ["node-a", "node-b"] if mode == "direct" else ["node-a", "node-b", "node-c"]
    await site.start(RoutesSettings(mode=mode, cluster_cidrs=CLUSTER), *names)
    for name in names:
        print(name, await site.members[name].ours(), site.members[name].routes.problems)
    pods = {name: await site.members[name].pod() for name in names}
    for source in names:
        size = site.members[source].routes.pod_mtu
        for target in names:
            for family, address in zip((4, 6), FIRST_PODS[target], strict=True):
                much = str(size - (28 if family == 4 else 48))
                told = await site.members[source].inside(
                    pods[source], "ping", f"-{family}", "-c1", "-W2", "-M", "do", "-s", much, address
                )
                assert "1 received" in told
                assert "1 received" in await site.members[source].run("ping", f"-{family}", "-c1", "-W2", address)
