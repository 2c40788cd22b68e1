"""Cluster DNS as one part of a process that has a View of the API: the loop, the server, its aliases and upstreams, wired."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from glassnet.agent.dns.alias_server import AliasServer, Where
from glassnet.agent.dns.forwarders import INTERVAL, Forwarders
from glassnet.agent.dns.knot import KnotServer
from glassnet.agent.dns.loop import DnsLoop
from glassnet.agent.dns.metrics import DnsMetrics, Facts
from glassnet.agent.placement import Place, Runner
from glassnet.dns import upstream
from glassnet.dns.model import DnsSettings, Server
from glassnet.dns.table import Table
from glassnet.kernel.api import NetNs
from glassnet.kube.change import Record
from glassnet.kube.view import View

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class DnsPart:
    """One DNS server with all around it. `runner` and `place` say where its process runs and has its files, `netns` where it listens.

    `token` is a text that nobody else has: an upstream that knows it has asked us. `synced` waits for the View's first complete lists.
    """

    def __init__(
        self,
        view: View,
        runner: Runner,
        place: Place,
        netns: NetNs,
        settings: DnsSettings,
        synced: Callable[[], Awaitable[Any]],
        *,
        token: str,
        report: Callable[[Record], None] = lambda record: None,
        interval: float = INTERVAL,
    ) -> None:
        self._view, self._runner, self._place, self._netns = view, runner, place, netns
        self._synced, self._report, self._token, self._interval = synced, report, token, interval
        self.settings = settings
        self.table = Table()
        self.metrics = DnsMetrics(self._facts)
        self.knot: KnotServer | None = None
        self.forwarders: Forwarders | None = None
        self.loop: DnsLoop | None = None
        self.ending = False

    async def run(self) -> None:
        """Until cancelled; the server ends with it. Raises KernelError when its program cannot be started."""
        async with self._aliases() as where, asyncio.TaskGroup() as group:
            settings = self.settings = self.settings._replace(alias_server=where)
            knot = self.knot = KnotServer(self._runner, self._place, settings, self.table, token=self._token)
            self.forwarders = Forwarders(self._netns, knot, settings, self._token, interval=self._interval)
            self.loop = DnsLoop(self._view, self.table, knot, settings, self._synced, report=self._report, told=self.metrics)  # fmt: skip
            group.create_task(knot.run())
            group.create_task(self.loop.run())
            if self.forwarders.servers():
                await knot.answering.wait()
                group.create_task(self.forwarders.run())

    @contextlib.asynccontextmanager
    async def _aliases(self) -> AsyncIterator[Server]:
        first = self.settings.listen[0]
        own = Server(_LOOPBACK.get(first.address, first.address), first.port)
        server = AliasServer(self._netns, self.table.aliases, self.settings, Where(own, self._ask_of))
        try:
            yield await server.open()
        finally:
            await server.close()

    def _ask_of(self, name: str) -> tuple[Server, ...]:
        found = upstream.for_name(name, self.settings.upstreams, self.settings.stubs)
        return self.forwarders.living(found) if self.forwarders is not None else ()

    @property
    def ready(self) -> bool:
        """Whether queries are answered out of complete zones, and will be."""
        return (
            not self.ending
            and self.loop is not None
            and self.loop.first_sync.is_set()
            and self.knot is not None
            and self.knot.ready
        )

    def _facts(self) -> Facts:
        knot, forwarders = self.knot, self.forwarders
        return Facts(
            len(self.table),
            len(self.table.zones()),
            sum(1 for _ in self.table.problems()),
            self.ready,
            knot.started if knot else 0,
            knot.mended if knot else 0,
            {str(server): state for server, state in forwarders.states.items()} if forwarders else {},
        )

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """/healthz, /readyz, /metrics."""
        match request.path:
            case "/healthz" | "/livez":
                return web.Response(
                    text="ok\n"
                )  # a server that has ended is started anew from here, not by whoever asks
            case "/readyz":
                why = (
                    "ready"
                    if self.ready
                    else "about to end"
                    if self.ending
                    else (self.knot.error if self.knot else "") or "zones are not complete yet"
                )
                return web.Response(status=200 if self.ready else 503, text=why + "\n")
            case "/metrics":
                text, kind = self.metrics.render()
                return web.Response(body=text, headers={"Content-Type": kind})
        return web.Response(status=404, text="404 page not found\n")
