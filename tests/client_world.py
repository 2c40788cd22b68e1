"""A cluster that can be restarted, a gateway with faults before it, and a client that follows and notes what it is told."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from fault_proxy import Authority, FaultProxy
from glassnet.apiserver import auth, http
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store, StoreEvent
from glassnet.client.access import Access
from glassnet.client.belief import Patience
from glassnet.client.rest import RestApi, Timeouts
from glassnet.client.tls import Pem, Tls
from glassnet.client.watches import Watches
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Event, Key, View
from glassnet.net.errors import GlassnetError

KINDS = (kinds.CONFIG_MAP, kinds.SERVICE_ACCOUNT)
PATHS = ("/api/v1/configmaps", "/api/v1/serviceaccounts")
PATIENCE = Patience(0.01, 0.05, refused=0.1, silence=0.3, check=0.02, again=0.03, shrunk=0.4, older=2, lost=3)
TIMEOUTS = Timeouts(connect=0.3, begin=0.2, total=2)
AUTHORITY = Authority()


class Cluster:
    """An embedded API server on loopback that can be restarted, with the same store or another."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.ever_deleted: dict[tuple[Kind, Key], int] = {}  # with the revision
        self.runner: web.AppRunner | None = None
        self.port = self.made = 0
        self.fresh()

    def fresh(self) -> None:
        """Another store, empty; what the old one had is no more."""
        if self.made:
            for kind in KINDS:
                self.ever_deleted |= {(kind, key): 0 for key, _ in self.server.store.all(kind)}
        self.server = ApiServer(Store(":memory:", history=400), now=lambda: datetime.now(UTC), random=self.random)
        self.server.store.subscribe(self._noted)
        self.stores = getattr(self, "stores", 0) + 1

    def _noted(self, event: StoreEvent) -> None:
        if event.type == "DELETED":
            self.ever_deleted[event.kind, event.key] = event.revision

    async def start(self) -> None:
        app = http.build_app(self.server, lambda _: auth.User("me", ("system:masters",)), auth.authorize)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.02)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner:
            await self.runner.cleanup()
        self.runner = None

    def make(self, count: int) -> None:
        for _ in range(count):
            self.made += 1
            body = {"metadata": {"name": f"c{self.made}"}}
            self.server.create(kinds.CONFIG_MAP, "default", {**body, "data": {"n": str(self.made)}})
            self.server.create(kinds.SERVICE_ACCOUNT, "default", body)

    def change(self, count: int) -> None:
        """So many changes, of all sorts; most objects stay."""
        for _ in range(count):
            kind = self.random.choice(KINDS)
            mine = [key for key, _ in self.server.store.all(kind) if key.name.startswith("c")]
            what = self.random.random()
            if what < 0.3 or len(mine) < 12:
                self.make(1)
            elif what < 0.5:
                self.server.delete(kind, *self.random.choice(mine))
            else:
                patch = {"metadata": {"labels": {"n": str(self.random.random())}}}
                self.server.patch(kind, *self.random.choice(mine), patch, "application/merge-patch+json")

    def hurry(self) -> None:
        """The same objects change several times in a row: made and deleted, changed and changed again, changed and deleted."""
        for kind in KINDS:
            self.made += 1
            name = f"h{self.made}"
            self.server.create(kind, "default", {"metadata": {"name": name}})
            self.server.delete(kind, "default", name)
            mine = [key for key, _ in self.server.store.all(kind) if key.name.startswith("c")]
            one, other = self.random.sample(mine, 2)
            for _ in range(3):
                patch = {"metadata": {"labels": {"n": str(self.random.random())}}}
                self.server.patch(kind, *one, patch, "application/merge-patch+json")
            self.server.patch(kind, *other, patch, "application/merge-patch+json")
            self.server.delete(kind, *other)

    def truth(self) -> dict[tuple[Kind, Key], str]:
        return {(kind, key): json.loads(raw)["metadata"]["resourceVersion"] for kind in KINDS for key, raw in self.server.store.all(kind)}  # fmt: skip


class Follower:
    """Watches, and what they told."""

    def __init__(self, api: RestApi, cluster: Cluster, patience: Patience) -> None:
        self.view, self.cluster = View(), cluster
        self.errors: list[GlassnetError] = []
        self.wrong: list[Event] = []
        self.newest: dict[tuple[Kind, Key], int] = {}
        self.view.subscribe(self._heard)
        self.watches = Watches(api, self.view, on_error=lambda _, error: self.errors.append(error), patience=patience)
        for kind in KINDS:
            self.watches.add(kind)

    def _heard(self, event: Event) -> None:
        place = (event.kind, event.key)
        if event.type == "DELETED":
            if place not in self.cluster.ever_deleted:
                self.wrong.append(event)
            self.newest[place] = self.cluster.ever_deleted.get(place, 0)
        elif self.cluster.stores == 1:  # nothing goes back in time while there is one history
            version = int(event.new.metadata.resource_version)
            if version <= self.newest.get(place, 0):
                self.wrong.append(event)
            self.newest[place] = version

    def shown(self) -> dict[tuple[Kind, Key], str]:
        return {(kind, Key(obj.metadata.namespace, obj.metadata.name)): obj.metadata.resource_version for kind in KINDS for obj in self.view.all(kind)}  # fmt: skip

    async def agrees(self) -> None:
        """Until the View is what the server has."""
        try:
            async with asyncio.timeout(8):
                while self.shown() != self.cluster.truth():  # noqa: ASYNC110 (it is others that make it true)
                    await asyncio.sleep(0.005)
        except TimeoutError:
            shown, truth = self.shown(), self.cluster.truth()
            raise AssertionError(f"differs: {set(shown.items()) ^ set(truth.items())}; {self.watches.standing()}; {self.errors[-3:]}") from None  # fmt: skip
        assert not self.wrong


@asynccontextmanager
async def gateways(count: int = 1, streaming: bool = True, seed: int = 1) -> AsyncIterator[tuple[Cluster, list[FaultProxy]]]:  # fmt: skip
    """A cluster with forty objects of each kind, behind some gateways."""
    cluster = Cluster(seed)
    cluster.make(40)
    await cluster.start()
    proxies = [FaultProxy(f"http://127.0.0.1:{cluster.port}", AUTHORITY, streaming=streaming) for _ in range(count)]
    for proxy in proxies:
        await proxy.start()
    try:
        yield cluster, proxies
    finally:
        for proxy in proxies:
            proxy.fault = ""
            await proxy.close()
        await cluster.stop()


def access_to(*proxies: FaultProxy) -> Access:
    return Access(tuple(proxy.url for proxy in proxies), Tls("tests", Pem(data=AUTHORITY.pem)), source="tests")


@asynccontextmanager
async def following(cluster: Cluster, access: Access, patience: Patience = PATIENCE) -> AsyncIterator[Follower]:
    """A client, running."""
    api = RestApi(access, TIMEOUTS)
    follower = Follower(api, cluster, patience)
    task = asyncio.create_task(follower.watches.run())
    try:
        yield follower
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        await api.close()
        if not isinstance(ended, asyncio.CancelledError):
            raise ended  # type: ignore[misc]


@asynccontextmanager
async def world(streaming: bool = True, patience: Patience = PATIENCE, seed: int = 1) -> AsyncIterator[tuple[Cluster, FaultProxy, Follower]]:  # fmt: skip
    """A cluster, one gateway, and a client that has its first lists."""
    async with gateways(1, streaming, seed) as (cluster, (proxy,)), following(cluster, access_to(proxy), patience) as follower:  # fmt: skip
        await asyncio.wait_for(follower.watches.synced(), 5)
        yield cluster, proxy, follower


async def until(condition: Callable[[], Any], seconds: float = 8) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (it is others that make it true)
            await asyncio.sleep(0.003)
