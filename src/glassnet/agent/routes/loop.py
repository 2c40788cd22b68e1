"""The pod CIDRs of the other nodes, on one node: follows Nodes, the node's own links and addresses, and what others do to our routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from glassnet.agent.routes.link import TunnelLink
from glassnet.agent.routes.table import RouteTable
from glassnet.kernel.api import NetNs
from glassnet.kernel.network_state import list_routes
from glassnet.kernel.route_state import list_protocol, own_addresses
from glassnet.kernel.route_watch import Noticed, RouteWatch
from glassnet.kernel.sysctl import read_sysctl, write_sysctls
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.types import Node
from glassnet.kube.view import Event, View
from glassnet.kube.view import Key as ObjectKey
from glassnet.net.errors import KernelError
from glassnet.netstack.model import OwnAddress
from glassnet.routes import mtu
from glassnet.routes.compute import Mesh, Tunnelled, Ways
from glassnet.routes.model import Problem, RoutesSettings, check, peer_of
from glassnet.routes.plan import ROUTE, Key, entries, removal
from glassnet.routes.vpc import PROTOCOL

log = logging.getLogger(__name__)
AT_ONCE = 256  # Nodes, and entries, taken in before others of this loop have their turn
PAUSE = 0.2  # seconds at least between two looks at the node's own links
AGAIN, LATEST = 1.0, 60.0  # seconds until a look that found something wrong is repeated: the first time, and at last
SOURCE = "glassnet-routes"
_FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


class NodeRoutes:
    """Routes from the node `node`, whose network namespace is `netns`, to the pods of all others in `view`.

    Raises UsageError for settings that are off. `report` is told what is wrong, as Events. `problems` says by name of a Node why there is no
    route to (some of) its pods, or why the others have none here (this node's own name). `pod_mtu` (bytes) is known after `first_sync`.
    """

    def __init__(
        self,
        view: View,
        netns: NetNs,
        node: str,
        settings: RoutesSettings,
        *,
        report: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self._view, self._netns, self._here, self._report = view, netns, node, report
        self._settings = check(settings)
        self._mesh = Mesh(node, self._settings)
        self._table = RouteTable(netns)
        self._link = TunnelLink(netns, self._settings)
        self._keys: dict[str, tuple[Key, ...]] = {}
        self._owner: dict[Key, str] = {}
        self._reasons: dict[str, tuple[Problem, ...]] = {}
        self._dirty: dict[str, None] = {}
        self._local: dict[str, str] = {}  # problems of this node with others, to be told together
        self._trouble: tuple[Problem, ...] = ()  # this node's own, apart from its Node object
        self._states: dict[int, tuple[bool, int]] = {}  # of links: up, MTU
        self._look_at, self._looked = 0.0, 0.0  # when the own links are to be read (0: no need), when they were last
        self._failed = 0  # looks in a row that found something wrong
        self._awake = asyncio.Event()
        self.first_sync = asyncio.Event()
        self.problems: dict[str, str] = {}
        self.pod_mtu = 0

    @property
    def routes(self) -> int:
        """How many routes to pod CIDRs are programmed as they should be."""
        wanted = self._table.wanted
        return sum(1 for key, entry in self._table.there.items() if key[0] == ROUTE and wanted.get(key) == entry)

    # -- the loop

    async def run(self) -> None:
        """Until cancelled; the routes stay. Start it when all Nodes are in the view. Raises KernelError when the kernel tells nothing."""
        watch = RouteWatch(self._netns, PROTOCOL)
        loop = asyncio.get_running_loop()
        unsubscribe = self._view.subscribe(self._on_event, replay=False)
        try:
            loop.add_reader(watch.fileno(), self._on_notices, watch)
            self._link.watch = watch
            await self._take_in(tuple(self._view.nodes))
            self._look_at = time.monotonic()
            while True:
                await self._turn()
        finally:
            unsubscribe()
            loop.remove_reader(watch.fileno())
            self._link.watch = None
            watch.close()

    async def _take_in(self, keys: Sequence[ObjectKey]) -> None:
        """The Nodes that there are; others of this loop have their turn meanwhile."""
        for number, key in enumerate(keys, 1):
            if (node := self._view.nodes.get(key)) is not None:
                self._dirty.update(dict.fromkeys(self._mesh.put(peer_of(node))))
            if not number % AT_ONCE:
                await asyncio.sleep(0)

    async def _turn(self) -> None:
        """Do a part of what is to be done, or wait for something."""
        self._awake.clear()
        known = ObjectKey("", self._here) in self._view.nodes
        if not known:  # an API that has lost its Nodes empties no node
            self._say(self._here, (Problem("NoNode", f"Node {self._here} is not in the API: nothing changes here"),))
        elif self._look_at and self._look_at <= time.monotonic():
            self._look()
        if not self._looked:
            await self._sleep(known)
            return
        if known:
            self._compute([name for name, _ in zip(self._dirty, range(AT_ONCE), strict=False)])
        self._name_refused(self._table.push(AT_ONCE))
        if (known and self._dirty) or self._table.due() == 0:
            await asyncio.sleep(0)
            return
        self._tell_local()
        if known and not self.first_sync.is_set():
            self._settle()
        await self._sleep(known)

    async def _sleep(self, known: bool) -> None:
        waits = [self._table.due()] if self._looked else []
        if known and self._look_at:
            waits.append(max(0.0, self._look_at - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min((each for each in waits if each is not None), default=None)):
                await self._awake.wait()

    def _settle(self) -> None:
        """All that is wanted has been seen to once: now what nobody wants may go."""
        self._table.audit()
        while self._table.due() == 0:
            self._name_refused(self._table.push(AT_ONCE))
        if self._settings.mode == "direct":
            self._link.remove()
        self.first_sync.set()
        log.info("%d routes to pods of other nodes; MTU of pods %d", self.routes, self.pod_mtu)

    # -- what comes in

    def _on_event(self, event: Event) -> None:
        if event.kind is not kinds.NODE:
            return
        if event.old is not None and event.new is not None and _same(event.old, event.new):
            return  # a heartbeat: every node sends them
        touched = self._mesh.remove(event.key.name) if event.new is None else self._mesh.put(peer_of(event.new))
        if not touched:
            return
        self._dirty.update(dict.fromkeys(touched))
        if event.key.name == self._here:
            self._look_at = self._look_at or time.monotonic()
        self._awake.set()

    def _on_notices(self, watch: RouteWatch) -> None:
        try:
            noticed = watch.drain()
        except KernelError as error:
            log.warning("%s; all is looked at anew", error)
            noticed = Noticed(lost=True)
        self._table.lost(noticed.routes)
        self._table.lost(noticed.neighbours)
        look = noticed.addresses or noticed.lost
        for index, up, size in noticed.links:
            if index in self._states and self._states[index] != (up, size):
                self._states[index] = (up, size)
                look = True
        if look and not self._look_at:
            self._look_at = max(time.monotonic(), self._looked + PAUSE)
        if look or self._table.due() is not None:  # how long to sleep may be another matter now
            self._awake.set()

    # -- this node

    def _look(self) -> None:
        """Read this node's own links; set up forwarding and the tunnel's link; see what of ours is in the kernel."""
        self._look_at, self._looked = 0.0, time.monotonic()
        try:
            own = own_addresses(self._netns, self._settings.link)
            self._dirty.update(dict.fromkeys(self._mesh.own(own)))
            size = self._mesh.link_mtu() or self._default_mtu(own)
            self.pod_mtu = self._settings.mtu or self._mesh.fitting_mtu(size)
            trouble = [*self._forward(own), *self._sizes(size)]
            usable = self._link.usable
            if self._settings.mode != "direct" or not self.first_sync.is_set():
                trouble += self._link.ensure(self._mesh, self.pod_mtu)
            if usable != self._link.usable or not self._keys:
                self._dirty.update(dict.fromkeys(self._mesh.names()))
            self._states = {one.index: (True, one.mtu) for one in own}
            if self._link.state is not None:
                self._states[self._link.state.index] = (self._link.state.up, self._link.state.mtu)
            self._table.load(self._link.state)
        except KernelError as error:
            log.warning("%s; tried again", error)
            trouble = [Problem("NoRoutes", str(error), local=True)]
        if trouble:
            self._look_at = time.monotonic() + min(AGAIN * 2**self._failed, LATEST)
        self._failed = self._failed + 1 if trouble else 0
        self._trouble = tuple(trouble)
        self._dirty[self._here] = None
        if self.first_sync.is_set():
            self._table.retry()
            self._table.audit()

    def _default_mtu(self, own: Iterable[OwnAddress]) -> int:
        """The MTU of the link that the default route leaves by: the Node's addresses are on no link of this machine."""
        ways = [route for route in list_routes(self._netns) if route.length == 0 and route.hops]
        devs = {one.dev: one.mtu for one in own}
        for route in sorted(ways, key=lambda one: (one.bits, one.metric)):
            if route.hops[0].dev in devs:
                return devs[route.hops[0].dev]
        return mtu.DEFAULT

    def _forward(self, own: Iterable[OwnAddress]) -> list[Problem]:
        """Let the node forward the families of its pods, if it does not yet."""
        trouble = []
        for family in sorted({6 if ":" in cidr else 4 for cidr in self._mesh.cidrs}):
            name = _FORWARDING[family]
            try:
                with self._netns.entered():
                    if read_sysctl(name) != "0":
                        continue
                    if family == 6:
                        _keep_listening_to_routers({one.dev for one in own})
                    write_sysctls({name: 1})
            except KernelError as error:
                trouble.append(Problem("NoForwarding", f"{error}: pods reach no other node; sysctl -w {name}=1"))
        return trouble

    def _sizes(self, link: int) -> list[Problem]:
        """Is the MTU of pods too small for their addresses, or larger than what a link of MTU `link` lets through?"""
        least = mtu.LEAST_IPV6 if any(":" in cidr for cidr in self._mesh.cidrs) else mtu.LEAST_IPV4
        most = self._mesh.fitting_mtu(link)
        if self.pod_mtu < least:
            return [
                Problem("SmallMTU", f"pods' MTU is {self.pod_mtu}, their addresses need {least} at least", local=True)
            ]
        if self.pod_mtu > most:
            return [
                Problem(
                    "LargeMTU", f"mtu {self.pod_mtu} is set for pods, the node's links let {most} through", local=True
                )
            ]
        return []

    # -- Nodes

    def _compute(self, names: list[str]) -> None:
        """Work out what is wanted for some Nodes."""
        fresh, gone = {}, []
        for name in names:
            del self._dirty[name]
            ways = self._usable(self._mesh.ways(name))
            new = entries(ways, self._settings.link)
            gone += [key for key in self._keys.get(name, ()) if key not in new and self._owner.get(key) == name]
            for key in new:
                self._owner[key] = name
            fresh.update(new)
            if new:
                self._keys[name] = tuple(new)
            else:
                self._keys.pop(name, None)
            self._say(name, (*ways.problems, *(self._trouble if name == self._here else ())))
        left = [key for key in gone if key not in fresh]
        for key in left:
            del self._owner[key]
        self._table.want(fresh, left)

    def _usable(self, ways: Ways) -> Ways:
        """Without tunnels, while there is no link for them."""
        if self._link.usable or not any(isinstance(hop, Tunnelled) for hop in ways.hops):
            return ways
        hops = tuple(hop for hop in ways.hops if not isinstance(hop, Tunnelled))
        return Ways(hops, (*ways.problems, Problem("NoVXLAN", f"no VXLAN link here: {self._link.why}", local=True)))

    # -- what is wrong

    def _name_refused(self, keys: Iterable[Key]) -> None:
        for name in {self._owner[key] for key in keys if key in self._owner}:
            self._write(name)
            for key in self._keys.get(name, ()):
                if key in self._table.refused:
                    self._local[name] = self._table.refused[key]

    def _say(self, name: str, problems: tuple[Problem, ...]) -> None:
        """Take down what is wrong with a Node; what is new is told as an Event, by those whom it concerns alone."""
        old = self._reasons.get(name, ())
        if problems:
            self._reasons[name] = problems
        else:
            self._reasons.pop(name, None)
        self._write(name)
        for problem in problems:
            if problem in old:
                continue
            log.warning("Node %s: %s", name, problem.text)
            if name == self._here or problem.other == self._here:
                self._record(name, problem.reason, problem.text)
            elif problem.local:
                self._local[name] = problem.text

    def _write(self, name: str) -> None:
        texts = [problem.text for problem in self._reasons.get(name, ())]
        texts += [self._table.refused[key] for key in self._keys.get(name, ()) if key in self._table.refused]
        if texts:
            self.problems[name] = "; ".join(texts)
        else:
            self.problems.pop(name, None)

    def _tell_local(self) -> None:
        """One Event for all Nodes that this node has no route to for reasons of its own."""
        told = {name: text for name, text in self._local.items() if name in self.problems}
        self._local.clear()
        if not told:
            return
        name, text = next(iter(told.items()))
        more = f" (and to those of {len(told) - 1} Nodes more)" if len(told) > 1 else ""
        self._record(self._here, "NoRoute", f"no route to the pods of Node {name}{more}: {text}")

    def _record(self, name: str, reason: str, text: str) -> None:
        node = self._view.nodes.get(ObjectKey("", name))
        about = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid if node else ""}
        self._report(Record(about, "Warning", reason, text[:1024], SOURCE))

    # -- the end

    async def sweep(self) -> None:
        """Take away all that is ours and nothing else: routes of our protocol number, the VXLAN link with our mark. Not beside `run`.

        Raises KernelError for what the kernel would not let go of.
        """
        ours = [removal(route) for route in list_protocol(self._netns, PROTOCOL)]
        for begin in range(0, len(ours), AT_ONCE):
            for error in self._netns.attempt(ours[begin : begin + AT_ONCE]).values():
                raise error
            await asyncio.sleep(0)
        self._link.remove()
        self._table.there.clear()


def _same(old: Node, new: Node) -> bool:
    return (
        old.spec.pod_cidrs == new.spec.pod_cidrs
        and old.spec.pod_cidr == new.spec.pod_cidr
        and old.status.addresses == new.status.addresses
        and old.metadata.creation_timestamp == new.metadata.creation_timestamp
    )


def _keep_listening_to_routers(devs: Iterable[str]) -> None:
    """A machine that forwards IPv6 hears no Router Advertisements unless told to: it would lose its default route (ip-sysctl, accept_ra)."""
    for dev in devs:
        name = f"net.ipv6.conf.{dev.replace('.', '/')}.accept_ra"
        if read_sysctl(name) == "1":
            write_sysctls({name: 2})
