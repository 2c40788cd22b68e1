"""A lab's agents begin with whole lists, or not at all."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from glassnet.agent.proxy.loop import ProxySettings
from glassnet.agent.proxy.watches import selection
from glassnet.apiserver import auth, http
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi
from glassnet.kube import kinds, types
from glassnet.kube.view import View
from glassnet.lab import agents as module
from glassnet.lab.agents import Agents
from glassnet.net.errors import LabError


class Untouched:
    """A machine or namespace that nobody may do anything with."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"somebody used its {name}")


def server() -> ApiServer:
    made = ApiServer(Store(":memory:"), now=lambda: datetime.now(UTC), random=random.Random(1))
    for name, more in (("web", {}), ("bare", {"clusterIP": "None"})):
        made.create(kinds.SERVICE, "default", {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **more}})
        labels = {"kubernetes.io/service-name": name} | ({"service.kubernetes.io/headless": ""} if more else {})
        made.create(kinds.ENDPOINT_SLICE, "default", {"metadata": {"name": name, "labels": labels}, "addressType": "IPv4", "endpoints": []})  # fmt: skip
    foreign = {"name": "mesh", "labels": {"service.kubernetes.io/service-proxy-name": "mesh"}}
    made.create(kinds.SERVICE, "default", {"metadata": foreign, "spec": {"ports": [{"port": 80}]}})
    made.create(kinds.ENDPOINT_SLICE, "default", {"metadata": foreign, "addressType": "IPv4", "endpoints": []})
    return made


@asynccontextmanager
async def agents_of(api: ApiServer, refuse: str = "") -> AsyncIterator[tuple[Agents, list[asyncio.Task[None]]]]:
    """Agents of a lab without workers, as the account they are; `refuse` is a resource that the server fails for."""

    @web.middleware
    async def gate(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        if refuse and request.path.endswith(refuse):
            status = {
                "kind": "Status",
                "status": "Failure",
                "code": 500,
                "reason": "InternalError",
                "message": "no disk",
            }
            return web.json_response(status, status=500)
        return await handler(request)

    app = http.build_app(api, lambda _: auth.User(auth.AGENT), auth.authorize)
    app.middlewares.insert(0, gate)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        await web.SockSite(runner, sock).start()
        rest, tasks = RestApi(Access((f"http://127.0.0.1:{sock.getsockname()[1]}",), None)), []

        def run(work: Coroutine[Any, Any, None]) -> None:
            tasks.append(asyncio.create_task(work))

        router: Any = Untouched()
        yield Agents(rest, {}, router, ProxySettings(), run=run, now=lambda: datetime.now(UTC)), tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await rest.close()
        await runner.cleanup()


@pytest.mark.parametrize("refuse", ["services", "endpointslices", "nodes", "servicecidrs"])
async def test_without_one_of_the_lists_nothing_starts_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, refuse: str
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    async with agents_of(server(), refuse) as (agents, tasks):
        with pytest.raises(LabError, match=f"{refuse}.*no disk"):
            await agents.start()
        assert len(tasks) == 2  # what reads, for proxies and for names, and nothing that acts
        assert not agents.settled()


async def test_they_read_what_proxies_need_and_no_more() -> None:
    api = server()
    async with agents_of(api) as (agents, _):
        await agents.start()
        assert (
            {key.name for key in agents.view.services} == {key.name for key in agents.view.endpoint_slices} == {"web"}
        )
        assert agents.settled()
        whole = View()
        for kind in (kinds.SERVICE, kinds.ENDPOINT_SLICE):
            for _, raw in api.store.all(kind):
                whole.apply(kind, types.decode(kind, raw))
        assert agents.follows(whole)  # headless and foreign ones do not count
        changed = json.loads(api.get(kinds.SERVICE, "default", "web"))
        changed["spec"]["sessionAffinity"] = "ClientIP"
        api.update(kinds.SERVICE, "default", "web", changed)
        whole.apply(kinds.SERVICE, types.decode(kinds.SERVICE, api.get(kinds.SERVICE, "default", "web")))
        assert not agents.follows(whole)
        async with asyncio.timeout(10):
            while not agents.follows(whole):  # noqa: ASYNC110 (a watch makes it true)
                await asyncio.sleep(0.005)


def test_a_nodes_own_proxy_watches_one_node_a_lab_all() -> None:
    assert selection(kinds.NODE, "worker-0") == ("", "metadata.name=worker-0")
    assert selection(kinds.NODE) == ("", "")
