"""Objects on disk and in memory: SQLite (WAL), one revision per write, a log of recent events for watches.

Memory holds every object as its JSON bytes, never decoded. A write is on disk before memory shows it: a process that is killed has lost
nothing it acknowledged, and a disk that is full refuses a write whole.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from glassnet.kube.kinds import BY_PATH, Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


class StoreEvent(NamedTuple):
    """One write: `raw` is the object as it is now (for DELETED: as it was, with the deletion's revision), `previous` as it was."""

    revision: int
    type: EventType
    kind: Kind
    key: Key
    raw: bytes
    previous: bytes | None


class Store:
    """All objects of one API server. `path` may be ":memory:"."""

    def __init__(self, path: str, history: int = 10_000) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS objects (resource TEXT, namespace TEXT, name TEXT, revision INTEGER, raw BLOB, "
                "PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS revision (id INTEGER PRIMARY KEY CHECK (id = 0), value INTEGER)"
            )
            row = self._db.execute("SELECT value FROM revision").fetchone()
        except sqlite3.Error as error:
            raise _storage(path, error) from None
        self._path = path
        self.revision: int = row[0] if row else 1
        self._objects: dict[Kind, dict[Key, bytes]] = {}
        self._log: deque[StoreEvent] = deque(maxlen=history)
        self._listeners: list[Callable[[StoreEvent], None]] = []
        for resource, namespace, name, raw in self._db.execute("SELECT resource, namespace, name, raw FROM objects"):
            group, version, plural = resource.split("|")
            self._objects.setdefault(BY_PATH[group, version, plural], {})[Key(namespace, name)] = bytes(raw)

    # -- reading

    def get(self, kind: Kind, key: Key) -> bytes | None:
        """One object's JSON, or None."""
        return self._objects.get(kind, {}).get(key)

    def all(self, kind: Kind, namespace: str = "") -> list[tuple[Key, bytes]]:
        """Objects of a kind (of one namespace when given), sorted by key."""
        found = self._objects.get(kind, {})
        return (
            sorted(found.items())
            if not namespace
            else sorted((k, raw) for k, raw in found.items() if k.namespace == namespace)
        )

    def all_at(self, kind: Kind, namespace: str, revision: int) -> list[tuple[Key, bytes]]:
        """The same as of an earlier revision. Raises ApiError 410 when that is forgotten."""
        if revision >= self.revision:
            return self.all(kind, namespace)
        state = dict(self._objects.get(kind, {}))
        for event in reversed(self.since(revision)):
            if event.kind is kind:
                if event.previous is None:
                    state.pop(event.key, None)
                else:
                    state[event.key] = event.previous
        return sorted((k, raw) for k, raw in state.items() if not namespace or k.namespace == namespace)

    def since(self, revision: int) -> list[StoreEvent]:
        """Events after a revision, oldest first. Raises ApiError 410 when some of them are forgotten."""
        if revision == self.revision:
            return []
        oldest = self._log[0].revision if self._log else self.revision + 1
        if revision < oldest - 1:
            raise ApiError(410, "Expired", f"too old resource version: {revision} ({oldest - 1})")
        found: deque[StoreEvent] = deque()
        for event in reversed(self._log):
            if event.revision <= revision:
                break
            found.appendleft(event)
        return list(found)

    def subscribe(self, listener: Callable[[StoreEvent], None]) -> Callable[[], None]:
        """Call `listener` after every write, before the writer goes on. Returns the un-subscriber."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # -- writing

    def put(self, kind: Kind, key: Key, encode: Callable[[int], bytes]) -> bytes:
        """Write an object; `encode(revision)` gives its JSON. Raises ApiError 500 when the disk refuses, and nothing has changed then."""
        raw = encode(self.revision + 1)
        place = (_resource(kind), key.namespace, key.name)
        self._commit("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", (*place, self.revision + 1, raw))
        objects = self._objects.setdefault(kind, {})
        previous = objects.get(key)
        objects[key] = raw
        self._tell(StoreEvent(self.revision, "ADDED" if previous is None else "MODIFIED", kind, key, raw, previous))
        return raw

    def delete(self, kind: Kind, key: Key, encode: Callable[[int], bytes]) -> bytes:
        """Remove an object; `encode(revision)` gives the JSON that watches see last. Raises as `put`, and KeyError when it is not there."""
        previous = self._objects[kind][key]
        raw = encode(self.revision + 1)
        self._commit(
            "DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?",
            (_resource(kind), key.namespace, key.name),
        )
        del self._objects[kind][key]
        self._tell(StoreEvent(self.revision, "DELETED", kind, key, raw, previous))
        return raw

    def _commit(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(statement, values)
            self._db.execute("INSERT OR REPLACE INTO revision VALUES (0, ?)", (self.revision + 1,))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise _storage(self._path, error) from None
        self.revision += 1

    def _tell(self, event: StoreEvent) -> None:
        self._log.append(event)
        for listener in tuple(self._listeners):
            listener(event)

    def close(self) -> None:
        """Close the file; everything is on disk already."""
        self._db.close()


def _resource(kind: Kind) -> str:
    return f"{kind.group}|{kind.version}|{kind.plural}"


def _storage(path: str, error: sqlite3.Error) -> ApiError:
    return ApiError(500, "InternalError", f"storage {path}: {error}; nothing was written")
