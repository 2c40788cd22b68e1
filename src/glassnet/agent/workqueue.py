"""A queue of work items that are worth doing once however often they are asked for, with delays and back-off."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
FIRST_DELAY, LONGEST_DELAY = 0.05, 30.0


class WorkQueue(Generic[T]):
    """First come, first served; an item asked for again while it waits is not queued twice."""

    def __init__(self) -> None:
        self._items: dict[T, None] = {}
        self._timers: dict[T, asyncio.TimerHandle] = {}
        self._failures: dict[T, int] = {}
        self._awake = asyncio.Event()

    def add(self, item: T) -> None:
        """Ask for an item now."""
        self._items[item] = None
        self._awake.set()

    def add_after(self, item: T, seconds: float) -> None:
        """Ask for an item in some seconds; the earliest wish wins."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(item)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[item] = loop.call_later(seconds, self._due, item)

    def _due(self, item: T) -> None:
        self._timers.pop(item, None)
        self.add(item)

    def failed(self, item: T) -> None:
        """Ask for an item again after its back-off."""
        count = self._failures.get(item, 0)
        self._failures[item] = count + 1
        self.add_after(item, min(LONGEST_DELAY, FIRST_DELAY * 2**count))

    def done(self, item: T) -> None:
        """The item went well: its back-off starts anew."""
        self._failures.pop(item, None)

    async def get(self) -> T:
        """The next item, taken off the queue."""
        while not self._items:
            self._awake.clear()
            await self._awake.wait()
        item = next(iter(self._items))
        del self._items[item]
        return item

    def empty(self) -> bool:
        """True when nothing waits to be done now."""
        return not self._items

    def close(self) -> None:
        """Forget everything."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._items.clear()
