"""The verbs of the Kubernetes API over HTTP. Implements `kube.api.Api`; lists and watches give undecoded objects, for `informer`.

Source: Kubernetes documentation, "API Concepts" (paged lists, watches, Status objects, Retry-After).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from glassnet.client.access import Access
from glassnet.client.failures import Call, Unreachable, Untrusted, refusal, retry_after
from glassnet.client.transport import TIMEOUTS, Timeouts, Transport, target_of
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

__all__ = [
    "RawEvent",
    "RawList",
    "RestApi",
    "Timeouts",
    "Unreachable",
    "Untrusted",
    "error_of",
    "path_of",
    "selectors",
    "too_large",
]
PAGE = 500
Objects = list[dict[str, Any]]
RawObjects = list[bytes]
TRIES = 5
_JITTER = (1.0, 1.25)  # nobody comes back sooner than asked, and not all at once


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class RawList(msgspec.Struct):
    """A page of a list; its items are not decoded yet."""

    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None
    kind: str = "List"
    anew: bool = False


class RawEvent(msgspec.Struct):
    """One event of a watch; its object is not decoded yet."""

    type: str
    object: msgspec.Raw


_LIST, _EVENT = msgspec.json.Decoder(RawList), msgspec.json.Decoder(RawEvent)


class RestApi:
    """One cluster's API over kept connections."""

    def __init__(self, access: Access, timeouts: Timeouts = TIMEOUTS, clock: Callable[[], float] = time.time) -> None:
        self._transport = Transport(access, timeouts, clock)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    @property
    def clock_skew(self) -> float:
        """Seconds by which the server's clock is ahead of ours, to half a second; 0 until it has answered."""
        return self._transport.clock_skew

    @property
    def server(self) -> str:
        """The server that is asked at present."""
        return self._transport.server

    def leave(self, server: str) -> None:
        """`server` tells what cannot be right: ask the next one, if there is another."""
        self._transport.leave(server)

    # -- verbs

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """Return one object. Raises ApiError."""
        return await self._json(_call("get", kind, namespace, name), "GET")

    async def list(
        self, kind: Kind, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Objects:
        """Return all objects of a kind. Raises ApiError."""
        items, _ = await self.list_raw(kind, label_selector, field_selector, namespace)
        return [msgspec.json.decode(item) for item in items]

    async def create(
        self, kind: Kind, namespace: str, body: Mapping[str, Any], subresource: str = "", name: str = ""
    ) -> dict[str, Any]:
        """Create an object, or post to a subresource. Raises ApiError."""
        return await self._json(_call("create", kind, namespace, name, subresource), "POST", body)

    async def update(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        """Replace an object. Raises ApiError."""
        return await self._json(_call("update", kind, namespace, name, subresource), "PUT", body)

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Any,
        subresource: str = "",
        content_type: str = "application/merge-patch+json",
        field_manager: str = "",
        force: bool = False,
    ) -> dict[str, Any]:
        """Patch an object. Raises ApiError."""
        query = {**({"fieldManager": field_manager} if field_manager else {}), **({"force": "true"} if force else {})}
        return await self._json(_call("patch", kind, namespace, name, subresource), "PATCH", body, query, content_type)

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        uid: str = "",
        grace: int | None = None,
        propagation: str = "Background",
    ) -> dict[str, Any]:
        """Delete an object, or start its deletion. Raises ApiError."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        return await self._json(_call("delete", kind, namespace, name), "DELETE", body)

    # -- lists and watches

    async def list_raw(
        self, kind: Kind, label_selector: str = "", field_selector: str = "", namespace: str = ""
    ) -> tuple[RawObjects, str]:
        """Every object, and the resourceVersion they are of. Raises ApiError."""
        items: RawObjects = []
        version = ""
        async for page in self.pages(kind, label_selector, field_selector, namespace):
            items = [] if page.anew else items
            items += [bytes(item) for item in page.items or ()]
            version = page.metadata.resource_version
        return items, version

    async def pages(
        self, kind: Kind, label_selector: str = "", field_selector: str = "", namespace: str = ""
    ) -> AsyncIterator[RawList]:
        """A list, page by page. A list that has expired between two pages begins `anew`, unpaged. Raises ApiError."""
        chosen = selectors(label_selector, field_selector)
        query, anew = {"limit": str(PAGE), **chosen}, True
        call = _call("list", kind, namespace)
        while True:
            try:
                page = _list(await self._bytes(call, "GET", query=query))
            except ApiError as error:
                if error.status != 410 or "continue" not in query:
                    raise
                query, anew = chosen, True
                continue
            except msgspec.DecodeError as error:
                raise Unreachable(f"{call}: the answer is no list: {error}") from None
            page.anew, anew = anew, False
            yield page
            if not page.metadata.continue_:
                return
            query = {**query, "continue": page.metadata.continue_}

    async def reached(self, kind: Kind, version: str, label_selector: str = "", field_selector: str = "") -> bool:
        """Whether the server has come as far as `version`; one that has not is behind another, or was set back. Raises ApiError."""
        query = {"limit": "1", "resourceVersion": version, "resourceVersionMatch": "NotOlderThan", **selectors(label_selector, field_selector)}  # fmt: skip
        try:
            page = _list(await self._bytes(_call("list", kind, ""), "GET", query=query, tries=1))
        except ApiError as error:
            if too_large(error):
                return False
            raise
        except msgspec.DecodeError as error:
            raise Unreachable(f"list {kind.resource}: the answer is no list: {error}") from None
        ours, theirs = version, page.metadata.resource_version
        return not (ours.isdigit() and theirs.isdigit()) or int(theirs) >= int(ours)

    @asynccontextmanager
    async def watch(self, kind: Kind, query: Mapping[str, str], silence: float) -> AsyncIterator[AsyncIterator[RawEvent]]:  # fmt: skip
        """Open a watch: its events until the server ends it. Raises ApiError for a refusal, and when the connection fails or says nothing
        for `silence` seconds; another server is asked the next time then."""
        query = {"watch": "true", "allowWatchBookmarks": "true", **query}
        call = _call("watch", kind, "")
        response, server = await self._transport.open("GET", target_of(call.path, query))
        try:
            if response.status != 200:
                if response.status >= 500:
                    self.leave(server)
                raise await self._refused(call, response)
            yield self._events(response, server, silence)
        finally:
            response.close()

    async def _events(self, response: aiohttp.ClientResponse, server: str, silence: float) -> AsyncIterator[RawEvent]:
        begun: list[bytes] = []  # the pieces of a line that has not ended
        try:
            while True:
                async with asyncio.timeout(silence):
                    chunk = await response.content.readany()
                if not chunk:
                    break
                first, *lines = chunk.split(b"\n")
                begun.append(first)
                if not lines:
                    continue
                whole, begun = b"".join(begun), [lines.pop()]
                for line in (whole, *lines):
                    if line.strip():
                        yield _EVENT.decode(line)
        except msgspec.DecodeError as error:
            raise Unreachable(f"{server}: a watch's line cannot be read: {error}") from None
        except TimeoutError:
            self.leave(server)
            raise Unreachable(f"{server}: a watch was silent for {silence:g} s, without the bookmarks that come each minute: nobody is there any more") from None  # fmt: skip
        except (aiohttp.ClientError, OSError) as error:
            self.leave(server)
            raise Unreachable(f"{server}: a watch broke: {error or type(error).__name__}") from None
        if b"".join(begun).strip():
            raise Unreachable(f"{server}: a watch broke in the middle of a line")

    async def _refused(self, call: Call, response: aiohttp.ClientResponse) -> ApiError:
        """The error of a watch that was not opened."""
        try:
            async with asyncio.timeout(self._transport.timeouts.connect):
                data = await response.content.read(1 << 16)
        except (aiohttp.ClientError, OSError, TimeoutError):
            data = b""
        return self._error(call, response.status, data, response.headers)

    # -- requests

    async def _json(
        self, call: Call, method: str, body: Any = None, query: Mapping[str, str] | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:  # fmt: skip
        data = await self._bytes(call, method, body, query or {}, content_type)
        try:
            answer: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise Unreachable(f"{call}: the answer is no object: {error}; is a proxy in between?") from None
        return answer

    async def _bytes(
        self, call: Call, method: str, body: Any = None, query: Mapping[str, str] | None = None, content_type: str = "application/json",
        tries: int = TRIES,
    ) -> bytes:  # fmt: skip
        """One request's answer. What the server puts off (429, or a failure with Retry-After) is asked again when it says; what only reads
        is also tried again after its failures."""
        target, clock = target_of(call.path, query or {}), self._transport.clock
        end, delay = time.monotonic() + self._transport.timeouts.total, 0.2
        for attempt in range(1, tries + 1):
            left = end - time.monotonic()
            try:
                status, data, headers, server = await self._transport.request(method, target, body, content_type, left)
            except Untrusted:
                raise  # asking again would change nothing
            except Unreachable:
                if method != "GET" or attempt == tries or left < delay:
                    raise
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
                delay *= 2
                continue
            if 200 <= status < 300:
                return data
            asked = retry_after(headers.get("Retry-After", ""), headers.get("Date", ""), clock())
            error = self._error(call, status, data, headers)
            if status >= 500:
                self.leave(server)
            put_off = status == 429 or (status >= 500 and asked is not None)
            wait = (asked if asked is not None else delay) * random.uniform(*_JITTER)
            again = put_off or (method == "GET" and status >= 500 and not too_large(error))
            if not again or attempt == tries or time.monotonic() + wait > end:
                raise error
            await asyncio.sleep(wait)
            delay *= 2
        raise AssertionError("the last try returns or raises")

    def _error(self, call: Call, status: int, data: bytes, headers: Mapping[str, str]) -> ApiError:
        transport = self._transport
        wait = retry_after(headers.get("Retry-After", ""), headers.get("Date", ""), transport.clock())
        return refusal(call, status, data, transport.access, transport.clock_skew, wait)


def _list(data: bytes) -> RawList:
    """A page, which must be one: what is no list must not pass for an empty one. Raises msgspec.DecodeError."""
    page = _LIST.decode(data)
    if not page.kind.endswith("List") or not page.metadata.resource_version:
        raise msgspec.ValidationError(f"kind {page.kind!r}, resourceVersion {page.metadata.resource_version!r}")
    return page


def _call(verb: str, kind: Kind, namespace: str, name: str = "", subresource: str = "") -> Call:
    resource = f"{kind.resource}/{subresource}" if subresource else kind.resource
    return Call(verb, resource, path_of(kind, namespace, name, subresource))


def too_large(error: ApiError) -> bool:
    """The server has not come as far as the resourceVersion that was asked for."""
    causes = error.details.get("causes") or ()
    return error.status == 504 and any(isinstance(each, dict) and each.get("reason") == "ResourceVersionTooLarge" for each in causes)  # fmt: skip


def path_of(kind: Kind, namespace: str, name: str = "", subresource: str = "") -> str:
    """The path of a collection, an object, or its subresource."""
    path = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    if namespace and kind.namespaced:
        path += f"/namespaces/{namespace}"
    return "/".join(part for part in (path, kind.plural, name, subresource) if part)


def selectors(labels: str, fields: str) -> dict[str, str]:
    """Selectors as a query has them."""
    return {**({"labelSelector": labels} if labels else {}), **({"fieldSelector": fields} if fields else {})}


def error_of(event: RawEvent) -> ApiError:
    """The ApiError in an ERROR event of a watch."""
    try:
        body = msgspec.json.decode(event.object)
        return ApiError(int(body.get("code") or 500), str(body.get("reason") or "Unknown"), str(body.get("message") or "the watch ended with an error"), body.get("details"))  # fmt: skip
    except (msgspec.DecodeError, ValueError, AttributeError, TypeError):
        return ApiError(500, "Unknown", "the watch ended with an error that cannot be read")
