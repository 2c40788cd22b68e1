"""The one process of a node: CNI daemon, Service proxy and routes, over one connection to the API and one View.

What is programmed when, what stays when the process or the API goes, and what health says: docs/design/node-agent.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import msgspec

from glassnet.agent.changes import Writer
from glassnet.agent.cni.facts import pod_cidrs
from glassnet.agent.events import EventRecorder
from glassnet.agent.loadbalancer import source
from glassnet.agent.loadbalancer.part import LoadBalancerPart
from glassnet.agent.node.cni import CniPart
from glassnet.agent.node.configuration import AgentConfig, balancer_settings, proxy_config
from glassnet.agent.node.health import AgentHealth, health_handler
from glassnet.agent.node.lock import NodeLock
from glassnet.agent.node.metrics import AgentMetrics
from glassnet.agent.proxy.part import ProxyPart, about_node
from glassnet.agent.proxy.servers import Listening, metrics_handler
from glassnet.agent.proxy.settings import NodeRanges
from glassnet.agent.proxy.watches import watch_services
from glassnet.agent.routes.loop import NodeRoutes
from glassnet.agent.service_manager import give_life_signs, tell_systemd
from glassnet.client.belief import PATIENCE, Patience
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.cni.node import NodeFacts
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds, narrow
from glassnet.kube.change import Record
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Event, Key, View
from glassnet.net.errors import ApiError, GlassnetError
from glassnet.proxy import config as configs
from glassnet.proxy.config import host_port
from glassnet.routes.model import RoutesSettings

log = logging.getLogger(__name__)
TURN = 3.0  # seconds at most that routes leave the processor to the proxy's first sync
NODE_WAIT = 30.0  # seconds that the proxy waits for its own Node, without which it can do nearly everything


class NodeAgent:
    """One node's agent. `run` until SIGTERM or SIGINT; rules, routes and links stay when it ends, as connections must.

    `patience` is what its watches have with the API server.
    """

    def __init__(self, config: AgentConfig, access: Access, patience: Patience = PATIENCE) -> None:
        self.config, self.node, self._access = config, config.node_name, access
        self._machine = HostMachine()
        self._api = RestApi(access)
        self.view = View()
        self._watches = Watches(self._api, self.view, on_error=self._watch_failed, patience=patience)
        self._events = EventRecorder(Writer(self._api, lambda: datetime.now(UTC)))
        self._proxy = self._make_proxy() if config.proxy.enabled else None
        self._routes = self._make_routes() if config.routes.enabled else None
        self._balancer = self._make_balancer() if config.load_balancer.enabled else None
        self._metrics = AgentMetrics(self._watches.standing, self._proxy.metrics if self._proxy else None)
        if (routes := self._routes) is not None:  # counted when somebody asks
            self._metrics.routes.set_function(lambda: routes.routes)
            self._metrics.problems.set_function(lambda: len(routes.problems))
        self._cni = CniPart(config.cni, self._machine, self._metrics.call) if config.cni.enabled else None
        self.health = AgentHealth(
            self._watches.standing, self._cni, self._proxy, self._routes, self._programmed, self._balancer
        )
        self._was_ready = dict.fromkeys(self._programmed(), False)
        self._tasks: list[asyncio.Task[Any]] = []
        self._listeners: list[Listening] = []
        self._forbidden: set[Kind] = set()
        self._stop = asyncio.Event()
        self._reason = ""

    def _make_proxy(self) -> ProxyPart:
        ranges = NodeRanges(self.view, self.node, self._end, wait=float("inf"))
        return ProxyPart(
            proxy_config(self.config), self.view, self._machine, self.node, self._events, self._end, ranges=ranges
        )

    def _make_routes(self) -> NodeRoutes:
        part = self.config.routes
        settings = RoutesSettings(
            part.mode,  # type: ignore[arg-type]  # checked when it was read
            self.config.cluster_cidrs,
            part.mtu,
            part.vxlan_id,
            part.vxlan_port,
        )
        return NodeRoutes(self.view, self._machine.netns, self.node, settings, report=self._events)

    def _make_balancer(self) -> LoadBalancerPart:
        settings = balancer_settings(self.config.load_balancer)
        return LoadBalancerPart(self.view, self._machine, self.node, settings, self._events)

    # -- life

    async def run(self) -> str:
        """Run; the reason it ended for. Raises GlassnetError when another agent runs here, or something cannot be started."""
        gc.set_threshold(100_000, 20, 50)  # the first lists make a million objects that all stay
        loop, lock = asyncio.get_running_loop(), NodeLock()
        lock.take(f"glassnet agent of {self.node}")
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, signal.Signals(number).name)
        try:
            await self._begin()
            await self._until_end()
        finally:
            await self._close()
            lock.release()
        return self._reason

    def _end(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._stop.set()

    async def _begin(self) -> None:
        if self._cni is not None:
            await self._cni.start()  # first: pods are joined whether the API answers or not
        await self._serve()
        self._watch()
        self.view.subscribe(self._on_event, replay=False)
        self._start(self._metrics.measure_lag(self._tick))
        self._start(give_life_signs(self.health.alive), essential=False)
        self._start(self._events.run())
        self._start(self._watches.run())
        if self._routes is not None:
            self._start(self._run_routes(self._routes))
            self._start(self._tell_cni_then(self._routes), essential=False)
        if self._proxy is not None:
            self._start(self._run_proxy(self._proxy))
        if self._balancer is not None:
            self._start(self._run_balancer(self._balancer))
        self._events(Record(about_node(self.node), "Normal", "Starting", "", "glassnet-agent"))
        names = {"cni": "cni", "proxy": "proxy", "routes": "routes", "load balancer": "load_balancer"}
        parts = ", ".join(name for name, part in names.items() if getattr(self.config, part).enabled)
        log.info("agent of %s: %s; API %s", self.node, parts, ", ".join(self._access.servers), extra=self._about())
        tell_systemd("READY=1\nSTATUS=waiting for the first lists of the API server")

    def _start(self, work: Coroutine[Any, Any, Any], essential: bool = True) -> None:
        """Start a task; when one that the agent cannot be without ends, the agent does."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        if essential:
            task.add_done_callback(lambda task: self._stop.set())

    async def _until_end(self) -> None:
        await self._stop.wait()
        for task in self._tasks:
            error = task.exception() if task.done() and not task.cancelled() else None
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if error is not None:
                raise error

    async def _close(self) -> None:
        tell_systemd("STOPPING=1")
        if self._balancer is not None:
            await self._balancer.drain()  # first: others answer before this node does no more
        if self._cni is not None:
            await self._cni.close()
        if self._proxy is not None:
            await self._proxy.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            await listener.close()
        await self._api.close()
        self._machine.close()

    # -- the API

    def _watch(self) -> None:
        """Only the kinds that the parts need, and of them what the server can choose."""
        wanted = [kinds.NODE]
        if self._proxy is not None:
            wanted += [kinds.SERVICE, kinds.ENDPOINT_SLICE, kinds.SERVICE_CIDR]
        elif self._balancer is not None:
            wanted += [kinds.SERVICE, kinds.ENDPOINT_SLICE]
        one = self.node if self._routes is None and self._balancer is None else ""
        decode = source.decode if self._balancer is not None else narrow.decode
        watch_services(self._watches, one, wanted, never_empty=True, decode=decode)
        if self._balancer is not None and not self.config.load_balancer.pools_file:
            self._watches.add(kinds.CONFIG_MAP, field_selector=source.SELECTOR)

    def _watch_failed(self, kind: Kind, error: GlassnetError) -> None:
        """Watches tell the log; what is forbidden is said on the Node too, once."""
        if isinstance(error, ApiError) and error.status == 403 and kind not in self._forbidden:
            self._forbidden.add(kind)
            message = f"the agent may not list and watch {kind.resource}: {error}; the rest goes on without"
            self._events(Record(about_node(self.node), "Warning", "WatchForbidden", message, "glassnet-agent"))

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.NODE and event.key.name == self.node:
            self._tell_cni()

    def _tell_cni(self) -> None:
        """What the Node says, for the plugins; with routes, not before these know the MTU."""
        node = self.view.nodes.get(Key("", self.node))
        if self._cni is None or node is None or (self._routes is not None and not self._routes.first_sync.is_set()):
            return
        mtu = self._routes.pod_mtu if self._routes is not None else 0
        self._cni.learn(NodeFacts(pod_cidrs(node), self.config.cluster_cidrs, mtu))

    # -- parts

    async def _run_routes(self, routes: NodeRoutes) -> None:
        await self._watches.synced(kinds.NODE)
        self._tell_absence()
        if self._proxy is not None:  # one after the other: the first is there sooner, the second not later
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._proxy.first_sync.wait(), TURN)
        await routes.run()

    async def _tell_cni_then(self, routes: NodeRoutes) -> None:
        await routes.first_sync.wait()
        self._tell_cni()

    async def _run_proxy(self, proxy: ProxyPart) -> None:
        await self._watches.synced(kinds.SERVICE, kinds.ENDPOINT_SLICE)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._watches.synced(kinds.NODE), NODE_WAIT)
        if self._routes is None:
            self._tell_absence()
        gc.collect()
        gc.freeze()  # what the View holds now lives long: to walk it again and again would be the longest pause there is
        await proxy.run()

    async def _run_balancer(self, balancer: LoadBalancerPart) -> None:
        await self._watches.synced(kinds.NODE, kinds.SERVICE, kinds.ENDPOINT_SLICE)
        await balancer.run()

    def _tell_absence(self) -> None:
        node = self.view.nodes.get(Key("", self.node))
        if node is None:
            log.warning("there is no Node %r (yet); --node-name names it when it is not the host's name", self.node)
        elif not pod_cidrs(node) and self.config.cni.enabled:
            log.warning(
                "Node %s has no spec.podCIDRs (yet): pods get no network until the controller manager gives it some (--allocate-node-cidrs)",
                self.node,
                extra=self._about(),
            )

    def _programmed(self) -> dict[str, bool]:
        """For each part that is switched on: has it done its work once?"""
        done: dict[str, bool] = {}
        if self._cni is not None:
            done["cni"] = self._cni.ready
        if self._proxy is not None:
            done["proxy"] = self._proxy.first_sync.is_set()
        if self._routes is not None:
            done["routes"] = self._routes.first_sync.is_set()
        if self._balancer is not None:
            done["loadBalancer"] = self._balancer.first_sync.is_set()
        return done

    def _tick(self) -> None:
        """Once a second: what nobody gives notice of."""
        self._tell_cni()  # the MTU may have changed
        done = self._programmed()
        if done != self._was_ready:
            for part, ready in done.items():
                self._metrics.ready.labels(part).set(ready)
            waiting = ", ".join(part for part, ready in done.items() if not ready)
            tell_systemd(f"STATUS={'waiting for ' + waiting if waiting else 'programmed'}")
            log.info("%s", f"ready: all but {waiting}" if waiting else "ready: every part is programmed")
            self._was_ready = done

    def _about(self) -> dict[str, str]:
        return {"object": f"Node/{self.node}"}

    # -- servers

    async def _serve(self) -> None:
        counted = self._proxy.metrics.answered if self._proxy else lambda path, code: None
        mode = self._proxy.mode if self._proxy else "none"
        shown = {"glassnet": msgspec.to_builtins(self.config)}
        if self._proxy is not None:
            shown |= configs.configz(self._proxy.config)
        for place, handler in (
            (self.config.health_bind_address, health_handler(self.health, counted)),
            (self.config.metrics_bind_address, metrics_handler(self._metrics, mode, shown)),
        ):
            if place:
                listening = Listening(self._machine.netns, handler)
                self._listeners.append(listening)
                await listening.open(*host_port(place))
