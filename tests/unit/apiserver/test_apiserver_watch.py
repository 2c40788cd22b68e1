"""Watches: what a client is told from which revision on; and that a list and a watch together always give the newest list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.apiserver import watch
from glassnet.apiserver.store import Store
from glassnet.apiserver.watch import INITIAL_EVENTS_END, Watch, WatchOptions
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

Told = tuple[str, str, int]


def put(store: Store, name: str, label: str = "", namespace: str = "a", kind: Kind = kinds.POD) -> int:
    metadata = {"name": name, "namespace": namespace, "label": label}
    store.put(
        kind,
        Key(namespace, name),
        lambda revision: msgspec.json.encode({"metadata": {**metadata, "resourceVersion": str(revision)}}),
    )
    return store.revision


def remove(store: Store, name: str, namespace: str = "a") -> int:
    key = Key(namespace, name)
    old = msgspec.json.decode(store.get(kinds.POD, key) or b"")["metadata"]
    store.delete(
        kinds.POD, key, lambda revision: msgspec.json.encode({"metadata": {**old, "resourceVersion": str(revision)}})
    )
    return store.revision


def labelled(raw: bytes) -> bool:
    return bool(msgspec.json.decode(raw)["metadata"]["label"] == "yes")


def read(event: tuple[str, bytes]) -> Told:
    metadata = msgspec.json.decode(event[1])["metadata"]
    return event[0], metadata.get("name", ""), int(metadata["resourceVersion"])


async def collect(
    store: Store,
    act: Callable[[], object] = lambda: None,
    matches: Callable[[bytes], bool] | None = None,
    **options: Any,
) -> list[Told]:
    """What a watch tells in all, when `act` is done once it has begun; at its end it tells what came before the end."""
    options = {"timeout": 0.03, **options}
    task = asyncio.ensure_future(_all(Watch(store, kinds.POD, matches, WatchOptions(**options)).events()))
    await asyncio.sleep(0)  # the watch begins
    act()
    return await asyncio.wait_for(task, 10)


async def _all(events: AsyncIterator[tuple[str, bytes]]) -> list[Told]:
    return [read(event) async for event in events]


async def test_without_a_revision_all_there_is_comes_first() -> None:
    store = Store(":memory:")
    one, two = put(store, "b"), put(store, "a")
    for revision in (None, 0):
        told = await collect(store, lambda: put(store, "b"), revision=revision)
        assert told[:2] == [("ADDED", "a", two), ("ADDED", "b", one)]
        one = store.revision
        assert told[2:] == [("MODIFIED", "b", one)]


async def test_from_a_revision_exactly_what_came_after_it() -> None:
    store = Store(":memory:")
    first = put(store, "x")
    put(store, "s", kind=kinds.SERVICE)
    second, third = put(store, "x"), put(store, "y")
    gone = remove(store, "x")
    assert await collect(store, revision=first) == [
        ("MODIFIED", "x", second),
        ("ADDED", "y", third),
        ("DELETED", "x", gone),
    ]
    assert await collect(store, revision=gone) == []
    told = await collect(store, lambda: put(store, "z"), revision=gone)
    assert told == [("ADDED", "z", gone + 1)]


async def test_a_forgotten_revision_is_gone() -> None:
    store = Store(":memory:", history=2)
    first = put(store, "x")
    for _ in range(3):
        put(store, "x")
    with pytest.raises(ApiError, match="too old resource version") as caught:
        await collect(store, revision=first)
    assert (caught.value.status, caught.value.reason) == (410, "Expired")


async def test_a_streamed_list_ends_with_its_bookmark() -> None:
    store = Store(":memory:")
    revision = put(store, "x")
    options = WatchOptions(initial_events=True, bookmarks=True, revision=revision)
    events = Watch(store, kinds.POD, None, options).events()
    async with aclosing(events):
        assert read(await anext(events)) == ("ADDED", "x", revision)
        last = put(store, "s", kind=kinds.SERVICE)
        type_, raw = await anext(events)
        obj = msgspec.json.decode(raw)
        assert (type_, obj["kind"], obj["apiVersion"]) == ("BOOKMARK", "Pod", "v1")
        assert obj["metadata"]["annotations"] == {INITIAL_EVENTS_END: "true"}
        assert int(obj["metadata"]["resourceVersion"]) == last


async def test_a_bookmark_never_runs_ahead_of_events_yet_to_come() -> None:
    store = Store(":memory:")
    before = put(store, "x")
    events = Watch(store, kinds.POD, None, WatchOptions(initial_events=True, bookmarks=True)).events()
    async with aclosing(events):
        await anext(events)
        after = put(store, "y")
        assert read(await anext(events)) == ("BOOKMARK", "", before)
        assert read(await anext(events)) == ("ADDED", "y", after)


async def test_without_bookmarks_none_is_sent() -> None:
    store = Store(":memory:")
    put(store, "x")
    told = await collect(store, initial_events=True, bookmark_period=0.005)
    assert [type_ for type_, _, _ in told] == ["ADDED"]


async def test_initial_events_can_be_declined() -> None:
    store = Store(":memory:")
    put(store, "x")
    told = await collect(store, lambda: put(store, "y"), initial_events=False)
    assert [name for _, name, _ in told] == ["y"]


async def test_bookmarks_come_also_while_others_write() -> None:
    """Events of another namespace keep the watch awake; its bookmark must come all the same, or its revision is forgotten."""
    store = Store(":memory:")
    start = put(store, "x")
    options = WatchOptions(namespace="a", revision=start, bookmarks=True, bookmark_period=0.05)
    events = Watch(store, kinds.POD, None, options).events()

    async def busy() -> None:
        while True:
            put(store, "y", namespace="b")
            await asyncio.sleep(0.005)

    task = asyncio.ensure_future(busy())
    async with aclosing(events):
        type_, _, revision = read(await asyncio.wait_for(anext(events), 5))
        assert type_ == "BOOKMARK"
        assert start < revision <= store.revision
    task.cancel()


async def test_a_watch_ends_at_its_timeout_with_a_last_bookmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LAST", 0.1)
    store = Store(":memory:")
    start = put(store, "x")
    events = Watch(store, kinds.POD, None, WatchOptions(revision=start, bookmarks=True, timeout=0.2)).events()
    told = await asyncio.wait_for(_all(events), 5)
    assert told == [("BOOKMARK", "", start)]
    assert store._listeners == []


async def test_a_watch_ends_when_its_client_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK", 0.01)
    store = Store(":memory:")
    here = [True]
    events = Watch(store, kinds.POD, None, WatchOptions(), alive=lambda: here[0]).events()
    following = asyncio.ensure_future(anext(events, None))
    await asyncio.wait([following], timeout=0.05)
    assert not following.done()
    assert len(store._listeners) == 1
    here[0] = False
    assert await asyncio.wait_for(following, 5) is None
    assert store._listeners == []


async def test_a_client_that_falls_behind_is_told_to_list_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LIMIT", 10)
    store = Store(":memory:")
    put(store, "x")
    cut: list[bool] = []
    following = Watch(store, kinds.POD, None, WatchOptions(), overrun=lambda: cut.append(True))
    events = following.events()
    async with aclosing(events):
        await anext(events)
        for _ in range(10):
            put(store, "x")
        assert not cut
        for _ in range(10):
            put(store, "x")
        assert cut == [True]
        assert not following._queue  # nothing is kept for who cannot follow
        with pytest.raises(ApiError, match="too far behind") as caught:
            await anext(events)
        assert caught.value.status == 410


async def test_selectors_make_leaving_a_delete_and_entering_an_add() -> None:
    store = Store(":memory:")
    put(store, "in", "yes")
    out = put(store, "out", "no")

    def act() -> None:
        put(store, "in", "no")  # leaves
        put(store, "in", "no")  # says nothing
        put(store, "out", "yes")  # enters
        put(store, "out", "yes")
        remove(store, "in")  # was not shown
        remove(store, "out")

    told = await collect(store, act, labelled, revision=out)
    assert told == [
        ("DELETED", "in", out + 1),
        ("ADDED", "out", out + 3),
        ("MODIFIED", "out", out + 4),
        ("DELETED", "out", out + 6),
    ]
    # the same when it is all past
    assert await collect(store, matches=labelled, revision=out) == told


async def test_what_leaves_is_shown_as_it_last_matched() -> None:
    store = Store(":memory:")
    start = put(store, "x", "yes")
    put(store, "x", "no")
    events = Watch(store, kinds.POD, labelled, WatchOptions(revision=start)).events()
    async with aclosing(events):
        type_, raw = await anext(events)
    metadata = msgspec.json.decode(raw)["metadata"]
    assert (type_, metadata["label"], metadata["resourceVersion"]) == ("DELETED", "yes", str(start + 1))


async def test_one_name_of_one_namespace() -> None:
    store = Store(":memory:")
    start = put(store, "x")
    put(store, "y")
    put(store, "x", namespace="b")
    wanted = put(store, "x")
    assert await collect(store, revision=start, name="x", namespace="a") == [("MODIFIED", "x", wanted)]


async def test_a_revision_yet_to_come_starts_there() -> None:
    store = Store(":memory:")
    start = put(store, "x")
    told = await collect(store, lambda: [put(store, "x") for _ in range(4)], revision=start + 2)
    assert told == [("MODIFIED", "x", start + 3), ("MODIFIED", "x", start + 4)]


STEPS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(["yes", "no", "delete"])), max_size=20
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.booleans(), st.sampled_from(["", "a"]), st.data())
def test_a_list_and_a_watch_from_it_give_the_newest_list(
    steps: list[tuple[str, str, str]], select: bool, namespace: str, data: st.DataObject
) -> None:
    matches = labelled if select else None
    store = Store(":memory:")
    starts = [store.revision]

    def take(step: tuple[str, str, str]) -> None:
        place, name, verb = step
        if verb != "delete":
            put(store, name, verb, place)
        elif store.get(kinds.POD, Key(place, name)):
            remove(store, name, place)
        starts.append(store.revision)

    def shown(found: list[tuple[Key, bytes]]) -> dict[Key, bytes]:
        return {key: raw for key, raw in found if matches is None or matches(raw)}

    split = data.draw(st.integers(0, len(steps)))
    for step in steps[:split]:
        take(step)
    start = data.draw(st.sampled_from(starts))
    state = shown(store.all_at(kinds.POD, namespace, start))
    last = start

    async def follow() -> None:
        nonlocal last
        events = Watch(
            store, kinds.POD, matches, WatchOptions(namespace=namespace, revision=start, timeout=0.005)
        ).events()
        following = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0)
        for step in steps[split:]:
            take(step)
        while (event := await following) is not None:
            type_, raw = event
            metadata = msgspec.json.decode(raw)["metadata"]
            key, revision = Key(metadata["namespace"], metadata["name"]), int(metadata["resourceVersion"])
            assert revision > last, "revisions only go up"
            assert (type_ == "ADDED") == (key not in state), f"{type_} of {key}"
            last = revision
            if type_ == "DELETED":
                del state[key]
            else:
                state[key] = raw
            following = asyncio.ensure_future(anext(events, None))

    asyncio.run(follow())
    assert state == shown(store.all(kinds.POD, namespace))
