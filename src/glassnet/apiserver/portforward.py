"""Port-forward: a SPDY/3.1 session inside the binary messages of a WebSocket, a pair of streams per forwarded connection.

Source: KEP-4006 (port-forward over WebSockets); Kubernetes' portforward.k8s.io stream protocol: the client opens an error stream and
a data stream with one request id, and names the port in both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from glassnet.apiserver import spdy
from glassnet.apiserver.spdy import Frame
from glassnet.net.errors import ApiError, GlassnetError, ParseError

Dial = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
_CHUNK = 16 * 1024
_QUEUE = 64  # frames that wait for a pod that does not read before the whole session waits
_MAX_STREAMS = 2048


@dataclass(slots=True, eq=False)
class Stream:
    """One stream of the session. `window`: bytes we may still send on it."""

    number: int
    headers: dict[str, str]
    window: int
    inbound: asyncio.Queue[bytes]
    done: bool = False  # our side has sent its last frame, or the stream was reset
    may_send: asyncio.Event = field(default_factory=asyncio.Event)


class Session:
    """The server's end of one port-forward connection."""

    def __init__(self, socket: web.WebSocketResponse, dial: Dial) -> None:
        self._socket, self._dial = socket, dial
        self._codec = spdy.Codec()
        self._streams: dict[int, Stream] = {}
        self._errors: dict[str, Stream] = {}  # by request id, until the data stream comes
        self._tasks: set[asyncio.Task[None]] = set()
        self._initial_window, self._window = spdy.INITIAL_WINDOW, spdy.INITIAL_WINDOW
        # spdystream, which is in kubectl, keeps no windows: it would never open ours again. They count once the peer speaks of them.
        self._windows_kept = False

    async def run(self) -> None:
        """Serve until the client goes."""
        try:
            async for message in self._socket:
                if message.type is not WSMsgType.BINARY:
                    continue
                for frame in self._codec.feed(message.data):
                    await self._take(frame)
        except ParseError:
            await self._send(Frame(spdy.GOAWAY, max(self._streams, default=0), value=1))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- frames in

    async def _take(self, frame: Frame) -> None:
        if frame.kind == spdy.SYN_STREAM:
            await self._open(frame)
        elif frame.kind == 0:
            await self._data(frame)
        elif frame.kind == spdy.RST_STREAM:
            if stream := self._streams.pop(frame.number, None):
                stream.done = True
                stream.may_send.set()
                with contextlib.suppress(asyncio.QueueFull):
                    stream.inbound.put_nowait(b"")
        elif frame.kind == spdy.PING and frame.number % 2:
            await self._send(frame)  # pings of a client are odd; even ones would be answers to ours
        elif frame.kind == spdy.WINDOW_UPDATE:
            self._update(frame)
        elif frame.kind == spdy.SETTINGS and frame.value:
            self._windows_kept = True
            for stream in self._streams.values():
                stream.window += frame.value - self._initial_window
                stream.may_send.set()
            self._initial_window = frame.value

    def _update(self, frame: Frame) -> None:
        self._windows_kept = True
        if frame.number == 0:
            self._window += frame.value
        elif stream := self._streams.get(frame.number):
            stream.window += frame.value
        for stream in self._streams.values():
            stream.may_send.set()

    async def _open(self, frame: Frame) -> None:
        headers = dict(frame.headers)
        port, kind = headers.get("port", ""), headers.get("streamtype")
        good = port.isdecimal() and 0 < int(port) < 65536 and kind in ("error", "data")
        if not good or frame.number in self._streams or len(self._streams) >= _MAX_STREAMS:
            reason = spdy.REFUSED_STREAM if good else spdy.PROTOCOL_ERROR
            await self._send(Frame(spdy.RST_STREAM, frame.number, value=reason))
            return
        stream = Stream(frame.number, headers, self._initial_window, asyncio.Queue(_QUEUE))
        self._streams[frame.number] = stream
        await self._send(Frame(spdy.SYN_REPLY, frame.number))
        request = headers.get("requestid", "")
        if kind == "error":
            self._errors[request] = stream
            return
        error = self._errors.pop(request, None)
        if error is None:
            await self._reset(stream)
            return
        task = asyncio.create_task(self._forward(stream, error, int(port)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if frame.fin:
            await stream.inbound.put(b"")

    async def _data(self, frame: Frame) -> None:
        stream = self._streams.get(frame.number)
        if frame.data:  # the session's window opens again at once: what is not read is bounded by the queue
            await self._send(Frame(spdy.WINDOW_UPDATE, 0, value=len(frame.data)))
        if stream is None or stream.headers.get("streamtype") == "error":
            return
        if frame.data:
            await stream.inbound.put(frame.data)
        if frame.fin:
            await stream.inbound.put(b"")

    # -- one connection

    async def _forward(self, data: Stream, error: Stream, port: int) -> None:
        try:
            try:
                reader, writer = await self._dial(port)
            except (GlassnetError, OSError) as refused:
                text = refused.message if isinstance(refused, ApiError) else str(refused)
                await self._write(error, f"error forwarding port {port} to pod: {text}".encode())
                return
            upload = asyncio.create_task(self._upload(data, writer))
            try:
                while chunk := await reader.read(_CHUNK):
                    await self._write(data, chunk)
            except OSError as broken:
                await self._write(error, f"error forwarding port {port} to pod: {broken}".encode())
            finally:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
                writer.close()
        except ConnectionError:
            return  # the client has gone; `run` ends the session
        finally:
            with contextlib.suppress(ConnectionError):
                await self._finish(data)
                await self._finish(error)

    async def _upload(self, stream: Stream, writer: asyncio.StreamWriter) -> None:
        while chunk := await stream.inbound.get():
            writer.write(chunk)
            await writer.drain()
            await self._send(Frame(spdy.WINDOW_UPDATE, stream.number, value=len(chunk)))
        if stream.done:
            writer.close()
        elif writer.can_write_eof():
            writer.write_eof()

    # -- frames out

    async def _send(self, frame: Frame) -> None:
        if self._socket.closed:
            raise ConnectionResetError("the client has gone")
        # encode and send_bytes' hand-over to the transport happen without a switch of tasks: headers keep their order
        await self._socket.send_bytes(self._codec.encode(frame))

    async def _write(self, stream: Stream, data: bytes) -> None:
        while data and not stream.done:
            size = len(data)
            if self._windows_kept:
                size = min(size, stream.window, self._window)
                if size <= 0:
                    stream.may_send.clear()
                    await stream.may_send.wait()
                    continue
            stream.window -= size
            self._window -= size
            await self._send(Frame(0, stream.number, data=data[:size]))
            data = data[size:]

    async def _finish(self, stream: Stream) -> None:
        if not stream.done:
            stream.done = True
            await self._send(Frame(0, stream.number, spdy.FIN))
        self._streams.pop(stream.number, None)

    async def _reset(self, stream: Stream) -> None:
        stream.done = True
        self._streams.pop(stream.number, None)
        await self._send(Frame(spdy.RST_STREAM, stream.number, value=spdy.PROTOCOL_ERROR))
