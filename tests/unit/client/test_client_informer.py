"""A View that follows a server through everything that happens to servers and connections."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from glassnet.apiserver import auth, http
from glassnet.apiserver.server import ApiServer
from glassnet.apiserver.store import Store
from glassnet.client.belief import Patience
from glassnet.client.informer import Informer
from glassnet.client.kubeconfig import Access
from glassnet.client.rest import RestApi, Unreachable
from glassnet.kube import kinds
from glassnet.kube.view import Key, View
from glassnet.net.errors import ApiError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def embedded() -> ApiServer:
    return ApiServer(Store(":memory:"), now=lambda: datetime.now(UTC), random=random.Random(1))


@asynccontextmanager
async def served(app: web.Application, port: int) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    try:
        yield
    finally:
        await runner.cleanup()


def app_of(server: ApiServer) -> web.Application:
    return http.build_app(server, lambda _: auth.User("me", ("system:masters",)), auth.authorize)


def app_with(handler: Handler) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    return app


@asynccontextmanager
async def following(*ports: int, silence: float = 5.0) -> AsyncIterator[tuple[View, Informer]]:
    api, view = RestApi(Access(tuple(f"http://127.0.0.1:{port}" for port in ports), None)), View()
    informer = Informer(
        api,
        kinds.CONFIG_MAP,
        view,
        patience=Patience(0.01, 0.05, silence=silence),
    )
    task = asyncio.create_task(informer.run())
    try:
        yield view, informer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (it is others that make it true)
            await asyncio.sleep(0.005)


def put(server: ApiServer, name: str) -> None:
    server.create(kinds.CONFIG_MAP, "default", {"metadata": {"name": name}, "data": {"a": "b"}})


def names(view: View) -> set[str]:
    return {key.name for key in view.config_maps}


def config_map(name: str, version: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "resourceVersion": version, "uid": name}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta}


async def test_what_is_there_and_what_then_happens() -> None:
    server, port = embedded(), free_port()
    for number in range(1200):  # more than two pages
        put(server, f"c{number}")
    async with served(app_of(server), port), following(port) as (view, informer):
        await informer.synced.wait()
        await until(lambda: len(view.config_maps) >= 1200)
        put(server, "new")
        await until(lambda: Key("default", "new") in view.config_maps)
        server.delete(kinds.CONFIG_MAP, "default", "c7")
        await until(lambda: Key("default", "c7") not in view.config_maps)
        assert informer.relists == 1


async def test_a_server_that_comes_back_has_its_objects_taken_anew_and_one_that_is_away_empties_nothing() -> None:
    server, port = embedded(), free_port()
    for name in ("stays", "goes"):
        put(server, name)
    async with following(port) as (view, informer):
        await until(lambda: informer.restarts)  # nobody is there yet
        async with served(app_of(server), port):
            await until(lambda: {"stays", "goes"} <= names(view))
        restarts = informer.restarts
        await until(lambda: informer.restarts > restarts + 2)
        assert {"stays", "goes"} <= names(view)
        server.delete(kinds.CONFIG_MAP, "default", "goes")
        put(server, "comes")
        async with served(app_of(server), port):
            await until(lambda: names(view) & {"stays", "goes", "comes"} == {"stays", "comes"})


async def test_the_next_server_is_asked_when_one_is_gone() -> None:
    server, dead, alive = embedded(), free_port(), free_port()
    put(server, "here")
    async with served(app_of(server), alive), following(dead, alive) as (view, informer):
        await informer.synced.wait()
        assert "here" in names(view)


async def test_a_history_that_is_gone_is_listed_anew() -> None:
    port, asked = free_port(), list[str]()

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.query_string)
        if "sendInitialEvents" in request.query:
            return web.json_response({"kind": "Status", "code": 422}, status=422)
        if "watch" not in request.query:
            lists = sum("watch" not in query for query in asked)
            items = [config_map("a", "1"), config_map("b", "2")] if lists == 1 else [config_map("b", "2"), config_map("c", "9")]  # fmt: skip
            return web.json_response({"metadata": {"resourceVersion": "9"}, "items": items})
        event = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
        return web.Response(text=json.dumps(event) + "\n") if len(asked) < 5 else await silent(request)

    async with served(app_with(handler), port), following(port) as (view, informer):
        await until(lambda: names(view) == {"b", "c"})
        assert informer.relists >= 2
        assert sum("sendInitialEvents" in query for query in asked) == 1  # refused once, never asked again


async def silent(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await asyncio.sleep(30)
    return response


@pytest.mark.parametrize("fault", ["half", "empty", "status", "silence", "429"])
async def test_faults_are_outlived_and_cost_nothing(fault: str) -> None:
    port, count = free_port(), {"list": 0, "watch": 0}

    async def handler(request: web.Request) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            return web.json_response({"kind": "Status", "code": 400}, status=400)
        if "watch" not in request.query:
            count["list"] += 1
            if fault == "429" and count["list"] == 1:
                return web.json_response({"kind": "Status", "code": 429}, status=429, headers={"Retry-After": "0"})
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": [config_map("a", "1")]})
        count["watch"] += 1
        good = json.dumps({"type": "ADDED", "object": config_map(f"w{count['watch']}", str(5 + count["watch"]))}) + "\n"
        if count["watch"] > 2:
            return web.Response(text=good)
        match fault:
            case "half":
                return web.Response(text=good[:40] + "\n")
            case "status":
                return web.json_response({"kind": "Status", "code": 500, "message": "no"}, status=500)
            case "silence":
                return await silent(request)
        return web.Response(text="")

    async with served(app_with(handler), port), following(port, silence=0.2) as (view, informer):
        await until(lambda: count["watch"] > 3)
        assert {"a", "w3"} <= names(view)
        assert count["list"] == (2 if fault == "429" else 1)
        assert informer.version


async def test_answers_that_are_no_success() -> None:
    port = free_port()

    async def handler(request: web.Request) -> web.StreamResponse:
        body = {"kind": "Status", "reason": "Forbidden", "message": "you may not", "details": {"name": "x"}}
        return (
            web.json_response(body, status=403)
            if request.path.endswith("x")
            else web.Response(status=404, text="what?")
        )

    async with served(app_with(handler), port):
        api = RestApi(Access((f"http://127.0.0.1:{port}",), None))
        with pytest.raises(ApiError, match="you may not") as caught:
            await api.get(kinds.CONFIG_MAP, "default", "x")
        assert (caught.value.status, caught.value.reason, caught.value.details) == (403, "Forbidden", {"name": "x"})
        with pytest.raises(ApiError, match="what"):
            await api.list(kinds.CONFIG_MAP)
        await api.close()
    api = RestApi(Access((f"http://127.0.0.1:{free_port()}",), None))
    with pytest.raises(Unreachable):
        await api.delete(kinds.CONFIG_MAP, "default", "x")
    await api.close()


async def test_every_verb_against_the_embedded_server() -> None:
    server, port = embedded(), free_port()
    async with served(app_of(server), port):
        api = RestApi(Access((f"http://127.0.0.1:{port}",), None))
        made = await api.create(kinds.CONFIG_MAP, "default", {"metadata": {"name": "x"}, "data": {"a": "1"}})
        made["data"]["a"] = "2"
        assert (await api.update(kinds.CONFIG_MAP, "default", "x", made))["data"] == {"a": "2"}
        assert (await api.patch(kinds.CONFIG_MAP, "default", "x", {"data": {"b": "3"}}))["data"] == {"a": "2", "b": "3"}
        assert [item["metadata"]["name"] for item in await api.list(kinds.CONFIG_MAP, "default") if item["metadata"]["name"] == "x"] == ["x"]  # fmt: skip
        await api.delete(kinds.CONFIG_MAP, "default", "x", uid=made["metadata"]["uid"])
        with pytest.raises(ApiError, match="not found"):
            await api.get(kinds.CONFIG_MAP, "default", "x")
        await api.close()


@pytest.mark.parametrize("status", [400, 504])
async def test_a_server_that_can_make_nothing_of_where_we_were_is_listed_anew(status: int) -> None:
    port, asked = free_port(), list[str]()

    async def handler(request: web.Request) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            return web.json_response({"kind": "Status", "code": 422}, status=422)
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "3"}, "items": [config_map("new" if asked else "old", "2")]})  # fmt: skip
        asked.append(request.query["resourceVersion"])
        if len(asked) == 1:
            return web.Response(text=json.dumps({"type": "ADDED", "object": config_map("w", "9")}) + "\n")
        if asked[-1] == "9":
            causes = [{"reason": "ResourceVersionTooLarge"}]
            return web.json_response({"kind": "Status", "code": status, "details": {"causes": causes}}, status=status)
        return await silent(request)

    api, view = RestApi(Access((f"http://127.0.0.1:{port}",), None)), View()
    informer = Informer(api, kinds.CONFIG_MAP, view, patience=Patience(0.01, 0.05, again=0.02, older=0.1, shrunk=0.1, lost=0.2))  # fmt: skip
    async with served(app_with(handler), port):
        task = asyncio.create_task(informer.run())
        await until(lambda: names(view) == {"new"})
        assert asked[0] == "3"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await api.close()
