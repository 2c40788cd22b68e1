"""Probes: is a container started, ready, alive? Source: Kubernetes documentation, "Configure Liveness, Readiness and Startup Probes".

A probe that has not succeeded yet is tried again quickly within its first second, before its period begins: a pod that is up after 20 ms
is Ready after 20 ms, as kubelets since 1.33 aim at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable

from glassnet.kube.runtime import PodSandbox
from glassnet.kube.types import Container, Handler, HTTPGet, Probe

EAGER = (0.0, 0.02, 0.05, 0.1, 0.2, 0.6)


async def watch(
    sandbox: PodSandbox, container: Container, probe: Probe, pod_ip: str, tell: Callable[[bool, str], None]
) -> None:
    """Probe until cancelled; `tell(good, text)` is called whenever the verdict is due by the thresholds."""
    await asyncio.sleep(probe.initial_delay_seconds)
    good_run = bad_run = 0
    eager = iter(EAGER[1:])
    while True:
        good, text = await attempt(sandbox, container, probe, pod_ip, probe.timeout_seconds)
        good_run, bad_run = (good_run + 1, 0) if good else (0, bad_run + 1)
        if good and good_run >= probe.success_threshold:
            tell(True, text)
            eager = iter(())
        elif not good and bad_run >= probe.failure_threshold:
            tell(False, text)
        delay = next(eager, None)
        if delay is not None and not good:
            bad_run = 0  # eager tries are extra: only those of the period count
        await asyncio.sleep(delay if delay is not None and not good else probe.period_seconds)


async def attempt(
    sandbox: PodSandbox, container: Container, handler: Handler, pod_ip: str, timeout: float
) -> tuple[bool, str]:
    """One try: (good, what it said)."""
    try:
        async with asyncio.timeout(timeout):
            if handler.http_get:
                return await _http(sandbox, container, handler.http_get, pod_ip, timeout)
            if handler.tcp_socket:
                host, port = handler.tcp_socket.host or pod_ip, port_of(container, handler.tcp_socket.port)
                _, writer = await sandbox.dial(host, port, timeout)
                writer.close()
                return True, ""
            if handler.grpc:
                _, writer = await sandbox.dial(pod_ip, handler.grpc.port, timeout)
                writer.close()
                return True, ""
            if handler.exec:
                code, text = await sandbox.exec_probe(container.name, handler.exec.command, timeout)
                return code == 0, text
            if handler.sleep:
                await asyncio.sleep(handler.sleep.get("seconds", 0))
            return True, ""
    except TimeoutError:
        return False, f"context deadline exceeded (no answer within {timeout:g}s)"
    except OSError as error:
        return False, f"dial tcp {pod_ip}: {error.strerror or error}"


def port_of(container: Container, port: int | str) -> int:
    """A probe's port as number; a name is one of the container's own. Raises OSError for an unknown name."""
    if isinstance(port, int):
        return port
    found = next((p.container_port for p in container.ports if p.name == port), None)
    if found is None:
        raise OSError(22, f"couldn't find port: {port}")
    return found


async def _http(
    sandbox: PodSandbox, container: Container, get: HTTPGet, pod_ip: str, timeout: float
) -> tuple[bool, str]:
    host, port = get.host or pod_ip, port_of(container, get.port)
    reader, writer = await sandbox.dial(host, port, timeout)
    try:
        if get.scheme == "HTTPS":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            await writer.start_tls(context)
        headers = {h.name: h.value for h in get.http_headers}
        lines = [
            f"GET {get.path} HTTP/1.1",
            f"Host: {headers.pop('Host', f'{host}:{port}')}",
            "User-Agent: kube-probe/1.36",
            "Accept: */*",
            "Connection: close",
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = (await reader.readline()).split()
        code = int(status[1]) if len(status) > 1 and status[1].isdigit() else 0
        return 200 <= code < 400, "" if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"
    finally:
        with contextlib.suppress(OSError):
            writer.close()
