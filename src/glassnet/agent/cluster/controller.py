"""The cluster's controller: one of several works, as the Lease says; health, metrics and Events around the work."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from glassnet.agent.changes import Writer
from glassnet.agent.cluster import configuration as configs
from glassnet.agent.cluster.configuration import ControllerConfig
from glassnet.agent.cluster.metrics import ControllerMetrics
from glassnet.agent.cluster.node_conditions import NodeConditions, decode_node
from glassnet.agent.events import EventRecorder
from glassnet.agent.leader import Leader, Standing
from glassnet.agent.loadbalancer import source
from glassnet.agent.loadbalancer.allocation import Allocation
from glassnet.agent.proxy.servers import Listening
from glassnet.client.informer import Informer
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import View
from glassnet.net.errors import ApiError, GlassnetError
from glassnet.proxy.config import host_port, seconds

log = logging.getLogger(__name__)


class Controller:
    """`run` until SIGTERM or SIGINT. What it wrote stays when it ends."""

    def __init__(self, config: ControllerConfig, access: Access) -> None:
        self.config, self._access = config, access
        self._api = RestApi(access)
        election = config.leader_election
        self.leader = Leader(
            self._api,
            configs.lease_namespace(config),
            election.resource_name,
            configs.identity(config, os.environ),
            duration=seconds(election.lease_duration),
            renew=seconds(election.renew_deadline),
            retry=seconds(election.retry_period),
            now=_now,
        )
        self.metrics = ControllerMetrics(election.resource_name, self._facts)
        self._nodes: Informer | None = None
        self._conditions: NodeConditions | None = None
        self._working = False

    async def run(self) -> str:
        """Run; the reason it ended for. Raises GlassnetError for what cannot be started."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _end, ended, signal.Signals(number).name)
        machine = HostMachine()
        listening = Listening(machine.netns, self._answer)
        running: asyncio.Future[None] | None = None
        try:
            if self.config.bind_address:
                await listening.open(*host_port(self.config.bind_address))
            elect = self.config.leader_election.leader_elect
            running = asyncio.create_task(self.leader.run(self._work) if elect else self._work())
            waits: set[asyncio.Future[Any]] = {running, ended}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            return ended.result() if ended.done() else "its work is over"
        finally:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            await listening.close()
            await self._api.close()
            machine.close()

    def may_write(self) -> bool:
        """Whether this process is the one that works."""
        return not self.config.leader_election.leader_elect or self.leader.leads()

    # -- the work of a leader

    async def _work(self) -> None:
        """Until cancelled; begins with a View of its own each time."""
        view, writer = View(), Writer(self._api, _now)
        events = EventRecorder(writer)
        self._nodes = Informer(self._api, kinds.NODE, view, decode=decode_node, on_error=self._watch_failed)
        others = self._watched_by_allocation(view) if self.config.load_balancer.enabled else []
        self._conditions = NodeConditions(
            view,
            writer,
            now=_now,
            may_write=self.may_write,
            spaces=configs.spaces(self.config),
            report=events,
            written=self.metrics.patched,
        )
        self._working = True
        try:
            async with asyncio.TaskGroup() as group:
                for informer in (self._nodes, *others):
                    group.create_task(informer.run())
                await self._nodes.synced.wait()
                log.info("working: %d nodes", len(view.nodes))
                group.create_task(events.run())
                group.create_task(self._conditions.run())
                if others:
                    for informer in others:
                        await informer.synced.wait()
                    group.create_task(self._allocation(view, writer, events).run())
        finally:
            self._working = False

    def _watched_by_allocation(self, view: View) -> list[Informer]:
        wanted = {kinds.SERVICE: "", kinds.SERVICE_CIDR: ""}
        if not self.config.load_balancer.pools_file:
            wanted[kinds.CONFIG_MAP] = source.SELECTOR
        return [
            Informer(
                self._api,
                kind,
                view,
                field_selector=fields,
                on_error=lambda error, kind=kind: self._watch_failed(error, kind),  # type: ignore[misc]
            )
            for kind, fields in wanted.items()
        ]

    def _allocation(self, view: View, writer: Writer, events: EventRecorder) -> Allocation:
        part = self.config.load_balancer
        return Allocation(
            view,
            writer,
            namespace=part.namespace or configs.lease_namespace(self.config),
            file=part.pools_file,
            default_class=part.default_class,
            now=_now,
            may_write=self.may_write,
            report=events,
            written=self.metrics.patched,
        )

    def _watch_failed(self, error: GlassnetError, kind: Kind = kinds.NODE) -> None:
        self.metrics.watch_failed()
        forbidden = isinstance(error, ApiError) and error.status == 403
        log.warning(
            "watch of %s: %s%s", kind.resource, error, "; see the ClusterRole glassnet-controller" if forbidden else ""
        )

    # -- what is served

    def _facts(self) -> tuple[Standing, dict[str, int]]:
        standing = self.leader.standing()
        if not self.config.leader_election.leader_elect:
            standing = standing._replace(leading=True, holder=self.leader.identity)
        found = self._conditions.reasons() if self._working and self._conditions else {}
        return standing, dict(found)

    def _ready(self) -> tuple[bool, str]:
        """A leader is ready when it knows all Nodes, one that waits when it has seen the Lease of late."""
        if self._working:
            synced = self._nodes is not None and self._nodes.synced.is_set()
            return synced, "leading" if synced else "leading, the first list of Nodes is not complete"
        standing = self.leader.standing()
        fresh = 0 <= standing.contact_age < 2 * seconds(self.config.leader_election.lease_duration)
        return fresh, f"waiting for {standing.holder or 'the lease'}" if fresh else standing.error or "the API has not answered yet"  # fmt: skip

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        match request.path:
            case "/healthz" | "/livez":
                return web.Response(text="ok\n")  # this loop renews the Lease, too: whoever answers is alive
            case "/readyz":
                ready, why = self._ready()
                return web.Response(status=200 if ready else 503, text=why + "\n")
            case "/leaderz":
                standing, reasons = self._facts()
                body = {"identity": self.leader.identity, **standing._asdict(), "nodes": reasons}
                return web.Response(text=json.dumps(body) + "\n", content_type="application/json")
            case "/metrics":
                text, kind = self.metrics.render()
                return web.Response(body=text, headers={"Content-Type": kind})
            case "/configz":
                return web.json_response(configs.to_dict(self.config))
        return web.Response(status=404, text="404 page not found\n")


def _end(ended: asyncio.Future[str], name: str) -> None:
    if not ended.done():
        ended.set_result(name)


def _now() -> datetime:
    return datetime.now(UTC)
