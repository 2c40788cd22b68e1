"""A watch as a stream of JSON lines over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from glassnet.apiserver import schema
from glassnet.apiserver.http_answer import form_of, include_object, partial
from glassnet.apiserver.http_context import USER, WATCHES
from glassnet.apiserver.server import ApiServer, decode
from glassnet.apiserver.watch import Watch, WatchOptions
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

_PATIENCE = 5.0  # seconds that a client which fell behind has to take in the error before its connection is cut
_log = logging.getLogger(__name__)


async def stream(
    request: web.Request,
    server: ApiServer,
    kind: Kind,
    matches: Callable[[bytes], bool] | None,
    options: WatchOptions,
) -> web.StreamResponse:
    """Serve a watch until its timeout, or until the client leaves or can no longer follow."""
    show = _shower(request, server, kind)
    loop = asyncio.get_running_loop()
    cut: list[asyncio.TimerHandle] = []
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)

    def alive() -> bool:
        return request.transport is not None and not request.transport.is_closing()

    def overrun() -> None:
        if request.transport:
            cut.append(loop.call_later(_PATIENCE, request.transport.abort))

    watches, place = request.app[WATCHES], (request[USER].name, kind)
    watches[place] += 1
    try:
        try:
            async for type_, raw in Watch(server.store, kind, matches, options, alive, overrun).events():
                await response.write(_line(type_, show(type_, raw)))
        except ApiError as error:
            await response.write(_line("ERROR", msgspec.json.encode(error.to_status())))
        await response.write_eof()
    except ConnectionError:
        _log.debug("a watch of %s ended: its client left", kind.resource)
    finally:
        watches[place] -= 1
        if not watches[place]:
            del watches[place]
        for timer in cut:
            timer.cancel()
    return response


def _line(type_: str, obj: bytes) -> bytes:
    return b'{"type":"' + type_.encode() + b'","object":' + obj + b"}\n"


def _shower(request: web.Request, server: ApiServer, kind: Kind) -> Callable[[str, bytes], bytes]:
    """How an event's object is shown in this watch: whole, as a Table of one row, or as its metadata."""
    view = form_of(request).view
    if view == "Metadata":
        return lambda _, raw: msgspec.json.encode(partial(decode(raw)))
    if view != "Table":
        return lambda _, raw: raw
    include, told = include_object(request), False

    def show(type_: str, raw: bytes) -> bytes:
        nonlocal told
        obj: dict[str, Any] = decode(raw)
        table = schema.table(kind, [] if type_ == "BOOKMARK" else [obj], server.now(), include)
        table["metadata"] = {"resourceVersion": obj["metadata"]["resourceVersion"]}
        if type_ == "BOOKMARK" and (notes := obj["metadata"].get("annotations")):
            table["metadata"]["annotations"] = notes
        if told:
            table["columnDefinitions"] = None  # the columns are told once
        told = True
        return msgspec.json.encode(table)

    return show
