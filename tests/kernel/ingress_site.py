"""A machine of namespaces with an Ingress controller on it: a real NGINX, backends that say what they got, and clients, all in one network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import abc, web
from pods_machine import Node, node_of_namespaces

import ingress_objects as objects
from glassnet.agent.ingress.nginx import Limits
from glassnet.agent.ingress.part import IngressPart, Publishing, Tuning
from glassnet.agent.placement import Place
from glassnet.ingress.model import Settings
from glassnet.kernel.api import NetNs
from glassnet.kube.change import Record
from glassnet.kube.view import View
from glassnet.netstack.ops import AddAddress, SetLink

ADDRESS = "10.80.0.1"  # where the controller is reached
SETTINGS = Settings(
    http=("0.0.0.0:80",), https=("0.0.0.0:443",), workers=2, user="root", connections=1024, shutdown=30
)  # fmt: skip


class Got(NamedTuple):
    """An answer: what the backend said, or the text where none did."""

    status: int
    body: dict[str, Any]
    text: str
    headers: dict[str, str]

    @property
    def pod(self) -> str:
        """Which backend answered; "" for none."""
        return str(self.body.get("pod", ""))


class _Here(abc.AbstractResolver):
    """Every name is the controller's."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[abc.ResolveResult]:
        return [abc.ResolveResult(hostname=host, host=ADDRESS, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


class Backend:
    """One pod: answers in JSON with what it was asked, echoes what comes over a WebSocket."""

    def __init__(self, netns: NetNs, address: str, port: int = 8080) -> None:
        self.netns, self.address, self.port, self.pod = netns, address, port, f"pod-{address.rpartition('.')[2]}"
        self.server = web.Server(self._answer, access_log=None)
        self.seen = 0
        self._listener: asyncio.Server | None = None

    async def open(self) -> Backend:
        sock = self.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.address, self.port))
        self._listener = await asyncio.get_running_loop().create_server(self.server, sock=sock, backlog=1024)
        return self

    async def close(self) -> None:
        """Stop to accept; then end, as a pod does."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await self.server.shutdown(0.1)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen += 1
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _echo(request)
        body = {
            "pod": self.pod, "method": request.method, "path": request.raw_path, "host": request.host, "proto": f"HTTP/{request.version.major}.{request.version.minor}",
            "headers": {name.lower(): value for name, value in request.headers.items()}, "body": (await request.read()).decode(errors="replace"), "peer": request.remote,
        }  # fmt: skip
        return web.json_response(body)


async def _echo(request: web.BaseRequest) -> web.WebSocketResponse:
    found = web.WebSocketResponse()
    await found.prepare(request)
    async for message in found:
        await found.send_str(f"echo {message.data}")
    return found


async def until(condition: Callable[[], Any], seconds: float = 15.0, why: Callable[[], Any] = lambda: "") -> Any:
    """Poll until something holds; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not come true in time {why()}"
        await asyncio.sleep(0.01)
    return value


class IngressSite:
    """The machine, what the API shows (`view`), the part under test, backends by address."""

    def __init__(self, node: Node) -> None:
        self.node, self.machine, self.netns, self.view = node, node.machine, node.machine.netns, View()
        self.events: list[Record] = []
        self.log: list[dict[str, Any]] = []
        self.backends: dict[str, Backend] = {}
        self.lists = asyncio.Event()
        self.outside = Path(self.machine.root) / "run/glassnet/ingress"
        self.part: IngressPart
        self._task: asyncio.Task[None] | None = None
        self.netns.apply([SetLink("lo", up=True), AddAddress(f"{ADDRESS}/32", "lo", exist_ok=True)])

    async def start(
        self,
        settings: Settings = SETTINGS,
        *,
        publishing: Publishing | None = None,
        interval: float = 0.02,
        **limits: Any,
    ) -> None:
        """Run the controller; returns when its NGINX serves what the View has."""
        place = Place("/run/glassnet/ingress", self.outside)
        tuning = Tuning(interval, Limits(**limits), self._logged)
        self.part = IngressPart(self.view, self.machine, place, settings, self.lists.wait, publishing=publishing, report=self.events.append, tuning=tuning)  # fmt: skip
        self._task = asyncio.create_task(self.part.run())
        self.lists.set()
        await self.until(lambda: self.part.ready)

    def _logged(self, lines: bytes) -> None:
        self.log += [json.loads(line) for line in lines.splitlines()]

    async def until(self, condition: Callable[[], Any], seconds: float = 15.0) -> Any:
        """Poll until something holds; raises what ended the controller, if it ended."""

        def look() -> Any:
            if self._task is not None and self._task.done():
                self._task.result()
            return condition()

        return await until(look, seconds, lambda: (self.part.loop.error, self.part.nginx.error))

    async def stop(self) -> None:
        """End the controller."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def close(self) -> None:
        await self.stop()
        for each in self.backends.values():
            await each.close()

    # -- objects

    async def put(self, *bodies: dict[str, Any], deleted: bool = False) -> None:
        """What the API shows from now on; returns when NGINX does it."""
        objects.put(self.view, *bodies, deleted=deleted)
        await self.settled()

    async def settled(self) -> None:
        """NGINX serves what the View has, and all has been said about it."""
        turns = self.part.loop.turns
        self.part.loop.look()
        await self.until(lambda: self.part.loop.turns > turns and not self.part.loop.waiting)

    async def app(self, name: str, *addresses: str, namespace: str = "demo", port: int = 8080) -> list[dict[str, Any]]:
        """A Service `name` with a backend at each of the addresses; its objects."""
        for address in addresses:
            if address not in self.backends:
                self.netns.apply([AddAddress(f"{address}/32", "lo", exist_ok=True)])
                self.backends[address] = await Backend(self.netns, address, port).open()
        return [
            objects.service(name, namespace=namespace),
            objects.endpoints(name, *addresses, namespace=namespace, port=port),
        ]

    # -- requests

    def client(self, **more: Any) -> aiohttp.ClientSession:
        """A client in the machine's network, for whom every name is the controller's."""
        connector = aiohttp.TCPConnector(
            resolver=_Here(), limit=0, socket_factory=lambda info: self.netns.socket(info[0], info[1], info[2]), **more
        )  # fmt: skip
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=15), trust_env=False)

    async def get(self, url: str, method: str = "GET", *, trust: bytes = b"", sni: str = "", **more: Any) -> Got:
        """One request over a connection of its own; redirects are not followed. `trust` is a certificate to verify by."""
        context: ssl.SSLContext | bool = ssl.create_default_context(cadata=trust.decode()) if trust else False
        async with self.client(force_close=True) as client, client.request(
            method, url, ssl=context, allow_redirects=False, server_hostname=sni or None, **more
        ) as answer:  # fmt: skip
            text = await answer.text()
            try:
                body = json.loads(text)
            except ValueError:
                body = {}
            return Got(
                answer.status,
                body if isinstance(body, dict) else {},
                text,
                {name.lower(): value for name, value in answer.headers.items()},
            )

    async def pod(self, url: str, **more: Any) -> str:
        """Which pod answers a URL; the status, where none does."""
        got = await self.get(url, **more)
        return got.pod or str(got.status)

    def reasons(self, name: str = "") -> list[str]:
        """Reasons of the Events (of one object)."""
        return [each.reason for each in self.events if not name or each.regarding["name"] == name]


@contextlib.asynccontextmanager
async def ingress_site() -> AsyncIterator[IngressSite]:
    """A machine; nothing is left of it."""
    async with node_of_namespaces() as node:
        site = IngressSite(node)
        try:
            yield site
        finally:
            await site.close()
