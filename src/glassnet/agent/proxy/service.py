"""The Service proxy of a real node: configuration in, API watched, rules kept, health and metrics served. What kube-proxy does, in its place."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from datetime import UTC, datetime
from typing import Any

from glassnet.agent.changes import Writer
from glassnet.agent.events import EventRecorder
from glassnet.agent.proxy.part import ProxyPart, about_node
from glassnet.agent.proxy.servers import Listening, health_handler, metrics_handler
from glassnet.agent.proxy.settings import own_settings
from glassnet.agent.proxy.watches import watch_services
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.view import Key, View
from glassnet.net.errors import KernelError, UsageError
from glassnet.proxy import config as configs
from glassnet.proxy.config import ProxyConfig, host_port

log = logging.getLogger(__name__)
NODE_WAIT = 30.0


class NodeProxy:
    """One node's proxy with all around it. `run` until SIGTERM or SIGINT; rules stay when it ends, as connections must."""

    def __init__(self, config: ProxyConfig, access: Access, *, iptables_tool: str = "", config_file: str = "") -> None:
        self.config, self._access, self._tool, self._config_file = config, access, iptables_tool, config_file
        self.node = (config.hostname_override or os.uname().nodename).strip().lower()
        self.view = View()
        self._tasks: list[asyncio.Task[Any]] = []
        self._listeners: list[Listening] = []
        self._stop = asyncio.Event()
        self._reason = ""

    async def run(self) -> str:
        """Run; the reason it ended for. Raises GlassnetError for what cannot be started."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, signal.Signals(number).name)
        machine, api = HostMachine(), RestApi(self._access)
        try:
            await self._run(machine, api)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for listener in self._listeners:
                await listener.close()
            await api.close()
            machine.close()
        return self._reason

    def _end(self, reason: str) -> None:
        self._reason = reason
        self._stop.set()

    async def _run(self, machine: HostMachine, api: RestApi) -> None:
        own_settings(self.config, machine)
        events = EventRecorder(Writer(api, _now))
        self._start(events.run())
        watches = Watches(api, self.view)
        watch_services(watches, self.node, never_empty=True)
        self._start(watches.run())
        proxy = ProxyPart(self.config, self.view, machine, self.node, events, self._end, iptables_tool=self._tool)
        await self._serve(machine, proxy)
        await self._synced(watches)
        gc.collect()
        gc.freeze()  # what the caches hold now lives long: to walk it again and again would be the longest pause there is
        running = self._start(proxy.run())
        events(Record(about_node(self.node), "Normal", "Starting", "", "glassnet-proxy"))
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if running.done():
            running.result()
        await proxy.stop()

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    # -- the API

    async def _synced(self, watches: Watches) -> None:
        """Nothing is written before Services and EndpointSlices are known whole."""
        log.info("waiting for the first complete lists of %s", self._access.servers[0])
        await self._or_stop(watches.synced(kinds.SERVICE, kinds.ENDPOINT_SLICE))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(watches.synced(kinds.NODE), NODE_WAIT)
        if Key("", self.node) not in self.view.nodes:
            log.warning(
                "there is no Node %r; zones, primary node port addresses and local endpoints need it", self.node
            )

    async def _or_stop(self, work: Any) -> None:
        stopping = asyncio.ensure_future(self._stop.wait())
        working = asyncio.ensure_future(work)
        await asyncio.wait([stopping, working], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            raise UsageError(f"ended by {self._reason} before the API server gave its first lists")
        stopping.cancel()

    # -- servers

    async def _serve(self, machine: HostMachine, proxy: ProxyPart) -> None:
        config = self.config
        servers = (
            (config.healthz_bind_address, health_handler(proxy.health, proxy.metrics.answered)),
            (config.metrics_bind_address, metrics_handler(proxy.metrics, proxy.mode, configs.configz(config))),
        )
        for place, handler in servers:
            if not place:
                continue
            listening = Listening(machine.netns, handler)
            self._listeners.append(listening)
            try:
                await listening.open(*host_port(place))
            except KernelError as error:
                if config.bind_address_hard_fail:
                    raise
                log.error("%s; it is not served", error)
        if self._config_file:
            self._start(self._watch_config())

    async def _watch_config(self) -> None:
        """A changed file ends the process: its successor reads it."""
        before = _stamp(self._config_file)
        while _stamp(self._config_file) in (before, None):  # noqa: ASYNC110 (nothing tells; a file being replaced may be absent for a moment)
            await asyncio.sleep(2)
        self._end(f"{self._config_file} has changed")


def _stamp(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_mtime_ns, found.st_ino
    return None


def _now() -> datetime:
    return datetime.now(UTC)
