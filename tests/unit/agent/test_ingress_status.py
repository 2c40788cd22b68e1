"""The status of Ingresses: what it says, of which of them, and what is never touched. The API is the embedded one."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from glassnet.agent.ingress.status import Publisher, places_of
from glassnet.apiserver.local import LocalApi
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.kube import kinds, types
from glassnet.kube.view import Key, View
from glassnet.net.errors import ApiError
from ingress_objects import ingress, path, rule, service

MINE = Key("demo", "mine")


@pytest.mark.parametrize(
    ("spec", "status", "places"),
    [
        ({"type": "LoadBalancer", "clusterIP": "10.0.0.1"}, [], []),  # none yet: its own address is of no use to those outside
        ({"type": "LoadBalancer"}, [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}], [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]),
        ({"type": "LoadBalancer", "externalIPs": ["192.0.2.1", "192.0.2.2"]}, [{"ip": "192.0.2.1"}], [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}]),
        ({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}, [], [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]),
        ({"type": "ClusterIP", "clusterIP": "None"}, [], []),
        ({"type": "NodePort", "clusterIP": "10.0.0.1", "externalIPs": ["192.0.2.9"]}, [], [{"ip": "192.0.2.9"}]),
        ({"type": "ExternalName", "externalName": "lb.example"}, [], [{"hostname": "lb.example"}]),
    ],
)  # fmt: skip
def test_where_a_service_is_reached(
    spec: dict[str, Any], status: list[dict[str, str]], places: list[dict[str, str]]
) -> None:
    body = {
        "metadata": {"name": "s", "namespace": "demo"},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": status}},
    }
    assert places_of(types.decode(kinds.SERVICE, json.dumps(body))) == places


class World:
    """The embedded API, a View that follows it, a publisher."""

    def __init__(self) -> None:
        self.view, self.ours = View(), {MINE}
        server = ApiServer(Store(":memory:"), now=lambda: datetime.now(UTC), random=random.Random(1))
        server.create(kinds.NAMESPACE, "", {"metadata": {"name": "demo"}})
        self.api = LocalApi(server)
        self.may = True
        self.publisher = Publisher(
            self.view,
            self.api,
            lambda: self.ours,
            service=Key("demo", "front"),
            addresses=[{"hostname": "www.example"}],
            may_write=lambda: self.may,
        )

    async def look(self) -> None:
        """Have the View see what the API has, and the publisher look."""
        for kind in (kinds.INGRESS, kinds.SERVICE):
            for item in await self.api.list(kind):
                self.view.apply(kind, types.decode(kind, json.dumps(item)))
        self.publisher.look()

    async def said(self, key: Key = MINE) -> Any:
        return (await self.api.get(kinds.INGRESS, *key)).get("status", {}).get("loadBalancer", {}).get("ingress")

    async def until(self, condition: Callable[[Any], bool], key: Key = MINE) -> None:
        deadline = time.monotonic() + 10
        while not condition(found := await self.said(key)):
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)
            await self.look()


async def test_ours_say_where_they_are_served_and_others_are_left_alone() -> None:
    world = World()
    for name in ("mine", "yours"):
        await world.api.create(kinds.INGRESS, "demo", ingress(name, rule("a.example", path("web"))))
    await world.api.patch(
        kinds.INGRESS, "demo", "yours", {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}}, "status"
    )
    front = service("front", type="LoadBalancer")
    del front["spec"]["clusterIP"]
    await world.api.create(kinds.SERVICE, "demo", front)
    task = asyncio.create_task(world.publisher.run())
    try:
        await world.look()
        await world.until(lambda said: said == [{"hostname": "www.example"}])
        await world.api.patch(
            kinds.SERVICE, "demo", "front", {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}, "status"
        )
        both = [{"ip": "192.0.2.1"}, {"hostname": "www.example"}]
        await world.until(lambda said: said == both)
        written = world.publisher.written
        await world.api.patch(kinds.INGRESS, "demo", "mine", {"metadata": {"labels": {"a": "b"}}})
        await world.look()
        world.ours.add(Key("demo", "gone"))  # one that the View no longer has
        await asyncio.sleep(0)
        world.ours = set()
        await world.until(lambda said: not said)  # ours no longer
        assert world.publisher.written == written + 1  # nothing was written that was said already
        assert await world.said(Key("demo", "yours")) == [{"ip": "198.51.100.1"}]
        world.ours = {MINE}
        await world.until(lambda said: said == both)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    strange = {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}}
    await world.api.patch(kinds.INGRESS, "demo", "mine", strange, "status")
    await world.look()
    world.may = False  # another leads: what is wrong is for it to mend
    assert not await world.publisher._round() and await world.said() == [{"ip": "198.51.100.7"}]
    world.may = True
    assert await world.publisher._round() and await world.said() == both


async def test_a_write_that_fails_is_told_and_does_not_stop_the_others() -> None:
    world = World()
    world.ours = {MINE, Key("demo", "broken")}
    for name in ("mine", "broken"):
        await world.api.create(kinds.INGRESS, "demo", ingress(name, rule("a.example", path("web"))))
    patch = world.api.patch

    async def failing(kind: Any, namespace: str, name: str, *more: Any, **options: Any) -> dict[str, Any]:
        if name == "broken":
            raise ApiError(500, "InternalError", "the disk is full")
        return await patch(kind, namespace, name, *more, **options)

    world.api.patch = failing  # type: ignore[method-assign]
    task = asyncio.create_task(world.publisher.run())
    try:
        await world.look()
        await world.until(lambda said: said == [{"hostname": "www.example"}])
        assert world.publisher.failed >= 1 and not await world.said(Key("demo", "broken"))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
