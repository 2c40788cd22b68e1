"""`glassnet ingress serve`: Ingress as a process of its own, by the API server's watches."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from glassnet.agent.changes import Writer
from glassnet.agent.events import EventRecorder
from glassnet.agent.ingress.part import IngressPart, Publishing, Tuning
from glassnet.agent.ingress.status import Place as Address
from glassnet.agent.ingress.watches import NamedContents, watch_ingresses
from glassnet.agent.leader import Leader
from glassnet.agent.placement import Place
from glassnet.agent.proxy.servers import Listening
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.ingress.model import Settings
from glassnet.kernel.host import HostMachine
from glassnet.kube.view import Key, View
from glassnet.proxy.config import host_port

log = logging.getLogger(__name__)
LEASE = "glassnet-ingress"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Publish(NamedTuple):
    """Whose address the status of Ingresses gets: a Service's, these; nobody's when both are empty. `namespace` is the Lease's, "" for the pod's;
    `elect` is False where there is no other replica."""

    service: Key | None = None
    addresses: tuple[Address, ...] = ()
    namespace: str = ""
    elect: bool = True


class IngressService:
    """`run` until SIGTERM or SIGINT. `directory` is NGINX's own; `bind_address` is where health and metrics are, "" for nowhere; `delay` is for how
    many seconds it goes on serving after SIGTERM, while others learn that it is to end."""

    def __init__(
        self, access: Access, settings: Settings, directory: Path, bind_address: str, *, publish: Publish, tuning: Tuning, delay: float = 0.0
    ) -> None:  # fmt: skip
        self._access, self._settings, self._directory, self._bind = access, settings, directory, bind_address
        self._publish, self._tuning, self._delay = publish, tuning, delay

    async def run(self) -> str:
        """Run; the reason it ended for. Raises GlassnetError for what cannot be started."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _end, ended, signal.Signals(number).name)
        machine, api, view = HostMachine(), RestApi(self._access), View()
        events = EventRecorder(Writer(api, _now))
        watches = Watches(api, view, on_error=lambda kind, error: part.metrics.watch_failed(kind.plural))
        contents = NamedContents(api, view)
        watch_ingresses(watches, contents)

        async def synced() -> None:
            log.info("waiting for the first complete lists of %s", self._access.servers[0])
            await watches.synced()
            gc.collect()
            gc.freeze()  # what the caches hold now lives long

        place = Place(str(self._directory), self._directory)
        part = IngressPart(
            view, machine, place, self._settings, synced,
            contents=contents, publishing=self._publishing(api), report=events, tuning=self._tuning,
        )  # fmt: skip
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
            await self._drain(part)
            return ended.result() if ended.done() else "its work is over"
        finally:
            for task in reversed(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await listening.close()
            await api.close()
            machine.close()

    def _publishing(self, api: RestApi) -> Publishing | None:
        how = self._publish
        if how.service is None and not how.addresses:
            return None
        namespace = how.namespace or _own_namespace()
        identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{os.urandom(4).hex()}"
        leader = Leader(api, namespace, LEASE, identity, now=_now) if how.elect else None
        return Publishing(api, how.service, how.addresses, leader)

    async def _drain(self, part: IngressPart) -> None:
        """Not ready any more, and yet serving whoever still comes."""
        part.ending = True
        if self._delay:
            log.info("ending: serving for %g s more", self._delay)
            await asyncio.sleep(self._delay)


def _own_namespace() -> str:
    """The pod's namespace; kube-system where this is no pod."""
    try:
        return os.environ.get("POD_NAMESPACE") or _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "kube-system"


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
