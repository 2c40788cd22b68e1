"""The Service proxy of one node: events in, transactions out, as few and as small as they can be."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from glassnet.agent.proxy.family import FamilyProxy, Lost, SharedCompute
from glassnet.agent.proxy.observers import Observers
from glassnet.agent.proxy.writers import IptablesWriter, NftablesWriter, Writer, remove_kube_proxy
from glassnet.kernel.addresses import Addresses
from glassnet.kernel.api import Host
from glassnet.kernel.conntrack import Conntrack
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.types import Node
from glassnet.kube.view import SERVICE_NAME_LABEL, Event, Key, View
from glassnet.net import address
from glassnet.net.errors import GlassnetError, PreflightError
from glassnet.proxy import nodeports
from glassnet.proxy.backends.iptables_layouts import CURRENT
from glassnet.proxy.model import LocalDetector, NodeFacts, Rules

log = logging.getLogger(__name__)
ZONE = "topology.kubernetes.io/zone"
MODES = ("iptables", "nftables")


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """How a node's proxy works. Periods are in seconds; `detectors` by IP family; `node_port_addresses` as kube-proxy's configuration has them."""

    mode: str = "iptables"
    families: tuple[str, ...] = (address.IPV4,)
    detectors: Mapping[str, LocalDetector] = field(default_factory=dict)
    masquerade_all: bool = False
    mark: int = 0x4000
    node_port_addresses: tuple[str, ...] = ()
    localhost_node_ports: bool = True
    service_cidrs: tuple[str, ...] = ()
    drop_invalid: bool = True
    min_period: float = 0.01
    sync_period: float = 30.0
    iptables_layout: str = CURRENT  # how iptables chains are laid out: a name of proxy.backends.iptables_layouts
    iptables_tool: str = ""  # nft, legacy, or what the node uses already


def cluster_cidr_detectors(cidrs: Iterable[str]) -> dict[str, LocalDetector]:
    """detectLocalMode ClusterCIDR: the first range of each family."""
    out: dict[str, LocalDetector] = {}
    for cidr in cidrs:
        out.setdefault(address.family(cidr), LocalDetector("source", cidr))
    return out


def services_of(event: Event) -> set[Key]:
    """The Services an event concerns: two when an EndpointSlice changes hands."""
    if event.kind is kinds.SERVICE:
        return {event.key}
    if event.kind is not kinds.ENDPOINT_SLICE:
        return set()
    names = {piece.metadata.labels.get(SERVICE_NAME_LABEL) for piece in (event.old, event.new) if piece is not None}
    return {Key(event.key.namespace, name) for name in names if name}


class ProxyLoop:
    """One node's proxy. The first sync starts at once, later ones as often as `min_period` allows.

    `shared` is what the proxies of several nodes have in common; `report` takes Events to record; `observers` hear of syncs (metrics, health,
    health check node ports). `settled` is set while all that the View has said is in the kernel.
    """

    def __init__(
        self,
        view: View,
        machine: Host,
        node_name: str,
        settings: ProxySettings,
        *,
        shared: SharedCompute | None = None,
        report: Callable[[Record], None] | None = None,
        observers: Observers | None = None,
    ) -> None:
        self._view, self._machine, self._node, self.settings = view, machine, node_name, settings
        self._shared = shared or SharedCompute(view)
        self._shared.loops += 1
        self._report = report or (lambda _: None)
        self._observers = observers or Observers()
        self._conntrack = Conntrack(machine.netns)
        self._addresses: Addresses | None = None
        self._families: dict[str, FamilyProxy] = {}
        self._make_families()
        self._dirty: set[Key] = set()
        self._suspect: set[str] = set()
        self._moved = False  # something that holds for the whole node may have changed
        self._awake = asyncio.Event()
        self._running: asyncio.Task[Any] | None = None
        self._busy = asyncio.Lock()
        self._sweep_others = True
        self.synced = 0
        self.first_sync, self.settled = asyncio.Event(), asyncio.Event()
        self.repairs = 0

    def _make_families(self) -> None:
        for family in self.settings.families:
            rules = self._rules(family)
            self._families[family] = FamilyProxy(family, rules, self._writer(rules))

    def _writer(self, rules: Rules) -> Writer:
        if self.settings.mode == "iptables":
            return IptablesWriter(self._machine, rules, self.settings.iptables_tool)
        return NftablesWriter(self._machine, rules)

    # -- what holds for the whole node

    def _facts(self) -> NodeFacts:
        node = self._view.nodes.get(Key("", self._node))
        zone, ips = _place(node)
        return NodeFacts(self._node, zone, ips)

    def _rules(self, family: str) -> Rules:
        settings = self.settings
        words = settings.node_port_addresses
        local: tuple[str, ...] = ()
        if nodeports.follows_interfaces(words):
            if self._addresses is None:
                self._addresses = Addresses(self._machine.netns)
            local = self._addresses.all()
        default = nodeports.PRIMARY if settings.mode == "nftables" else ""
        serving = nodeports.resolve(words, family, self._facts().addresses, local, default)
        cidrs = {cidr for each in self._view.all(kinds.SERVICE_CIDR) for cidr in each.spec.cidrs}
        cidrs.update(settings.service_cidrs)
        return Rules(
            family=family,
            detector=settings.detectors.get(family),
            masquerade_all=settings.masquerade_all,
            mark=settings.mark,
            node_port_addresses=serving,
            localhost_node_ports=settings.localhost_node_ports and nodeports.includes_loopback(words, family),
            service_cidrs=tuple(sorted(cidr for cidr in cidrs if address.family(cidr) == family)),
            drop_invalid=settings.drop_invalid,
            layout=settings.iptables_layout,
        )

    # -- events

    def _on_event(self, event: Event) -> None:
        if keys := services_of(event):
            self._dirty |= keys
            self._observers.queued(event, keys)
        elif event.kind is kinds.NODE and event.key.name == self._node:
            self._observers.node(event.new)
            if _place(event.old) == _place(event.new):
                return
            self._dirty |= set(self._view.services)
            self._moved = True
        elif event.kind is kinds.SERVICE_CIDR:
            self._moved = True
        else:
            return
        self.settled.clear()
        self._awake.set()

    def _suspicious(self, family: str) -> None:
        self._suspect.add(family)
        self._awake.set()

    def _addresses_changed(self) -> None:
        assert self._addresses is not None
        self._addresses.drain()
        self._moved = True
        self._awake.set()

    # -- the loop

    async def run(self) -> None:
        """Until cancelled or stopped. A failed sync is tried again, in full, after a pause. Start it when the View is complete."""
        self._running = asyncio.current_task()
        unsubscribe = self._view.subscribe(self._on_event)
        self._awake.set()
        delay = 0.1
        try:
            while True:
                await self._awake.wait()
                self._awake.clear()
                try:
                    async with self._shared.turn, self._busy:
                        await self._sync()
                    delay = 0.1
                except GlassnetError as error:
                    self._failed(error)
                    await asyncio.sleep(delay)
                    delay = min(self.settings.sync_period, delay * 2)
                    self._awake.set()
                if not self._suspect:
                    await asyncio.sleep(self.settings.min_period * max(1.0, self._shared.loops / 3))
        finally:
            unsubscribe()
            self._close()

    async def _sync(self) -> None:
        dirty, self._dirty = self._dirty, set()
        suspect, self._suspect = self._suspect, set()
        moved, self._moved = self._moved, False
        facts, started, failure = self._facts(), time.monotonic(), None
        for family in list(self._families.values()):
            try:
                if moved:
                    await family.adopt(self._rules(family.name))
                if family.name in suspect and await family.writer.repair():
                    self.repairs += 1
                    log.warning("proxy of %s: somebody changed our %s rules; they are mended", self._node, family.name)
                lost = await family.write(self._view, self._shared, facts, dirty, self.settings.mode)
            except GlassnetError as error:  # the other family goes on
                if isinstance(error, PreflightError) and not self.synced and len(self._families) > 1:
                    self._give_up(family, error)
                    continue
                failure = error
                self._dirty |= dirty
                self._observers.failed(family.name, self.settings.mode)
                continue
            self._observers.synced(family, time.monotonic() - started)
            self._tell_lost(lost)
            self._forget_udp(family, dirty, facts)
        if failure:
            raise failure
        if not self.synced:
            await self._first_done()
        await self._observers.after(self._view, dirty, facts, self._node)
        self.synced += 1
        self.first_sync.set()
        if not (self._dirty or self._moved):
            self.settled.set()

    def _give_up(self, family: FamilyProxy, error: PreflightError) -> None:
        """A machine that cannot do one family gets the other, as with kube-proxy."""
        log.warning("proxy of %s: no %s: %s", self._node, family.name, error)
        self._observers.without(family.name)
        family.writer.close()
        del self._families[family.name]

    async def _first_done(self) -> None:
        """After the first sync: listen to what others do, and take away what the other mode left. Not before: no connection shall find no rules."""
        for name, family in self._families.items():
            family.writer.watch(lambda name=name: self._suspicious(name))  # type: ignore[misc]
        if self._addresses is not None:
            asyncio.get_running_loop().add_reader(self._addresses.fileno(), self._addresses_changed)
        if self._sweep_others:
            await self._sweep_other_mode()

    async def _sweep_other_mode(self) -> None:
        for family in self._families.values():
            rules = Rules(family=family.name)
            other: Writer = (
                NftablesWriter(self._machine, rules)
                if self.settings.mode == "iptables"
                else IptablesWriter(self._machine, rules)
            )
            try:
                await other.sweep()
                if remove_kube_proxy(self._machine, family.name):
                    log.info("proxy of %s: took over from kube-proxy's nftables mode (%s)", self._node, family.name)
            except GlassnetError as error:
                log.warning("proxy of %s: rules of the other mode, if any, stay: %s", self._node, error)
            finally:
                other.close()

    def _failed(self, error: GlassnetError) -> None:
        log.error("proxy of %s: %s", self._node, error)
        for namespace, name in re.findall(r"[(\" ]([a-z0-9-]+)/([a-z0-9-]+)", str(error)):
            if Key(namespace, name) in self._view.services:
                self._tell(Key(namespace, name), "RulesNotApplied", f"node {self._node}: {error}")
                return

    def _tell_lost(self, lost: Iterable[Lost]) -> None:
        for each in lost:
            ip, protocol, port = each.entry
            what = f"{ip}:{port}/{protocol}" if ip else f"node port {port}/{protocol}"
            message = f"{what} is not programmed for this Service: {each.holder} has it (the older Service does)"
            self._tell(each.key, "AddressConflict", message)

    def _tell(self, key: Key, reason: str, message: str) -> None:
        service = self._view.services.get(key)
        uid = service.metadata.uid if service else ""
        about = {"kind": "Service", "apiVersion": "v1", "namespace": key.namespace, "name": key.name, "uid": uid}
        self._report(Record(about, "Warning", reason, message, "glassnet-proxy"))

    def _forget_udp(self, family: FamilyProxy, keys: Iterable[Key], facts: NodeFacts) -> None:
        """Drop conntrack entries of UDP traffic that still goes to endpoints that have gone; after the rules are in place."""
        started = time.monotonic()
        try:
            ended = family.forget_udp(self._view, keys, self._conntrack, facts.addresses)
        except GlassnetError as error:
            log.warning("proxy of %s: %s", self._node, error)
            return
        if ended is not None:
            self._observers.conntrack(family.name, time.monotonic() - started, ended)

    # -- the end

    async def stop(self, sweep: bool = True) -> None:
        """End `run`, and take our rules away unless they are to go on working."""
        if self._running:
            async with self._busy:  # never in the middle of a transaction
                self._running.cancel()
            await asyncio.wait([self._running])
        if sweep:
            await self.sweep()

    async def sweep(self) -> None:
        """Take our rules away."""
        for family in self._families.values():
            writer = self._writer(family.rules)
            try:
                await writer.sweep()
            finally:
                writer.close()

    def _close(self) -> None:
        for family in self._families.values():
            family.writer.close()
        if self._addresses is not None:
            asyncio.get_running_loop().remove_reader(self._addresses.fileno())
            self._addresses.close()
        self._conntrack.close()
        self._shared.loops -= 1


def _place(node: Node | None) -> tuple[str, tuple[str, ...]]:
    """What of a Node object rules depend on: its zone and its addresses."""
    return (node.metadata.labels.get(ZONE, ""), node.internal_ips()) if node else ("", ())
