"""Keeps the `NetworkUnavailable` condition of every Node right, and gives Nodes their pod CIDRs where that is asked for."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from glassnet.agent.changes import Writer
from glassnet.agent.workqueue import WorkQueue
from glassnet.controllers import noderoutes, podcidrs
from glassnet.controllers.noderoutes import Ranges
from glassnet.controllers.podcidrs import Space
from glassnet.kube import kinds, types
from glassnet.kube.change import Change, Record
from glassnet.kube.kinds import Kind
from glassnet.kube.types import Meta, Node, NodeSpec, NodeStatus
from glassnet.kube.view import Event, Key, View
from glassnet.net.errors import ApiError

log = logging.getLogger(__name__)
WRITERS = 8  # requests in flight
_QUARREL, _PATIENCE = 10.0, 5  # a condition that somebody else keeps changing is put right so often in so many seconds


def decode_node(kind: Kind, raw: bytes) -> Node:
    """A Node with what decides about its condition, and no more: of a cloud's Node that is a tenth. Raises msgspec.ValidationError."""
    node: Node = types.decode(kind, raw)
    meta, status = node.metadata, node.status
    own = Meta(
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        creation_timestamp=meta.creation_timestamp,
        deletion_timestamp=meta.deletion_timestamp,
    )
    spec = NodeSpec(node.spec.pod_cidr, node.spec.pod_cidrs)
    conditions = tuple(each for each in status.conditions if each.type == noderoutes.CONDITION)
    return Node(own, spec, NodeStatus(tuple(a for a in status.addresses if a.type == "InternalIP"), conditions))


class NodeConditions:
    """One run over a View that has its first complete list of Nodes. `may_write` is asked before every write.

    `report` takes Events; `written` hears ("conditions" | "podcidrs") of every patch that went through.
    """

    def __init__(
        self,
        view: View,
        writer: Writer,
        *,
        now: Callable[[], datetime],
        may_write: Callable[[], bool] = lambda: True,
        spaces: Sequence[Space] = (),
        report: Callable[[Record], None] = lambda record: None,
        written: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._view, self._writer, self._now, self._may_write = view, writer, now, may_write
        self._spaces, self._report, self._written = spaces, report, written
        self._ranges = Ranges()
        self._queue: WorkQueue[str] = WorkQueue()
        self._seen: dict[str, str] = {}  # Node -> the reason its condition has to have
        self._put: dict[str, tuple[noderoutes.Verdict, float, int]] = {}  # what is written, since when, how often

    def reasons(self) -> Counter[str]:
        """How many Nodes have which reason."""
        return Counter(self._seen.values())

    async def run(self) -> None:
        """Until cancelled."""
        for node in self._view.nodes.values():
            self._ranges.put(node)
        unsubscribe = self._view.subscribe(self._on_event)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WRITERS):
                    group.create_task(self._work())
        finally:
            unsubscribe()
            self._queue.close()

    def _on_event(self, event: Event) -> None:
        if event.kind is not kinds.NODE:
            return
        name = event.key.name
        affected = self._ranges.remove(name) if event.new is None else self._ranges.put(event.new)
        if event.new is None:
            self._seen.pop(name, None)
            self._put.pop(name, None)
        else:
            self._queue.add(name)
        for other in affected:
            self._queue.add(other)

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            node = self._view.nodes.get(Key("", name))
            if node is None:
                continue
            try:
                await self._reconcile(name, node)
                self._queue.done(name)
            except ApiError as error:
                if error.status not in (
                    404,
                    409,
                ):  # it has gone, or changed: its event is on its way, or is here already
                    log.warning("node %s: %s", name, error)
                self._ranges.put(self._view.nodes.get(Key("", name), node))
                self._queue.failed(name)
            await asyncio.sleep(0)

    async def _reconcile(self, name: str, node: Node) -> None:
        if self._spaces:
            result, later = podcidrs.allocate(node, self._ranges, self._spaces)
            self._ranges.put(later)
            if await self._carry_out(result.changes, "podcidrs"):
                return  # the Node's event brings it back
        wanted = noderoutes.verdict(node, self._ranges)
        self._seen[name] = wanted.reason
        result = noderoutes.reconcile(node, self._ranges, self._now())
        if not result.changes:
            return
        clock = asyncio.get_running_loop().time()
        before, since, times = self._put.get(name, (wanted, clock, 0))
        if before != wanted or clock - since >= _QUARREL:
            since, times = clock, 0
        if times >= _PATIENCE:
            log.warning("node %s: somebody else writes its condition %s, too", name, noderoutes.CONDITION)
            self._queue.add_after(name, _QUARREL - (clock - since))
        elif await self._carry_out(result.changes, "conditions"):
            self._put[name] = (wanted, since, times + 1)

    async def _carry_out(self, changes: Sequence[Change], what: str) -> bool:
        """Whether something was patched. Events go their own way."""
        patched = False
        for change in changes:
            if not self._may_write():
                return patched
            if isinstance(change, Record):
                self._report(change)
            else:
                await self._writer.carry_out(change)
                self._written(what)
                patched = True
        return patched
