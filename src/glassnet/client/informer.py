"""A list and a watch that keep a View as the API has it, whatever happens to servers and connections.

Source: Kubernetes documentation, "API Concepts" (efficient detection of changes, bookmarks, 410 Gone), KEP-3157 (streaming lists).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from glassnet.client.belief import (
    PATIENCE,
    Doubt,
    NotBelieved,
    Patience,
    Unreadable,
    behind,
    drastic,
    empty,
    newest,
    older,
    shrunken,
)
from glassnet.client.rest import RawEvent, RestApi, Unreachable, error_of, selectors, too_large
from glassnet.kube import types
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key, View
from glassnet.net.errors import ApiError, GlassnetError

log = logging.getLogger(__name__)
_INITIAL_END = "k8s.io/initial-events-end"
_TIMEOUTS = (
    300,
    600,
)  # seconds a watch is asked to last: they end at different times, so that not all come back at once
_AT_ONCE = 500  # objects after which others have their turn
_TOMBS = 10_000  # deletions that are remembered
_ERRORS = 3  # ERROR events one after another, without any progress, after which all is listed anew


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Object(msgspec.Struct):
    metadata: _Meta


_PLACE = msgspec.json.Decoder(_Object)
_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)  # what decoding a stranger's JSON may raise


class _Gathered:
    """A list that is being received: who was in it, and what is new about them. `whole` is False when somebody in it has no readable name."""

    def __init__(self) -> None:
        self.seen: set[Key] = set()
        self.changed: list[Any] = []
        self.whole = True


class Informer:
    """Feeds one kind into a View; no other may feed the same kind into it. `synced` is set after the first complete list.

    `never_empty` is for kinds that no cluster is without: a first list without any must be said again before it is believed.
    `decode` makes of an object's JSON what the View holds; `on_error` hears every failure. `last_contact` is when the server last spoke
    (time.monotonic(), 0 for never), `error` what keeps the watch from standing ("" for nothing), `forbidden` whether that is a lack of permission.
    """

    def __init__(
        self,
        api: RestApi,
        kind: Kind,
        view: View,
        *,
        label_selector: str = "",
        field_selector: str = "",
        decode: Callable[[Kind, bytes], Any] = types.decode,
        on_error: Callable[[GlassnetError], None] = lambda error: None,
        patience: Patience = PATIENCE,
        never_empty: bool = False,
    ) -> None:
        self._api, self.kind, self._view, self._decode, self._on_error = api, kind, view, decode, on_error
        self._select = selectors(label_selector, field_selector)
        self._labels, self._fields, self._patience = label_selector, field_selector, patience
        self.synced = asyncio.Event()
        self.version = ""  # from where a watch goes on
        self.relists = self.restarts = self.stale = 0
        self.last_contact = 0.0
        self.error, self.forbidden = "", False
        self.unreadable: dict[Key, str] = {}
        self._never_empty, self._empty_since = never_empty, 0.0
        self._streams = True  # until the server refuses a streaming list
        self._newest = ""  # the newest state this kind was seen in
        self._floor = ""  # of the last complete list: what was not in it then was not there
        self._tombs: dict[Key, str] = {}
        self._broken = False  # the last watch did not end as agreed
        self._disorder = False  # events of this watch came out of order
        self._anchor = ""  # up to where all has been told for sure
        self._behind: NotBelieved | None = None
        self._behind_since: float | None = None
        self._restored = False  # an older state has lasted: it is the state now
        self._doubt: Doubt | None = None
        self._delay = patience.first
        self._errors = 0
        self._opened = 0.0  # when the present watch began
        self._listed = -1e9

    @property
    def doubted(self) -> int:
        """How many objects stay although the last list did not have them."""
        return len(self._doubt.keys) if self._doubt else 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._opened = 0.0
            try:
                agreed = await self._turn()
                wait = 0.0 if agreed else self._next_delay(self._patience.longest)
                self._broken = self._broken or not agreed
            except GlassnetError as error:
                wait = self._failed(error)
            self.restarts += 1
            await asyncio.sleep(wait)

    async def _turn(self) -> bool:
        """A list if one is needed, and a watch; True when the watch ended as agreed."""
        if self._doubt is not None and time.monotonic() >= self._doubt.until:
            self._relist()
        if not self.version:
            if self._streams:
                try:
                    return await self._follow(_Gathered())
                except ApiError as error:
                    if self._opened or error.status not in (400, 422, 404, 405):
                        raise
            await self._list()
            self._streams = False  # a list it has, a stream it refused
        return await self._follow(None)

    def _relist(self) -> None:
        """All is listed anew, unless all that was doubted has been seen again."""
        if self._doubt and self._doubt.keys:
            self.version = ""
        else:
            self._doubt = None

    # -- failures

    def _failed(self, error: GlassnetError) -> float:
        """Note a failure; seconds to wait."""
        self._broken = True
        if isinstance(error, ApiError) and too_large(error):
            error = self._set_back("")
        status = error.status if isinstance(error, ApiError) else 0
        if status in (400, 422):
            self.version = ""  # the server can make nothing of where we were
        self.error, self.forbidden = str(error), status == 403
        if status == 410:
            self.version = ""  # too old to go on from
            if time.monotonic() - self._listed > self._patience.longest:
                log.info("%s: the history since the last event is gone: listing anew", self.kind.resource)
                return random.uniform(0, self._patience.first)
        self._on_error(error)
        if isinstance(error, NotBelieved):
            return self._patience.again * random.uniform(0.8, 1.2)
        wait = self._next_delay(self._patience.refused if status in (403, 404) else self._patience.longest)
        if isinstance(error, ApiError) and isinstance(asked := error.details.get("retryAfterSeconds"), int | float):
            wait = max(wait, min(300.0, asked) * random.uniform(1, 1.25))
        return wait

    def _next_delay(self, longest: float) -> float:
        """Longer from time to time, unless a watch has stood for a while; never the same for all."""
        if self._opened and time.monotonic() - self._opened > 5 * self._patience.first:
            self._delay = self._patience.first
        delay = min(longest, self._delay)
        self._delay = min(longest, self._delay * 2)
        return delay * random.uniform(0.5, 1.0)

    def _set_back(self, version: str) -> NotBelieved:
        """The server is at an older state than what was seen. When that lasts, the next list is believed."""
        now = time.monotonic()
        if self._behind_since is None:
            self._behind_since = now
        left = self._patience.older - (now - self._behind_since)
        if left <= 0:
            log.warning("%s: the server's state has been older than resourceVersion %s for %.3g s: it is taken as it is", self.kind.resource, self._newest, self._patience.older)  # fmt: skip
            self._restored, self.version = True, ""
        self._api.leave(self._api.server)
        return behind(self.kind, version, self._newest, left)

    # -- a complete list

    async def _list(self) -> None:
        self.relists += 1
        gathered, number = _Gathered(), 0
        version = ""
        async for page in self._api.pages(self.kind, self._labels, self._fields):
            self.last_contact = time.monotonic()
            gathered = _Gathered() if page.anew else gathered
            for item in page.items or ():
                self._gather(gathered, item)
                number += 1
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
            version = page.metadata.resource_version
        await self._complete(gathered, version)

    def _gather(self, gathered: _Gathered, raw: msgspec.Raw) -> None:
        """One object of a list. Before the first complete list it is told at once: there is nothing to be lost by it."""
        if self.synced.is_set():
            place = self._place(raw)
            if place is None:
                gathered.whole = False
                return
            key, version = place
            gathered.seen.add(key)
            held = self._view.get(self.kind, key)
            if held is not None and held.metadata.resource_version == version and not self._restored:
                return
            if (obj := self._decoded(key, raw)) is not None and obj != held:
                gathered.changed.append(obj)
            return
        try:
            obj = self._decode(self.kind, raw)
        except _UNREADABLE:
            place = self._place(raw)
            if place is not None:
                gathered.seen.add(place[0])
                self._decoded(place[0], raw)
            return
        key = Key(obj.metadata.namespace, obj.metadata.name)
        gathered.seen.add(key)
        held = self._view.get(self.kind, key)
        if held is None or held.metadata.resource_version != obj.metadata.resource_version:
            self._view.apply(self.kind, obj)

    async def _complete(self, gathered: _Gathered, version: str) -> None:
        """A complete list is in: what is new is told, and what was not in it has gone, if that can be believed."""
        if self._never_empty and not gathered.seen and not self.synced.is_set():
            self._empty_since = self._empty_since or time.monotonic()
            left = self._patience.shrunk - (time.monotonic() - self._empty_since)
            if left > 0:
                raise empty(self.kind, left)
        restored = self._restored
        if older(version, self._newest):
            if not restored:
                raise self._set_back(version)
        else:
            restored = False
        for number, obj in enumerate(gathered.changed, 1):
            key = Key(obj.metadata.namespace, obj.metadata.name)
            held = self._view.get(self.kind, key)
            if restored or held is None or not older(obj.metadata.resource_version, held.metadata.resource_version):
                self._view.apply(self.kind, obj)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        for number, obj in enumerate(self._gone(gathered, restored), 1):
            self._view.apply(self.kind, obj, deleted=True)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        for key in [key for key in self.unreadable if key not in gathered.seen]:
            del self.unreadable[key]
        self.version = self._newest = self._floor = version
        self._tombs.clear()
        self._restored, self._behind_since, self._errors, self._broken = False, None, 0, False
        self.last_contact = self._listed = time.monotonic()
        self.synced.set()

    def _gone(self, gathered: _Gathered, restored: bool) -> list[Any]:
        """The objects held that a complete list has not, without those that stay for now."""
        missing, held = list[Any](), 0
        for obj in self._view.all(self.kind):
            held += 1
            if Key(obj.metadata.namespace, obj.metadata.name) not in gathered.seen:
                missing.append(obj)
        if not gathered.whole:
            return []  # any of them may be the one without a name
        doubt, now = self._doubt, time.monotonic()
        if not self.synced.is_set() or not missing or (doubt is None and not drastic(len(missing), held)):
            self._doubt = None
            return missing
        believed, keys = list[Any](), {Key(obj.metadata.namespace, obj.metadata.name) for obj in missing}
        if doubt is not None and now >= doubt.until:
            fresh = keys - doubt.keys
            keys = fresh if drastic(len(fresh), held) else set()
            believed = [obj for obj in missing if Key(obj.metadata.namespace, obj.metadata.name) not in keys]
            log.warning("%s: the list still lacks %d of %d: they are taken to be gone", self.kind.resource, len(believed), held)  # fmt: skip
            doubt = None
        if doubt is None and keys:
            doubt = Doubt(now + (self._patience.lost if restored else self._patience.shrunk), restored)
        self._doubt = doubt
        if doubt is not None:
            doubt.keys = keys
            self._on_error(shrunken(self.kind, len(keys), held, doubt.until - now))
        return believed

    # -- a watch

    async def _follow(self, gathered: _Gathered | None) -> bool:
        """A watch, with `gathered` one that begins with a list. True when it ended as agreed."""
        seconds = random.randint(*_TIMEOUTS)
        query = {"resourceVersion": self.version, "timeoutSeconds": str(seconds), **self._select}
        if gathered is not None:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        self._disorder, self._behind = False, None
        begun, self._anchor = time.monotonic(), self.version
        check: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout_at(self._due() if gathered is None else None) as due, self._api.watch(self.kind, query, self._patience.silence) as events:  # fmt: skip
                self._opened = self.last_contact = time.monotonic()
                self.relists += gathered is not None
                if gathered is None and self._broken and self.version.isdigit():
                    check = asyncio.create_task(self._compare(due))
                await self._read(events, gathered, due)
        except TimeoutError:
            if self._behind is not None:
                raise self._behind from None
            return True  # the doubted are due to be asked for
        except msgspec.MsgspecError as error:
            raise Unreachable(f"an event of {self.kind.resource} cannot be read: {error}") from None
        except GlassnetError:
            self.version = self._anchor if self._disorder and self.version else self.version
            raise
        finally:
            if check is not None:
                check.cancel()
        return time.monotonic() - begun > seconds - 5

    async def _read(self, events: AsyncIterator[RawEvent], gathered: _Gathered | None, due: asyncio.Timeout) -> None:
        """The events of a watch until it ends."""
        if gathered is None:
            self._well()
        async for event in events:
            self.last_contact = time.monotonic()
            if gathered is None:
                self._take(event)
            elif await self._begin(event, gathered):
                gathered, self._anchor = None, self.version
                self._well()
                due.reschedule(self._due())
        if gathered is not None:
            raise Unreachable(f"the list of {self.kind.resource} ended before it was complete")

    async def _compare(self, due: asyncio.Timeout) -> None:
        """A while after a watch broke and another stands: has the server come as far as we had seen? One that was set back would never tell
        of it, and stay silent."""
        version = self.version
        await asyncio.sleep(self._patience.check * random.uniform(0.8, 1.2))
        reached = older(version, self.version)  # it has told of more
        if not reached:
            try:
                reached = await self._api.reached(self.kind, version, self._labels, self._fields)
            except GlassnetError as error:
                log.debug("%s: resourceVersions are not compared: %s", self.kind.resource, error)
                return
        if reached:
            self._broken, self._behind_since = False, None
        else:
            self._behind = self._set_back("")
            due.reschedule(0)

    def _due(self) -> float | None:
        return self._doubt.until if self._doubt else None

    def _well(self) -> None:
        self.error, self.forbidden = "", False

    async def _begin(self, event: RawEvent, gathered: _Gathered) -> bool:
        """One event of a list that comes as the beginning of a watch; True when the list is complete by it."""
        if event.type == "ERROR":
            raise error_of(event)
        if event.type != "BOOKMARK":
            self._gather(gathered, event.object)
            if len(gathered.seen) % _AT_ONCE == 0:
                await asyncio.sleep(0)
            return False
        meta = _PLACE.decode(event.object).metadata
        if (meta.annotations or {}).get(_INITIAL_END) != "true":
            return False
        await self._complete(gathered, meta.resource_version)
        return True

    def _take(self, event: RawEvent) -> None:
        """One event. After a bookmark all has been told up to its resourceVersion."""
        if event.type == "ERROR":
            error = error_of(event)
            self._errors += 1
            if self._errors >= _ERRORS:
                self._errors, self.version = 0, ""
            raise error
        place = self._place(event.object)
        if place is None:
            return
        key, version = place
        if event.type == "BOOKMARK":
            if older(version, self.version):
                raise self._set_back(version)
            self._behind_since, self._errors = None, 0
            self.version, self._newest = version or self.version, newest(self._newest, version)
            self._anchor = self.version
            return
        if self._known(key, version, event.type == "DELETED"):
            self.stale += 1
            self._disorder = self._disorder or older(version, self.version)
            return
        self._disorder = self._disorder or older(version, self.version)
        if event.type == "DELETED":
            self._bury(key, version)
        elif event.type in ("ADDED", "MODIFIED") and (obj := self._decoded(key, event.object)) is not None:
            self._view.apply(self.kind, obj)
            if self._doubt:
                self._doubt.keys.discard(key)
        self.version, self._newest = newest(self.version, version), newest(self._newest, version)
        self._errors = 0

    def _known(self, key: Key, version: str, deletion: bool) -> bool:
        """Whether an event tells of something older than what is known, or of the same once more."""
        held = self._view.get(self.kind, key)
        if self._doubt is not None and self._doubt.restored and key in self._doubt.keys:
            return False  # what is held is of before the server was set back
        if held is not None:
            known = held.metadata.resource_version
            return older(version, known) or (version == known and not deletion)
        if deletion:
            return False
        tomb = self._tombs.get(key)
        return older(version, tomb or self._floor) or version == (tomb or self._floor)

    def _bury(self, key: Key, version: str) -> None:
        held = self._view.get(self.kind, key)
        if held is not None:
            self._view.apply(self.kind, held, deleted=True)
        self.unreadable.pop(key, None)
        if self._doubt:
            self._doubt.keys.discard(key)
        self._tombs.pop(key, None)
        self._tombs[key] = version
        if len(self._tombs) > _TOMBS:
            del self._tombs[next(iter(self._tombs))]

    # -- objects

    def _place(self, raw: msgspec.Raw) -> tuple[Key, str] | None:
        """Whose an object is, and its resourceVersion; None, and a word to `on_error`, when that cannot be read."""
        try:
            meta = _PLACE.decode(raw).metadata
        except msgspec.MsgspecError as error:
            self._on_error(Unreadable(f"{self.kind.name} without a readable name: {error}; it is left out"))
            return None
        return Key(meta.namespace, meta.name), meta.resource_version

    def _decoded(self, key: Key, raw: msgspec.Raw) -> Any | None:
        """An object, or None for one that cannot be read: that is said once for each of its versions, and its old version stays."""
        try:
            obj = self._decode(self.kind, raw)
        except _UNREADABLE as error:
            text = f"{self.kind.name} {key} cannot be read: {error}"
            if self.unreadable.get(key) != text:
                self.unreadable[key] = text
                known = "what was known of it stays" if self._view.get(self.kind, key) is not None else "it is left out"
                self._on_error(Unreadable(f"{text}; {known}, all others go on"))
            return None
        self.unreadable.pop(key, None)
        return obj
