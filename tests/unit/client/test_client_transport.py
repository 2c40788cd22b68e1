"""Requests: few connections, waits as the server asks, nothing written twice, two clocks, and errors with a way out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web

from client_world import access_to, gateways
from glassnet.client import rest
from glassnet.client.access import Access
from glassnet.client.failures import retry_after
from glassnet.client.rest import RestApi, Timeouts, Unreachable, Untrusted
from glassnet.client.tls import Pem, Tls
from glassnet.kube import kinds
from glassnet.net.errors import ApiError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(*handlers: Handler, timeouts: Timeouts = Timeouts(0.5, 0.5, 3)) -> AsyncIterator[RestApi]:  # noqa: B008
    """An API of one server for each handler."""
    runners = []
    for handler in handlers:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
    api = RestApi(Access(tuple(f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in runners), None, token="t"), timeouts)  # fmt: skip
    try:
        yield api
    finally:
        await api.close()
        for runner in runners:
            await runner.cleanup()


def status(code: int, reason: str, message: str, **more: Any) -> web.Response:
    return web.json_response({"kind": "Status", "reason": reason, "message": message}, status=code, **more)


async def test_verbs_share_connections() -> None:
    async with gateways() as (_, (proxy,)):
        api = RestApi(access_to(proxy))
        for _ in range(100):
            await api.get(kinds.NAMESPACE, "", "default")
        assert len(proxy.peers) == 1
        await asyncio.gather(*(api.get(kinds.NAMESPACE, "", "default") for _ in range(100)))
        assert len(proxy.peers) <= 4
        await api.close()


async def test_what_is_put_off_is_asked_again_when_the_server_says() -> None:
    asked: list[tuple[float, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((time.monotonic(), request.method))
        if len(asked) == 1:
            return status(429, "TooManyRequests", "later", headers={"Retry-After": "1"})
        if len(asked) == 2:
            return status(503, "ServiceUnavailable", "starting", headers={"Retry-After": "0"})
        return web.json_response({"metadata": {"name": "x"}})

    async with answering(handler) as api:
        assert await api.create(kinds.CONFIG_MAP, "default", {"metadata": {"name": "x"}})
    assert [method for _, method in asked] == ["POST"] * 3
    assert 1.0 <= asked[1][0] - asked[0][0] < 1.6


async def test_who_asks_for_a_longer_wait_than_a_verb_has_is_told_of() -> None:
    async def handler(request: web.Request) -> web.Response:
        return status(429, "TooManyRequests", "too many requests", headers={"Retry-After": "77"})

    async with answering(handler) as api:
        with pytest.raises(ApiError, match="too many requests") as caught:
            await api.list(kinds.CONFIG_MAP)
    assert caught.value.details["retryAfterSeconds"] == 77


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", "", 7),
        ("0", "", 0),
        ("99999999999999", "", 300),
        ("", "", None),
        ("-3", "", None),
        ("soon", "", None),
        ("Sat, 01 Jan 2000 00:00:07 GMT", "Sat, 01 Jan 2000 00:00:00 GMT", 7),  # by the server's clock
        ("Sat, 01 Jan 2000 00:00:07 GMT", "", 5),  # by ours
        ("Sat, 01 Jan 2000 00:00:00 GMT", "Sat, 01 Jan 2000 00:00:09 GMT", 0),
    ],
)
def test_retry_after(value: str, date: str, seconds: float | None) -> None:
    assert retry_after(value, date, 946684802.0) == seconds


async def test_a_write_that_may_have_arrived_is_not_sent_to_another_server() -> None:
    written: list[str] = []

    async def silent(request: web.Request) -> web.Response:
        written.append("silent")
        await asyncio.sleep(30)
        return web.Response()

    async def fine(request: web.Request) -> web.Response:
        written.append("fine")
        return web.json_response({"metadata": {"name": "x"}})

    async with answering(silent, fine, timeouts=Timeouts(0.2, 0.2, 1)) as api:
        with pytest.raises(Unreachable, match="no answer in time"):
            await api.create(kinds.CONFIG_MAP, "default", {})
        assert written == ["silent"]
        await api.create(kinds.CONFIG_MAP, "default", {})
        assert written == ["silent", "fine"]
    async with answering(silent, fine, timeouts=Timeouts(0.2, 0.2, 1)) as api:
        await api.get(kinds.CONFIG_MAP, "default", "x")
        assert written[2:] == ["silent", "fine"]


async def test_two_clocks(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: web.Request) -> web.Response:
        headers = {"Date": formatdate(time.time() + ahead, usegmt=True)}
        if request.path.endswith("x"):
            return status(401, "Unauthorized", "Unauthorized", headers=headers)
        return web.json_response({"metadata": {"name": "x"}}, headers=headers)

    ahead = 0.0
    async with answering(handler) as api:
        assert api.clock_skew == 0
        await api.get(kinds.NODE, "", "a")
        assert abs(api.clock_skew) <= 1
        assert not caplog.text
        ahead = 90.0
        api._transport._looked = -1e9
        with pytest.raises(ApiError, match=r"401.*this machine's clock is (89|90|91) s behind the server's"):
            await api.get(kinds.NODE, "", "x")
        assert abs(api.clock_skew - 90) <= 1
        assert "s apart" in caplog.text


async def test_a_list_that_expires_between_two_pages_is_whole_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "PAGE", 10)
    async with gateways() as (cluster, (proxy,)):
        api = RestApi(access_to(proxy))
        proxy.fault = "410-page"
        assert len(await api.list(kinds.CONFIG_MAP)) == len(cluster.server.store.all(kinds.CONFIG_MAP))
        assert proxy.hits == 1
        assert proxy.lists == 3
        await api.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            web.Response(text="<!doctype html><html><title>Log in</title>", content_type="text/html"),
            "answer is no list",
        ),
        (
            web.json_response({"kind": "Status", "status": "Success", "metadata": {}}),
            "answer is no list: kind 'Status'",
        ),
        (web.json_response({}), "answer is no list"),
    ],
)
async def test_an_answer_that_is_no_list_is_not_an_empty_one(answer: web.Response, said: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=answer.body, content_type=answer.content_type)

    async with answering(handler) as api:
        with pytest.raises(Unreachable, match=said):
            await api.list(kinds.CONFIG_MAP)


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (403, json.dumps({"kind": "Status", "reason": "Forbidden", "message": "no"}), r"no permission to patch nodes/status: no; .*RBAC"),
        (401, json.dumps({"kind": "Status", "reason": "Unauthorized", "message": "Unauthorized"}), r"\(401, Unauthorized\): token in"),
        (404, "404 page not found\n", r"patch nodes/status \(/api/v1/nodes/n/status\): 404 page not found"),
        (400, "<html><head><title>Bad\n gateway</title></head>", r"a web page answered \(Bad gateway\), no API server"),
        (409, json.dumps({"reason": "Conflict", "message": "has been modified", "details": None}), "^has been modified$"),
        (400, "[]", r"patch nodes/status \(/api/v1/nodes/n/status\): \[\]"),
        (400, "", "HTTP status 400"),
    ],
)  # fmt: skip
async def test_refusals_in_words(code: int, body: str, said: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=code, text=body)

    async with answering(handler) as api:
        with pytest.raises(ApiError, match=said) as caught:
            await api.patch(kinds.NODE, "", "n", {}, "status")
    assert caught.value.status == code


async def test_no_connection_in_words() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response()

    async with answering(handler, timeouts=Timeouts(0.2, 0.2, 0.2)) as api:
        plain = api.server
        over_tls = RestApi(Access((plain.replace("http:", "https:"),), Tls("x", Pem())))
        with pytest.raises(Untrusted, match="does not speak TLS"):
            await over_tls.get(kinds.NODE, "", "x")
        await over_tls.close()
    gone = RestApi(Access((plain,), None), Timeouts(0.2, 0.2, 0.2))
    with pytest.raises(Unreachable, match=f"{plain}: connection refused; does the API server run there"):
        await gone.get(kinds.NODE, "", "x")
    await gone.close()
