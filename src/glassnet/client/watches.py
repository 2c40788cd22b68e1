"""All the watches that feed one View, and how each of them stands: for waiting, for health, for metrics and for the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from glassnet.client.belief import PATIENCE, NotBelieved, Patience, Unreadable
from glassnet.client.informer import Informer
from glassnet.client.rest import RestApi
from glassnet.kube import narrow
from glassnet.kube.kinds import Kind
from glassnet.kube.view import View
from glassnet.net.errors import GlassnetError, UsageError

log = logging.getLogger(__name__)


class Standing(NamedTuple):
    """How one kind's watch stands. `last_contact` is when the server last spoke (time.monotonic(), 0 for never), `error` "" when all is fine.

    Counted since the start: `relists` (complete lists asked for), `restarts` (watches that ended), `stale` (events left out as older than
    what is known). `unreadable` names objects that cannot be decoded, `doubted` is how many stay although the last list lacked them.
    """

    kind: Kind
    synced: bool
    last_contact: float
    error: str
    forbidden: bool
    relists: int
    restarts: int
    stale: int = 0
    unreadable: tuple[str, ...] = ()
    doubted: int = 0


class Watches:
    """One informer for each kind that is added. Failures go to the log when they begin and when they end, and each one to `on_error`."""

    def __init__(
        self,
        api: RestApi,
        view: View,
        *,
        on_error: Callable[[Kind, GlassnetError], None] = lambda kind, error: None,
        patience: Patience = PATIENCE,
    ) -> None:
        self._api, self._view, self._on_error, self._patience = api, view, on_error, patience
        self._informers: dict[Kind, Informer] = {}
        self._tasks: dict[Kind, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._failing: dict[Kind, tuple[str, float]] = {}

    def add(
        self,
        kind: Kind,
        *,
        label_selector: str = "",
        field_selector: str = "",
        decode: Callable[[Kind, bytes], Any] = narrow.decode,
        never_empty: bool = False,
    ) -> Informer:
        """Watch a kind, from now on if `run` runs; `never_empty` if no cluster is without it. Raises UsageError when it is watched already: one View holds one choice of a kind."""
        if kind in self._informers:
            raise UsageError(f"{kind.resource} are watched already: one View takes one watch of a kind")
        informer = Informer(
            self._api,
            kind,
            self._view,
            label_selector=label_selector,
            field_selector=field_selector,
            decode=decode,
            on_error=lambda error: self._failed(kind, error),
            patience=self._patience,
            never_empty=never_empty,
        )
        self._informers[kind] = informer
        if self._group is not None:
            self._tasks[kind] = self._group.create_task(informer.run())
        return informer

    async def run(self) -> None:
        """All informers, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for kind, informer in self._informers.items():
                    self._tasks[kind] = group.create_task(informer.run())
                group.create_task(self._tell_ends())
        finally:
            self._group = None

    async def synced(self, *kinds: Kind) -> None:
        """Wait for the first complete lists of these kinds, of all when none is named."""
        for kind in kinds or tuple(self._informers):
            await self._informers[kind].synced.wait()

    def standing(self) -> list[Standing]:
        """How each watch stands now, in the order in which they were added."""
        return [
            Standing(
                kind,
                each.synced.is_set(),
                each.last_contact,
                each.error,
                each.forbidden,
                each.relists,
                each.restarts,
                each.stale,
                tuple(each.unreadable.values()),
                each.doubted,
            )
            for kind, each in self._informers.items()
        ]

    def _failed(self, kind: Kind, error: GlassnetError) -> None:
        text = str(error)
        if isinstance(error, Unreadable | NotBelieved):
            log.warning("%s", text)
        elif kind not in self._failing:
            log.warning("watch of %s: %s; what is known stays", kind.resource, text)
            self._failing[kind] = (text, time.monotonic())
        elif self._failing[kind][0] != text:
            log.warning("watch of %s: %s", kind.resource, text)
            self._failing[kind] = (text, self._failing[kind][1])
        self._on_error(kind, error)

    async def _tell_ends(self) -> None:
        """Say when a watch stands again."""
        while True:
            await asyncio.sleep(1)
            for kind in [kind for kind in self._failing if not self._informers[kind].error]:
                _, since = self._failing.pop(kind)
                log.info("watch of %s: goes on after %.0f s", kind.resource, time.monotonic() - since)
