"""Streams into pods over HTTP: exec and attach on WebSockets, logs, port-forward.

Source: KEP-4006 (v5.channel.k8s.io and its close channel), Kubernetes API reference (PodExecOptions, PodLogOptions).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from glassnet.apiserver.http import SERVER
from glassnet.apiserver.portforward import Session
from glassnet.apiserver.schema.errors import bad_request
from glassnet.apiserver.server import decode
from glassnet.kube import kinds
from glassnet.kube.runtime import ExecSession, PodStreams
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError, GlassnetError

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
CHANNEL_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
FORWARD_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_CHUNK = 32 * 1024
_GONE_CHECK = 2.0  # seconds between looks whether a silent log's reader is still there


def routes(streams: PodStreams) -> list[web.RouteDef]:
    """Routes of pods' exec, attach, portforward and log; they go before those of other subresources."""
    serve = _Routes(streams)
    pod = "/api/v1/namespaces/{namespace}/pods/{name}"
    found = [web.get(f"{pod}/log", serve.log, allow_head=False)]
    for name, handler in (("exec", serve.exec), ("attach", serve.attach), ("portforward", serve.forward)):
        found += [web.get(f"{pod}/{name}", handler, allow_head=False), web.post(f"{pod}/{name}", handler)]
    return found


class _Routes:
    def __init__(self, streams: PodStreams) -> None:
        self._streams = streams

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """A new process in a container."""
        key, container = _target(request)
        command = request.query.getall("command", [])
        if not command:
            raise bad_request("you must specify at least one command for the container")
        protocol = _protocol(request, CHANNEL_PROTOCOLS)
        stdin, tty = _flag(request.query, "stdin"), _flag(request.query, "tty")
        session = await self._streams.exec(key, container, command, stdin, tty)
        return await _channels(request, session, protocol)

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """The streams of a container's own process."""
        key, container = _target(request)
        protocol = _protocol(request, CHANNEL_PROTOCOLS)
        stdin, tty = _flag(request.query, "stdin"), _flag(request.query, "tty")
        session = await self._streams.attach(key, container, stdin, tty)
        return await _channels(request, session, protocol)

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Connections to a pod's ports."""
        key, _ = _target(request, choose=False)
        protocol = _protocol(request, (FORWARD_PROTOCOL,))
        socket = web.WebSocketResponse(protocols=(protocol,), compress=False)
        await socket.prepare(request)
        with contextlib.suppress(ConnectionError):
            await Session(socket, lambda port: self._streams.forward(key, port)).run()
        await socket.close()
        return socket

    async def log(self, request: web.Request) -> web.StreamResponse:
        """A container's log as chunked text."""
        key, container = _target(request)
        chunks = self._streams.logs(key, container, log_options(request.query, key.name))
        return await _send_log(request, chunks)


# -- what a request is about


def _target(request: web.Request, choose: bool = True) -> tuple[Key, str]:
    key = Key(request.match_info["namespace"], request.match_info["name"])
    pod = decode(request.app[SERVER].get(kinds.POD, key.namespace, key.name))
    return key, choose_container(pod, request.query.get("container", "")) if choose else ""


def choose_container(pod: Mapping[str, Any], wanted: str) -> str:
    """The container meant: the one named, the only one, or the pod's default. Raises ApiError 400."""
    name = pod["metadata"]["name"]
    own = [one["name"] for one in pod["spec"].get("containers") or ()]
    first = [one["name"] for one in pod["spec"].get("initContainers") or ()]
    if wanted:
        if wanted not in own and wanted not in first:
            raise bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(own) == 1:
        return str(own[0])
    default = (pod["metadata"].get("annotations") or {}).get(_DEFAULT_CONTAINER)
    if default in own:
        return str(default)
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(own)}]"
    if first:
        text += f" or one of the init containers: [{' '.join(first)}]"
    raise bad_request(text)


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1")


def _protocol(request: web.Request, spoken: tuple[str, ...]) -> str:
    """The subprotocol of a WebSocket request that both sides speak. Raises ApiError 400."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise bad_request("Upgrade request required: this server speaks WebSocket here, not SPDY")
    offered = [word.strip() for word in ",".join(request.headers.getall("Sec-WebSocket-Protocol", [])).split(",")]
    for word in offered:
        if word in spoken:
            return word
    raise bad_request(f"unable to upgrade: none of the protocols {offered} is one of {list(spoken)}")


# -- exec and attach


async def _channels(request: web.Request, session: ExecSession, protocol: str) -> web.StreamResponse:
    """Carry a session over a WebSocket's channels; the last message is a Status on the error channel."""
    wanted = {STDOUT: _flag(request.query, "stdout"), STDERR: _flag(request.query, "stderr")}
    socket = web.WebSocketResponse(protocols=(protocol,), compress=False)
    try:
        await socket.prepare(request)
        await socket.send_bytes(bytes([STDOUT]))  # tells the client that the connection stands
        reading = asyncio.create_task(_client(socket, session))
        writing = asyncio.create_task(_output(socket, session, wanted))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, writing):
                task.cancel()
            results = await asyncio.gather(reading, writing, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionError):
                raise result
    except GlassnetError as error:
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes([ERROR]) + msgspec.json.encode(_failure(error)))
    except ConnectionError:
        pass  # the client has gone
    finally:
        await session.close()
        await socket.close()
    return socket


def _failure(error: GlassnetError) -> dict[str, Any]:
    return (error if isinstance(error, ApiError) else ApiError(500, "InternalError", str(error))).to_status()


async def _client(socket: web.WebSocketResponse, session: ExecSession) -> None:
    """Input, window sizes, the end of input; returns when the client has gone."""
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == STDIN and data:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a process may end without reading all
                await session.write(data)
        elif channel == RESIZE:
            with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError, ValueError):
                size = msgspec.json.decode(data)
                session.resize(int(size["Width"]), int(size["Height"]))
        elif channel == CLOSE and data[:1] == bytes([STDIN]):
            await session.close_stdin()


async def _output(socket: web.WebSocketResponse, session: ExecSession, wanted: Mapping[int, bool]) -> None:
    while True:
        channel, data = await session.read()
        if not channel:
            break
        if wanted[channel]:
            for start in range(0, len(data), _CHUNK):
                await socket.send_bytes(bytes([channel]) + data[start : start + _CHUNK])
    status = exit_status(await session.wait())
    await socket.send_bytes(bytes([ERROR]) + msgspec.json.encode(status))


def exit_status(code: int) -> dict[str, Any]:
    """The Status a client learns the exit code from."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


# -- logs


def log_options(query: Mapping[str, str], pod: str) -> dict[str, Any]:
    """PodLogOptions of a query, as PodStreams.logs takes them. Raises ApiError 400, 422."""
    found: dict[str, Any] = {name: True for name in ("follow", "previous", "timestamps") if _flag(query, name)}
    for name, least in (("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)):
        if text := query.get(name):
            try:
                found[name] = int(text)
            except ValueError:
                raise bad_request(f'{name}: Invalid value: "{text}": must be a whole number') from None
            if found[name] < least:
                raise _invalid(pod, f"{name}: Invalid value: {text}: must be greater than or equal to {least}")
    if text := query.get("sinceTime"):
        try:
            found["sinceTime"] = datetime.fromisoformat(text)
        except ValueError:
            raise bad_request(f'sinceTime: Invalid value: "{text}": must be a time as in RFC 3339') from None
        if found["sinceTime"].tzinfo is None:
            raise bad_request(f'sinceTime: Invalid value: "{text}": must name its zone, as RFC 3339 asks')
        if "sinceSeconds" in found:
            raise _invalid(pod, "at most one of sinceTime or sinceSeconds may be specified")
    return found


def _invalid(pod: str, why: str) -> ApiError:
    return ApiError(422, "Invalid", f'PodLogOptions "{pod}" is invalid: {why}', {"name": pod, "kind": "PodLogOptions"})


async def _send_log(request: web.Request, chunks: AsyncIterator[bytes]) -> web.StreamResponse:
    """Errors before the first bytes become a Status; a client that goes away ends the reading."""
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    upcoming = asyncio.ensure_future(anext(chunks, b""))
    try:
        await asyncio.wait({upcoming}, timeout=0.2)
        if upcoming.done():
            upcoming.result()
        await response.prepare(request)
        while True:
            done, _ = await asyncio.wait({upcoming}, timeout=_GONE_CHECK)
            if not done:
                if request.transport is None or request.transport.is_closing():
                    return response
                continue
            if not (chunk := upcoming.result()):
                break
            await response.write(chunk)
            upcoming = asyncio.ensure_future(anext(chunks, b""))
        await response.write_eof()
    except ConnectionError:
        pass  # the client has gone
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)
    return response
