"""A list and a watch that keep a View as the API has it, whatever happens to the connection.

Source: Kubernetes documentation, "API Concepts" (efficient detection of changes, bookmarks, 410 Gone), KEP-3157 (streaming lists).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from glassnet.client.rest import RawEvent, RestApi, error_of, selectors
from glassnet.kube import types
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key, View
from glassnet.net.errors import ApiError, GlassnetError

_INITIAL_END = "k8s.io/initial-events-end"
SILENCE = (
    100.0  # seconds without a word, bookmarks included (about one a minute), after which a connection counts as dead
)
_FIRST, _LONGEST = 0.5, 30.0


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Object(msgspec.Struct):
    metadata: _Meta


_PLACE = msgspec.json.Decoder(_Object)


class Informer:
    """Feeds one kind into a View. `synced` is set after the first complete list; nothing is ever deleted for a server's failure.

    `decode` makes of an object's JSON what the View holds. `last_contact` is when the server last spoke (time.monotonic()).
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
        silence: float = SILENCE,
    ) -> None:
        self._api, self._kind, self._view, self._decode, self._on_error = api, kind, view, decode, on_error
        self._select = selectors(label_selector, field_selector)
        self._labels, self._fields, self._silence = label_selector, field_selector, silence
        self.synced = asyncio.Event()
        self.version = ""
        self.relists = self.restarts = 0
        self.last_contact = 0.0
        self._streams = True  # until the server refuses a streaming list

    async def run(self) -> None:
        """Until cancelled."""
        delay = _FIRST
        while True:
            begun = time.monotonic()
            try:
                if not self.version:
                    await self._list()
                await self._watch()
            except ApiError as error:
                if error.status == 410:
                    self.version = ""  # too old to go on from: list anew
                    continue
                self._on_error(error)
            except GlassnetError as error:
                self._on_error(error)
            self.restarts += 1
            delay = _FIRST if time.monotonic() - begun > 60 else min(_LONGEST, delay * 2)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))

    # -- the first state

    async def _list(self) -> None:
        self.relists += 1
        if self._streams:
            try:
                await self._stream_list()
                return
            except ApiError as error:
                if error.status not in (400, 422, 404, 405):
                    raise
                self._streams = False
        items, version = await self._api.list_raw(self._kind, self._labels, self._fields)
        seen: set[Key] = set()
        for number, item in enumerate(items):
            seen.add(self._put(item))
            if number % 500 == 499:
                await asyncio.sleep(0)  # others have work too
        self._finish(seen, version)

    async def _stream_list(self) -> None:
        """A list as the beginning of a watch: the server sends what there is, then a bookmark, and goes on."""
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": "", **self._select}  # fmt: skip
        seen: set[Key] = set()
        async for event in self._api.watch(self._kind, {**query, **self._time()}, self._silence):
            self.last_contact = time.monotonic()
            if event.type == "ERROR":
                raise error_of(event)
            if event.type != "BOOKMARK":
                seen.add(self._put(event.object))
                continue
            meta = _PLACE.decode(event.object).metadata
            if meta.annotations.get(_INITIAL_END) == "true":
                self._finish(seen, meta.resource_version)
                return
        raise ApiError(503, "ServiceUnavailable", f"the list of {self._kind.resource} ended before it was complete")

    def _finish(self, seen: set[Key], version: str) -> None:
        """A complete list is in: what was not in it has gone."""
        for obj in [obj for obj in self._view.all(self._kind) if _key(obj) not in seen]:
            self._view.apply(self._kind, obj, deleted=True)
        self.version, self.last_contact = version, time.monotonic()
        self.synced.set()

    # -- what happens then

    async def _watch(self) -> None:
        query = {"resourceVersion": self.version, **self._select, **self._time()}
        async for event in self._api.watch(self._kind, query, self._silence):
            self.last_contact = time.monotonic()
            self._take(event)

    def _take(self, event: RawEvent) -> None:
        match event.type:
            case "ADDED" | "MODIFIED":
                self._put(event.object)
            case "DELETED":
                obj = self._decoded(event.object)
                self._view.apply(self._kind, obj, deleted=True)
            case "ERROR":
                raise error_of(event)
        version = _PLACE.decode(event.object).metadata.resource_version
        self.version = version or self.version

    def _put(self, raw: bytes) -> Key:
        obj = self._decoded(raw)
        key = _key(obj)
        old = self._view.get(self._kind, key)
        if old is None or old.metadata.resource_version != obj.metadata.resource_version:
            self._view.apply(self._kind, obj)
        return key

    def _decoded(self, raw: bytes) -> Any:
        try:
            return self._decode(self._kind, raw)
        except msgspec.ValidationError as error:
            raise ApiError(500, "InternalError", f"a {self._kind.name} of the server cannot be read: {error}") from None

    @staticmethod
    def _time() -> dict[str, str]:
        """Watches end at different times, so that not all come back at once."""
        return {"timeoutSeconds": str(random.randint(300, 600))}


def _key(obj: Any) -> Key:
    return Key(obj.metadata.namespace, obj.metadata.name)
