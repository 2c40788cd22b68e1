"""What of ours is in a node's kernel, brought in step with what is wanted: only the difference, and what is refused holds up nothing else."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from glassnet.kernel.api import NetNs
from glassnet.kernel.route_state import list_fdb, list_permanent, list_protocol, routes_to
from glassnet.net.errors import KernelError
from glassnet.netstack.model import Vxlan
from glassnet.netstack.ops import AddRoute, Operation, SetFdb, SetNeighbour
from glassnet.routes.plan import ROUTE, Entry, Key, difference, key_of, standby
from glassnet.routes.vpc import PROTOCOL

log = logging.getLogger(__name__)
SOONEST, LATEST = 0.1, 60.0  # seconds until something is tried again: the first time, and at last
CALM = 60.0  # seconds: what stood for so long is put back at once again


class RouteTable:
    """Entries (routes, neighbours, FDB) of one network namespace by key; `clock` tells seconds that never run back."""

    def __init__(self, netns: NetNs, clock: Callable[[], float] = time.monotonic) -> None:
        self._netns, self._clock = netns, clock
        self.there: dict[Key, Entry] = {}
        self.wanted: dict[Key, Entry] = {}
        self.refused: dict[Key, str] = {}
        self._now: dict[Key, None] = {}  # to be looked at, in order
        self._later: dict[Key, float] = {}
        self._tries: dict[Key, tuple[int, float]] = {}

    # -- what there is to do

    def load(self, link: Vxlan | None) -> None:
        """Read what of ours is in the kernel; `link` is the VXLAN link, None while there is none. Raises KernelError."""
        found: list[Entry] = list(list_protocol(self._netns, PROTOCOL))
        if link is not None:
            found += list_permanent(self._netns, link)
            found += list_fdb(self._netns, link)
        self.there = {}
        for entry in found:
            key = key_of(entry)
            wanted = self.wanted.get(key)
            self.there[key] = wanted if wanted == entry else entry  # one object for both

    def audit(self) -> None:
        """Take up every entry that is not as it should be."""
        for key, entry in self.wanted.items():
            if self.there.get(key) != entry and key not in self._later:
                self._now[key] = None
        for key in self.there:
            if key not in self.wanted:
                self._now[key] = None

    def want(self, fresh: Mapping[Key, Entry], gone: Iterable[Key]) -> None:
        """From now on these are wanted, and those not."""
        for key in gone:
            if self.wanted.pop(key, None) is not None:
                self._forget(key)
                self._now[key] = None
        for key, entry in fresh.items():
            if self.wanted.get(key) != entry:
                self._forget(key)
                self.wanted[key] = entry
                self._now[key] = None

    def _forget(self, key: Key) -> None:
        """Nothing that became of the entry matters any more; nor does one that waits for its place."""
        self._later.pop(key, None)
        self._tries.pop(key, None)
        self.refused.pop(key, None)
        if key[0] == ROUTE:
            waiting = _waiting(key)
            if self.wanted.pop(waiting, None) is not None:
                self._now[waiting] = None

    def lost(self, entries: Iterable[Entry]) -> None:
        """Somebody took these away, or a route of another stands in their place. They come back; at once, but not again and again at once."""
        for entry in entries:
            key = key_of(entry)
            if key not in self.there or (self.there[key] != entry and _is_ours(entry)):
                continue  # we did it ourselves, and something else is there by now
            del self.there[key]
            if key in self.wanted:
                log.warning("%s %s was taken away by somebody else", *key)
                self._again(key, at_once=True)

    def retry(self) -> None:
        """Try again at once what was refused: something has changed."""
        for key in self.refused:
            self._later.pop(key, None)
            self._now[key] = None

    def _again(self, key: Key, at_once: bool = False) -> None:
        now = self._clock()
        count, last = self._tries.get(key, (0, now))
        if now - last > CALM + LATEST:
            count = 0
        self._tries[key] = (count + 1, now)
        if at_once and not count:
            self._now[key] = None
        else:
            self._later[key] = now + min(LATEST, SOONEST * 2**count)

    def due(self) -> float | None:
        """Seconds until there is something to do, 0 for now, None for never."""
        if self._now:
            return 0.0
        return max(0.0, min(self._later.values()) - self._clock()) if self._later else None

    # -- doing it

    def push(self, most: int) -> set[Key]:
        """Bring up to `most` entries in step that are due; the keys of those that were refused, or were and are no more."""
        now = self._clock()
        for key in [key for key, due in self._later.items() if due <= now]:
            del self._later[key]
            self._now[key] = None
        keys = [key for key, _ in zip(self._now, range(most), strict=False)]
        for key in keys:
            del self._now[key]
        steps = difference(keys, self.there, self.wanted)
        failures = self._netns.attempt([operation for _, operation in steps]) if steps else {}
        changed: set[Key] = set()
        taken: list[tuple[Key, AddRoute]] = []
        for number, (key, operation) in enumerate(steps):
            if (error := failures.get(number)) is None:
                changed |= self._done(key, operation)
            elif isinstance(operation, AddRoute) and error.number == errno.EEXIST:
                taken.append((key, operation))
                changed.add(key)
            else:
                self._refuse(key, f"{error}")
                changed.add(key)
        if taken:
            self._make_room(taken)
        return changed

    def _done(self, key: Key, operation: Operation) -> set[Key]:
        if not isinstance(operation, AddRoute | SetFdb | SetNeighbour):
            self.there.pop(key, None)
            return set()
        self.there[key] = operation
        if self.refused.pop(key, None) is None:
            return set()
        if key[0] == ROUTE and self.wanted.pop(_waiting(key), None) is not None:
            self._now[_waiting(key)] = None
        return {key}

    def _refuse(self, key: Key, why: str) -> None:
        if self.refused.get(key) != why:
            log.warning("%s %s: %s", *key, why)
        self.refused[key] = why
        self._again(key)

    def _make_room(self, taken: list[tuple[Key, AddRoute]]) -> None:
        """Another route stands where ours should be. Ours waits behind it: nothing of another's is ever changed."""
        try:
            others = routes_to(self._netns, {route.destination for _, route in taken})
        except KernelError as error:
            for key, _ in taken:
                self._refuse(key, str(error))
            return
        for key, route in taken:
            other = others.get(route.destination)
            if other is not None and other.protocol == PROTOCOL and other.metric == route.metric:
                self.there[key] = other  # ours all the same: what we knew of it was old
                self._again(key, at_once=True)
                continue
            where = " ".join(
                part
                for part in (
                    f"via {other.gateway}" if other and other.gateway else "",
                    f"dev {other.dev} proto {other.protocol}" if other else "",
                )
                if part
            )
            self._refuse(
                key, f"another route to {route.destination} ({where or 'gone by now'}) comes first, ours waits"
            )
            if not route.metric:
                waiting = standby(route)
                self.wanted[key_of(waiting)] = waiting
                self._now[key_of(waiting)] = None


def _waiting(key: Key) -> Key:
    return key_of(standby(AddRoute(key[1]))) if " " not in key[1] else (ROUTE, "")


def _is_ours(entry: Entry) -> bool:
    return not isinstance(entry, AddRoute) or entry.protocol == PROTOCOL
