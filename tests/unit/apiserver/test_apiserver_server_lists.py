"""Lists: pages of one revision, tokens that grow old, selectors; and the in-process way in with its View."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.apiserver import listing
from glassnet.apiserver.listing import ListOptions, TokenExpired, list_options, watch_options
from glassnet.apiserver.local import LocalApi, feed
from glassnet.apiserver.server import MERGE_PATCH, ApiServer, decode
from glassnet.apiserver.store import Store
from glassnet.kube import kinds, types
from glassnet.kube.kinds import Kind
from glassnet.kube.view import View
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make(history: int = 10_000) -> ApiServer:
    return ApiServer(Store(":memory:", history=history), now=lambda: NOW, random=Random(1))


def add(server: ApiServer, name: str, namespace: str = "default", **labels: str) -> None:
    server.create(kinds.CONFIG_MAP, namespace, {"metadata": {"name": name, "labels": labels}})


def pod(server: ApiServer, name: str, node: str = "", **labels: str) -> None:
    spec = {"containers": [{"name": "c", "image": "nginx"}], **({"nodeName": node} if node else {})}
    server.create(kinds.POD, "default", {"metadata": {"name": name, "labels": labels}, "spec": spec})


def names(page: listing.Page) -> list[str]:
    return [decode(raw)["metadata"]["name"] for raw in page.items]


def listed(server: ApiServer, kind: Kind = kinds.POD, **options: Any) -> list[str]:
    return names(server.list(kind, "", ListOptions(**options)))


def test_pages_show_one_revision_whatever_is_written_meanwhile() -> None:
    server = make()
    for name in "bdfh":
        add(server, name)
    first = server.list(kinds.CONFIG_MAP, "default", ListOptions(limit=2))
    assert (names(first), first.metadata["remainingItemCount"]) == (["b", "d"], 2)
    server.delete(kinds.CONFIG_MAP, "default", "h")
    add(server, "e")
    server.patch(kinds.CONFIG_MAP, "default", "f", {"data": {"k": "new"}}, MERGE_PATCH)
    second = server.list(kinds.CONFIG_MAP, "default", ListOptions(limit=2, resume=first.metadata["continue"]))
    assert names(second) == ["f", "h"]
    assert "data" not in decode(second.items[0])
    assert second.metadata == {"resourceVersion": first.metadata["resourceVersion"]}
    assert names(server.list(kinds.CONFIG_MAP, "default")) == ["b", "d", "e", "f"]


def test_a_token_that_grew_old_gives_one_for_the_rest() -> None:
    server = make(history=5)
    for name in "abcd":
        add(server, name)
    token = server.list(kinds.CONFIG_MAP, "default", ListOptions(limit=2)).metadata["continue"]
    for name in "cdefgh":
        if name > "d":
            add(server, name)
        else:
            server.delete(kinds.CONFIG_MAP, "default", name)
    with pytest.raises(TokenExpired, match="The provided continue parameter is too old") as caught:
        server.list(kinds.CONFIG_MAP, "default", ListOptions(limit=2, resume=token))
    status = caught.value.to_status()
    assert (status["code"], status["reason"]) == (410, "Expired")
    rest = server.list(kinds.CONFIG_MAP, "default", ListOptions(resume=status["metadata"]["continue"]))
    assert names(rest) == ["e", "f", "g", "h"]
    assert rest.metadata == {"resourceVersion": str(server.store.revision)}


@pytest.mark.parametrize("token", ["x", "e30", "eyJydiI6MX0", "eyJydiI6InUiLCJzdGFydCI6WyJhIiwiYiJdfQ", "é", "AAAA=="])
def test_a_broken_token_is_refused(token: str) -> None:
    with pytest.raises(ApiError, match="continue key is not valid") as caught:
        make().list(kinds.POD, "", ListOptions(resume=token))
    assert caught.value.status == 400


def test_revisions_of_a_list() -> None:
    server = make()
    add(server, "a")
    past = server.store.revision
    add(server, "b")
    exact = server.list(kinds.CONFIG_MAP, "", ListOptions(revision=past, match="Exact"))
    assert (names(exact), exact.metadata["resourceVersion"]) == (["a"], str(past))
    for revision in (None, 0, past):
        assert listed(server, kinds.CONFIG_MAP, revision=revision) == ["a", "b"]
    with pytest.raises(ApiError, match="Too large resource version") as caught:
        listed(server, kinds.CONFIG_MAP, revision=server.store.revision + 1)
    assert caught.value.status == 504
    short = make(history=1)
    add(short, "a")
    with pytest.raises(ApiError) as caught:
        listed(short, kinds.CONFIG_MAP, revision=1, match="Exact")
    assert caught.value.status == 410


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"resourceVersionMatch": "Exact"}, "is forbidden unless resourceVersion is provided"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 'is forbidden for resourceVersion "0"'),
        ({"resourceVersionMatch": "Nearly", "resourceVersion": "5"}, 'Unsupported value: "Nearly"'),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "5", "continue": "x"}, "is forbidden when continue"),
        ({"sendInitialEvents": "true"}, "sendInitialEvents is forbidden for list"),
    ],
)
def test_options_of_a_list_that_mean_nothing(query: dict[str, str], text: str) -> None:
    with pytest.raises(ApiError, match=text) as caught:
        list_options(query)
    assert caught.value.status == 422


def test_options_of_a_watch() -> None:
    store = Store(":memory:")
    options = watch_options(
        {"resourceVersion": "0", "allowWatchBookmarks": "true", "timeoutSeconds": "9", "fieldSelector": "metadata.name=x"},
        "a",
        store,
    )  # fmt: skip
    assert (options.revision, options.bookmarks, options.timeout) == (0, True, 9.0)
    assert (options.namespace, options.name, options.initial_events) == ("a", "x", None)
    wanted = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    assert watch_options(wanted, "", store).initial_events is True
    assert watch_options({**wanted, "sendInitialEvents": "false"}, "", store).initial_events is False
    for query, status in (
        ({"sendInitialEvents": "true"}, 422),
        ({"resourceVersionMatch": "NotOlderThan"}, 422),
        ({**wanted, "resourceVersion": "1000"}, 504),
        ({"resourceVersion": "-1"}, 400),
        ({"timeoutSeconds": "soon"}, 400),
    ):
        with pytest.raises(ApiError) as caught:
            watch_options(query, "", store)
        assert caught.value.status == status


def test_label_selectors() -> None:
    server = make()
    pod(server, "a", app="web", tier="front")
    pod(server, "b", app="web")
    pod(server, "c", app="db")
    assert listed(server, label_selector="app=web") == ["a", "b"]
    assert listed(server, label_selector="app in (web,db),tier!=front") == ["b", "c"]
    assert listed(server, label_selector="!tier") == ["b", "c"]
    page = server.list(kinds.POD, "", ListOptions(label_selector="app=web", limit=1))
    assert "remainingItemCount" not in page.metadata  # nobody counts what a selector leaves
    assert names(server.list(kinds.POD, "", ListOptions(label_selector="app=web", resume=page.metadata["continue"]))) == ["b"]  # fmt: skip
    with pytest.raises(ApiError, match="unable to parse requirement") as caught:
        listed(server, label_selector="app in (web")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("kind", "selector", "found"),
    [
        (kinds.POD, "metadata.name=a", ["a"]),
        (kinds.POD, "metadata.namespace=default,metadata.name!=a", ["b"]),
        (kinds.POD, "spec.nodeName=n", ["a"]),
        (kinds.POD, "spec.nodeName=", ["b"]),
        (kinds.POD, "status.phase=Pending,spec.restartPolicy=Always", ["a", "b"]),
        (kinds.POD, "status.phase==Running", []),
        (kinds.POD, "spec.hostNetwork=false", ["a", "b"]),
        (kinds.EVENT, "involvedObject.name=a,reason=R,type=Normal", ["e"]),
        (kinds.EVENT, "source=kubelet", ["e"]),
        (kinds.NODE, "spec.unschedulable=false", ["n"]),
        (kinds.NODE, "spec.unschedulable=true", ["off"]),
        (kinds.SERVICE, "spec.type=ClusterIP,spec.clusterIP=10.32.0.9", ["s"]),
        (kinds.SECRET, "type=Opaque", ["t"]),
        (kinds.NAMESPACE, "status.phase!=Active", []),
        (kinds.REPLICA_SET, "status.replicas=0", []),
        (kinds.JOB, "status.successful=0", []),
    ],
)
def test_field_selectors(kind: Kind, selector: str, found: list[str]) -> None:
    server = make()
    pod(server, "a", "n")
    pod(server, "b")
    about = {"kind": "Pod", "namespace": "default", "name": "a"}
    event = {"involvedObject": about, "reason": "R", "type": "Normal", "source": {"component": "kubelet"}}
    server.create(kinds.EVENT, "default", {"metadata": {"name": "e"}, **event})
    server.create(kinds.NODE, "", {"metadata": {"name": "n"}})
    server.create(kinds.NODE, "", {"metadata": {"name": "off"}, "spec": {"unschedulable": True}})
    server.create(kinds.SERVICE, "default", {"metadata": {"name": "s"}, "spec": {"clusterIP": "10.32.0.9", "ports": [{"port": 1}]}})  # fmt: skip
    server.create(kinds.SECRET, "default", {"metadata": {"name": "t"}})
    assert listed(server, kind, field_selector=selector) == found


@pytest.mark.parametrize(("kind", "path"), [(kinds.POD, "spec.image"), (kinds.CONFIG_MAP, "type"), (kinds.NODE, "x")])
def test_fields_that_cannot_be_selected(kind: Kind, path: str) -> None:
    with pytest.raises(ApiError, match=f"field label not supported: {path}") as caught:
        listed(make(), kind, field_selector=f"{path}=1")
    assert caught.value.status == 400


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=12, unique=True), st.integers(1, 5), st.data())
def test_pages_make_up_the_whole(found: list[str], limit: int, data: st.DataObject) -> None:
    server = make()
    for name in found:
        add(server, name)
    page = server.list(kinds.CONFIG_MAP, "default", ListOptions(limit=limit))
    seen = names(page)
    while token := page.metadata.get("continue"):
        if data.draw(st.booleans()):
            add(server, f"{data.draw(st.sampled_from('abcdefgh'))}{server.store.revision}")
        page = server.list(kinds.CONFIG_MAP, "default", ListOptions(limit=limit, resume=token))
        assert 0 < len(page.items) <= limit
        seen += names(page)
    assert seen == sorted(found)


# -- the in-process way in


async def test_the_view_knows_every_write_at_once() -> None:
    server = make()
    api, view, told = LocalApi(server), View(), []
    pod(server, "before")
    feed(server, view)
    view.subscribe(lambda event: told.append((event.type, event.kind.name, event.key.name)), replay=False)
    assert {key.name for key in view.pods} == {"before"}
    await api.create(
        kinds.POD, "default", decode(server.get(kinds.POD, "default", "before")) | {"metadata": {"name": "p"}}
    )
    await api.patch(kinds.POD, "default", "p", {"status": {"podIP": "10.200.0.7"}}, subresource="status")
    assert view.pods["default", "p"].status.pod_ip == "10.200.0.7"  # type: ignore[index]
    await api.create(kinds.POD, "default", {"target": {"name": "n"}}, subresource="binding", name="p")
    assert [found.metadata.name for found in view.pods_on("n")] == ["p"]
    await api.delete(kinds.POD, "default", "p", grace=0)
    assert {key.name for key in view.pods} == {"before"}
    assert told == [("ADDED", "Pod", "p"), ("MODIFIED", "Pod", "p"), ("MODIFIED", "Pod", "p"), ("DELETED", "Pod", "p")]
    with pytest.raises(ApiError):
        await api.get(kinds.POD, "default", "p")
    assert [o["metadata"]["name"] for o in await api.list(kinds.POD, field_selector="metadata.name=before")] == [
        "before"
    ]


async def test_the_view_equals_the_store_after_many_writes() -> None:
    server, view, random = make(), View(), Random(5)
    feed(server, view)
    api = LocalApi(server)
    for step in range(200):
        name = f"p{random.randrange(10)}"
        try:
            verb = random.choice(["create", "patch", "delete"])
            if verb == "create":
                pod(server, name, random.choice(["", "n"]))
            elif verb == "patch":
                await api.patch(kinds.POD, "default", name, {"metadata": {"labels": {"step": str(step)}}})
            else:
                await api.delete(kinds.POD, "default", name, grace=random.choice([None, 0]))
        except ApiError as error:
            assert error.status in (404, 409)
    assert view.pods == {key: types.decode(kinds.POD, raw) for key, raw in server.store.all(kinds.POD)}
