"""The lab's cloud as a load balancer: gives Services of type LoadBalancer addresses, asks nodes how they are, and has its machine's kernel do the rest."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from glassnet.agent.changes import Writer
from glassnet.agent.workqueue import WorkQueue
from glassnet.client.rest import RestApi
from glassnet.kernel.api import Host, NetNs
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.narrow import EXCLUDED
from glassnet.kube.types import Service
from glassnet.kube.view import Event, Key, View
from glassnet.lab.addons.cloud_probes import Prober
from glassnet.lab.addons.cloud_tables import Edge
from glassnet.loadbalancer import pools, request
from glassnet.loadbalancer.assign import Allocator
from glassnet.loadbalancer.edge import model, status
from glassnet.loadbalancer.edge.behaviour import KINDS, Probing, behaviour, fault, usual
from glassnet.loadbalancer.edge.health import SHARED, Question, faster
from glassnet.loadbalancer.edge.model import Front, PoolKey, Site, Target
from glassnet.net.errors import ApiError, GlassnetError

log = logging.getLogger(__name__)
WRITERS = 8  # requests in flight
MOST_TOLD = 5000  # Events that may wait
AGAIN = 1.0  # seconds until refused rules are tried again
_LEAVING = "ToBeDeletedByClusterAutoscaler"  # taint of a node that is about to go (KEP-3836)


class Served(NamedTuple):
    """A Service as the load balancer serves it."""

    fronts: tuple[Front, ...]
    key: PoolKey


class Place(NamedTuple):
    """Where it is done: the load balancer's machine and the router, the workers as it numbers them, its kind and addresses, how fast time
    goes, which ranges are outside the VPC."""

    own: Host
    netns: NetNs
    router: Host
    nodes: tuple[Target, ...]
    kind: str
    addresses: tuple[str, ...]
    speed: int = 1
    outside: tuple[str, ...] = ()


class Cloud:
    """One load balancer over a View with its first complete lists of Services, Nodes and EndpointSlices."""

    def __init__(self, view: View, api: RestApi, place: Place, now: Callable[[], datetime]) -> None:
        assert place.kind in KINDS
        self._view, self._place = view, place
        self._usual = usual(place.kind)
        self._writer = Writer(api, now)
        self._told: deque[Record] = deque(maxlen=MOST_TOLD)
        self._idle = asyncio.Event()
        words = ", ".join(f'"{cidr}"' for cidr in place.addresses)
        self._allocator = Allocator(pools.parse(f"pools: [{{name: cloud, addresses: [{words}], avoidBuggyIPs: true}}]"))
        self._targets = {node.name: node for node in place.nodes}
        self._edge = Edge(place.own, place.router, Site(place.nodes, place.addresses, self._usual, place.outside))
        self._prober = Prober(place.netns, place.nodes, self._on_health)
        self._queue: WorkQueue[Key] = WorkQueue()
        self._busy = 0
        self._served: dict[Key, Served] = {}
        self._failed: dict[Key, str] = {}
        self._members: set[str] = set()
        self._dirty = asyncio.Event()
        self._programmed = False
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        found = sorted((each for each in self._view.services.values() if _concerns(each)), key=request.age)
        for service in found:
            self._allocator.put(_plain(service))
            self._queue.add(request.key_of(service))
        self._members = self._eligible()
        unsubscribe = self._view.subscribe(self._on_event, replay=False)
        self._touch()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell())
                group.create_task(self._prober.run())
                group.create_task(self._program())
                for _ in range(WRITERS):
                    group.create_task(self._work())
        finally:
            unsubscribe()
            self._queue.close()
            for task in self._ending.values():
                task.cancel()

    def _say(self, record: Record) -> None:
        self._told.append(record)
        self._idle.set()

    async def _tell(self) -> None:
        """Write Events, while no Service waits for its address."""
        while True:
            while not self._told or self._busy or not self._queue.empty():
                self._idle.clear()
                await self._idle.wait()
            record = self._told.popleft()
            try:
                await self._writer.record(record)
            except GlassnetError as error:
                log.warning("event %s of %s: %s", record.reason, record.regarding.get("name"), error)

    def settled(self) -> bool:
        """Whether every Service has its address, and the kernel its rules."""
        return (
            self._programmed
            and not self._dirty.is_set()
            and self._queue.empty()
            and not self._busy
            and self._prober.known()
        )

    def standing(self) -> dict[str, Any]:
        """For `glassnet status`."""
        healthy = self._prober.healthy(SHARED) & self._members
        return {
            "kind": self._place.kind,
            "addresses": list(self._place.addresses),
            "services": len(self._served),
            "used": self._allocator.used()["cloud"],
            "waiting": self._allocator.waiting + len(self._failed),
            "nodes": len(self._members),
            "unhealthy": sorted(self._members - healthy),
            "speed": self._place.speed,
        }

    # -- what comes in

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.SERVICE:
            self._on_service(event)
        elif event.kind is kinds.NODE:
            self._on_nodes()
        elif event.kind is kinds.ENDPOINT_SLICE and any(served.key.weighted for served in self._served.values()):
            self._touch()

    def _on_service(self, event: Event) -> None:
        if not (_concerns(event.old) or _concerns(event.new)):
            return
        if event.new is None or not _concerns(event.new):
            self._forget(event.key)
            if event.old is not None and self._ours(event.old):
                self._say(status.record(event.old, status.DELETING, "Deleting load balancer"))
                self._say(status.record(event.old, status.DELETED, "Deleted load balancer"))
            others = self._allocator.remove(event.key)
        else:
            others = self._allocator.put(_plain(event.new))
            self._queue.add(event.key)
        for key in others:
            self._queue.add(key)

    def _on_nodes(self) -> None:
        members = self._eligible()
        if members == self._members:
            return
        for name in self._members - members:
            self._drain(name)
        for name in members & self._ending.keys():
            self._ending.pop(name).cancel()
        self._members = members
        for key in self._served:
            if (service := self._view.services.get(key)) is not None:
                self._say(self._of_nodes(service))
        self._touch()

    def _of_nodes(self, service: Service) -> Record:
        if not self._members:
            return status.record(service, status.NO_NODES, "There are no available nodes for LoadBalancer")
        return status.record(service, status.UPDATED, "Updated load balancer with new hosts")

    def _on_health(self, question: Question, name: str, well: bool) -> None:
        log.info("node %s is %s (%s)", name, "well" if well else "not well", question.text)
        self._touch()
        if not well:
            self._cut(question, name)

    def _eligible(self) -> set[str]:
        """The nodes that load balancers may have as members. Source: k8s.io/cloud-provider, controllers/service (node predicates)."""
        return {
            node.metadata.name
            for node in self._view.nodes.values()
            if node.metadata.name in self._targets
            and EXCLUDED not in node.metadata.labels
            and not any(taint.key == _LEAVING for taint in node.spec.taints)
        }

    def _touch(self) -> None:
        self._dirty.set()

    def _questions(self) -> dict[Question, Probing]:
        """What nodes are to be asked."""
        found = {served.key.asked: served.key.behaviour for served in self._served.values()}
        found.setdefault(SHARED, self._usual)
        return {question: faster(kind.probing, self._place.speed) for question, kind in found.items()}

    # -- flows of nodes that leave

    def _drain(self, name: str) -> None:
        seconds = self._usual.drain / self._place.speed
        if seconds:
            self._ending[name] = asyncio.create_task(self._end_later(name, seconds))

    async def _end_later(self, name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._end(name, None)
        self._ending.pop(name, None)

    def _cut(self, question: Question, name: str) -> None:
        """End the flows of a node that fails its probes where the kind does so; elsewhere those that the node has not answered."""
        fronts = [front for served in self._served.values() if served.key.asked == question and served.key.behaviour.ends_unhealthy for front in served.fronts]  # fmt: skip
        self._ending[f"{name} {question.text}"] = asyncio.create_task(
            self._end(name, fronts or None, begun_only=not fronts)
        )

    async def _end(self, name: str, fronts: Iterable[Front] | None, begun_only: bool = False) -> None:
        try:
            await self._edge.end_flows(self._targets[name], fronts, begun_only)
        except GlassnetError as error:
            log.warning("flows of node %s: %s", name, error)

    # -- what goes out

    async def _program(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._programmed = False
            self._prober.ask(self._questions(), self._members)
            try:
                begun = asyncio.get_running_loop().time()
                await self._edge.write(*self._wanted())
                self._programmed = True
                await asyncio.sleep(
                    asyncio.get_running_loop().time() - begun
                )  # of a crowd of changes many go into the next one
            except GlassnetError as error:
                log.warning("load balancer: %s", error)
                asyncio.get_running_loop().call_later(AGAIN, self._dirty.set)

    def _wanted(self) -> tuple[list[model.Pool], list[Front]]:
        found = {served.key.name: (key, served.key) for key, served in self._served.items()}
        made = [
            model.pool(
                key, self._members, self._prober.healthy(key.asked), self._weights(owner) if key.weighted else {}
            )
            for owner, key in found.values()
        ]
        fronts = [front for served in self._served.values() for front in served.fronts]
        return made, fronts

    def _weights(self, service: Key) -> dict[str, int]:
        """Ready endpoints of a Service by node."""
        counts: dict[str, int] = {}
        for piece in self._view.slices_of(service):
            for each in piece.endpoints:
                if each.conditions.ready is not False:
                    counts[each.node_name] = counts.get(each.node_name, 0) + 1
        return counts

    def _forget(self, key: Key) -> None:
        self._failed.pop(key, None)
        if self._served.pop(key, None) is not None:
            self._touch()

    def _serve(self, service: Service, ips: tuple[str, ...]) -> None:
        key, kind = request.key_of(service), behaviour(self._place.kind, service)
        served = Served(tuple(model.fronts(service, ips, kind)), model.pool_key(service, kind))
        if self._served.get(key) != served:
            self._served[key] = served
            self._touch()

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            service = self._view.services.get(key)
            if service is None or not _concerns(service):
                continue
            self._busy += 1
            try:
                await self._reconcile(key, service)
                self._queue.done(key)
            except GlassnetError as error:
                if not (
                    isinstance(error, ApiError) and error.status in (404, 409)
                ):  # it has gone, or changed: its event is on its way
                    log.warning("service %s: %s", key, error)
                self._queue.failed(key)
            finally:
                self._busy -= 1
                self._idle.set()

    async def _reconcile(self, key: Key, service: Service) -> None:
        kind = behaviour(self._place.kind, service)
        wrong = fault(service, kind) if service.spec.type == "LoadBalancer" else ""
        verdict, others = self._allocator.decide(_plain(service, wanted=not wrong))
        for other in others:
            self._queue.add(other)
        if verdict.ips:
            self._serve(service, verdict.ips)
            self._failed.pop(key, None)
        else:
            why = wrong or (verdict.message if not verdict.hands_off else "")
            known = self._failed.get(key)
            self._forget(key)
            if why:
                self._failed[key] = why
                if known == why and not self._ours(service):
                    return
        for change in status.writes(service, verdict, wrong, kind.ip_mode, self._ours(service)):
            if isinstance(change, Record):
                self._say(change)
            else:
                await self._writer.carry_out(change)

    def _ours(self, service: Service) -> tuple[str, ...]:
        """The addresses in a Service's status that the cloud has given it."""
        return tuple(ip for ip in request.shown(service) if self._allocator.pools.of(ip) is not None)


def _concerns(service: Service | None) -> bool:
    """Whether a Service has, or wants, something of the cloud: those with a loadBalancerClass are somebody else's."""
    if service is None or service.spec.load_balancer_class is not None:
        return False
    return service.spec.type == "LoadBalancer" or bool(service.status.load_balancer.ingress)


def _plain(service: Service, wanted: bool = True) -> Service:
    """The Service as the allocator takes it for its own: with the cloud it does not matter who catches an address. Not `wanted`: as one that asks for nothing."""
    if not wanted:
        service = msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, type="ClusterIP"))
    ingress = tuple(msgspec.structs.replace(each, ip_mode="VIP") for each in service.status.load_balancer.ingress)
    if ingress == service.status.load_balancer.ingress:
        return service
    found = msgspec.structs.replace(
        service.status, load_balancer=msgspec.structs.replace(service.status.load_balancer, ingress=ingress)
    )
    return msgspec.structs.replace(service, status=found)
