"""The work queue: once however often asked for, in order, later, and less and less eager after failures."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from glassnet.agent.workqueue import FIRST_DELAY, LONGEST_DELAY, WorkQueue


def delays(queue: WorkQueue[str]) -> dict[str, float]:
    now = asyncio.get_running_loop().time()
    return {item: timer.when() - now for item, timer in queue._timers.items()}


async def test_an_item_asked_for_often_comes_once_and_in_order() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for item in "abacab":
        queue.add(item)
    assert [await queue.get() for _ in range(3)] == ["a", "b", "c"]
    assert queue.empty()


async def test_an_item_asked_for_while_it_is_worked_on_comes_again() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    assert await queue.get() == "a"


async def test_who_waits_is_woken() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.add("a")
    assert await asyncio.wait_for(waiting, 2) == "a"


async def test_of_two_wishes_the_earlier_wins() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 100)
    queue.add_after("a", 0.001)
    queue.add_after("a", 50)
    assert queue.empty()
    assert await asyncio.wait_for(queue.get(), 2) == "a"
    assert delays(queue) == {}


async def test_failures_wait_twice_as_long_each_time_up_to_a_limit() -> None:
    queue: WorkQueue[str] = WorkQueue()
    seen = []
    for _ in range(14):
        queue.failed("a")
        seen.append(delays(queue)["a"])
        queue._timers.pop("a").cancel()
    assert abs(seen[0] - FIRST_DELAY) < 0.02
    assert all(abs(later - 2 * sooner) < 0.05 for sooner, later in pairwise(seen[:9]))
    assert abs(seen[-1] - LONGEST_DELAY) < 0.1
    queue.done("a")
    queue.failed("a")
    assert delays(queue)["a"] < 2 * FIRST_DELAY
    queue.close()


async def test_closed_it_forgets_everything() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add_after("b", 0.001)
    queue.close()
    assert queue.empty()
    assert delays(queue) == {}
