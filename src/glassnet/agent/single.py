"""One part of glassnet as a process of its own, or as a pod's: read by watches, told to end, and yet there for who has not heard of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from aiohttp import web

from glassnet.agent.changes import Writer
from glassnet.agent.events import EventRecorder
from glassnet.agent.proxy.servers import Listening
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.kernel.host import HostMachine
from glassnet.kube.view import View
from glassnet.proxy.config import host_port

log = logging.getLogger(__name__)


class Counted(Protocol):
    """Metrics of a part."""

    def watch_failed(self, resource: str) -> None:
        """A watch of this resource broke."""


class Part(Protocol):
    """What does the work; with `ending` it is not ready any more, and serves on."""

    ending: bool

    @property
    def metrics(self) -> Counted: ...

    async def run(self) -> None:
        """Until cancelled."""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """/healthz, /readyz, /metrics."""


class Ground(NamedTuple):
    """What a part stands on. `synced` waits for the View's first complete lists; what is to be watched is added to `watches`."""

    machine: HostMachine
    api: RestApi
    view: View
    watches: Watches
    events: EventRecorder
    synced: Callable[[], Awaitable[Any]]


async def serve(access: Access, bind_address: str, make: Callable[[Ground], Part], delay: float) -> str:
    """Run a part until SIGTERM or SIGINT, and `delay` seconds more; the reason it ended for. `bind_address` is where health and metrics are, ""
    for nowhere. Raises GlassnetError for what cannot be started."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, ended, signal.Signals(number).name)
    machine, api, view = HostMachine(), RestApi(access), View()
    events = EventRecorder(Writer(api, now))
    watches = Watches(api, view, on_error=lambda kind, error: part.metrics.watch_failed(kind.plural))

    async def synced() -> None:
        log.info("waiting for the first complete lists of %s", access.servers[0])
        await watches.synced()
        gc.collect()
        gc.freeze()  # what the caches hold now lives long

    part = make(Ground(machine, api, view, watches, events, synced))
    listening = Listening(machine.netns, part.answer)
    tasks: list[asyncio.Task[Any]] = []
    try:
        if bind_address:
            await listening.open(*host_port(bind_address))
        tasks = [asyncio.create_task(work) for work in (events.run(), watches.run())]
        running = asyncio.create_task(part.run())
        tasks.append(running)
        either: set[asyncio.Future[Any]] = {running, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            part.ending = True
            await asyncio.wait({running}, timeout=delay)
        if running.done():
            _first(running)
        return ended.result() if ended.done() else "its work is over"
    finally:
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.close()
        await api.close()
        machine.close()


async def until_told(part: Part, delay: float) -> None:
    """Run a part until cancelled, and `delay` seconds more unless cancelled once more."""
    running = asyncio.create_task(part.run())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        part.ending = True
        await asyncio.wait({running}, timeout=delay)
        raise
    finally:
        running.cancel()
        await asyncio.wait({running})


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def _first(task: asyncio.Task[None]) -> None:
    """Raise what a task ended with; of a group of failures the first."""
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error


def _end(ended: asyncio.Future[str], name: str) -> None:
    if not ended.done():
        ended.set_result(name)
