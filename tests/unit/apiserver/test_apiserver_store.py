"""The store: one revision a write, nothing acknowledged is ever lost, a refused write leaves no trace."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.apiserver.store import Store, StoreEvent
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError


def doc(text: str) -> Callable[[int], bytes]:
    return lambda revision: msgspec.json.encode({"at": revision, "text": text})


def put(store: Store, name: str, text: str = "", kind: Kind = kinds.POD, namespace: str = "a") -> int:
    store.put(kind, Key(namespace, name), doc(text))
    return store.revision


def names(found: list[tuple[Key, bytes]]) -> list[str]:
    return [key.name for key, _ in found]


def test_every_write_has_a_revision_of_its_own() -> None:
    store = Store(":memory:")
    seen: list[StoreEvent] = []
    store.subscribe(seen.append)
    first = put(store, "x")
    assert put(store, "x", "again") == first + 1
    assert put(store, "y", kind=kinds.SERVICE) == first + 2
    store.delete(kinds.POD, Key("a", "x"), doc("gone"))
    assert [(e.revision - first, e.type, e.key.name) for e in seen] == [
        (0, "ADDED", "x"),
        (1, "MODIFIED", "x"),
        (2, "ADDED", "y"),
        (3, "DELETED", "x"),
    ]
    assert msgspec.json.decode(seen[3].raw) == {"at": first + 3, "text": "gone"}
    assert seen[3].previous == seen[1].raw
    assert store.get(kinds.POD, Key("a", "x")) is None


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    store = Store(path)
    put(store, "x", "kept")
    put(store, "y")
    store.delete(kinds.POD, Key("a", "y"), doc(""))
    revision, raw = store.revision, store.get(kinds.POD, Key("a", "x"))
    store.close()
    again = Store(path)
    assert (again.revision, again.all(kinds.POD)) == (revision, [(Key("a", "x"), raw)])
    assert again.since(revision) == []
    with pytest.raises(ApiError) as caught:
        again.since(revision - 1)
    assert (caught.value.status, caught.value.reason) == (410, "Expired")
    again.close()


WRITER = """
import sys
from glassnet.apiserver.store import Store
from glassnet.kube import kinds
from glassnet.kube.view import Key
store = Store(sys.argv[1])
for n in range(10**6):
    store.put(kinds.POD, Key("a", f"p{n % 50}"), lambda r: b'{"at":%d,"n":%d,"pad":"%s"}' % (r, n, b"x" * 3000))
    if n % 7 == 3:
        store.delete(kinds.POD, Key("a", f"p{n % 50}"), lambda r: b"{}")
    sys.stdout.write(f"{n} {store.revision}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("lines", [1, 40, 700])
def test_a_process_killed_while_writing_loses_nothing_it_acknowledged(tmp_path: Path, lines: int) -> None:
    path = str(tmp_path / "s")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    told = [writer.stdout.readline() for _ in range(lines)]
    os.kill(writer.pid, signal.SIGKILL)
    told += writer.stdout.read().splitlines()
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    told = [line for line in told if len(line.split()) == 2]
    count, revision = (int(word) for word in told[-1].split())
    store = Store(path)
    assert revision <= store.revision <= revision + 2
    wanted: dict[str, int] = {}
    for n in range(count + 1):
        wanted[f"p{n % 50}"] = n
        if n % 7 == 3:
            del wanted[f"p{n % 50}"]
    found = {key.name: msgspec.json.decode(raw)["n"] for key, raw in store.all(kinds.POD)}
    after = f"p{(count + 1) % 50}"  # the write under way may have come to pass
    assert {k: n for k, n in found.items() if k != after} == {k: n for k, n in wanted.items() if k != after}
    assert put(store, "z") == store.revision
    store.close()


def test_a_full_disk_refuses_a_write_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    store = Store(path)
    seen: list[StoreEvent] = []
    store.subscribe(seen.append)
    put(store, "x", "before")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    before = (store.revision, store.all(kinds.POD), len(seen), store.since(1))
    for write in (
        lambda: put(store, "x", "y" * 100_000),
        lambda: put(store, "big", "y" * 100_000),
    ):
        with pytest.raises(ApiError, match="full; nothing was written: free some space") as caught:
            write()
        assert (caught.value.status, caught.value.reason) == (507, "InsufficientStorage")
        assert (store.revision, store.all(kinds.POD), len(seen), store.since(1)) == before
    assert put(store, "small") == before[0] + 1
    store.close()
    again = Store(path)
    assert names(again.all(kinds.POD)) == ["small", "x"]
    again.close()


def test_a_disk_that_fails_refuses_a_delete_whole(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    put(store, "x")
    store._db.execute("PRAGMA query_only = 1")
    revision = store.revision
    with pytest.raises(ApiError, match="nothing was written") as caught:
        store.delete(kinds.POD, Key("a", "x"), doc(""))
    assert caught.value.status == 500
    assert (store.revision, names(store.all(kinds.POD))) == (revision, ["x"])
    store._db.execute("PRAGMA query_only = 0")
    store.delete(kinds.POD, Key("a", "x"), doc(""))
    assert store.all(kinds.POD) == []
    store.close()


def test_a_file_belongs_to_one_store(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    store = Store(path)
    with pytest.raises(ApiError, match="another API server has this file open"):
        Store(path)
    store.close()
    Store(path).close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ApiError, match=str(path)):
        Store(str(path))
    assert path.read_bytes().startswith(b"something else")


def test_kinds_unknown_here_stay_on_disk(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    store = Store(path)
    put(store, "x")
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO objects VALUES ('example.com|v1|widgets', 'a', 'w', 1, '{}')")
    db.close()
    again = Store(path)
    assert names(again.all(kinds.POD)) == ["x"]
    put(again, "y")
    again.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM objects").fetchone() == (3,)
    db.close()


def test_lists_come_by_namespace_and_name() -> None:
    store = Store(":memory:")
    for namespace, name in (("b", "x"), ("a", "y"), ("a", "x"), ("aa", "x")):
        put(store, name, namespace=namespace)
    assert [key for key, _ in store.all(kinds.POD)] == [Key("a", "x"), Key("a", "y"), Key("aa", "x"), Key("b", "x")]
    assert [key for key, _ in store.all(kinds.POD, "a")] == [Key("a", "x"), Key("a", "y")]
    assert store.all(kinds.SERVICE) == []


def test_the_log_forgets_by_number() -> None:
    store = Store(":memory:", history=3)
    revisions = [put(store, f"p{n}") for n in range(5)]
    assert [e.revision for e in store.since(revisions[1])] == revisions[2:]
    with pytest.raises(ApiError, match=rf"too old resource version: {revisions[0]} \({revisions[1]}\)"):
        store.since(revisions[0])
    with pytest.raises(ApiError):
        store.all_at(kinds.POD, "", revisions[0])


def test_the_log_forgets_by_size_but_never_the_last_event() -> None:
    store = Store(":memory:", history_bytes=10_000)
    revisions = [put(store, f"p{n}", "x" * 3000) for n in range(6)]
    assert len(store.since(revisions[2])) == 3
    with pytest.raises(ApiError):
        store.since(revisions[1])
    last = put(store, "big", "x" * 50_000)
    assert [e.revision for e in store.since(last - 1)] == [last]
    for n in range(3):
        put(store, f"q{n}")
    assert len(store.since(last)) == 3  # what the big one took is free again


STEPS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(["put", "delete"])), max_size=25
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_revision_can_be_listed_again(steps: list[tuple[str, str, str]]) -> None:
    store = Store(":memory:")
    past = {store.revision: store.all(kinds.POD)}
    for number, (namespace, name, verb) in enumerate(steps):
        if verb == "put":
            put(store, name, str(number), namespace=namespace)
        elif store.get(kinds.POD, Key(namespace, name)):
            store.delete(kinds.POD, Key(namespace, name), doc(""))
        past[store.revision] = store.all(kinds.POD)
    for revision, found in past.items():
        assert store.all_at(kinds.POD, "", revision) == found
        assert store.all_at(kinds.POD, "a", revision) == [(k, raw) for k, raw in found if k.namespace == "a"]


def test_unsubscribing_ends_the_events() -> None:
    store = Store(":memory:")
    seen: list[StoreEvent] = []
    leave = store.subscribe(seen.append)
    put(store, "x")
    leave()
    put(store, "y")
    assert [e.key.name for e in seen] == ["x"]
