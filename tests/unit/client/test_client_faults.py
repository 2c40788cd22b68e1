"""Each fault a network or a server can have, alone and in sequences, while objects change: in the end the View is what the server has,
no object was told to be deleted that was not, and none went back in time."""

from __future__ import annotations

import asyncio
import random

import pytest

from client_world import PATHS, Cluster, Follower, world
from fault_proxy import FAULTS, FaultProxy
from glassnet.client import rest
from glassnet.kube import kinds


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "PAGE", 15)


def forget(cluster: Cluster) -> None:
    """The server's history goes, as if it were compacted: watches must list anew."""
    cluster.server.store._log.clear()


async def suffer(cluster: Cluster, proxy: FaultProxy, follower: Follower, fault: str, hits: int = 3) -> None:
    """Changes before, during and after a fault that is met some times."""
    await proxy.remember(*PATHS)
    cluster.make(2)
    cluster.change(5)
    await follower.agrees()
    proxy.fault, before = fault, proxy.hits
    if fault not in ("reorder", "duplicate", "delay", "slow"):
        proxy.cut()
    if "list" in fault or "page" in fault:
        cluster.change(4)
        forget(cluster)
        cluster.server.create(kinds.CONFIG_MAP, "default", {"metadata": {"name": f"x{random.random()}"}})
    end = asyncio.get_running_loop().time() + 0.4
    while proxy.hits < before + hits and asyncio.get_running_loop().time() < end:
        cluster.change(4)
        cluster.hurry()
        await asyncio.sleep(0.01)
    cluster.change(5)
    proxy.fault = ""
    if fault == "half-open":
        proxy.cut()


@pytest.mark.parametrize("streaming", [True, False], ids=["stream", "pages"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_outlived(fault: str, streaming: bool) -> None:
    async with world(streaming) as (cluster, proxy, follower):
        before = proxy.lists
        await suffer(cluster, proxy, follower, fault)
        assert proxy.hits or (fault == "410-page" and streaming)
        await follower.agrees()
        assert proxy.lists - before <= 24
        cluster.change(5)
        await follower.agrees()


@pytest.mark.parametrize("seed", range(6))
async def test_faults_one_after_another(seed: int) -> None:
    chance = random.Random(seed)
    async with world(seed % 2 == 0, seed=seed) as (cluster, proxy, follower):
        for fault in chance.sample(FAULTS, 5):
            await suffer(cluster, proxy, follower, fault, hits=2)
        await follower.agrees()
