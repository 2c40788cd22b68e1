"""One leader among many: what a Lease says, when it is abandoned, and what happens when the API fails. Time is the test's own where it matters."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from glassnet.agent.cluster import configuration as controller_config
from glassnet.agent.cluster.controller import Controller
from glassnet.agent.leader import Leader
from glassnet.apiserver.local import LocalApi
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.client.kubeconfig import Access
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError, UsageError

NAME = ("kube-system", "lease")


class Api(LocalApi):
    """The embedded server's verbs, which can be made to fail or to hang."""

    def __init__(self) -> None:
        super().__init__(ApiServer(Store(":memory:"), now=lambda: datetime.now(UTC), random=random.Random(1)))
        self.fault: Callable[[], None] = lambda: None
        self.hangs = False
        self.calls: list[str] = []

    async def _before(self, verb: str) -> None:
        self.calls.append(verb)
        self.fault()
        if self.hangs:
            await asyncio.Event().wait()

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        await self._before("get")
        return await super().get(kind, namespace, name)

    async def create(self, kind: Kind, namespace: str, body: Mapping[str, Any], subresource: str = "", name: str = "") -> dict[str, Any]:  # fmt: skip
        await self._before("create")
        return await super().create(kind, namespace, body, subresource, name)

    async def update(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], subresource: str = "") -> dict[str, Any]:  # fmt: skip
        await self._before("update")
        return await super().update(kind, namespace, name, body, subresource)

    def record(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(self.server.get(kinds.LEASE, *NAME))["spec"]
        return spec


class Clock:
    def __init__(self, at: float = 1000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def candidate(api: Api, who: str, clock: Clock, off: timedelta = timedelta(), **times: float) -> Leader:
    return Leader(api, *NAME, who, now=lambda: datetime.now(UTC) + off, clock=clock, **times)  # type: ignore[arg-type]


async def attempt(leader: Leader) -> bool:
    return await leader._try(5)


async def test_the_first_makes_the_lease_and_keeps_it_by_one_request_a_renewal() -> None:
    api, clock = Api(), Clock()
    one = candidate(api, "one", clock)
    assert await attempt(one)
    assert one.leads()
    assert api.calls == ["get", "create"]
    made = api.record()
    assert (made["holderIdentity"], made["leaseDurationSeconds"], made["leaseTransitions"]) == ("one", 15, 0)
    clock.at += 2
    assert await attempt(one)
    assert api.calls == ["get", "create", "update"]
    assert api.record()["acquireTime"] == made["acquireTime"]
    assert api.record()["renewTime"] != made["renewTime"]


@pytest.mark.parametrize("off", [timedelta(days=400), timedelta(days=-400)])
async def test_clocks_apart_do_not_matter(off: timedelta) -> None:
    api, clock = Api(), Clock()
    one, two = candidate(api, "one", clock, off), candidate(api, "two", clock)
    assert await attempt(one)
    assert not await attempt(two)  # seen for the first time: from now on it counts
    clock.at += 14.9
    assert not await attempt(two)
    assert await attempt(one)  # a renewal: it counts anew
    clock.at += 14.9
    assert not await attempt(two)
    clock.at += 14.9
    assert not await attempt(two)
    clock.at += 0.2
    assert await attempt(two)
    assert not one.leads()
    assert (api.record()["holderIdentity"], api.record()["leaseTransitions"]) == ("two", 1)
    assert not await attempt(one)


async def test_a_record_says_itself_how_long_it_is_good_for() -> None:
    api, clock = Api(), Clock()
    long, two = candidate(api, "long", clock, duration=60), candidate(api, "two", clock)
    assert await attempt(long)
    assert not await attempt(two)
    clock.at += 59
    assert not await attempt(two)
    clock.at += 1.1
    assert await attempt(two)


async def test_of_two_that_try_at_once_one_leads() -> None:
    api, clock = Api(), Clock()
    one, two = candidate(api, "one", clock), candidate(api, "two", clock)
    both = asyncio.Barrier(2)
    get = api.get

    async def together(kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        try:
            return await get(kind, namespace, name)
        finally:
            await both.wait()

    api.get = together  # type: ignore[method-assign]
    assert sorted(await asyncio.gather(attempt(one), attempt(two))) == [False, True]
    clock.at += 20  # abandoned, and both see it
    api.fault = lambda: None
    assert sorted(await asyncio.gather(attempt(one), attempt(two))) == [False, True]


async def test_time_is_over_without_a_renewal_however_the_clock_got_there() -> None:
    api, clock = Api(), Clock()
    one = candidate(api, "one", clock)
    assert await attempt(one)
    clock.at += 9.9
    assert one.leads()
    clock.at += 0.2  # a stopped process wakes here
    assert not one.leads()
    assert await attempt(one)  # nobody has taken it: it is still its own
    assert api.record()["leaseTransitions"] == 0


async def test_what_others_wrote_into_the_lease_stays() -> None:
    api, clock = Api(), Clock()
    one = candidate(api, "one", clock)
    await attempt(one)
    await LocalApi.patch(api, kinds.LEASE, *NAME, {"metadata": {"labels": {"a": "b"}}, "spec": {"preferredHolder": "x"}})  # fmt: skip
    assert not await attempt(one)  # Conflict: somebody wrote; looked at again
    assert one.leads()
    assert await attempt(one)
    lease = await LocalApi.get(api, kinds.LEASE, *NAME)
    assert (lease["metadata"]["labels"], lease["spec"]["preferredHolder"]) == ({"a": "b"}, "x")


async def test_a_lease_that_somebody_deletes_is_made_again() -> None:
    api, clock = Api(), Clock()
    one = candidate(api, "one", clock)
    await attempt(one)
    await api.delete(kinds.LEASE, *NAME)
    await attempt(one)  # a server may make a Lease that is put, or say that there is none
    assert await attempt(one)
    assert api.record()["holderIdentity"] == "one"


def test_the_controller_asks_its_lease_before_it_writes() -> None:
    access = Access(("http://127.0.0.1:1",), None)
    controller = Controller(controller_config.load(None, "", {}, {}), access)
    assert not controller.may_write()
    controller.leader._clock = clock = Clock()
    controller.leader._until = clock.at + 10
    assert controller.may_write()
    clock.at += 11  # it was stopped, or the machine slept
    assert not controller.may_write()
    assert Controller(controller_config.load(None, "", {"GLASSNET_LEADER_ELECT": "false"}, {}), access).may_write()


class Work:
    def __init__(self) -> None:
        self.state = "never"
        self.begun = 0

    async def __call__(self) -> None:
        self.state, self.begun = "works", self.begun + 1
        try:
            await asyncio.Event().wait()
        finally:
            self.state = "ended"


def quick(api: Api, who: str) -> Leader:
    """With the real clock, and times as short as they may be."""
    return Leader(api, *NAME, who, duration=1, renew=0.3, retry=0.05, now=lambda: datetime.now(UTC))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (it is others that make it true)
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_work_ends_when_the_api_goes_away_and_begins_anew_when_it_comes_back(how: str) -> None:
    api, work = Api(), Work()
    one = quick(api, "one")
    task = asyncio.create_task(one.run(work))
    await until(lambda: work.state == "works")

    def refuse() -> None:
        raise ApiError(503, "ServiceUnavailable", "away")

    if how == "hangs":
        api.hangs = True
    else:
        api.fault = refuse
    begun = asyncio.get_running_loop().time()
    await until(lambda: work.state == "ended")
    assert asyncio.get_running_loop().time() - begun < 1  # before anybody else could lead
    assert not one.leads()
    assert one.standing().error
    api.hangs, api.fault = False, lambda: None
    await until(lambda: work.state == "works")
    assert work.begun == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (work.state, api.record()["holderIdentity"], api.record()["leaseDurationSeconds"]) == ("ended", "", 1)


async def test_work_ends_when_somebody_else_has_the_lease() -> None:
    api, work = Api(), Work()
    task = asyncio.create_task(quick(api, "one").run(work))
    await until(lambda: work.state == "works")
    await LocalApi.patch(api, kinds.LEASE, *NAME, {"spec": {"holderIdentity": "stranger", "leaseDurationSeconds": 3600}})  # fmt: skip
    await until(lambda: work.state == "ended")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert api.record()["holderIdentity"] == "stranger"  # not ours to give back


async def test_work_that_ends_or_fails_ends_it_all_and_the_lease_is_given_back() -> None:
    api = Api()

    async def done() -> None:
        return

    async def fails() -> None:
        raise ValueError("of the work")

    await quick(api, "one").run(done)
    assert api.record()["holderIdentity"] == ""
    with pytest.raises(ValueError, match="of the work"):
        await quick(api, "two").run(fails)
    assert (api.record()["holderIdentity"], api.record()["leaseTransitions"]) == ("", 1)


@pytest.mark.parametrize("times", [(15, 15, 2), (0.5, 0.3, 0.1), (15, 2, 2), (15, 10, 0), (-1, -2, -3)])
def test_times_that_cannot_be(times: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="leaseDuration"):
        Leader(Api(), *NAME, "x", duration=times[0], renew=times[1], retry=times[2], now=lambda: datetime.now(UTC))
