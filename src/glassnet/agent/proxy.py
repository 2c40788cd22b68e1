"""The Service proxy of one node: events in, transactions out, as few and as small as they can be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from glassnet.agent.proxy_writers import IptablesWriter, NftablesWriter
from glassnet.kernel.api import Machine
from glassnet.kube import kinds
from glassnet.kube.types import Service
from glassnet.kube.view import SERVICE_NAME_LABEL, Event, Key, View
from glassnet.net.errors import GlassnetError
from glassnet.proxy import compute
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
        if (key := service_of(event)) is not None:
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


def service_of(event: Event) -> Key | None:
    """The Service an event concerns."""
    if event.kind is kinds.SERVICE:
        return event.key
    if event.kind is kinds.ENDPOINT_SLICE:
        name = (event.new or event.old).metadata.labels.get(SERVICE_NAME_LABEL)
        return Key(event.key.namespace, name) if name else None
    return None


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
        node_port_addresses: tuple[str, ...] | None = None,
        service_cidrs: tuple[str, ...] = (),
    ) -> None:
        self._view, self._machine, self._node, self._mode = view, machine, node_name, mode
        self._shared = shared or SharedCompute(view)
        self._shared.loops += 1
        self._period = min_period
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
        self.synced = 0

    def _on_event(self, event: Event) -> None:
        if (key := service_of(event)) is not None:
            self._dirty.add(key)
            self._awake.set()
        elif (
            event.kind is kinds.NODE
            and event.key.name == self._node
            and event.old is not None
            and event.old.metadata.labels != event.new.metadata.labels
        ):
            self._dirty |= set(self._view.services)
            self._awake.set()

    async def run(self) -> None:
        """Until cancelled. A failed sync is tried again, in full, after a pause."""
        unsubscribe = self._view.subscribe(self._on_event)
        self._awake.set()
        delay = 0.5
        try:
            while True:
                await self._awake.wait()
                self._awake.clear()
                try:
                    async with self._shared.turn:
                        await self._sync()
                    delay = 0.5
                except GlassnetError as error:
                    log.error("proxy of %s: %s", self._node, error)
                    self._dirty |= {*self._view.services, *self._pieces}
                    self._pieces.clear()
                    self._writer.forget()
                    self._awake.set()
                    await asyncio.sleep(delay)
                    delay = min(30.0, delay * 2)
                await asyncio.sleep(self._period * max(1.0, self._shared.loops / 3))
        finally:
            unsubscribe()

    async def _sync(self) -> None:
        dirty, self._dirty = self._dirty, set()
        changed: dict[Key, P | None] = {}
        for key in dirty:
            piece = self._shared.piece(key, self._node, self._mode, self._writer.spell)
            if piece != self._pieces.get(key):
                changed[key] = piece
        if not changed and self.synced:
            return
        wanted = {**self._pieces, **{key: piece for key, piece in changed.items() if piece is not None}}
        for key, piece in changed.items():
            if piece is None:
                wanted.pop(key, None)
        await self._writer.write(changed, wanted)
        self._pieces = wanted
        self.synced += 1
        await self._forget_udp(changed)

    async def _forget_udp(self, changed: Iterable[Key]) -> None:
        """Drop conntrack entries of UDP traffic that still goes to endpoints that have gone; after the rules are in place."""
        for key in changed:
            service = self._view.services.get(key)
            if service is None or service.spec.cluster_ip in ("", "None"):
                continue
            serving = {
                e.addresses[0]
                for s in self._view.slices_of(key)
                for e in s.endpoints
                if e.addresses and e.conditions.serving is not False
            }
            for port in service.spec.ports:
                if port.protocol == "UDP":
                    await self._forget_flows(service.spec.cluster_ip, port.port, serving)

    async def _forget_flows(self, address: str, port: int, serving: set[str]) -> None:
        listing = ["conntrack", "-L", "-p", "udp", "--orig-dst", address, "--orig-port-dst", str(port)]
        try:
            lines = (await self._machine.run(listing)).decode().splitlines()
        except GlassnetError as error:
            log.warning("proxy of %s: %s", self._node, error)
            return
        for line in lines:
            sources = [word[4:] for word in line.split() if word.startswith("src=")]
            ports = [word[6:] for word in line.split() if word.startswith("sport=")]
            if len(sources) > 1 and sources[1] not in serving:
                gone = [
                    "conntrack",
                    "-D",
                    "-p",
                    "udp",
                    "--orig-src",
                    sources[0],
                    "--orig-dst",
                    address,
                    "--orig-port-src",
                    ports[0],
                    "--orig-port-dst",
                    str(port),
                ]
                try:
                    await self._machine.run(gone)
                except GlassnetError:
                    continue  # it expired meanwhile

    async def sweep(self) -> None:
        """Take our rules away."""
        await self._writer.sweep()
