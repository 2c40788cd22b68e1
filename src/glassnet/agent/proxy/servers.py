"""The proxy's HTTP servers: healthz and livez, metrics, and the health check node ports of Services. Each lives in its node's network namespace."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError
from glassnet.proxy.health import ProxyHealth, node_port_answer

Handler = Callable[[web.BaseRequest], Any]
Owner = tuple[str, str]  # namespace, name


class Listening:
    """One HTTP server without routes: every request goes to one handler."""

    def __init__(self, netns: NetNs, handler: Handler) -> None:
        self._netns, self._server = netns, web.Server(handler, access_log=None)
        self._listeners: list[asyncio.Server] = []

    async def open(self, ip: str, port: int) -> None:
        """Listen at one more address. Raises KernelError when it is taken, not the machine's, or of a family it lacks."""
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        try:
            sock = self._netns.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise KernelError(f"listen at {ip} port {port}", error.errno or 0) from None
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((ip, port))
            self._listeners.append(await asyncio.get_running_loop().create_server(self._server, sock=sock))
        except OSError as error:
            sock.close()
            raise KernelError(f"listen at {ip} port {port}", error.errno or 0) from None

    async def close(self) -> None:
        """Stop listening, end connections."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        await self._server.shutdown(0)


def health_handler(health: ProxyHealth, counted: Callable[[str, int], None] = lambda path, code: None) -> Handler:
    """/healthz and /livez; `counted` hears each answer."""

    async def answer(request: web.BaseRequest) -> web.Response:
        now = time.time()
        if request.path not in ("/healthz", "/livez"):
            return web.Response(status=404, text="404 page not found\n")
        status, body = health.healthz(now) if request.path == "/healthz" else health.livez(now)
        counted(request.path, status)
        headers = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
        return web.Response(status=status, headers=headers, text=body)

    return answer


class Rendered(Protocol):
    """What has numbers to show."""

    def render(self) -> tuple[bytes, str]:
        """The text Prometheus reads, and its content type."""


def metrics_handler(metrics: Rendered, mode: str, config: Mapping[str, Any]) -> Handler:
    """/metrics, /healthz, /proxyMode, /configz, and a short /statusz."""

    async def answer(request: web.BaseRequest) -> web.Response:
        match request.path:
            case "/metrics":
                body, kind = metrics.render()
                return web.Response(body=body, headers={"Content-Type": kind})
            case "/healthz":
                return web.Response(text="ok")
            case "/proxyMode":
                return web.Response(text=mode)
            case "/configz":
                return web.Response(text=json.dumps(config), content_type="application/json")
            case "/statusz":
                return web.Response(text=f"glassnet proxy\nmode: {mode}\n")
        return web.Response(status=404, text="404 page not found\n")

    return answer


class HealthCheckNodePorts:
    """A server for each Service with a health check node port: how many endpoints of it run here, and whether the proxy is healthy.

    `addresses` are where to listen; `failed` hears (namespace, name, port, reason) once for each port that is taken; the next sync tries again.
    """

    def __init__(
        self,
        netns: NetNs,
        addresses: tuple[str, ...],
        healthy: Callable[[], bool],
        failed: Callable[[str, str, int, str], None] = lambda namespace, name, port, reason: None,
    ) -> None:
        self._netns, self._addresses, self._healthy, self._failed = netns, addresses, healthy, failed
        self._open: dict[Owner, tuple[int, Listening]] = {}
        self._counts: dict[Owner, int] = {}
        self._told: dict[Owner, int] = {}

    async def sync(self, wanted: Mapping[Owner, tuple[int, int]]) -> None:
        """Make servers match `wanted`: (port, number of local endpoints) by Service."""
        for owner, (port, server) in list(self._open.items()):
            if wanted.get(owner, (0, 0))[0] != port:
                del self._open[owner]
                await server.close()
        self._told = {owner: port for owner, port in self._told.items() if wanted.get(owner, (0, 0))[0] == port}
        self._counts = {owner: count for owner, (_, count) in wanted.items()}
        for owner, (port, _) in wanted.items():
            if owner not in self._open:
                await self._start(owner, port)

    async def _start(self, owner: Owner, port: int) -> None:
        server = Listening(self._netns, self._handler(owner))
        try:
            for ip in self._addresses:
                await server.open(ip, port)
        except KernelError as error:
            await server.close()
            if self._told.get(owner) != port:
                self._told[owner] = port
                self._failed(*owner, port, str(error))
            return
        self._told.pop(owner, None)
        self._open[owner] = (port, server)

    def _handler(self, owner: Owner) -> Handler:
        async def answer(_: web.BaseRequest) -> web.Response:
            status, headers, body = node_port_answer(*owner, self._counts.get(owner, 0), self._healthy())
            return web.Response(status=status, headers=headers, text=body)

        return answer

    async def close(self) -> None:
        """Stop all."""
        await self.sync({})
