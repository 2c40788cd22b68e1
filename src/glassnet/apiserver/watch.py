"""Watches: from a revision on, every event a client asked for, as JSON lines ready to send.

Source: Kubernetes API concepts, "Efficient detection of changes" (resourceVersion semantics, bookmarks, streaming lists, 410 Gone).
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


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a client asked for; `revision` None or 0 starts with all there is, `name` narrows to one object."""

    namespace: str = ""
    name: str = ""
    revision: int | None = None
    bookmarks: bool = False
    initial_events: bool = False
    timeout: float = 1800.0
    bookmark_period: float = 60.0


class Watch:
    """One client's watch. Iterate `events()` for (type, object JSON) pairs."""

    def __init__(
        self, store: Store, kind: Kind, matches: Callable[[bytes], bool] | None, options: WatchOptions
    ) -> None:
        self._store, self._kind, self._matches, self._options = store, kind, matches, options
        self._queue: deque[StoreEvent] = deque()
        self._awake = asyncio.Event()
        self._shown: set[Key] = set()  # with selectors: what the client has been told of
        self._overrun = False

    async def events(self) -> AsyncIterator[tuple[str, bytes]]:
        """Events until the timeout. Raises ApiError 410 when the revision is forgotten or the client has fallen behind too far."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.timeout
        initial, revision = self._begin()
        unsubscribe = self._store.subscribe(self._take)
        try:
            for event in initial:
                yield event
            if self._options.initial_events and self._options.bookmarks:
                yield "BOOKMARK", self._bookmark(revision, end=True)
            while (left := deadline - loop.time()) > 0:
                while self._queue:
                    found = self._queue.popleft()
                    revision = found.revision
                    if shown := self._show(found):
                        yield shown
                if self._overrun:
                    raise ApiError(410, "Expired", "the watch fell too far behind; list again")
                self._awake.clear()
                try:
                    await asyncio.wait_for(self._awake.wait(), min(left, self._options.bookmark_period))
                except TimeoutError:
                    if self._options.bookmarks:
                        yield "BOOKMARK", self._bookmark(max(revision, self._store.revision))
        finally:
            unsubscribe()

    def _begin(self) -> tuple[list[tuple[str, bytes]], int]:
        """The first events, and the revision they stand for; nothing can come between this and the subscription."""
        asked = self._options.revision
        if not asked or self._options.initial_events:
            everything = []
            for key, raw in self._store.all(self._kind, self._options.namespace):
                if self._wants(key) and self._fits(raw):
                    self._shown.add(key)
                    everything.append(("ADDED", raw))
            return everything, self._store.revision
        if self._matches:
            for key, raw in self._store.all_at(self._kind, self._options.namespace, asked):
                if self._wants(key) and self._matches(raw):
                    self._shown.add(key)
        shown = [self._show(event) for event in self._store.since(asked)]
        return [event for event in shown if event], self._store.revision

    def _take(self, event: StoreEvent) -> None:
        if event.kind is not self._kind:
            return
        if len(self._queue) >= LIMIT:
            self._overrun = True
        else:
            self._queue.append(event)
        self._awake.set()

    def _wants(self, key: Key) -> bool:
        return (not self._options.name or key.name == self._options.name) and (
            not self._options.namespace or key.namespace == self._options.namespace
        )

    def _fits(self, raw: bytes) -> bool:
        return self._matches is None or self._matches(raw)

    def _show(self, event: StoreEvent) -> tuple[str, bytes] | None:
        """What the client is told of an event: an object that stops matching its selectors is gone for it, one that starts is new."""
        if event.kind is not self._kind or not self._wants(event.key):
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
        return "DELETED", event.raw

    def _bookmark(self, revision: int, end: bool = False) -> bytes:
        metadata: dict[str, object] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if end:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        return msgspec.json.encode(
            {"kind": self._kind.name, "apiVersion": self._kind.api_version, "metadata": metadata}
        )
