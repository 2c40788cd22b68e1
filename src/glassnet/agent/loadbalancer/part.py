"""A node's load balancer: what is to be announced, out of the View, to the speaker on its links and to BIRD."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from glassnet.agent.loadbalancer.bird import BirdServer
from glassnet.agent.loadbalancer.handover import Handover
from glassnet.agent.loadbalancer.source import PoolsSource
from glassnet.agent.loadbalancer.speaker import Speaker, Told
from glassnet.kernel.host import HostMachine
from glassnet.kernel.machine import LabMachine
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.types import Node
from glassnet.kube.view import SERVICE_NAME_LABEL, Event, Key, View
from glassnet.loadbalancer import announce, bird
from glassnet.loadbalancer.announce import Announcements, Vip
from glassnet.loadbalancer.bird import Site
from glassnet.loadbalancer.heartbeat import LoadBalancerSettings
from glassnet.loadbalancer.neighbour import mac_text
from glassnet.loadbalancer.pools import Bgp, Pools
from glassnet.loadbalancer.status import SOURCE, record
from glassnet.net import address

log = logging.getLogger(__name__)


class LoadBalancerPart:
    """One node's. `run` it when the View has Services, EndpointSlices and Nodes whole; `drain` it, then cancel `run`."""

    def __init__(
        self,
        view: View,
        machine: HostMachine | LabMachine,
        node: str,
        settings: LoadBalancerSettings,
        report: Callable[[Record], None],
    ) -> None:
        self._view, self._machine, self._node, self._report = view, machine, node, report
        self._settings = settings
        self._announcements = Announcements()
        self._dirty: set[Key] = set()
        self._nodes_changed = True
        self._ask: set[str] = set()
        self._awake = asyncio.Event()
        self.source = PoolsSource(view, settings.namespace, settings.file, report, self._on_pools)
        self.speaker = Speaker(
            machine.netns,
            node,
            port=settings.port,
            key=settings.key,
            links=settings.links,
            tell=self._told,
            moved=self._moved,
            split=self._was_split,
        )
        self.handover = Handover(machine, self._address_of, self._macs, self._link)
        self.bird: BirdServer | None = None
        self._bird_task: asyncio.Task[None] | None = None
        self._by_bgp: set[str] = set()
        self._draining = False
        self._problems: set[str] = set()
        self.first_sync = asyncio.Event()

    @property
    def problems(self) -> list[str]:
        """What is wrong, for health."""
        found = [self.source.fault, self.speaker.problem if self._announcements.vips() else "", self.handover.problem]
        return [each for each in (*found, *sorted(self._problems), self.bird.problem if self.bird else "") if each]

    @property
    def announced(self) -> list[str]:
        """The addresses that this node announces, by ARP and neighbour discovery or by BGP."""
        return sorted({*self.speaker.held(), *self._by_bgp})

    # -- life

    async def run(self) -> None:
        """Until cancelled; then nothing is announced from here."""
        unsubscribe = self._view.subscribe(self._on_event, replay=False)
        self._dirty.update(self._view.services)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.source.run())
                group.create_task(self.handover.run())
                self._awake.set()
                await asyncio.sleep(0)
                self._turn()  # the speaker begins with all it has to know
                self.speaker.open()
                await self.handover.write()  # before the first packet of somebody else's connection comes
                group.create_task(self.speaker.run())
                while True:
                    await self._awake.wait()
                    self._awake.clear()
                    self._turn()
        finally:
            unsubscribe()
            self.speaker.close()
            if self._bird_task is not None:
                self._bird_task.cancel()
                await asyncio.gather(self._bird_task, return_exceptions=True)

    async def drain(self) -> None:
        """Have others announce what is announced here, before it ends."""
        self._draining = True
        if self.bird is not None and self.bird.answering and (bgp := self._bgp()) is not None:
            await self.bird.withdraw(self._conf(bgp, set()))
        await self.speaker.drain()

    # -- what comes in

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.SERVICE:
            self._dirty.add(event.key)
        elif event.kind is kinds.ENDPOINT_SLICE:
            obj = event.new or event.old
            self._dirty.add(Key(event.key.namespace, obj.metadata.labels.get(SERVICE_NAME_LABEL, "")))
        elif event.kind is kinds.NODE:
            self._nodes_changed = True
        else:
            return
        self._awake.set()

    def _on_pools(self) -> None:
        assert self.source.pools is not None
        self._ask |= self._announcements.configure(self.source.pools)
        self._nodes_changed = True
        self._awake.set()

    def _turn(self) -> None:
        """Take in what has changed."""
        if self.source.pools is None:
            return
        if self._nodes_changed:
            self._nodes_changed = False
            self._take_nodes()
        for key in self._dirty:
            self._ask |= self._announcements.put_service(key, self._view.services.get(key), self._view)
        self._dirty.clear()
        changes: dict[str, Vip | None] = {ip: self._announcements.vip(ip) for ip in self._ask}
        self._ask.clear()
        self.speaker.set_vips(changes)
        for ip, vip in changes.items():
            if vip is not None and vip.bgp and self._node in vip.nodes:
                self._by_bgp.add(ip)
            else:
                self._by_bgp.discard(ip)
        self._configure_bird()
        self.first_sync.set()

    def _take_nodes(self) -> None:
        names = {key.name for key in self._view.nodes}
        for name in names | self._announcements.speakers.keys():
            node = self._view.nodes.get(Key("", name))
            self._ask |= self._announcements.put_node(name, announce.speaker(node) if node is not None else None)
        ips = {node.metadata.name: _ips(node) for node in self._view.nodes.values()}
        own = ips.pop(self._node, ())
        wanted = self.source.pools is not None and any(pool.by_l2 for pool in self.source.pools.pools)
        self.speaker.set_peers(own, ips if wanted else {})

    # -- BGP

    def _bgp(self) -> Bgp | None:
        found: Pools | None = self.source.pools
        return found.bgp if found is not None else None

    def _site(self) -> Site:
        node = self._view.nodes.get(Key("", self._node))
        if node is None:
            return Site(self._node, "", "", {})
        ips = _ips(node)
        v4, v6 = (next((ip for ip in ips if address.family(ip) == family), "") for family in (address.IPV4, address.IPV6))  # fmt: skip
        cidrs = node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
        return Site(self._node, v4, v6, node.metadata.labels, cidrs)

    def _configure_bird(self) -> None:
        bgp, site = self._bgp(), self._site()
        peers = bird.peers(bgp, site) if bgp is not None else []
        if bgp is None or not peers:
            self._problems.clear()
            if self._bird_task is not None:
                self._bird_task.cancel()
                self.bird = self._bird_task = None
            return
        found = set(bird.problems(bgp, site))
        for text in found - self._problems:
            self._about_node("BGPImpossible", text)
        self._problems = found
        if self.bird is None:
            self.bird = BirdServer(self._machine, self._about_node, self._settings.bird)
        self.bird.set(self._conf(bgp, set() if self._draining else self._by_bgp))
        if self._bird_task is None:
            self._bird_task = asyncio.create_task(self.bird.run())

    def _conf(self, bgp: Bgp, vips: set[str]) -> str:
        passwords = {}
        for peer in bgp.peers:
            if peer.password_file:
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    passwords[peer.name] = Path(peer.password_file).read_text().strip()
        return bird.render(bgp, self._site(), vips, passwords)

    # -- what is told

    def _told(self, told: Told) -> None:
        if told.conflict is None:
            kind, reason, text = (
                "Normal",
                "Announced",
                f"{told.ip} is announced by node {self._node} on link {told.link}",
            )
        else:
            mac = mac_text(told.conflict.mac)
            who = f"node {told.whose}, of which no sign of life comes through (UDP port {self._settings.port} between nodes)" if told.whose and self.speaker.members.silent(told.whose) else f"node {told.whose}" if told.whose else "no node that was heard of"  # fmt: skip
            held = (
                f"node {self._node} answers, too" if told.conflict.held else f"node {self._node} leaves it to that one"
            )
            kind, reason = "Warning", "AddressConflict"
            text = f"{told.ip} is answered for by {mac} ({who}) on link {told.link} of node {self._node}; {held}"
            log.warning("%s", text)
        for key in self._announcements.services(told.ip):
            if (service := self._view.services.get(key)) is not None:
                self._report(record(service.metadata, kind, reason, text))

    def _was_split(self, node: str, seconds: float) -> None:
        text = f"node {node} was not heard for {seconds:.1f} s and lived all the while: both may have answered for the same addresses; from now on one does. See what kept UDP port {self._settings.port}, or the link, between {self._node} and {node}"  # fmt: skip
        log.warning("%s", text)
        self._about_node("NodesSplit", text)

    def _about_node(self, reason: str, text: str) -> None:
        kind = "Normal" if reason == "BGPSessionUp" else "Warning"
        about = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self._node}
        self._report(Record(about, kind, reason, text[:1024], SOURCE))

    # -- for those that take over

    def _moved(self, ip: str, node: str) -> None:
        self.handover.set(ip, node)

    def _address_of(self, name: str, v6: bool) -> str:
        node = self._view.nodes.get(Key("", name))
        return next((ip for ip in _ips(node) if (":" in ip) == v6), "") if node is not None else ""

    def _macs(self) -> set[str]:
        return {mac_text(mac) for mac in self.speaker.members.macs()}

    def _link(self) -> str:
        return self.speaker.first_link()


def _ips(node: Node) -> tuple[str, ...]:
    return tuple(filter(None, map(address.canonical, node.internal_ips())))
