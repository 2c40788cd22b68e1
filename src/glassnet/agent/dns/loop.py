"""The loop of cluster DNS: what happens to objects becomes changes of the server's records, soon and in one go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from glassnet.dns import compute
from glassnet.dns.model import NOTHING, DnsSettings, Problem
from glassnet.dns.table import Table
from glassnet.kube import kinds
from glassnet.kube.change import Record as EventRecord
from glassnet.kube.view import SERVICE_NAME_LABEL, Event, Key, View

COALESCE = 0.002  # seconds to wait for more of the same: a rollout comes as many events
STRIDE = 500  # objects that are computed before others get their turn
SOURCE = "glassnet-dns"
_NORMAL = {"DuplicateHostname"}  # allowed, and yet worth knowing


class RecordServer(Protocol):
    """What keeps the records of the Table served (agent.dns.knot.KnotServer)."""

    came: Callable[[], None]

    async def complete(self) -> None: ...

    async def sync(self) -> int: ...


class Told(Protocol):
    """What wants to know how long changes take."""

    def synced(self, changed: int, seconds: float) -> None:
        """So many records changed, so long after the first event of them."""


class DnsLoop:
    """Keeps a Table, and the server that serves it, at what the View has. `first_sync` is set once everything is served.

    `synced` waits for the View's first complete lists.
    """

    def __init__(
        self,
        view: View,
        table: Table,
        server: RecordServer,
        settings: DnsSettings,
        synced: Callable[[], Awaitable[Any]],
        *,
        report: Callable[[EventRecord], None] = lambda record: None,
        told: Told | None = None,
    ) -> None:
        self._view, self._table, self._server, self._settings = view, table, server, settings
        self._synced, self._report, self._told = synced, report, told
        self._services: set[Key] = set()
        self._namespaces: set[str] = set()
        self._wake = asyncio.Event()
        self._since = 0.0
        self.first_sync = asyncio.Event()
        server.came = self._wake.set

    async def run(self) -> None:
        """Until cancelled."""
        self._table.put("apex", compute.apex(self._settings))
        forget = self._view.subscribe(self._event)
        try:
            await self._synced()
            await self._recompute()
            await self._server.complete()
            self.first_sync.set()
            self._since = 0.0
            while True:
                await self._wake.wait()
                await asyncio.sleep(COALESCE)
                self._wake.clear()
                since, self._since = self._since, 0.0
                await self._recompute()
                changed = await self._server.sync()
                if self._told is not None and changed:
                    self._told.synced(changed, time.monotonic() - since if since else 0.0)
        finally:
            forget()

    def _event(self, event: Event) -> None:
        """Note which objects' records may have changed."""
        match event.kind:
            case kinds.SERVICE:
                self._services.add(event.key)
            case kinds.NAMESPACE:
                self._namespaces.add(event.key.name)
            case kinds.ENDPOINT_SLICE:
                for piece in (event.old, event.new):
                    name = piece.metadata.labels.get(SERVICE_NAME_LABEL, "") if piece is not None else ""
                    service = self._view.get(kinds.SERVICE, Key(event.key.namespace, name)) if name else None
                    if service is None or service.spec.cluster_ip != "None":
                        continue  # no names come from its endpoints
                    self._services.add(Key(event.key.namespace, name))
            case _:
                return
        if self._services or self._namespaces:
            self._since = self._since or time.monotonic()
            self._wake.set()

    async def _recompute(self) -> None:
        names, self._namespaces = self._namespaces, set()
        for name in names:
            there = self._view.get(kinds.NAMESPACE, Key("", name)) is not None
            self._table.put(("", "namespace", name), compute.namespace(name, self._settings) if there else NOTHING)
        keys, self._services = self._services, set()
        for number, key in enumerate(keys):
            if number % STRIDE == STRIDE - 1:
                await asyncio.sleep(0)
            service = self._view.get(kinds.SERVICE, key)
            answer = compute.service(service, self._view.slices_of(key), self._settings) if service else NOTHING
            for problem in self._table.put(key, answer):
                self._report(_event_of(key, service, problem))


def _event_of(key: Key, service: Any, problem: Problem) -> EventRecord:
    about = {"kind": "Service", "apiVersion": "v1", "namespace": key.namespace, "name": key.name, "uid": service.metadata.uid}  # fmt: skip
    kind = "Normal" if problem.reason in _NORMAL else "Warning"
    return EventRecord(about, kind, problem.reason, problem.message, SOURCE)
