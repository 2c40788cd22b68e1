"""One IP family of a node's proxy: from changed Services to what a writer gets, and what is computed once for several nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from glassnet.agent.proxy.writers import Ports, Writer
from glassnet.kernel.conntrack import Conntrack
from glassnet.kube import kinds
from glassnet.kube.types import Service
from glassnet.kube.view import SERVICE_NAME_LABEL, Event, Key, View
from glassnet.proxy import compute, conntrack
from glassnet.proxy.claims import Claims, Entry
from glassnet.proxy.model import NodeFacts, Rules


class Lost(NamedTuple):
    """An address a Service asked for and does not get, and the Service that has it."""

    key: Key
    entry: Entry
    holder: Key


class SharedCompute:
    """What several nodes' proxies have in common: Services that are the same on every node are decided once."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.turn = asyncio.Semaphore(2)  # as many writers at a time as a small machine has processors
        self.loops = 0
        self._cache: dict[tuple[Key, str], Ports] = {}
        view.subscribe(self._on_event, replay=False)

    def _on_event(self, event: Event) -> None:
        if not self._cache:
            return
        names = {event.key.name} if event.kind is kinds.SERVICE else set()
        if event.kind is kinds.ENDPOINT_SLICE:
            pieces = (event.old, event.new)
            names = {p.metadata.labels.get(SERVICE_NAME_LABEL, "") for p in pieces if p is not None}
        for name in names:
            for family in ("IPv4", "IPv6"):
                self._cache.pop((Key(event.key.namespace, name), family), None)

    def ports(self, key: Key, family: str, node: NodeFacts, mode: str) -> Ports:
        """The ports of a Service as a node must treat them; none when it is gone. (For nftables it matters which endpoints are local.)"""
        service: Service | None = self.view.services.get(key)
        if service is None:
            return ()
        slices = self.view.slices_of(key)
        if self.loops < 2 or mode == "nftables" or compute.depends_on_node(service, slices):
            return compute.service_ports(service, slices, node, family)
        found = self._cache.get((key, family))
        if found is None:
            found = self._cache[key, family] = compute.service_ports(service, slices, compute.ANYWHERE, family)
        return found


class FamilyProxy:
    """What one family of a node's proxy remembers."""

    def __init__(self, name: str, rules: Rules, writer: Writer) -> None:
        self.name, self.rules, self.writer = name, rules, writer
        self.asked: dict[Key, Ports] = {}
        self._claims = Claims()
        self._udp: dict[Key, tuple[conntrack.UdpPort, ...]] = {}

    async def adopt(self, rules: Rules) -> None:
        """Take in what holds for the whole node. Raises KernelError."""
        if rules != self.rules:
            self.rules = rules
            await self.writer.adopt(rules)

    async def write(
        self, view: View, shared: SharedCompute, node: NodeFacts, dirty: Iterable[Key], mode: str
    ) -> list[Lost]:
        """Bring the kernel to what the View says of some Services; the addresses that were asked for in vain. Raises KernelError."""
        changed: dict[Key, Ports] = {}
        touched: set[Key] = set()
        for key in dirty:
            new, old = shared.ports(key, self.name, node, mode), self.asked.get(key, ())
            service = view.services.get(key)
            made = service.metadata.creation_timestamp if service else None
            touched |= self._claims.update(key, made.isoformat() if made else "", old, new)
            if new:
                self.asked[key] = new
            else:
                self.asked.pop(key, None)
            changed[key] = new
        for key in touched:
            changed[key] = self.asked.get(key, ())
        lost: list[Lost] = []
        for key, ports in changed.items():
            changed[key], without = self._claims.granted(key, ports)
            lost += [Lost(key, entry, holder) for entry, holder in without]
        await self.writer.write({key: ports or None for key, ports in changed.items()})
        return lost

    def forget_udp(
        self, view: View, keys: Iterable[Key], table: Conntrack, node_addresses: tuple[str, ...]
    ) -> int | None:
        """End UDP flows that lead where no endpoint is, of Services whose endpoints changed; how many, or None when there was no need to look."""
        suspects: list[conntrack.UdpPort] = []
        for key in keys:
            service = view.services.get(key)
            now = conntrack.udp_ports(service, view.slices_of(key), self.name) if service else ()
            before = self._udp.pop(key, ())
            if now:
                self._udp[key] = now
            if now != before:
                places = {place for port in now for place in port.addresses}
                gone = (port._replace(addresses=port.addresses - places, serving=frozenset()) for port in before)
                numbers = {port.node_port for port in now}
                suspects += [port._replace(node_port=0) if port.node_port in numbers else port for port in gone]
                suspects += now
        if not suspects:
            return None
        return table.delete(conntrack.stale(table.udp(self.name), suspects, node_addresses))
