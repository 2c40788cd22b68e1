"""Probes: early tries, thresholds, what they do to a container, and what they say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubelet_world import World, c, run, scenario

from glassnet.agent.pods import grpc_health, probes
from glassnet.agent.pods.grpc_health import ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, SETTINGS, frame
from glassnet.agent.pods.probes import EAGER, PATIENT, Outcome, Place
from glassnet.kube.types import (
    Container,
    ContainerPort,
    ExecAction,
    GRPCAction,
    Handler,
    HTTPGet,
    HTTPHeader,
    Probe,
    TCPSocket,
)


class Answers:
    """A sandbox whose exec probe answers from a list, and remembers when it was asked."""

    def __init__(self, *answers: bool) -> None:
        self.left, self.at = list(answers), []

    async def exec_probe(self, container: str, command: Any, timeout: float) -> tuple[int, str]:
        self.at.append(round(asyncio.get_running_loop().time(), 2))
        good = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return (0, "") if good else (1, "no")


def watched(
    early: tuple[float, ...], *answers: bool, seconds: float = 60.0, **fields: Any
) -> tuple[list[float], list[Outcome]]:
    """When a probe was tried within `seconds`, and what it told."""
    sandbox, told = Answers(*answers), []
    probe = Probe(exec=ExecAction(("x",)), **fields)

    async def whole() -> None:
        place = Place(sandbox, Container("c"), "10.0.0.1")  # type: ignore[arg-type]
        task = asyncio.create_task(probes.watch(place, probe, early, told.append))
        await asyncio.sleep(seconds)
        task.cancel()

    run(whole())
    return sandbox.at, told


def test_a_ready_pod_is_found_ready_at_once_and_then_by_its_period() -> None:
    at, told = watched(EAGER, True, seconds=25)
    assert at == [0.0, 10.0, 20.0] and [outcome.verdict for outcome in told] == [True, True, True]


def test_a_pod_that_takes_a_moment_is_found_ready_within_it() -> None:
    at, told = watched(EAGER, False, False, False, True, seconds=5)
    assert at == [0.0, 0.02, 0.07, 0.17] and [outcome.verdict for outcome in told] == [True]


def test_early_failures_count_for_nothing() -> None:
    at, told = watched(EAGER, False, seconds=21.5, failure_threshold=2)
    assert at == [0.0, 0.02, 0.07, 0.17, 0.37, 0.97, 10.97, 20.97]
    assert [(outcome.good, outcome.verdict) for outcome in told] == [(False, None), (False, False)]


def test_a_liveness_probe_gives_the_container_a_second() -> None:
    at, told = watched(PATIENT, False, seconds=12, failure_threshold=1)
    assert at == [1.0, 11.0] and told[0].verdict is False
    assert watched(PATIENT, True, seconds=12, initial_delay_seconds=5, period_seconds=3)[0] == [5.0, 8.0, 11.0]


def test_thresholds() -> None:
    _, told = watched(
        EAGER,
        True,
        True,
        False,
        False,
        True,
        False,
        False,
        False,
        period_seconds=1,
        seconds=7.5,
        success_threshold=2,
        failure_threshold=3,
    )
    assert [outcome.verdict for outcome in told] == [None, True, None, None, None, None, None, False]


def test_unready_pods_say_so_and_recover(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.probe_answers["ready"] = (1, "warming up")
        await world.pod(c(readinessProbe={"exec": {"command": ["ready"]}, "periodSeconds": 2}))
        await world.until(10)
        conditions = await world.conditions()
        assert conditions["Ready"]["message"] == "containers with unready status: [c]"
        assert (conditions["Ready"]["reason"], conditions["ContainersReady"]["status"]) == (
            "ContainersNotReady",
            "False",
        )
        assert (await world.status())["phase"] == "Running" and (await world.container())["started"]
        assert await world.events("Unhealthy") == ["Readiness probe failed: warming up"]
        world.probe_answers["ready"] = (0, "")
        await world.until(12.5)
        assert (await world.conditions())["Ready"]["status"] == "True"

    scenario(tmp_path, play)


def test_liveness_kills_and_restarts(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.probe_answers["alive"] = (1, "stuck")
        probe = {"exec": {"command": ["alive"]}, "periodSeconds": 5, "terminationGracePeriodSeconds": 4}
        await world.pod(c(livenessProbe=probe))
        await world.until(10.5)
        first = world.running()
        assert first.stopped_with == [] and (await world.container())["restartCount"] == 0
        world.probe_answers["alive"] = (1, "stuck")
        await world.until(11.5)
        assert first.stopped_with == [4.0] and (await world.container())["restartCount"] == 1
        assert await world.events("Killing") == ["Container c failed liveness probe, will be restarted"]
        assert "Liveness probe failed: stuck" in await world.events("Unhealthy")

    scenario(tmp_path, play)


def test_nothing_else_is_probed_until_a_startup_probe_succeeds(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.probe_answers |= {"up": (1, ""), "alive": (1, "")}
        await world.pod(
            c(
                startupProbe={"exec": {"command": ["up"]}, "periodSeconds": 10, "failureThreshold": 30},
                livenessProbe={"exec": {"command": ["alive"]}, "failureThreshold": 1},
            )
        )
        await world.until(100)
        shown = await world.container()
        assert not shown["started"] and not shown["ready"] and shown["restartCount"] == 0
        world.probe_answers |= {"up": (0, ""), "alive": (0, "")}
        await world.until(112)
        assert (await world.container())["started"] and (await world.container())["ready"]

    scenario(tmp_path, play)


def test_a_startup_probe_that_never_succeeds_restarts(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.probe_answers["up"] = (1, "not yet")
        await world.pod(c(startupProbe={"exec": {"command": ["up"]}, "periodSeconds": 1, "failureThreshold": 5}))
        await world.until(8)
        assert (await world.container())["restartCount"] == 1
        assert await world.events("Killing") == ["Container c failed startup probe, will be restarted"]

    scenario(tmp_path, play)


def test_hooks(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        asked: list[tuple[str, float]] = []

        async def slow() -> tuple[int, str]:
            asked.append(("slow", world.seconds))
            await asyncio.sleep(5)
            return 0, ""

        world.probe_answers |= {"slow": slow, "broken": (1, "no such file")}
        await world.pod(c(lifecycle={"preStop": {"exec": {"command": ["slow"]}}}), terminationGracePeriodSeconds=20)
        await world.until(1)
        await world.delete()
        await world.until(7)
        assert asked[0] == ("slow", 1.0) and world.sandboxes[0].running["c"].stopped_with == [15.0]
        await world.pod(c(lifecycle={"postStart": {"exec": {"command": ["broken"]}}}), name="hooked")
        await world.until(8)
        assert (await world.events("FailedPostStartHook")) == ["PostStartHook failed: no such file"]
        assert (await world.container(name="hooked"))["restartCount"] == 1

    scenario(tmp_path, play)


# ---- what goes over the wire


class Dialer:
    """Probes reach 127.0.0.1 here, whatever address they ask for."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def dial(self, host: str, port: int, timeout: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def against(handler: Handler, serve: Any, timeout: float = 1.0) -> tuple[bool, str]:
    """One attempt against a server on the loopback."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        container = Container("c", ports=(ContainerPort(8080, "http"),))
        return await probes.attempt(Place(Dialer(port), container, "10.0.0.1"), handler, timeout)  # type: ignore[arg-type]


def answering(text: bytes, asked: list[bytes]) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(text)
        writer.close()

    return serve


@pytest.mark.parametrize(
    ("answer", "good", "text"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True, ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", True, ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False, "HTTP probe failed with statuscode: 404"),
        (b"HTTP/1.0 500 \r\n\r\n", False, "HTTP probe failed with statuscode: 500"),
        (b"220 mail ready\r\n", False, 'Get "http://10.0.0.1:8080/healthz": EOF'),
        (b"", False, 'Get "http://10.0.0.1:8080/healthz": EOF'),
    ],
)
async def test_http(answer: bytes, good: bool, text: str) -> None:
    asked: list[bytes] = []
    get = HTTPGet("http", path="/healthz", http_headers=(HTTPHeader("X-Probe", "1"), HTTPHeader("Host", "web.example")))
    assert await against(Handler(http_get=get), answering(answer, asked)) == (good, text)
    request = asked[0].decode()
    assert request.startswith("GET /healthz HTTP/1.1\r\n") and request.count("Host: ") == 1
    assert "Host: web.example\r\n" in request and "X-Probe: 1\r\n" in request and "User-Agent: kube-probe/" in request


async def test_a_server_that_says_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    good, text = await against(Handler(http_get=HTTPGet(8080)), silent, 0.05)
    assert (good, text) == (
        False,
        'Get "http://10.0.0.1:8080/": context deadline exceeded (Client.Timeout exceeded while awaiting headers)',
    )
    assert (await against(Handler(tcp_socket=TCPSocket(8080)), silent))[0]


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (Handler(http_get=HTTPGet(80, path="x")), 'Get "http://10.0.0.1:80/x": dial tcp 10.0.0.1:80: connect: connection refused'),
        (Handler(tcp_socket=TCPSocket(80)), "dial tcp 10.0.0.1:80: connect: connection refused"),
        (Handler(tcp_socket=TCPSocket("web")), "couldn't find port: web"),
        (Handler(http_get=HTTPGet("web")), "couldn't find port: web"),
        (Handler(grpc=GRPCAction(80)), 'timeout: failed to connect service "10.0.0.1:80": connect: connection refused'),
    ],
)  # fmt: skip
async def test_nobody_there(handler: Handler, text: str) -> None:
    class Refusing:
        async def dial(self, host: str, port: int, timeout: float) -> Any:
            raise ConnectionRefusedError(111, "Connection refused")

    place = Place(Refusing(), Container("c"), "10.0.0.1")  # type: ignore[arg-type]
    assert await probes.attempt(place, handler, 1.0) == (False, text)


def grpc_server(*frames: bytes, asked: list[bytes]) -> Any:
    """Speaks as much HTTP/2 as a gRPC server does for one call."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(grpc_health.PREFACE)) == grpc_health.PREFACE
        writer.write(frame(SETTINGS, 0, 0, b"") + frame(PING, 0, 0, b"12345678"))
        acks = 0
        while acks < 2 or len(asked) < 2:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            acks += head[3] in (SETTINGS, PING) and bool(head[4] & ACK)
            if head[3] in (HEADERS, DATA):
                asked.append(payload)
        writer.write(b"".join(frames))
        await writer.drain()
        writer.close()

    return serve


TRAILERS = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x0bgrpc-status\x010")


@pytest.mark.parametrize(
    ("frames", "good", "words"),
    [
        ([frame(DATA, 0, 1, b"\0\0\0\0\2\x08\x01"), TRAILERS], True, ""),
        ([frame(DATA, 0, 1, b"\0\0\0\0\2\x08\x02"), TRAILERS], False, 'service unhealthy (responded with "NOT_SERVING")'),
        ([frame(DATA, 0, 1, b"\0\0\0\0\0"), TRAILERS], False, '"UNKNOWN"'),
        ([frame(DATA, 0x8, 1, b"\x02\0\0\0\0\2\x08\x01\0\0"), TRAILERS], True, ""),
        ([TRAILERS], False, "does not implement the grpc health protocol"),
        ([frame(GOAWAY, 0, 0, bytes(8))], False, "does not implement the grpc health protocol"),
        ([], False, "ended before an answer came"),
    ],
)  # fmt: skip
async def test_grpc(frames: list[bytes], good: bool, words: str) -> None:
    asked: list[bytes] = []
    outcome = await against(Handler(grpc=GRPCAction(50051, "liveness")), grpc_server(*frames, asked=asked))
    assert outcome[0] is good and words in outcome[1]
    assert b"\x05:path\x1c/grpc.health.v1.Health/Check" in asked[0] and b"\x0a:authority\x0e10.0.0.1:50051" in asked[0]
    assert asked[1] == b"\0\0\0\0\x0a\x0a\x08liveness"


async def test_grpc_against_something_else() -> None:
    good, text = await against(Handler(grpc=GRPCAction(80)), answering(b"HTTP/1.1 400 Bad Request\r\n\r\n", []))
    assert not good and "does not implement the grpc health protocol" in text
