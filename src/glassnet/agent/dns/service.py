"""`glassnet dns serve`: the cluster's DNS as a process of its own, by the API server's watches."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from glassnet.agent.changes import Writer
from glassnet.agent.dns.part import DnsPart
from glassnet.agent.dns.watches import watch_names
from glassnet.agent.events import EventRecorder
from glassnet.agent.placement import Place
from glassnet.agent.proxy.servers import Listening
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.dns.model import DnsSettings
from glassnet.kernel.addresses import Addresses
from glassnet.kernel.host import HostMachine
from glassnet.kube.view import View
from glassnet.proxy.config import host_port

log = logging.getLogger(__name__)


class DnsService:
    """`run` until SIGTERM or SIGINT, and `lameduck` seconds more. `directory` is the server's own; `bind_address` is where health and metrics
    are, "" for nowhere."""

    def __init__(
        self, access: Access, settings: DnsSettings, directory: Path, bind_address: str, lameduck: float = 0.0
    ) -> None:
        self._access, self._settings, self._directory, self._bind = access, settings, directory, bind_address
        self._lameduck = lameduck

    async def run(self) -> str:
        """Run; the reason it ended for. Raises GlassnetError for what cannot be started."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _end, ended, signal.Signals(number).name)
        machine, api, view = HostMachine(), RestApi(self._access), View()
        events = EventRecorder(Writer(api, _now))
        watches = Watches(api, view, on_error=lambda kind, error: part.metrics.watch_failed(kind.plural))
        watch_names(watches)

        async def synced() -> None:
            log.info("waiting for the first complete lists of %s", self._access.servers[0])
            await watches.synced()
            gc.collect()
            gc.freeze()  # what the caches hold now lives long

        place = Place(str(self._directory), self._directory)
        part = DnsPart(view, machine, place, machine.netns, self._settings, synced, token=secrets.token_hex(16), report=events)  # fmt: skip
        listening = Listening(machine.netns, part.answer)
        tasks: list[asyncio.Task[Any]] = []
        try:
            if self._bind:
                await listening.open(*host_port(self._bind))
            tasks = [asyncio.create_task(work) for work in (events.run(), watches.run())]
            running = asyncio.create_task(part.run())
            tasks.append(running)
            waits: set[asyncio.Future[Any]] = {running, ended}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                _first(running)
            if ended.done() and not running.done():
                await asyncio.wait(
                    {running, asyncio.ensure_future(part.leave(self._lameduck))}, return_when=asyncio.FIRST_COMPLETED
                )
            return ended.result() if ended.done() else "its work is over"
        finally:
            for task in reversed(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await listening.close()
            await api.close()
            machine.close()


def own_addresses() -> tuple[str, ...]:
    """The addresses of this machine."""
    machine = HostMachine()
    addresses = Addresses(machine.netns)
    try:
        return addresses.all()
    finally:
        addresses.close()
        machine.close()


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


def _now() -> datetime:
    return datetime.now(UTC)
