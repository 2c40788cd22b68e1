"""Exec, attach, logs and port-forward on the wire: WebSocket channels of both versions, SPDY frames, refusals before the upgrade."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer

from glassnet.apiserver import auth, http, spdy, streams
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.spdy import Codec, Frame
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

POD = "/api/v1/namespaces/default/pods/p"


class Echo:
    """A session that says on standard output what it is told, and ends with status 3 when its input ends."""

    def __init__(self) -> None:
        self.out: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.sizes: list[tuple[int, int]] = []
        self.closed = asyncio.Event()

    async def read(self) -> tuple[int, bytes]:
        return await self.out.get()

    async def write(self, data: bytes) -> None:
        await self.out.put((2 if data.startswith(b"!") else 1, data))

    async def close_stdin(self) -> None:
        await self.out.put((0, b""))

    def resize(self, columns: int, rows: int) -> None:
        self.sizes.append((columns, rows))

    async def wait(self) -> int:
        return 3

    async def close(self) -> None:
        self.closed.set()


class Fakes:
    """PodStreams that remember what they were asked; a port-forward leads to an echo on loopback, port 9 nowhere."""

    def __init__(self) -> None:
        self.session = Echo()
        self.asked: list[Any] = []
        self.port = 0
        self.log_ended = asyncio.Event()

    async def exec(self, pod: Key, container: str, command: Sequence[str], stdin: bool, tty: bool) -> Echo:
        self.asked.append((pod, container, list(command), stdin, tty))
        if list(command) == ["nosuch"]:
            raise ApiError(400, "BadRequest", "container is not running")
        return self.session

    async def attach(self, pod: Key, container: str, stdin: bool, tty: bool) -> Echo:
        return self.session

    async def logs(self, pod: Key, container: str, options: Mapping[str, Any]) -> AsyncIterator[bytes]:
        try:
            yield b"one\n"
            if options.get("follow"):
                await asyncio.Event().wait()
        finally:
            self.log_ended.set()

    async def forward(self, pod: Key, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if port == 9:
            raise ConnectionRefusedError(111, "Connection refused")
        return await asyncio.open_connection("127.0.0.1", self.port)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def fakes() -> AsyncIterator[Fakes]:
    found = Fakes()
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await server.wait_closed()


@pytest.fixture
async def client(fakes: Fakes) -> AsyncIterator[TestClient[Any, Any]]:
    server = ApiServer(Store(":memory:"), now=lambda: datetime.now(UTC), random=Random(1))
    spec = {"containers": [{"name": "c", "image": "i"}]}
    server.create(kinds.POD, "default", {"metadata": {"name": "p"}, "spec": spec})
    user = auth.User("joe", (auth.MASTERS,))
    async with TestClient(
        TestServer(http.build_app(server, lambda _: user, auth.authorize, streams.routes(fakes)))
    ) as found:
        yield found


async def receive(socket: ClientWebSocketResponse) -> tuple[int, bytes]:
    """The next message that is not empty: its channel, its data."""
    while True:
        message = await socket.receive(5)
        assert message.type is WSMsgType.BINARY, message
        if len(message.data) > 1:
            return message.data[0], message.data[1:]


EXEC = f"{POD}/exec?command=sh&command=-c&stdin=true&stdout=true&stderr=true"


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_channels_carry_input_output_sizes_and_the_end(
    client: TestClient[Any, Any], fakes: Fakes, protocol: str
) -> None:
    async with client.ws_connect(EXEC, protocols=(protocol,)) as socket:
        assert socket.protocol == protocol
        await socket.send_bytes(b"\x00hello")
        assert await receive(socket) == (1, b"hello")
        await socket.send_bytes(b"\x00!err")
        assert await receive(socket) == (2, b"!err")
        await socket.send_bytes(b'\x04{"Width":80,"Height":25}')
        for nonsense in (b"\x04{", b'\x04{"Width":"x","Height":1}', b"\x04[]", b"\x07what", b""):
            await socket.send_bytes(nonsense)
        await socket.send_bytes(b"\x00still here")
        assert await receive(socket) == (1, b"still here")
        await socket.send_bytes(b"\xff\x00")
        channel, data = await receive(socket)
        status = json.loads(data)
        assert (channel, status["reason"]) == (3, "NonZeroExitCode")
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
        assert (await socket.receive(5)).type is WSMsgType.CLOSE
    assert fakes.session.sizes == [(80, 25)]
    assert fakes.asked == [(Key("default", "p"), "c", ["sh", "-c"], True, False)]
    await asyncio.wait_for(fakes.session.closed.wait(), 5)


async def test_the_newest_protocol_both_speak_is_taken(client: TestClient[Any, Any]) -> None:
    offered = ("v9.channel.k8s.io", "v5.channel.k8s.io", "v4.channel.k8s.io")
    async with client.ws_connect(EXEC, protocols=offered) as socket:
        assert socket.protocol == "v5.channel.k8s.io"


async def test_streams_that_were_not_asked_for_stay_silent(client: TestClient[Any, Any]) -> None:
    only_errors = EXEC.replace("&stdout=true", "")
    async with client.ws_connect(only_errors, protocols=("v5.channel.k8s.io",)) as socket:
        await socket.send_bytes(b"\x00lost")
        await socket.send_bytes(b"\x00!seen")
        assert await receive(socket) == (2, b"!seen")


async def test_a_client_that_goes_away_closes_the_session(client: TestClient[Any, Any], fakes: Fakes) -> None:
    async with client.ws_connect(f"{POD}/attach?stdout=true", protocols=("v5.channel.k8s.io",)):
        pass
    await asyncio.wait_for(fakes.session.closed.wait(), 5)


@pytest.mark.parametrize(
    ("path", "protocols", "status"),
    [
        (f"{POD}/exec?stdout=true", ("v5.channel.k8s.io",), 400),
        (f"{POD}/exec?command=nosuch&stdout=true", ("v5.channel.k8s.io",), 400),
        (f"{POD}/exec?command=sh&container=x", ("v5.channel.k8s.io",), 400),
        (f"{POD}/exec?command=sh", ("v1.channel.k8s.io",), 400),
        (f"{POD}x/exec?command=sh", ("v5.channel.k8s.io",), 404),
        (f"{POD}/portforward", ("v5.channel.k8s.io",), 400),
    ],
)
async def test_what_cannot_be_is_refused_before_the_upgrade(
    client: TestClient[Any, Any], path: str, protocols: tuple[str, ...], status: int
) -> None:
    with pytest.raises(WSServerHandshakeError) as caught:
        await client.ws_connect(path, protocols=protocols)
    assert caught.value.status == status


async def test_plain_requests_are_told_to_upgrade(client: TestClient[Any, Any]) -> None:
    for word in ("exec?command=sh", "attach", "portforward"):
        answer = await client.post(f"{POD}/{word}")
        assert answer.status == 400
        assert "Upgrade request required" in json.loads(await answer.read())["message"]


# -- logs


async def test_a_reader_that_leaves_ends_a_followed_log(client: TestClient[Any, Any], fakes: Fakes) -> None:
    response = await client.get(f"{POD}/log?follow=true")
    assert await response.content.readline() == b"one\n"
    response.close()
    await asyncio.wait_for(fakes.log_ended.wait(), 10)


# -- port-forward


class Forward:
    """A client's end of a port-forward session."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket, self.codec = socket, Codec()
        self.frames: list[Frame] = []

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self.socket.send_bytes(self.codec.encode(frame))

    async def open(self, number: int, kind: str, port: str, request: str = "0") -> None:
        headers = {"streamtype": kind, "port": port, "requestID": request}
        await self.send(Frame(spdy.SYN_STREAM, number, headers=headers))

    async def frame(self, *wanted: int) -> Frame:
        """The next frame of a wanted kind."""
        while True:
            while self.frames:
                found = self.frames.pop(0)
                if found.kind in wanted:
                    return found
            message = await self.socket.receive(5)
            assert message.type is WSMsgType.BINARY, message
            self.frames += self.codec.feed(message.data)


@pytest.fixture
async def forward(client: TestClient[Any, Any]) -> AsyncIterator[Forward]:
    async with client.ws_connect(f"{POD}/portforward", protocols=("SPDY/3.1+portforward.k8s.io",)) as socket:
        yield Forward(socket)


async def test_two_streams_are_one_connection(forward: Forward) -> None:
    await forward.open(1, "error", "80")
    await forward.open(3, "data", "80")
    assert [(await forward.frame(spdy.SYN_REPLY)).number for _ in range(2)] == [1, 3]
    await forward.send(Frame(0, 3, data=b"hel"), Frame(0, 3, spdy.FIN, data=b"lo"))
    got = b""
    while not (frame := await forward.frame(0)).fin:
        assert frame.number == 3
        got += frame.data
    assert (got + frame.data, frame.number) == (b"hello", 3)
    last = await forward.frame(0)
    assert (last.number, last.data, last.fin) == (1, b"", True)


async def test_several_connections_share_a_session(forward: Forward) -> None:
    for number in range(1, 20, 4):
        await forward.open(number, "error", "80", str(number))
        await forward.open(number + 2, "data", "80", str(number))
        await forward.send(Frame(0, number + 2, spdy.FIN, data=b"%d" % number))
    got: dict[int, bytes] = {}
    ended: set[int] = set()
    while len(ended) < 10:
        frame = await forward.frame(0)
        got[frame.number] = got.get(frame.number, b"") + frame.data
        ended |= {frame.number} if frame.fin else set()
    assert got == {n + 2 * k: b"%d" % n if k else b"" for n in range(1, 20, 4) for k in (0, 1)}


async def test_a_refused_connection_is_told_on_the_error_stream(forward: Forward) -> None:
    await forward.open(1, "error", "9")
    await forward.open(3, "data", "9")
    frame = await forward.frame(0)
    assert frame.number == 1
    assert b"error forwarding port 9 to pod" in frame.data
    assert b"Connection refused" in frame.data


@pytest.mark.parametrize(
    ("kind", "port"), [("data", "0"), ("data", "x"), ("data", "65536"), ("what", "80"), ("data", "80")]
)
async def test_streams_that_make_no_sense_are_reset(forward: Forward, kind: str, port: str) -> None:
    await forward.open(1, kind, port)  # the last one: data without its error stream
    frame = await forward.frame(spdy.RST_STREAM)
    assert (frame.number, frame.value) == (1, spdy.PROTOCOL_ERROR)
    await forward.send(Frame(spdy.PING, 1))
    assert (await forward.frame(spdy.PING)).number == 1


async def test_noise_ends_the_session_with_goaway(forward: Forward) -> None:
    await forward.socket.send_bytes(bytes.fromhex("80020001 00000004 00000001"))
    assert (await forward.frame(spdy.GOAWAY)).value == 1


async def test_windows_count_once_the_client_speaks_of_them(forward: Forward) -> None:
    await forward.send(Frame(spdy.SETTINGS, 0, value=10))
    await forward.open(1, "error", "80")
    await forward.open(3, "data", "80")
    await forward.send(Frame(0, 3, spdy.FIN, data=b"0123456789abcdef"))
    assert (await forward.frame(0)).data == b"0123456789"
    await forward.send(Frame(spdy.PING, 3))
    assert (await forward.frame(0, spdy.PING)).kind == spdy.PING
    await forward.send(Frame(spdy.WINDOW_UPDATE, 3, value=100))
    assert (await forward.frame(0)).data == b"abcdef"
