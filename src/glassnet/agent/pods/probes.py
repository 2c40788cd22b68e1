"""Probes: is a container started, ready, alive? Source: Kubernetes documentation, "Configure Liveness, Readiness and Startup Probes".

A readiness or startup probe is tried at once and a few times more within the first second, before its period begins: a pod that is up
after 20 ms is Ready after 20 ms, not after periodSeconds. Such early tries count only when they succeed. A liveness probe has its first
try a second after the container's start, if initialDelaySeconds asks for no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import NamedTuple

from glassnet.agent.pods import grpc_health
from glassnet.kube.runtime import PodSandbox
from glassnet.kube.types import Container, Handler, HTTPGet, Probe

EAGER = (0.0, 0.02, 0.05, 0.1, 0.2, 0.6)  # seconds between the early tries
PATIENT = (1.0,)  # a liveness probe's: one second for the container to come up


class Outcome(NamedTuple):
    """One try that counts: whether it went well, what was said, and the verdict once a threshold is reached (None before)."""

    good: bool
    text: str
    verdict: bool | None


class Place(NamedTuple):
    """Where a probe goes."""

    sandbox: PodSandbox
    container: Container
    pod_ip: str


async def watch(place: Place, probe: Probe, early: tuple[float, ...], tell: Callable[[Outcome], None]) -> None:
    """Probe until cancelled; `early` are the pauses before the tries that come before the period begins."""
    await asyncio.sleep(probe.initial_delay_seconds)
    good_run = bad_run = 0
    pauses = _pauses(probe, early)
    while True:
        pause, counts = next(pauses)
        await asyncio.sleep(pause)
        good, text = await attempt(place, probe, probe.timeout_seconds)
        if not good and not counts:
            continue
        if good:
            pauses = _pauses(probe, ())
        good_run, bad_run = (good_run + 1, 0) if good else (0, bad_run + 1)
        reached = good_run >= probe.success_threshold if good else bad_run >= probe.failure_threshold
        tell(Outcome(good, text, good if reached else None))


def _pauses(probe: Probe, early: tuple[float, ...]) -> Iterator[tuple[float, bool]]:
    """(seconds to wait, whether a failure counts) for one try after the other."""
    if early is PATIENT:
        yield max(0.0, early[0] - probe.initial_delay_seconds), True
    else:
        for pause in early:
            yield min(pause, probe.period_seconds), False
    while True:
        yield float(probe.period_seconds), True


async def attempt(place: Place, handler: Handler, timeout: float) -> tuple[bool, str]:
    """One try of a probe's or lifecycle hook's handler: (good, what it said)."""
    try:
        async with asyncio.timeout(timeout):
            return await _attempt(place, handler, timeout)
    except TimeoutError:
        return False, _late(place, handler, timeout)
    except OSError as error:
        return False, _broken(place, handler, error)


async def _attempt(place: Place, handler: Handler, timeout: float) -> tuple[bool, str]:
    sandbox = place.sandbox
    if handler.http_get:
        return await _http(place, handler.http_get, timeout)
    if handler.tcp_socket:
        host = handler.tcp_socket.host or place.pod_ip
        _, writer = await sandbox.dial(host, port_of(place.container, handler.tcp_socket.port), timeout)
        writer.close()
    elif handler.grpc:
        streams = await sandbox.dial(place.pod_ip, handler.grpc.port, timeout)
        authority = f"{place.pod_ip}:{handler.grpc.port}"
        return await grpc_health.check(*streams, authority, handler.grpc.service)
    elif handler.exec:
        code, text = await sandbox.exec_probe(place.container.name, handler.exec.command, timeout)
        return code == 0, text
    elif handler.sleep:
        await asyncio.sleep(handler.sleep.get("seconds", 0))
    return True, ""


def port_of(container: Container, port: int | str) -> int:
    """A probe's port as number; a name is one of the container's own. Raises OSError for an unknown name."""
    if isinstance(port, int):
        return port
    found = next((p.container_port for p in container.ports if p.name == port), None)
    if found is None:
        raise OSError(22, f"couldn't find port: {port}")
    return found


def _url(place: Place, get: HTTPGet) -> str:
    path = get.path if get.path.startswith("/") else f"/{get.path}"
    return f"{get.scheme.lower()}://{get.host or place.pod_ip}:{port_of(place.container, get.port)}{path}"


def _late(place: Place, handler: Handler, timeout: float) -> str:
    if handler.http_get:
        end = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return f'Get "{_url(place, handler.http_get)}": {end}'
    if handler.tcp_socket:
        host = handler.tcp_socket.host or place.pod_ip
        return f"dial tcp {host}:{port_of(place.container, handler.tcp_socket.port)}: i/o timeout"
    if handler.exec:
        return f'command timed out: "{" ".join(handler.exec.command)}" timed out after {timeout:g}s'
    return f"timeout: no answer within {timeout:g}s"


def _broken(place: Place, handler: Handler, error: OSError) -> str:
    words = error.strerror or str(error)
    if words.startswith("couldn't find"):
        return words
    words = f"connect: {words[:1].lower()}{words[1:]}"
    if handler.http_get:
        url = _url(place, handler.http_get)
        return f'Get "{url}": dial tcp {url.split("/")[2]}: {words}'
    if handler.tcp_socket:
        host = handler.tcp_socket.host or place.pod_ip
        return f"dial tcp {host}:{port_of(place.container, handler.tcp_socket.port)}: {words}"
    if handler.grpc:
        return f'timeout: failed to connect service "{place.pod_ip}:{handler.grpc.port}": {words}'
    return words


async def _http(place: Place, get: HTTPGet, timeout: float) -> tuple[bool, str]:
    url = _url(place, get)
    _, _, authority, path = url.split("/", 3)
    host, _, port = authority.rpartition(":")
    reader, writer = await place.sandbox.dial(host, int(port), timeout)
    try:
        if get.scheme == "HTTPS":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            await writer.start_tls(context)
        own = [(h.name, h.value) for h in get.http_headers]
        names = {name.lower() for name, _ in own}
        usual = (("Host", authority), ("User-Agent", "kube-probe/1.36"), ("Accept", "*/*"), ("Connection", "close"))
        lines = [f"GET /{path} HTTP/1.1", *(f"{n}: {v}" for n, v in usual if n.lower() not in names)]
        lines += [f"{name}: {value}" for name, value in own if value or name.lower() != "user-agent"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = (await reader.readline()).split()
    finally:
        with contextlib.suppress(OSError):
            writer.close()
    if len(status) < 2 or not status[0].startswith(b"HTTP/") or not status[1].isdigit():
        return False, f'Get "{url}": EOF'
    code = int(status[1])
    return 200 <= code < 400, "" if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"
