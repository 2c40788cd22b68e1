"""Keeps a router's routes in step with the nodes."""

from __future__ import annotations

import asyncio

from glassnet.kernel.api import NetNs
from glassnet.kube import kinds
from glassnet.kube.view import Event, View
from glassnet.routes import vpc


class RouteLoop:
    """One router: a route per node's pod CIDR out of the interface `dev`."""

    def __init__(self, view: View, netns: NetNs, dev: str) -> None:
        self._view, self._netns, self._dev = view, netns, dev
        self._present: dict[str, str] = {}
        self._awake = asyncio.Event()

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.NODE:
            self._awake.set()

    async def run(self) -> None:
        """Until cancelled. Raises KernelError when the router refuses a route."""
        unsubscribe = self._view.subscribe(self._on_event)
        try:
            while True:
                await self._awake.wait()
                self._awake.clear()
                wanted = vpc.routes(self._view.nodes.values())
                if operations := vpc.diff(wanted, self._present, self._dev):
                    self._netns.apply(operations)
                    self._present = wanted
        finally:
            unsubscribe()
