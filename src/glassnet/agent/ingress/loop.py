"""The loop of Ingress: what happens to objects becomes NGINX's configuration, soon, whole, and only when it differs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

from glassnet.agent.ingress.nginx import Refused, ReloadFailed
from glassnet.agent.ingress.references import References, references
from glassnet.ingress.model import Problem, Settings, Site
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.ingress import Ingress
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Event, Key, View
from glassnet.net.errors import GlassnetError

log = logging.getLogger(__name__)
QUIET = 0.01  # seconds to wait for more of the same
_SHARE = 2.0  # times what a turn took until the next may begin: with thousands of Ingresses, too, half of the time is for other work
AGAIN = 5.0  # seconds until what failed is tried anew
CULPRITS = 10  # Ingresses that are looked for in one go
SOURCE = "glassnet-ingress"
REFUSED = "ConfigurationRefused"
_NORMAL = {"Sync"}


class Server(Protocol):
    """What serves configurations (agent.ingress.nginx.Nginx)."""

    async def apply(self, files: Mapping[str, bytes]) -> None: ...

    async def check(self, files: Mapping[str, bytes]) -> str: ...


class Core(NamedTuple):
    """The pure part: which Ingresses are ours, oldest first; objects -> Site -> files."""

    ours: Callable[[View, Settings], list[Ingress]]
    compute: Callable[[View, Settings], Site]
    files: Callable[[Site, Settings], dict[str, bytes]]


class Took(NamedTuple):
    """Seconds of one turn: since the first event of it, to compute, to render, to have it in force."""

    total: float
    compute: float
    render: float
    apply: float


class Told(Protocol):
    """What wants to know how turns go."""

    def applied(self, took: Took) -> None:
        """A configuration came into force."""

    def failed(self, what: str) -> None:
        """One did not: "refused", "reload" or "render"."""


class IngressLoop:
    """Keeps a server at what the View has. `first_sync` is set once the first configuration is in force.

    `interval` is the least time, in seconds, between changes of the configuration. `synced` waits for the View's first complete lists, `fetch`
    sees to it that the View has what Ingresses name.
    """

    def __init__(
        self,
        view: View,
        server: Server,
        settings: Settings,
        core: Core,
        synced: Callable[[], Awaitable[Any]],
        *,
        fetch: Callable[[References], Awaitable[None]] | None = None,
        report: Callable[[Record], None] = lambda record: None,
        told: Told | None = None,
        interval: float = 0.3,
    ) -> None:
        self._view, self._server, self._settings, self._core = view, server, settings, core
        self._synced, self._fetch, self._report, self._told, self._interval = synced, fetch, report, told, interval
        self._wake = asyncio.Event()
        self._since = 0.0
        self._references = References()
        self._digest = b""  # of the files in force
        self._said: frozenset[Problem] = frozenset()
        self._left_out: dict[Key, Problem] = {}
        self.site: Site | None = None
        self._ours: tuple[Key, ...] = ()  # oldest first; those among them that are left out, too
        self.served: tuple[Key, ...] = ()  # those of the configuration in force
        self.error = ""
        self.turns = 0  # looks at the objects, whatever came of them
        self._busy = True
        self.first_sync = asyncio.Event()
        self.computed: Callable[[], None] = lambda: None  # called after each look at the objects

    @property
    def problems(self) -> frozenset[Problem]:
        """What objects ask for and do not get, as last computed."""
        return self._said

    @property
    def waiting(self) -> bool:
        """Whether something has happened that is not in force yet."""
        return self._busy or self._wake.is_set()

    def look(self) -> None:
        """Look at the objects anew, whether anything has happened or not."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        forget = self._view.subscribe(self._event)
        try:
            await self._synced()
            self._since = 0.0
            while True:
                self._busy = True
                self._wake.clear()
                since, self._since = self._since or time.monotonic(), 0.0
                begun = time.monotonic()
                good = await self._turn(since)
                self._busy = False
                self.turns += 1
                took = time.monotonic() - begun
                timeout = None if good else AGAIN
                try:
                    await asyncio.wait_for(self._wake.wait(), timeout)
                except TimeoutError:
                    continue
                await asyncio.sleep(max(QUIET, begun + max(self._interval, _SHARE * took) - time.monotonic()))
        finally:
            forget()

    def _event(self, event: Event) -> None:
        if not self._references.concern(event):
            return
        if event.kind is kinds.INGRESS:
            self._left_out.pop(event.key, None)
        elif event.kind in (kinds.SECRET, kinds.CONFIG_MAP):
            self._left_out.clear()  # it may have been the fault of what they name
        self._since = self._since or time.monotonic()
        self._wake.set()

    # -- one turn

    async def _turn(self, since: float) -> bool:
        """Compute, render, apply; whether what is wanted is in force."""
        ours = self._core.ours(self._view, self._settings)
        self._ours = tuple(map(_key, ours))
        self._references = references(ours, self._settings.default_certificate)
        if self._fetch is not None:
            await self._fetch(self._references)
        begun = time.monotonic()
        try:
            site = self.site = self._core.compute(self._view, self._choice())
            computed = time.monotonic()
            files = self._core.files(site, self._settings)
        except GlassnetError as error:  # a fault of ours: what is in force stays
            return self._not_now("render", str(error))
        rendered = time.monotonic()
        good = await self._serve(files, Took(since, computed - begun, rendered - computed, rendered))
        self._tell()
        self.computed()
        return good

    def _choice(self, more: frozenset[Key] = frozenset()) -> Settings:
        return self._settings._replace(left_out=self._settings.left_out | self._left_out.keys() | more)

    async def _serve(self, files: dict[str, bytes], at: Took) -> bool:
        digest = _digest(files)
        if digest == self._digest:
            self.served, self.error = self._ours, ""
            return True
        try:
            await self._server.apply(files)
        except Refused as error:
            log.error("NGINX refuses the configuration: %s", error)
            self._count("refused")
            if not await self._leave_out(str(error)):
                return self._not_now("", f"NGINX refuses the configuration, what was in force goes on: {error}")
            self._wake.set()  # once more, without them
            return True
        except ReloadFailed as error:
            return self._not_now("reload", str(error))
        except GlassnetError as error:
            return self._not_now("write", str(error))
        self._digest, self.served, self.error = digest, self._ours, ""
        now = time.monotonic()
        if self._told is not None:
            self._told.applied(Took(now - at.total, at.compute, at.render, now - at.apply))
        self.first_sync.set()
        return True

    def _not_now(self, what: str, error: str) -> bool:
        if error != self.error:
            log.error("%s", error)
        self.error = error
        if what:
            self._count(what)
        return False

    def _count(self, what: str) -> None:
        if self._told is not None:
            self._told.failed(what)

    # -- one that NGINX refuses

    async def _leave_out(self, said: str) -> bool:
        """Find the Ingresses that NGINX refuses, and do without them; False when it is nobody's fault, or of too many."""
        keys = [key for key in self._ours if key not in self._left_out]
        if await self._refusal(frozenset(keys)):
            return False
        for _ in range(CULPRITS):
            good, bad = 0, len(keys)  # so many of the oldest are taken; so many are not
            why = await self._refusal(frozenset())
            if not why:
                return True
            while bad - good > 1:
                middle = (good + bad) // 2
                if found := await self._refusal(frozenset(keys[middle:])):
                    bad, why = middle, found
                else:
                    good = middle
            key = keys.pop(bad - 1)
            said = why or said
            message = f"NGINX refuses the configuration with this Ingress: {_plain(said)}; it is left out, all others are served"
            self._left_out[key] = Problem("Ingress", key, REFUSED, message)
        return not await self._refusal(frozenset())

    async def _refusal(self, without: frozenset[Key]) -> str:
        site = self._core.compute(self._view, self._choice(without))
        return await self._server.check(self._core.files(site, self._settings))

    # -- Events

    def _tell(self) -> None:
        """An Event for each problem that is new."""
        assert self.site is not None
        now = frozenset((*self.site.problems, *self._left_out.values()))
        for problem in sorted(now - self._said):
            log.warning("%s: %s", problem.reason, problem.message, extra={"object": f"{problem.kind}/{problem.key}"})
            if (record := self._record(problem)) is not None:
                self._report(record)
        self._said = now

    def _record(self, problem: Problem) -> Record | None:
        kind = _KINDS.get(problem.kind)
        obj = self._view.get(kind, problem.key) if kind is not None else None
        if kind is None:
            return None
        about = {
            "kind": kind.name, "apiVersion": kind.api_version, "namespace": problem.key.namespace, "name": problem.key.name,
            **({"uid": obj.metadata.uid} if obj is not None else {}),
        }  # fmt: skip
        return Record(
            about, "Normal" if problem.reason in _NORMAL else "Warning", problem.reason, problem.message, SOURCE
        )


_KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (kinds.INGRESS, kinds.INGRESS_CLASS, kinds.SERVICE, kinds.SECRET, kinds.CONFIG_MAP)
}


def _digest(files: Mapping[str, bytes]) -> bytes:
    """Instead of the files themselves, which would be kept twice."""
    found = hashlib.sha256()
    for name in sorted(files):
        found.update(f"{name} {len(files[name])} ".encode() + files[name])
    return found.digest()


def _plain(said: str) -> str:
    """NGINX's words without the names of files, which mean nothing to whoever wrote an Ingress."""
    return said.partition(" in /")[0]


def _key(ingress: Ingress) -> Key:
    return Key(ingress.metadata.namespace, ingress.metadata.name)
