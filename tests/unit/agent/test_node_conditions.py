"""The loop that keeps conditions: few writes, none of them without leave, and who keeps changing things is not met for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from glassnet.agent.changes import Writer
from glassnet.agent.cluster import node_conditions
from glassnet.agent.cluster.node_conditions import NodeConditions
from glassnet.apiserver.local import LocalApi, feed
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.controllers import noderoutes
from glassnet.controllers.noderoutes import Ranges
from glassnet.controllers.podcidrs import Space
from glassnet.kube import kinds, types
from glassnet.kube.change import Record
from glassnet.kube.view import Key, View
from glassnet.net.errors import ApiError


def now() -> datetime:
    return datetime.now(UTC)


class World:
    """An API with a View of it, and what was written."""

    def __init__(self) -> None:
        self.server, self.view = ApiServer(Store(":memory:"), now=now, random=random.Random(1)), View()
        feed(self.server, self.view)
        self.api = LocalApi(self.server)
        self.written: list[str] = []
        self.events: list[Record] = []
        self.leave = True

    def node(self, name: str, *cidrs: str, right: bool = False) -> None:
        address = {"type": "InternalIP", "address": "10.0.0.1"}
        message = f"pods {', '.join(cidrs)} are reached by way of 10.0.0.1"
        condition = {"type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated", "message": message}
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
        status = {"addresses": [address], "conditions": [condition] if right else []}
        self.server.create(kinds.NODE, "", {"metadata": {"name": name}, "spec": spec, "status": status})

    def condition(self, name: str) -> tuple[str, str]:
        found = self.view.nodes[Key("", name)].status.conditions
        return next(((c.status, c.reason) for c in found if c.type == "NetworkUnavailable"), ("", ""))

    @asynccontextmanager
    async def kept(self, **more: Any) -> AsyncIterator[NodeConditions]:
        loop = NodeConditions(
            self.view, Writer(self.api, now), now=now, may_write=lambda: self.leave, report=self.events.append, written=self.written.append, **more
        )  # fmt: skip
        task = asyncio.create_task(loop.run())
        try:
            yield loop
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (it is others that make it true)
            await asyncio.sleep(0.005)


async def test_five_thousand_nodes_that_are_right_are_left_alone_and_the_wrong_one_is_not() -> None:
    world = World()
    for number in range(5000):
        world.node(f"n{number}", f"10.{number >> 8}.{number & 255}.0/24", right=number != 4321)
    async with world.kept() as loop:
        await until(lambda: loop.reasons().total() == 5000)
        await until(lambda: world.condition("n4321") == ("False", "RouteCreated"))
        assert world.written == ["conditions"]
        assert world.events == []


async def test_nothing_is_written_without_leave() -> None:
    world = World()
    world.node("bare")
    world.leave = False
    async with world.kept(spaces=[Space("10.4.0.0/16", 24)]) as loop:
        await until(lambda: loop.reasons().total() == 1)
        assert (world.condition("bare"), world.written, world.events) == (("", ""), [], [])


async def test_many_nodes_at_once_get_ranges_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    world, fail = World(), random.Random(3)
    patch = world.api.patch

    async def slow(*words: Any, **more: Any) -> dict[str, Any]:
        await asyncio.sleep(fail.random() / 100)
        if fail.random() < 0.2:
            raise ApiError(503, "ServiceUnavailable", "away")
        return await patch(*words, **more)

    monkeypatch.setattr(world.api, "patch", slow)
    for number in range(60):
        world.node(f"n{number}")
    async with world.kept(spaces=[Space("10.4.0.0/18", 24), Space("fd00::/58", 64)]):
        await until(lambda: all(world.condition(f"n{number}")[0] == "False" for number in range(60)))
    for which in (0, 1):
        assert len({node.spec.pod_cidrs[which] for node in world.view.nodes.values()}) == 60


async def test_a_quarrel_is_kept_short(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(node_conditions, "_QUARREL", 1.0)
    world = World()
    world.node("n", "10.1.0.0/24")
    other = {"type": "NetworkUnavailable", "status": "True", "reason": "Mine", "message": "is better"}
    async with world.kept():
        for _ in range(50):
            await world.api.patch(kinds.NODE, "", "n", {"status": {"conditions": [other]}}, "status", "application/strategic-merge-patch+json")  # fmt: skip
            await asyncio.sleep(0.002)
        assert 1 <= len(world.written) <= 2 * node_conditions._PATIENCE
        assert "somebody else writes its condition" in caplog.text
        await until(lambda: world.condition("n") == ("False", "RouteCreated"))  # and right in the end


def test_what_is_kept_of_a_node_decides_as_the_whole_does() -> None:
    world = World()
    world.node("n", "10.1.0.0/24", right=True)
    ready = {"type": "Ready", "status": "True"}
    world.server.patch(kinds.NODE, "", "n", {"metadata": {"labels": {"a": "b"}}}, "application/merge-patch+json")
    world.server.patch(kinds.NODE, "", "n", {"status": {"conditions": [ready]}}, "application/strategic-merge-patch+json", subresource="status")  # fmt: skip
    raw = world.server.get(kinds.NODE, "", "n")
    whole, kept = types.decode(kinds.NODE, raw), node_conditions.decode_node(kinds.NODE, raw)
    index = Ranges()
    index.put(whole)
    assert noderoutes.verdict(kept, index) == noderoutes.verdict(whole, index)
    assert (kept.metadata.labels, [c.type for c in kept.status.conditions]) == ({}, ["NetworkUnavailable"])
    assert (kept.metadata.resource_version, kept.metadata.creation_timestamp) == (whole.metadata.resource_version, whole.metadata.creation_timestamp)  # fmt: skip
