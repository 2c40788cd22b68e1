"""HTTP connections on an event loop: one small object per connection, nothing per listening socket but its handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from email.utils import formatdate
from time import time
from typing import NamedTuple, cast

from glassnet.lab.pods.http_wire import Request, RequestReader, Response, WireError, render, text
from glassnet.net.errors import GlassnetError

KEEP_ALIVE = 75.0
"""Seconds an idle connection may stay open (nginx's default keepalive_timeout)."""
_READ_AHEAD = 64 * 1024


class Peer(NamedTuple):
    """One end of a connection; an IPv4 address is written as such, also on a dual-stack socket."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def peer_of(name: tuple[object, ...]) -> Peer:
    """The Peer of a socket address as the socket module gives it."""
    address = str(name[0]).removeprefix("::ffff:") if "." in str(name[0]) else str(name[0])
    return Peer(address.partition("%")[0], int(cast(int, name[1])))


class HttpApp:
    """What answers requests. An answer of None breaks the connection off without a word."""

    __slots__ = ()

    def answer(self, request: Request, connection: HttpConnection) -> Response | Awaitable[Response | None] | None:
        """Answer a request, at once or later."""
        return Response(status=404)

    def answer_garbage(self, error: WireError, connection: HttpConnection) -> bytes | None:
        """Raw bytes for a client that does not speak HTTP; None: an HTTP error answer."""
        return None

    def answered(self, request: Request, response: Response, connection: HttpConnection) -> None:
        """Told after each answer (access logs)."""


class _Date:
    """The Date header, formatted once a second."""

    __slots__ = ("second", "text")

    def __init__(self) -> None:
        self.second, self.text = -1, ""

    def now(self) -> str:
        second = int(time())
        if second != self.second:
            self.second, self.text = second, formatdate(second, usegmt=True)
        return self.text


_DATE = _Date()


class HttpConnection(asyncio.Protocol):
    """One client's connection: requests are answered in their order, one at a time."""

    __slots__ = (
        "_app",
        "_busy",
        "_closing",
        "_eof",
        "_fresh",
        "_group",
        "_idle",
        "_paused",
        "_reader",
        "_task",
        "_timer",
        "transport",
    )

    def __init__(self, app: HttpApp, group: set[HttpConnection]) -> None:
        self._app, self._group = app, group
        self._reader = RequestReader()
        self._busy = self._paused = self._closing = self._eof = False
        self._idle = self._fresh = True
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    @property
    def peer(self) -> Peer:
        """The client's end."""
        return peer_of(self.transport.get_extra_info("peername") or ("", 0))

    @property
    def local(self) -> Peer:
        """Our end."""
        return peer_of(self.transport.get_extra_info("sockname") or ("", 0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._group.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._group.discard(self)
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _watch(self) -> None:
        """Close a connection on which nothing happened for a whole KEEP_ALIVE."""
        if self._idle and self._timer is not None and not self._busy:
            self.transport.abort() if self._paused else self.transport.close()
            return
        self._idle = True
        self._timer = asyncio.get_running_loop().call_later(KEEP_ALIVE, self._watch)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._idle = False
        self._reader.feed(data)
        self._advance()
        if (self._busy or self._paused) and self._reader.buffered > _READ_AHEAD:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        if self._fresh and not self._closing:
            self._garbage(WireError(400, "the request ends in its middle"), only_own=True)
        self._eof = True
        return self._busy or self._paused

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._advance()

    def _advance(self) -> None:
        """Answer what has come in whole."""
        while not (self._busy or self._paused or self._closing):
            try:
                request = self._reader.next()
            except WireError as error:
                self._garbage(error)
                return
            if request is None:
                if self._reader.continues and not self._reader.buffered:
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                break
            self._serve(request)
        if self._busy or self._paused or self._closing:
            return
        if self._eof:
            self._close()
        else:
            self.transport.resume_reading()

    def _serve(self, request: Request) -> None:
        self._fresh = False
        answer = self._app.answer(request, self)
        if answer is None:
            self._close()
        elif isinstance(answer, Response):
            self._send(request, answer)
        else:
            self._busy = True
            self._task = asyncio.get_running_loop().create_task(self._serve_later(request, answer))

    async def _serve_later(self, request: Request, answer: Awaitable[Response | None]) -> None:
        try:
            response = await answer
        except (GlassnetError, OSError) as error:
            response = text(f"{error}\n", 500)
        self._busy, self._task = False, None
        if self.transport.is_closing():
            return
        if response is None:
            self._close()
            return
        self._send(request, response)
        self._advance()

    def _send(self, request: Request, response: Response) -> None:
        keep = request.keeps_alive()
        self.transport.write(render(response, _DATE.now(), request.method, keep, request.minor))
        self._app.answered(request, response, self)
        if not keep:
            self._close()

    def _garbage(self, error: WireError, only_own: bool = False) -> None:
        own = self._app.answer_garbage(error, self)
        if own is not None:
            self.transport.write(own)
        elif not only_own:
            body = f"{error.status}: {error.reason}\n".encode()
            self.transport.write(render(Response(body, error.status), _DATE.now(), "GET", False, 1))
        self._close()

    def _close(self) -> None:
        self._closing = True
        self.transport.close()
