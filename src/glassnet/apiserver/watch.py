"""Watches: from a revision on, every event a client asked for, as JSON lines ready to send.

Source: Kubernetes API concepts, "Efficient detection of changes" (resourceVersion semantics, bookmarks, streaming lists, 410 Gone), KEP-3157.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec

from glassnet.apiserver.store import Store, StoreEvent
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

LIMIT = 5_000  # events a slow client may be behind before it has to list again
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
_LOOK = 5.0  # seconds between two looks whether a silent client is still there
_LAST = 2.0  # seconds before its end at which a watch says once more how far it is


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a client asked for. `revision` None or 0 starts with all there is, `name` narrows to one object.

    `initial_events` True starts with all there is whatever the revision, False never does, None leaves it to the revision.
    `timeout` and `bookmark_period` are in seconds.
    """

    namespace: str = ""
    name: str = ""
    revision: int | None = None
    bookmarks: bool = False
    initial_events: bool | None = None
    timeout: float = 1800.0
    bookmark_period: float = 60.0


class Watch:
    """One client's watch. Iterate `events()` for (type, object JSON) pairs.

    `alive` tells whether the client is still there, `overrun` is called once when it has fallen behind by more than LIMIT events:
    whoever is stuck in sending to it can let go then.
    """

    def __init__(
        self,
        store: Store,
        kind: Kind,
        matches: Callable[[bytes], bool] | None,
        options: WatchOptions,
        alive: Callable[[], bool] = lambda: True,
        overrun: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._kind, self._matches, self._options = store, kind, matches, options
        self._alive, self._on_overrun = alive, overrun
        self._queue: deque[StoreEvent] = deque()
        self._awake = asyncio.Event()
        self._shown: set[Key] = set()  # with selectors: what the client has been told of
        self._overrun = False
        self._seen = 0  # revision of the last event taken from the queue
        self._after = 0  # a revision the client has reached elsewhere, beyond ours perhaps

    async def events(self) -> AsyncIterator[tuple[str, bytes]]:
        """Events until the timeout. Raises ApiError 410 when the revision is forgotten or the client has fallen behind too far."""
        now = asyncio.get_running_loop().time
        end = now() + self._options.timeout
        initial = self._begin()
        unsubscribe = self._store.subscribe(self._take)
        try:
            for event in initial:
                yield event
            initial.clear()
            if self._options.initial_events and self._options.bookmarks:
                yield "BOOKMARK", self._bookmark(end=True)
            due = self._next_bookmark(now(), end)
            while True:
                for _ in range(len(self._queue)):
                    if shown := self._next():
                        yield shown
                if self._overrun:
                    raise ApiError(410, "Expired", "the watch fell too far behind; list again")
                if now() >= end or not self._alive():
                    return
                if now() >= due:
                    due = self._next_bookmark(now(), end)
                    if self._options.bookmarks:
                        yield "BOOKMARK", self._bookmark()
                        continue
                await self._sleep(min(due, end) - now())
        finally:
            unsubscribe()

    async def _sleep(self, seconds: float) -> None:
        self._awake.clear()
        if self._queue or self._overrun:
            return
        try:
            await asyncio.wait_for(self._awake.wait(), min(seconds, _LOOK))
        except TimeoutError:
            return

    def _next_bookmark(self, now: float, end: float) -> float:
        """When to send the next bookmark: every period, and once shortly before the end."""
        last = end - _LAST
        return min(now + self._options.bookmark_period, last) if now < last else end + 1

    def _begin(self) -> list[tuple[str, bytes]]:
        """The first events; nothing can come between this and the subscription."""
        asked, initial = self._options.revision, self._options.initial_events
        self._seen = self._store.revision
        if initial or (not asked and initial is None):
            return [("ADDED", raw) for _, raw in self._matching(self._store.all(self._kind, self._options.namespace))]
        if not asked:
            asked = self._store.revision
        past = self._store.since(asked)
        if self._matches:
            for _ in self._matching(self._store.all_at(self._kind, self._options.namespace, asked)):
                pass
        self._after = asked
        return [shown for event in past if (shown := self._show(event))]

    def _matching(self, objects: list[tuple[Key, bytes]]) -> list[tuple[Key, bytes]]:
        """Those of the objects that this watch is about; they count as shown."""
        found = [(k, raw) for k, raw in objects if self._wants(k) and (self._matches is None or self._matches(raw))]
        if self._matches:
            self._shown.update(key for key, _ in found)
        return found

    def _take(self, event: StoreEvent) -> None:
        if event.kind is not self._kind or self._overrun or not self._wants(event.key):
            return
        if len(self._queue) >= LIMIT:
            self._overrun = True
            self._queue.clear()
            self._on_overrun()
        else:
            self._queue.append(event)
        self._awake.set()

    def _next(self) -> tuple[str, bytes] | None:
        if not self._queue:
            return None  # an overrun has emptied it
        event = self._queue.popleft()
        self._seen = event.revision
        return self._show(event)

    def _wants(self, key: Key) -> bool:
        return (not self._options.name or key.name == self._options.name) and (
            not self._options.namespace or key.namespace == self._options.namespace
        )

    def _show(self, event: StoreEvent) -> tuple[str, bytes] | None:
        """What the client is told of an event: an object that stops matching its selectors is gone for it, one that starts is new."""
        if event.kind is not self._kind or event.revision <= self._after or not self._wants(event.key):
            return None
        if self._matches is None:
            return event.type, event.raw
        known = event.key in self._shown
        if event.type != "DELETED" and self._matches(event.raw):
            self._shown.add(event.key)
            return ("MODIFIED" if known else "ADDED"), event.raw
        if not known:
            return None
        self._shown.discard(event.key)
        if event.type == "DELETED" or event.previous is None:
            return "DELETED", event.raw
        return "DELETED", _as_of(event.previous, event.revision)

    def _bookmark(self, end: bool = False) -> bytes:
        revision = (
            self._seen if self._queue else self._store.revision
        )  # without a queue, later writes were of other objects
        metadata: dict[str, object] = {"resourceVersion": str(max(revision, self._after)), "creationTimestamp": None}
        if end:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        return msgspec.json.encode(
            {"kind": self._kind.name, "apiVersion": self._kind.api_version, "metadata": metadata}
        )


def _as_of(raw: bytes, revision: int) -> bytes:
    """An object as it last matched a selector, with the revision at which it stopped to."""
    obj = msgspec.json.decode(raw)
    obj["metadata"]["resourceVersion"] = str(revision)
    return msgspec.json.encode(obj)
