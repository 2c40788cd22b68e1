"""The Service proxy of a real node: configuration in, API watched, rules kept, health and metrics served. What kube-proxy does, in its place."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from glassnet.agent.changes import Writer
from glassnet.agent.events import EventRecorder
from glassnet.agent.proxy import ProxyLoop, ProxySettings, cluster_cidr_detectors
from glassnet.agent.proxy_metrics import ProxyMetrics
from glassnet.agent.proxy_observers import Observers
from glassnet.agent.proxy_servers import HealthCheckNodePorts, Listening, health_handler, metrics_handler
from glassnet.agent.proxy_watches import watch_services
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.kernel.addresses import Addresses
from glassnet.kernel.counters import Counters
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.view import Event, Key, View
from glassnet.net import address
from glassnet.net.errors import GlassnetError, KernelError, UsageError
from glassnet.proxy import config as configs
from glassnet.proxy import nodeports
from glassnet.proxy.config import ProxyConfig, host_port, seconds
from glassnet.proxy.health import ProxyHealth
from glassnet.proxy.model import LocalDetector

log = logging.getLogger(__name__)
NODE_WAIT, POD_CIDR_WAIT = 30.0, 300.0
_CONNTRACK_LIMIT = 1 << 20


def families() -> tuple[str, ...]:
    """IPv4, and IPv6 where the machine has it."""
    disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    with contextlib.suppress(OSError):
        if os.path.exists("/proc/net/if_inet6") and disabled.read_text().strip() == "0":
            return (address.IPV4, address.IPV6)
    return (address.IPV4,)


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
        watch_services(watches, self.node)
        self._start(watches.run())
        mode, period = self.config.mode or "iptables", seconds(self.config.backend.sync_period)
        health = ProxyHealth(families(), period, time.time())
        counters = Counters(machine.netns)
        metrics = ProxyMetrics(time.time(), counters.packets if mode == "iptables" else None)
        await self._serve(machine, health, metrics, mode)
        await self._synced(watches)
        gc.collect()
        gc.freeze()  # what the caches hold now lives long: to walk it again and again would be the longest pause there is
        settings = await self._settings(mode)
        checks = HealthCheckNodePorts(
            machine.netns, self._check_addresses(), lambda: health.healthy(time.time()), self._failed(events)
        )
        observers = Observers(metrics, health, checks, settings.families)
        health.set_node(self.view.nodes.get(Key("", self.node)))
        proxy = ProxyLoop(self.view, machine, self.node, settings, report=events, observers=observers)
        running = self._start(proxy.run())
        events(Record(self._about_node(), "Normal", "Starting", "", "glassnet-proxy"))
        log.info("proxy of %s: mode %s, %s", self.node, mode, " and ".join(settings.families))
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if running.done():
            running.result()
        await proxy.stop(sweep=False)
        await checks.close()

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

    def _about_node(self) -> dict[str, str]:
        return {"kind": "Node", "apiVersion": "v1", "name": self.node, "uid": self.node}

    # -- what the configuration says

    async def _settings(self, mode: str) -> ProxySettings:
        config, backend = self.config, self.config.backend
        cidrs = {cidr for each in self.view.all(kinds.SERVICE_CIDR) for cidr in each.spec.cidrs}
        return ProxySettings(
            mode=mode,
            families=families(),
            detectors=await self._detectors(),
            masquerade_all=backend.masquerade_all,
            mark=1 << backend.masquerade_bit,
            node_port_addresses=config.node_port_addresses,
            localhost_node_ports=config.iptables.localhost_node_ports,
            service_cidrs=tuple(sorted(cidrs)),
            drop_invalid=not config.conntrack.tcp_be_liberal and not _liberal(),
            min_period=max(0.001, seconds(backend.min_sync_period)),
            sync_period=seconds(backend.sync_period),
            iptables_tool=self._tool,
        )

    async def _detectors(self) -> dict[str, LocalDetector]:
        config, both = self.config, (address.IPV4, address.IPV6)
        match config.detect_local_mode or "ClusterCIDR":
            case "BridgeInterface":
                return {family: LocalDetector("interface", config.detect_local.bridge_interface) for family in both}
            case "InterfaceNamePrefix":
                prefix = config.detect_local.interface_name_prefix
                return {family: LocalDetector("prefix", prefix) for family in both}
            case "NodeCIDR":
                return cluster_cidr_detectors(await self._pod_cidrs())
        if not config.cluster_cidrs:
            log.warning("no clusterCIDR: local pods cannot be told from others, ClusterIPs are not masqueraded")
        return cluster_cidr_detectors(config.cluster_cidrs)

    async def _pod_cidrs(self) -> tuple[str, ...]:
        """The node's pod ranges, waited for; a later change ends the process, for its successor to begin with the new ones."""
        changed = asyncio.Event()
        key = Key("", self.node)

        def heard(event: Event) -> None:
            if event.kind is kinds.NODE and event.key == key:
                changed.set()

        unsubscribe = self.view.subscribe(heard, replay=False)
        deadline = time.monotonic() + POD_CIDR_WAIT
        while not (ranges := _ranges(self.view, key)):
            changed.clear()
            try:
                await asyncio.wait_for(changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                raise UsageError(
                    f"detectLocalMode NodeCIDR: Node {self.node!r} got no spec.podCIDRs in 5 minutes"
                ) from None
        unsubscribe()

        def moved(event: Event) -> None:
            if event.kind is kinds.NODE and event.key == key and (now := _ranges(self.view, key)) and now != ranges:
                self._end(f"the node's pod CIDRs changed from {', '.join(ranges)} to {', '.join(now)}")

        self.view.subscribe(moved, replay=False)
        return ranges

    # -- servers

    def _check_addresses(self) -> tuple[str, ...]:
        words = self.config.node_port_addresses
        if not words or words == (nodeports.PRIMARY,):
            return ("0.0.0.0", *(["::"] if address.IPV6 in families() else []))
        machine = HostMachine()
        addresses = Addresses(machine.netns)
        local = addresses.all()
        addresses.close()
        machine.close()
        found: list[str] = []
        for family in families():
            mine = nodeports.resolve(words, family, (), local)
            found += mine if mine is not None else ["0.0.0.0" if family == address.IPV4 else "::"]
        return tuple(found)

    def _failed(self, events: EventRecorder) -> Any:
        def failed(namespace: str, name: str, port: int, reason: str) -> None:
            about = {"kind": "Service", "apiVersion": "v1", "namespace": namespace, "name": name}
            message = f"node {self.node} failed to start healthcheck {namespace}/{name} on port {port}: {reason}"
            events(Record(about, "Warning", "FailedToStartServiceHealthcheck", message, "glassnet-proxy"))

        return failed

    async def _serve(self, machine: HostMachine, health: ProxyHealth, metrics: ProxyMetrics, mode: str) -> None:
        config = self.config
        servers = (
            (config.healthz_bind_address, health_handler(health, metrics.answered)),
            (config.metrics_bind_address, metrics_handler(metrics, mode, configs.configz(config))),
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


def own_settings(config: ProxyConfig, machine: HostMachine) -> None:
    """What kube-proxy sets on a node: conntrack's limits and times, and its own standing with the out-of-memory killer. Failures are warnings."""
    track = config.conntrack
    wanted: dict[str, Any] = {}
    if track.max_per_core:
        wanted["net.netfilter.nf_conntrack_max"] = min(_CONNTRACK_LIMIT, max(track.min, track.max_per_core * (os.cpu_count() or 1)))  # fmt: skip
    for name, text in (
        ("tcp_timeout_established", track.tcp_established_timeout),
        ("tcp_timeout_close_wait", track.tcp_close_wait_timeout),
        ("udp_timeout", track.udp_timeout),
        ("udp_timeout_stream", track.udp_stream_timeout),
    ):
        if value := int(seconds(text)):
            wanted[f"net.netfilter.nf_conntrack_{name}"] = value
    if track.tcp_be_liberal:
        wanted["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    for name, value in wanted.items():
        try:
            machine.sysctl({name: value})
        except KernelError as error:
            log.warning("%s", error)
    if config.oom_score_adj is not None:
        try:
            Path("/proc/self/oom_score_adj").write_text(str(config.oom_score_adj))
        except OSError as error:
            log.warning("oomScoreAdj %d: %s", config.oom_score_adj, error.strerror)


async def cleanup(modes: Iterable[str], families_: Iterable[str] = (address.IPV4, address.IPV6)) -> list[str]:
    """Remove all rules of some modes from this machine; what could not be removed, in words."""
    machine, faults = HostMachine(), []
    for mode in modes:
        for family in families_:
            proxy = ProxyLoop(View(), machine, "", ProxySettings(mode=mode, families=(family,)))
            try:
                await proxy.sweep()
            except GlassnetError as error:
                faults.append(str(error))
    machine.close()
    return faults


def _ranges(view: View, key: Key) -> tuple[str, ...]:
    node = view.nodes.get(key)
    if node is None:
        return ()
    return tuple(node.spec.pod_cidrs) or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


def _liberal() -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").read_text().strip() != "0"
    return False


def _stamp(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_mtime_ns, found.st_ino
    return None


def _now() -> datetime:
    return datetime.now(UTC)
