"""Keeps a router's routes in step with the nodes."""

from __future__ import annotations

import asyncio
import logging

from glassnet.kernel.api import NetNs
from glassnet.kube import kinds
from glassnet.kube.view import Event, View
from glassnet.net.errors import KernelError
from glassnet.routes import vpc

log = logging.getLogger(__name__)
AGAIN = 1.0  # seconds until a refused route is tried again


class RouteLoop:
    """One router: a route per node's pod CIDR out of the interface `dev`, in a table."""

    def __init__(self, view: View, netns: NetNs, dev: str, table: int = 254) -> None:
        self._view, self._netns, self._dev, self._table = view, netns, dev, table
        self._present: dict[str, str] = {}
        self._awake = asyncio.Event()

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.NODE:
            self._awake.set()

    async def run(self) -> None:
        """Until cancelled. A route the router refuses is tried again; the others do not wait for it."""
        unsubscribe = self._view.subscribe(self._on_event)
        try:
            while True:
                await self._awake.wait()
                self._awake.clear()
                if not self.sync():
                    asyncio.get_running_loop().call_later(AGAIN, self._awake.set)
        finally:
            unsubscribe()

    def sync(self) -> bool:
        """Bring the routes in step with the nodes; False when one was refused."""
        wanted = vpc.routes(self._view.nodes.values())
        refused = set()
        for operation in vpc.diff(wanted, self._present, self._dev, self._table):
            try:
                self._netns.apply([operation])
            except KernelError as error:
                log.warning("route to pods %s of %s: %s", operation.destination, self._netns.name, error)
                refused.add(operation.destination)
        self._present = {cidr: via for cidr, via in wanted.items() if cidr not in refused}
        return not refused
