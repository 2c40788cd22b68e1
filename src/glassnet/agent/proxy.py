"""The Service proxy of one node: events in, transactions out, as few and as small as they can be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from glassnet.agent.proxy_writers import IptablesWriter, NftablesWriter
from glassnet.kernel.api import Machine
from glassnet.kube import kinds
from glassnet.kube.types import Node, Service
from glassnet.kube.view import SERVICE_NAME_LABEL, Event, Key, View
from glassnet.net.errors import GlassnetError
from glassnet.proxy import compute, conntrack
from glassnet.proxy.backends import iptables, nftables
from glassnet.proxy.model import ServicePort

log = logging.getLogger(__name__)
ZONE = "topology.kubernetes.io/zone"
P = TypeVar("P")


class Writer(Protocol[P]):
    """Spells one Service, and brings the kernel from what it has to what is wanted."""

    def spell(self, ports: list[ServicePort]) -> P: ...
    async def write(self, changed: dict[Key, P | None], everything: dict[Key, P]) -> None: ...
    def forget(self) -> None: ...
    async def intact(self) -> bool: ...
    async def sweep(self) -> None: ...


class SharedCompute:
    """What several nodes' proxies have in common: rules of Services that are the same on every node are spelled once."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.turn = asyncio.Semaphore(2)  # as many writers at a time as a small machine has processors
        self.loops = 0
        self._cache: dict[tuple[Key, str], Any] = {}
        view.subscribe(self._on_event, replay=False)

    def _on_event(self, event: Event) -> None:
        for key in services_of(event):
            for mode in ("iptables", "nftables"):
                self._cache.pop((key, mode), None)

    def piece(self, key: Key, node: str, mode: str, spell: Callable[[list[ServicePort]], P]) -> P | None:
        """A Service as it is to be spelled on a node; None when it is gone."""
        found = self._cache.get((key, mode))
        if found is not None:
            result: P = found
            return result
        service: Service | None = self.view.services.get(key)
        if service is None:
            return None
        slices = list(self.view.slices_of(key))
        if compute.depends_on_node(service, slices):
            mine = self.view.nodes.get(Key("", node))
            zone = mine.metadata.labels.get(ZONE, "") if mine else ""
            ips = mine.internal_ips() if mine else ()
            return spell(compute.service_ports(service, slices, node, zone, ips))
        made = spell(compute.service_ports(service, slices))
        self._cache[key, mode] = made
        return made


def services_of(event: Event) -> set[Key]:
    """The Services an event concerns: two when an EndpointSlice changes hands."""
    if event.kind is kinds.SERVICE:
        return {event.key}
    if event.kind is not kinds.ENDPOINT_SLICE:
        return set()
    names = {piece.metadata.labels.get(SERVICE_NAME_LABEL) for piece in (event.old, event.new) if piece is not None}
    return {Key(event.key.namespace, name) for name in names if name}


class ProxyLoop(Generic[P]):
    """One node's proxy. The first sync starts at once, later ones as often as the machine bears."""

    def __init__(
        self,
        view: View,
        machine: Machine,
        node_name: str,
        *,
        mode: str = "iptables",
        cluster_cidr: str = "",
        shared: SharedCompute | None = None,
        min_period: float = 0.03,
        check_period: float = 30.0,
        node_port_addresses: tuple[str, ...] | None = None,
        service_cidrs: tuple[str, ...] = (),
    ) -> None:
        self._view, self._machine, self._node, self._mode = view, machine, node_name, mode
        self._shared = shared or SharedCompute(view)
        self._shared.loops += 1
        self._period, self._check_period = min_period, check_period
        writer: Any = (
            IptablesWriter(
                machine,
                iptables.Options(
                    cluster_cidr,
                    localhost_node_ports=node_port_addresses is None,
                    node_port_addresses=node_port_addresses,
                ),
            )
            if mode == "iptables"
            else NftablesWriter(machine, nftables.Options(cluster_cidr, node_port_addresses, service_cidrs))
        )
        self._writer: Writer[P] = writer
        self._pieces: dict[Key, P] = {}
        self._dirty: set[Key] = set()
        self._awake = asyncio.Event()
        self._running: asyncio.Task[Any] | None = None
        self._busy = asyncio.Lock()
        self._other: IptablesWriter | NftablesWriter = (
            NftablesWriter(machine, nftables.Options())
            if mode == "iptables"
            else IptablesWriter(machine, iptables.Options())
        )
        self.synced = 0

    def _on_event(self, event: Event) -> None:
        if keys := services_of(event):
            self._dirty |= keys
            self._awake.set()
        elif event.kind is kinds.NODE and event.key.name == self._node and _place(event.old) != _place(event.new):
            self._dirty |= set(self._view.services)
            self._awake.set()

    async def run(self) -> None:
        """Until cancelled or stopped. A failed sync is tried again, in full, after a pause. Start it when the View is complete."""
        self._running = asyncio.current_task()
        unsubscribe = self._view.subscribe(self._on_event)
        self._awake.set()
        delay = 0.5
        try:
            while True:
                quiet = await self._nothing_happens()
                self._awake.clear()
                try:
                    async with self._shared.turn, self._busy:
                        if quiet and not await self._writer.intact():
                            self._start_over("somebody has taken our rules away")
                        await self._sync()
                    delay = 0.5
                except GlassnetError as error:
                    self._start_over(str(error))
                    self._awake.set()
                    await asyncio.sleep(delay)
                    delay = min(30.0, delay * 2)
                await asyncio.sleep(self._period * max(1.0, self._shared.loops / 3))
        finally:
            unsubscribe()

    async def _nothing_happens(self) -> bool:
        """Wait for an event, or for the time to look whether our rules are still there: True when it was the time."""
        try:
            await asyncio.wait_for(self._awake.wait(), self._check_period)
        except TimeoutError:
            return True
        return False

    def _start_over(self, reason: str) -> None:
        """The next sync writes everything anew."""
        log.error("proxy of %s: %s", self._node, reason)
        self._dirty |= {*self._view.services, *self._pieces}
        self._pieces.clear()
        self._writer.forget()

    async def _sync(self) -> None:
        dirty, self._dirty = self._dirty, set()
        changed: dict[Key, P | None] = {}
        for key in dirty:
            piece = self._shared.piece(key, self._node, self._mode, self._writer.spell)
            if piece != self._pieces.get(key):
                changed[key] = piece
        if changed or not self.synced:
            await self._write(changed)
        await self._forget_udp(dirty)

    async def _write(self, changed: dict[Key, P | None]) -> None:
        wanted = {**self._pieces, **{key: piece for key, piece in changed.items() if piece is not None}}
        for key, piece in changed.items():
            if piece is None:
                wanted.pop(key, None)
        await self._writer.write(changed, wanted)
        self._pieces = wanted
        if not self.synced:
            await self._sweep_other()
        self.synced += 1

    async def _sweep_other(self) -> None:
        """Take away what the other mode left; after our own rules are in place, so that no connection finds none."""
        try:
            await self._other.sweep()
        except GlassnetError as error:
            log.warning("proxy of %s: rules of the other mode, if any, stay: %s", self._node, error)

    async def _forget_udp(self, keys: Iterable[Key]) -> None:
        """Drop conntrack entries of UDP traffic that still goes to endpoints that have gone; after the rules are in place."""
        ports = []
        for key in keys:
            if service := self._view.services.get(key):
                ports += conntrack.udp_ports(service, self._view.slices_of(key))
        if not ports:
            return
        try:
            listing = (await self._machine.run(["conntrack", "-L", "-p", "udp"])).decode()
        except GlassnetError as error:
            log.warning("proxy of %s: %s", self._node, error)
            return
        for flow in conntrack.stale(listing, ports):
            with contextlib.suppress(GlassnetError):  # it expired meanwhile
                await self._machine.run(["conntrack", "-D", *flow.words()])

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
        await self._writer.sweep()


def _place(node: Node | None) -> tuple[str, tuple[str, ...]]:
    """What of a Node object rules depend on: its zone and its addresses."""
    return (node.metadata.labels.get(ZONE, ""), node.internal_ips()) if node else ("", ())
