"""Ingress as one part of a process that has a View of the API: the loop, NGINX, the access log and the status of Ingresses, wired."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from glassnet.agent.ingress import default_certificate, stub_status
from glassnet.agent.ingress.access import FILE, AccessLog, Owner
from glassnet.agent.ingress.loop import Core, IngressLoop
from glassnet.agent.ingress.metrics import Facts, IngressMetrics
from glassnet.agent.ingress.nginx import LIMITS, PROGRAM, Limits, Nginx
from glassnet.agent.ingress.references import References
from glassnet.agent.ingress.status import Place as Address
from glassnet.agent.ingress.status import Publisher
from glassnet.agent.ingress.watches import NamedContents
from glassnet.agent.leader import Leader
from glassnet.agent.placement import Place, Runner
from glassnet.ingress import classes, compute, render
from glassnet.ingress.model import Settings, Site
from glassnet.ingress.options.passthrough import MODULE
from glassnet.kube import kinds
from glassnet.kube.api import Api
from glassnet.kube.change import Record
from glassnet.kube.view import Key, View

_MODULES = (MODULE,)  # those that are loaded where they are installed


class Publishing(NamedTuple):
    """How the status of Ingresses is written: `service` in front of us, further `addresses`; without a `leader` there is no other replica."""

    api: Api
    service: Key | None = None
    addresses: tuple[Address, ...] = ()
    leader: Leader | None = None


class Tuning(NamedTuple):
    """`interval`: the least seconds between changes of the configuration; `limits` of NGINX's process; `log` takes lines of the access log."""

    interval: float = 0.3
    limits: Limits = LIMITS
    log: Callable[[bytes], None] | None = None
    counted: bool = True
    program: str = PROGRAM


TUNING = Tuning()


class IngressPart:
    """One NGINX with all around it. `runner` and `place` say where its process runs and has its files.

    `synced` waits for the View's first complete lists; `contents` brings the Secrets that are named, if the View does not have them all.
    """

    def __init__(
        self,
        view: View,
        runner: Runner,
        place: Place,
        settings: Settings,
        synced: Callable[[], Awaitable[Any]],
        *,
        contents: NamedContents | None = None,
        publishing: Publishing | None = None,
        report: Callable[[Record], None] = lambda record: None,
        tuning: Tuning = TUNING,
    ) -> None:
        self._view, self._place, self._contents = view, place, contents
        log = (f"{place.inside}/{FILE}",) if tuning.counted else ()
        modules = settings.modules or tuple(each for each in _MODULES if Path(each).exists())
        self.settings = settings._replace(access_log=log, status=f"unix:{place.inside}/{stub_status.SOCKET}", modules=modules)  # fmt: skip
        self.nginx = Nginx(runner, place, limits=tuning.limits, program=tuning.program)
        self.metrics = IngressMetrics(self._facts)
        self.access = AccessLog(place.outside, tuning.log) if tuning.counted else None
        self._pair = default_certificate.Pair(b"", b"")
        self.loop = IngressLoop(
            view, self.nginx, self.settings, Core(classes.ours, compute.compute, self._files), synced,
            fetch=self._fetch if contents is not None else None, report=report, told=self.metrics, interval=tuning.interval,
        )  # fmt: skip
        self.loop.computed = self._computed
        self._leader = publishing.leader if publishing else None
        self.publisher = self._publisher(publishing) if publishing else None
        self._connections: dict[str, int] = {}
        self.ending = False

    def _publisher(self, how: Publishing) -> Publisher:
        may_write = how.leader.leads if how.leader is not None else lambda: True
        return Publisher(
            self._view,
            how.api,
            lambda: self.loop.served,
            service=how.service,
            addresses=how.addresses,
            may_write=may_write,
        )

    async def run(self) -> None:
        """Until cancelled; NGINX ends with it. Raises KernelError when its program cannot be started."""
        self.nginx.begin()
        self._pair = default_certificate.kept(self._place.outside, datetime.now(UTC))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.nginx.run())
            group.create_task(self.loop.run())
            if self.access is not None:
                group.create_task(self.access.run())
            if self.publisher is not None:
                await self.loop.first_sync.wait()
                publish = self.publisher.run
                group.create_task(self._leader.run(publish) if self._leader is not None else publish())

    def _files(self, site: Site, settings: Settings) -> dict[str, bytes]:
        return render.files(site, settings, self._pair.chain, self._pair.key)

    async def _fetch(self, named: References) -> None:
        assert self._contents is not None
        await self._contents.fetch(kinds.SECRET, named.secrets)
        await self._contents.fetch(kinds.CONFIG_MAP, named.config_maps)

    def _computed(self) -> None:
        if self.access is not None:
            self.access.know(Owner(key.namespace, key.name) for key in self.loop.served)
        if self.publisher is not None:
            self.publisher.look()

    @property
    def ready(self) -> bool:
        """Whether NGINX serves a configuration of complete lists, and is to go on."""
        return self.loop.first_sync.is_set() and self.nginx.serving.is_set() and not self.ending

    def _facts(self) -> Facts:
        access, publisher, site = self.access, self.publisher, self.loop.site
        return Facts(
            self.nginx,
            self.ready,
            publisher is not None and (self._leader is None or self._leader.leads()),
            len(self.loop.served),
            len(site.servers) if site else 0,
            Counter(problem.reason for problem in self.loop.problems),
            access.counts if access else {},
            access.unread if access else 0,
            access.skipped if access else 0,
            self._connections,
            (publisher.written, publisher.failed) if publisher else (0, 0),
        )

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """/healthz, /readyz, /metrics."""
        match request.path:
            case "/healthz" | "/livez":
                return web.Response(
                    text="ok\n"
                )  # an NGINX that has ended is started anew from here, not by whoever asks
            case "/readyz":
                why = (
                    "ready"
                    if self.ready
                    else "ending"
                    if self.ending
                    else self.nginx.error or self.loop.error or "no configuration is in force yet"
                )
                return web.Response(status=200 if self.ready else 503, text=why + "\n")
            case "/metrics":
                self._connections = await stub_status.ask(self._place.outside)
                text, kind = self.metrics.render()
                return web.Response(body=text, headers={"Content-Type": kind})
        return web.Response(status=404, text="404 page not found\n")
