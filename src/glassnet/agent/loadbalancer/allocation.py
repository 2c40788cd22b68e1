"""Gives Services of type LoadBalancer their addresses: the controller's side, one run by whoever leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from glassnet.agent.changes import Writer
from glassnet.agent.loadbalancer.source import PoolsSource
from glassnet.agent.workqueue import WorkQueue
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.types import Node, Service
from glassnet.kube.view import Event, Key, View
from glassnet.loadbalancer import pools, request, status
from glassnet.loadbalancer.assign import Allocator
from glassnet.loadbalancer.pools import Clash
from glassnet.net.errors import ApiError

log = logging.getLogger(__name__)
WRITERS = 8  # requests in flight


class Allocation:
    """One run over a View with its first complete lists of Services, Nodes and ServiceCIDRs. `may_write` is asked before every write.

    `report` takes Events; `written` hears "loadbalancers" of every patch that went through.
    """

    def __init__(
        self,
        view: View,
        writer: Writer,
        *,
        namespace: str,
        file: str = "",
        default_class: bool = True,
        now: Callable[[], datetime],
        may_write: Callable[[], bool] = lambda: True,
        report: Callable[[Record], None] = lambda record: None,
        written: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._view, self._writer, self._now, self._may_write = view, writer, now, may_write
        self._default, self._report, self._written = default_class, report, written
        self.source = PoolsSource(view, namespace, file, report, self._rebuild)
        self._queue: WorkQueue[Key] = WorkQueue()
        self._clashes: list[Clash] = []
        self.allocator: Allocator | None = None

    async def run(self) -> None:
        """Until cancelled. Nothing is given or taken before there is a configuration that can be read."""
        unsubscribe = self._view.subscribe(self._on_event, replay=False)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.source.run())
                for _ in range(WRITERS):
                    group.create_task(self._work())
        finally:
            unsubscribe()
            self._queue.close()

    # -- what comes in

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.SERVICE:
            self._on_service(event)
        elif event.kind is kinds.SERVICE_CIDR or (event.kind is kinds.NODE and _moved(event.old, event.new)):
            self._look_for_clashes()

    def _on_service(self, event: Event) -> None:
        if self.allocator is None or not (_concerns(event.old) or _concerns(event.new)):
            return
        if event.new is None:
            self._queue_all(self.allocator.remove(event.key))
        else:
            others = self.allocator.put(event.new)
            self._queue.add(event.key)
            self._queue_all(others)

    def _queue_all(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add(key)

    def _look_for_clashes(self) -> None:
        if self.source.pools is not None and self._find_clashes() != self._clashes:
            self._rebuild()

    def _find_clashes(self) -> list[Clash]:
        cidrs = [cidr for each in self._view.all(kinds.SERVICE_CIDR) for cidr in each.spec.cidrs]
        return pools.clashes(self.source.pools or pools.Pools(), self._view.nodes.values(), cidrs)

    def _rebuild(self) -> None:
        """Other pools, or other addresses that are not to be given: everything is decided anew, which changes only what must."""
        assert self.source.pools is not None
        clashes = self._find_clashes()
        for clash in clashes:
            if clash not in self._clashes:
                log.warning("%s", clash.text)
                self.source.tell("PoolOverlap", clash.text)
        self._clashes = clashes
        self.allocator = Allocator(self.source.pools, self._default, [clash.taken for clash in clashes])
        found = sorted((each for each in self._view.services.values() if _concerns(each)), key=request.age)
        for service in found:
            self.allocator.put(service)
        self._queue_all(map(request.key_of, found))

    # -- what goes out

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            service = self._view.services.get(key)
            if service is None or self.allocator is None:
                continue
            try:
                await self._reconcile(self.allocator, service)
                self._queue.done(key)
            except ApiError as error:
                if error.status not in (404, 409):  # it has gone, or changed: its event is on its way
                    log.warning("service %s: %s", key, error)
                self._queue.failed(key)
            await asyncio.sleep(0)

    async def _reconcile(self, allocator: Allocator, service: Service) -> None:
        if not self._may_write():
            return
        verdict, others = allocator.decide(service)
        self._queue_all(others)
        for change in status.changes(service, verdict, self._now()):
            if not self._may_write():
                return
            if isinstance(change, Record):
                self._report(change)
            else:
                await self._writer.carry_out(change)
                self._written("loadbalancers")


def _concerns(service: Service | None) -> bool:
    """Whether a Service has, or wants, anything of a load balancer."""
    return service is not None and (
        service.spec.type == "LoadBalancer"
        or bool(service.status.load_balancer.ingress)
        or request.condition(service) is not None
    )


def _moved(old: Node | None, new: Node | None) -> bool:
    """Whether a Node's addresses or pods' ranges have changed."""
    if old is None or new is None:
        return True
    return (old.internal_ips(), old.spec.pod_cidrs, old.spec.pod_cidr) != (new.internal_ips(), new.spec.pod_cidrs, new.spec.pod_cidr)  # fmt: skip
