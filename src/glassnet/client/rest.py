"""The verbs of the Kubernetes API over HTTP. Implements `kube.api.Api`; lists and watches give undecoded objects, for `informer`.

Source: Kubernetes documentation, "API Concepts" (paged lists, watches, Status objects, Retry-After).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec

from glassnet import __version__
from glassnet.client.kubeconfig import Access
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

PAGE = 500
Objects = list[dict[str, Any]]
RawObjects = list[bytes]
TRIES = 5
_CONNECT, _TOTAL = 5.0, 60.0


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class RawList(msgspec.Struct):
    """A page of a list; its items are not decoded yet."""

    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class RawEvent(msgspec.Struct):
    """One event of a watch; its object is not decoded yet."""

    type: str
    object: msgspec.Raw


_LIST, _EVENT = msgspec.json.Decoder(RawList), msgspec.json.Decoder(RawEvent)


class Unreachable(ApiError):
    """No server answers: the connection fails, is refused, or is silent for too long."""

    def __init__(self, message: str) -> None:
        super().__init__(503, "ServiceUnavailable", message)


class RestApi:
    """One cluster's API over kept connections."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session: aiohttp.ClientSession | None = None
        self._server = 0

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()
            self._session = None

    # -- verbs

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """Return one object. Raises ApiError."""
        return await self._json("GET", path_of(kind, namespace, name))

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
        return await self._json("POST", path_of(kind, namespace, name, subresource), body)

    async def update(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        """Replace an object. Raises ApiError."""
        return await self._json("PUT", path_of(kind, namespace, name, subresource), body)

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
        return await self._json("PATCH", path_of(kind, namespace, name, subresource), body, query, content_type)

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
        return await self._json("DELETE", path_of(kind, namespace, name), body)

    # -- lists and watches

    async def list_raw(
        self, kind: Kind, label_selector: str = "", field_selector: str = "", namespace: str = ""
    ) -> tuple[RawObjects, str]:
        """Every object, in pages, and the resourceVersion they are of. A page whose list has expired starts all over, unpaged. Raises ApiError."""
        query = {"limit": str(PAGE), **selectors(label_selector, field_selector)}
        items: RawObjects = []
        while True:
            try:
                page = _LIST.decode(await self._bytes("GET", path_of(kind, namespace), query=query))
            except ApiError as error:
                if error.status != 410 or "continue" not in query:
                    raise
                query, items = selectors(label_selector, field_selector), []
                continue
            except msgspec.DecodeError as error:
                raise Unreachable(f"{path_of(kind, namespace)}: the answer is no list: {error}") from None
            items += [bytes(item) for item in page.items or ()]
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            query = {**query, "continue": page.metadata.continue_}

    async def watch(self, kind: Kind, query: Mapping[str, str], silence: float) -> AsyncIterator[RawEvent]:
        """Events until the server ends the watch. Raises ApiError for a refusal, and when the connection fails or says nothing for
        `silence` seconds."""
        query = {"watch": "true", "allowWatchBookmarks": "true", **query}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=silence)
        response = await self._send("GET", path_of(kind, ""), None, query, "", timeout)
        try:
            if response.status != 200:
                raise _error(response.status, await response.read())
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _EVENT.decode(line)
        except msgspec.DecodeError as error:
            raise Unreachable(f"a watch's line cannot be read: {error}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(f"a watch broke: {error or type(error).__name__}") from None
        finally:
            response.close()

    # -- requests

    async def _json(
        self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:  # fmt: skip
        answer: dict[str, Any] = msgspec.json.decode(await self._bytes(method, path, body, query or {}, content_type))
        return answer

    async def _bytes(
        self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None, content_type: str = "application/json"
    ) -> bytes:  # fmt: skip
        """One request's answer. Too many requests are waited for as the server asks; what only reads is also tried again after its failures."""
        timeout = aiohttp.ClientTimeout(total=_TOTAL, sock_connect=_CONNECT)
        delay = 0.2
        for attempt in range(1, TRIES + 1):
            try:
                response = await self._send(method, path, body, query or {}, content_type, timeout)
                data = await response.read()
                status, wait = response.status, response.headers.get("Retry-After", "")
            except Unreachable:
                if method != "GET" or attempt == TRIES:
                    raise
                status, data, wait = 0, b"", ""
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if method != "GET" or attempt == TRIES:
                    raise Unreachable(f"{method} {path}: {error or type(error).__name__}") from None
                status, data, wait = 0, b"", ""
            if 200 <= status < 300:
                return data
            again = status == 429 or (method == "GET" and (not status or status >= 500))
            if not again or attempt == TRIES:
                raise _error(status, data)
            await asyncio.sleep(float(wait) if wait.isdigit() else delay * random.uniform(0.8, 1.2))
            delay *= 2
        raise AssertionError("the last try returns or raises")

    async def _send(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, str],
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send to the server that answered last, else to the next one; with new credentials when the old ones are refused."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"User-Agent": f"glassnet/{__version__}", "Accept": "application/json"}, trust_env=True, read_bufsize=1 << 18)  # fmt: skip
        access, failure = self._access, ""
        target = f"{path}?{urlencode(query)}" if query else path
        for _ in range(len(access.servers)):
            server = access.servers[self._server % len(access.servers)]
            for fresh in (False, True):
                headers = {"Content-Type": content_type} if content_type and body is not None else {}
                if authorization := await access.authorization(fresh):
                    headers["Authorization"] = authorization
                try:
                    response = await self._session.request(
                        method, server + target, data=None if body is None else json.dumps(body).encode(), headers=headers,
                        ssl=access.tls if access.tls else True, proxy=access.proxy or None, timeout=timeout,
                        server_hostname=access.server_name or None,
                    )  # fmt: skip
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    failure = f"{server}: {error or type(error).__name__}"
                    break
                if response.status != 401 or fresh or not (access.token_file or access.command):
                    return response
                response.release()
            self._server += 1
        raise Unreachable(failure)


def path_of(kind: Kind, namespace: str, name: str = "", subresource: str = "") -> str:
    """The path of a collection, an object, or its subresource."""
    path = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    if namespace and kind.namespaced:
        path += f"/namespaces/{namespace}"
    return "/".join(part for part in (path, kind.plural, name, subresource) if part)


def selectors(labels: str, fields: str) -> dict[str, str]:
    """Selectors as a query has them."""
    return {**({"labelSelector": labels} if labels else {}), **({"fieldSelector": fields} if fields else {})}


def _error(status: int, data: bytes) -> ApiError:
    """An ApiError of the server's Status object, or of whatever it said."""
    try:
        body = msgspec.json.decode(data)
        return ApiError(status, body.get("reason") or "Unknown", body.get("message") or "", body.get("details"))
    except (msgspec.DecodeError, AttributeError):
        return ApiError(status, "Unknown", data[:200].decode(errors="replace").strip() or f"HTTP status {status}")


def error_of(event: RawEvent) -> ApiError:
    """The ApiError in an ERROR event of a watch."""
    try:
        code = int(msgspec.json.decode(event.object).get("code") or 500)
    except (msgspec.DecodeError, ValueError, AttributeError):
        code = 500
    return _error(code, bytes(event.object))
