"""Servers that restart, lose what they had, come back from a backup, take turns, or are not whom they say; and what a client believes of them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import pytest

from client_world import (  # fmt: skip
    AUTHORITY,
    KINDS,
    PATIENCE,
    TIMEOUTS,
    Cluster,
    Follower,
    access_to,
    following,
    gateways,
    until,
    world,
)
from fault_proxy import Authority, FaultProxy
from glassnet.client.belief import NotBelieved
from glassnet.client.rest import RestApi
from glassnet.client.watches import Watches
from glassnet.kube import kinds
from glassnet.kube.view import Key, View
from glassnet.net.errors import ApiError, UsageError


def forget(cluster: Cluster) -> None:
    """The server's history goes, as if it were compacted; there is something in it that nobody was told yet."""
    cluster.make(1)
    cluster.server.store._log.clear()
    cluster.make(1)


def listings(follower: Follower) -> int:
    return sum(each.relists for each in follower.watches.standing())


async def steady(follower: Follower, seconds: float) -> None:
    """For a while nothing that is known goes away."""
    before, end = set(follower.shown()), time.monotonic() + seconds
    while time.monotonic() < end:
        assert before <= set(follower.shown())
        await asyncio.sleep(0.005)


async def test_a_restart_of_the_server_costs_no_list() -> None:
    async with world() as (cluster, proxy, follower):
        before = listings(follower)
        for _ in range(3):
            await cluster.stop()
            proxy.cut()
            cluster.change(5)
            await asyncio.sleep(0.05)
            await cluster.start()
            await follower.agrees()
        assert listings(follower) == before
        await until(lambda: not any(each.error for each in follower.watches.standing()))


@pytest.mark.parametrize("streaming", [True, False], ids=["stream", "pages"])
async def test_a_server_that_comes_back_empty_takes_nothing_away_until_it_has_lasted(streaming: bool) -> None:
    patience = replace(PATIENCE, older=0.25, lost=0.6)
    async with world(streaming, patience) as (cluster, proxy, follower):
        await cluster.stop()
        cluster.fresh()  # resourceVersions begin anew
        await cluster.start()
        proxy.cut()
        await steady(follower, 0.6)
        said = " ".join(str(error) for error in follower.errors if isinstance(error, NotBelieved))
        assert "older than" in said
        assert "lacks" in said
        cluster.make(3)  # what is new is told meanwhile
        await until(lambda: Key("default", f"c{cluster.made}") in follower.view.config_maps)
        await follower.agrees()
        assert listings(follower) < 40


async def test_an_empty_server_for_a_while_and_then_the_old_one() -> None:
    async with world() as (cluster, proxy, follower):
        await cluster.stop()
        full, deleted = cluster.server, dict(cluster.ever_deleted)
        cluster.fresh()
        cluster.ever_deleted = deleted  # nothing has really gone
        await cluster.start()
        proxy.cut()
        await steady(follower, 0.3)
        await cluster.stop()
        cluster.server = full
        cluster.change(6)
        await cluster.start()
        await follower.agrees()


async def test_a_backup_is_taken_as_it_is_after_a_while() -> None:
    patience = replace(PATIENCE, older=0.3)
    async with world(patience=patience) as (cluster, proxy, follower):
        backup = cluster.server.store.all(kinds.CONFIG_MAP), cluster.server.store.all(kinds.SERVICE_ACCOUNT)
        old = cluster.server.store.revision
        cluster.change(30)
        await follower.agrees()
        await cluster.stop()
        cluster.fresh()
        store = cluster.server.store
        for kind, objects in zip(KINDS, backup, strict=True):
            for key, raw in objects:
                store.put(kind, key, lambda _, raw=raw: raw)  # type: ignore[misc]
        assert store.revision <= old
        shown = follower.shown()
        await cluster.start()
        proxy.cut()
        await asyncio.sleep(0.15)
        assert follower.shown() == shown
        await follower.agrees()
        cluster.change(5)
        await follower.agrees()


async def test_an_empty_list_is_believed_when_another_says_the_same() -> None:
    async with world(patience=replace(PATIENCE, shrunk=0.3)) as (cluster, proxy, follower):
        proxy.cut()
        proxy.fault, proxy.only = "refuse", "/"
        await asyncio.sleep(0.03)
        for kind in KINDS:
            for key, _ in cluster.server.store.all(kind):
                cluster.server.delete(kind, *key)
        cluster.server.store._log.clear()
        begun, before = time.monotonic(), listings(follower)
        proxy.fault = ""
        await until(lambda: all(each.doubted for each in follower.watches.standing()))
        await steady(follower, 0.15)
        cluster.make(1)  # the watch goes on while the lists are in doubt
        await until(lambda: Key("default", f"c{cluster.made}") in follower.view.config_maps)
        await follower.agrees()
        assert time.monotonic() - begun > 0.3
        assert not any(each.doubted for each in follower.watches.standing())
        assert listings(follower) - before <= 8


async def test_what_a_shrunken_list_lacked_and_a_watch_shows_again_stays_without_another_list() -> None:
    async with world() as (cluster, proxy, follower):
        proxy.fault = "half-list"
        proxy.cut()
        forget(cluster)
        await until(lambda: all(each.doubted for each in follower.watches.standing()))
        proxy.fault, before = "", listings(follower)
        for kind in KINDS:
            for key, _ in cluster.server.store.all(kind):
                cluster.server.patch(kind, *key, {"metadata": {"labels": {"seen": "again"}}}, "application/merge-patch+json")  # fmt: skip
        await until(lambda: not any(each.doubted for each in follower.watches.standing()))
        await asyncio.sleep(PATIENCE.shrunk)
        await follower.agrees()
        assert listings(follower) == before


async def test_of_several_servers_the_next_one_serves() -> None:
    async with (
        gateways(3) as (cluster, proxies),
        following(cluster, access_to(*proxies), replace(PATIENCE, silence=5)) as follower,
    ):
        await asyncio.wait_for(follower.watches.synced(), 5)
        assert not proxies[1].requests
        before = listings(follower)
        for bad, fault in ((0, "refuse"), (1, "half-open")):
            proxies[bad].fault = fault
            proxies[bad].cut()
            cluster.change(5)
            await follower.agrees()
        assert proxies[2].watches == len(KINDS)
        assert listings(follower) == before


async def test_another_server_must_prove_itself_as_the_first_one() -> None:
    stranger = FaultProxy("http://127.0.0.1:1", Authority("stranger"))
    await stranger.start()
    try:
        async with gateways(1) as (cluster, (good,)):
            async with following(cluster, access_to(stranger, good)) as follower:
                await follower.agrees()
            assert not stranger.requests
            api = RestApi(access_to(stranger), TIMEOUTS)
            with pytest.raises(ApiError, match=r"issuer CN=stranger.*does not know"):
                await api.list(kinds.CONFIG_MAP)
            await api.close()
    finally:
        await stranger.close()


@pytest.mark.parametrize(
    ("names", "days", "authority", "said"),
    [
        (["127.0.0.1"], (-9, -1), AUTHORITY, "expired: it was valid until"),
        (["127.0.0.1"], (1, 9), AUTHORITY, r"not yet valid before .*clocks are apart"),
        (["elsewhere.example"], (-1, 9), AUTHORITY, "not for 127.0.0.1, but for elsewhere.example"),
        (["127.0.0.1"], (-1, 9), Authority("new CA"), "issuer CN=new CA"),
    ],
)
async def test_a_wrong_certificate_is_told_and_outlived(
    names: list[str], days: tuple[float, float], authority: Authority, said: str
) -> None:
    async with world() as (cluster, proxy, follower):
        proxy.certify(*authority.issue("server", names, days))
        proxy.cut()
        cluster.change(5)
        await until(lambda: [error for error in follower.errors if said.split(".*")[0] in str(error)])
        with pytest.raises(ApiError, match=said):
            raise next(error for error in follower.errors if said.split(".*")[0] in str(error))
        await steady(follower, 0.05)
        proxy.certify(*AUTHORITY.issue("server", ["127.0.0.1"]))
        await follower.agrees()


async def test_no_permission_for_one_kind_is_told_and_the_rest_goes_on() -> None:
    patience = replace(PATIENCE, refused=0.2, silence=5)
    async with gateways() as (cluster, (proxy,)):
        proxy.fault, proxy.only = "403", "serviceaccounts"
        async with following(cluster, access_to(proxy), patience) as follower:
            await asyncio.wait_for(follower.watches.synced(kinds.CONFIG_MAP), 5)
            cluster.change(20)
            await asyncio.sleep(0.4)
            fine, refused = follower.watches.standing()
            assert (fine.synced, fine.error, fine.forbidden) == (True, "", False)
            assert (refused.synced, refused.forbidden) == (False, True)
            assert "no permission to watch serviceaccounts" in refused.error
            assert "RBAC" in refused.error
            assert sum("serviceaccounts" in each for each in proxy.requests) < 12
            proxy.fault = ""
            await follower.agrees()


async def test_an_object_that_cannot_be_read_is_named_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as (cluster, proxy, follower):
        caplog.set_level(logging.WARNING)
        store, key = cluster.server.store, Key("default", "c5")
        old = follower.view.get(kinds.CONFIG_MAP, key)
        newer = b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c5","namespace":"default","resourceVersion":"%d"},"data":["a list"]}'  # fmt: skip
        store.put(kinds.CONFIG_MAP, key, lambda revision: newer % revision)
        cluster.make(1)
        await until(lambda: Key("default", f"c{cluster.made}") in follower.view.config_maps)
        for _ in range(2):  # told of by a watch, then by a list
            assert follower.view.get(kinds.CONFIG_MAP, key) is old
            standing = follower.watches.standing()[0]
            assert "ConfigMap default/c5 cannot be read" in standing.unreadable[0]
            assert standing.error == ""
            forget(cluster)
            proxy.cut()
            await until(lambda: Key("default", f"c{cluster.made}") in follower.view.config_maps)
        assert caplog.text.count("default/c5 cannot be read") == 1
        cluster.server.patch(kinds.CONFIG_MAP, *key, {"data": None}, "application/merge-patch+json")
        await follower.agrees()
        assert not follower.watches.standing()[0].unreadable


async def test_a_list_with_somebody_who_has_no_readable_name_takes_nobody_away() -> None:
    async with world() as (cluster, proxy, follower):
        cluster.server.store._log.clear()
        nameless = b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":7,"resourceVersion":"%d"}}'
        cluster.server.store.put(kinds.CONFIG_MAP, Key("default", "c7"), lambda revision: nameless % revision)
        cluster.server.store._log.clear()
        proxy.cut()
        before = follower.watches.standing()[0].relists
        await until(lambda: follower.watches.standing()[0].relists > before)
        await asyncio.sleep(0.05)
        assert Key("default", "c7") in follower.view.config_maps
        assert any("without a readable name" in str(error) for error in follower.errors)


async def test_watches_tell_when_they_fail_and_when_they_stand_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as (_cluster, proxy, follower):
        proxy.fault = "503"
        proxy.cut()
        await until(lambda: all(each.error for each in follower.watches.standing()))
        await asyncio.sleep(0.2)
        failures = [record for record in caplog.records if "watch of configmaps" in record.getMessage()]
        assert 1 <= len(failures) <= 3  # not one for each try
        proxy.fault = ""
        await until(lambda: not any(each.error for each in follower.watches.standing()))
        await until(lambda: "watch of configmaps: goes on after" in caplog.text)
        assert all(each.last_contact and each.restarts for each in follower.watches.standing())
        with pytest.raises(UsageError, match="configmaps are watched already"):
            follower.watches.add(kinds.CONFIG_MAP)


async def test_a_kind_that_is_added_later_is_watched_too() -> None:
    async with world() as (_, _, follower):
        informer = follower.watches.add(kinds.NAMESPACE)
        await asyncio.wait_for(follower.watches.synced(kinds.NAMESPACE), 5)
        assert informer.synced.is_set()
        assert Key("", "default") in follower.view.namespaces


async def test_a_first_list_without_what_no_cluster_is_without_must_last() -> None:
    async with gateways() as (cluster, (proxy,)):
        proxy.fault = "empty-list"
        api, view = RestApi(access_to(proxy), TIMEOUTS), View()
        watches = Watches(api, view, patience=replace(PATIENCE, shrunk=0.3))
        watches.add(kinds.CONFIG_MAP, never_empty=True)
        watches.add(kinds.SERVICE_ACCOUNT)
        task = asyncio.create_task(watches.run())
        await asyncio.wait_for(watches.synced(kinds.SERVICE_ACCOUNT), 5)
        await until(lambda: "in no cluster" in watches.standing()[0].error)
        assert not watches.standing()[0].synced
        proxy.fault = ""
        await asyncio.wait_for(watches.synced(), 5)
        assert len(view.config_maps) >= 40
        proxy.fault = "empty-list"
        other = Watches(api, View(), patience=replace(PATIENCE, shrunk=0.1))
        other.add(kinds.CONFIG_MAP, never_empty=True)
        second = asyncio.create_task(other.run())
        await asyncio.wait_for(other.synced(), 5)  # it lasts
        for each in (task, second):
            each.cancel()
            await asyncio.gather(each, return_exceptions=True)
        await api.close()
        assert cluster.made


async def test_who_has_nothing_to_tell_is_asked_nothing() -> None:
    async with world(patience=replace(PATIENCE, silence=5)) as (cluster, proxy, follower):
        before = list(proxy.requests)
        assert len(before) == len(KINDS)
        cluster.change(10)
        await follower.agrees()
        await asyncio.sleep(0.3)
        assert proxy.requests == before
