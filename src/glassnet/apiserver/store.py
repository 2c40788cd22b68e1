"""Objects on disk and in memory: SQLite (WAL), one revision per write, a log of recent events for watches.

Memory holds every object as its JSON bytes, never decoded. A write is on disk before memory shows it: a process that is killed has lost
nothing it acknowledged, and a disk that is full refuses a write whole.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from glassnet.kube.kinds import BY_PATH, Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

_PATIENCE = 1.0  # seconds to wait for a process that is just leaving the file
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
    """All objects of one API server. `path` may be ":memory:"; a file belongs to one Store at a time.

    The log of events is bounded by `history` (their number) and `history_bytes` (the JSON they hold, in bytes).
    """

    def __init__(self, path: str, history: int = 10_000, history_bytes: int = 16 << 20) -> None:
        try:
            self._db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            # what is in memory would be wrong as soon as another process wrote to the file
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
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
            self.revision: int = row[0] if row else 1
            self._objects: dict[Kind, dict[Key, bytes]] = {}
            for resource, namespace, name, raw in self._db.execute(
                "SELECT resource, namespace, name, raw FROM objects ORDER BY revision"
            ):
                group, version, plural = resource.split("|")
                if kind := BY_PATH.get(
                    (group, version, plural)
                ):  # what another version of glassnet serves stays on disk
                    self._objects.setdefault(kind, {})[Key(namespace, name)] = bytes(raw)
        except sqlite3.Error as error:
            raise _storage(path, error) from None
        self._path = path
        self._log: deque[StoreEvent] = deque()
        self._history, self._history_bytes, self._log_bytes = history, history_bytes, 0
        self._listeners: list[Callable[[StoreEvent], None]] = []

    # -- reading

    def get(self, kind: Kind, key: Key) -> bytes | None:
        """One object's JSON, or None."""
        return self._objects.get(kind, {}).get(key)

    def all(self, kind: Kind, namespace: str = "") -> list[tuple[Key, bytes]]:
        """Objects of a kind (of one namespace when given), sorted by key."""
        return _sorted(self._objects.get(kind, {}), namespace)

    def all_at(self, kind: Kind, namespace: str, revision: int) -> list[tuple[Key, bytes]]:
        """The same as of an earlier revision. Raises ApiError 410 when that is forgotten."""
        if revision >= self.revision:
            return self.all(kind, namespace)
        state: dict[Key, bytes] = dict(self._objects.get(kind, {}))
        for event in reversed(self.since(revision)):
            if event.kind is kind:
                if event.previous is None:
                    state.pop(event.key, None)
                else:
                    state[event.key] = event.previous
        return _sorted(state, namespace)

    def since(self, revision: int) -> list[StoreEvent]:
        """Events after a revision, oldest first. Raises ApiError 410 when some of them are forgotten."""
        if revision >= self.revision:
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
            with contextlib.suppress(sqlite3.Error):  # a full disk may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise _storage(self._path, error) from None
        self.revision += 1

    def _tell(self, event: StoreEvent) -> None:
        self._log.append(event)
        self._log_bytes += len(event.raw)
        while len(self._log) > self._history or (self._log_bytes > self._history_bytes and len(self._log) > 1):
            self._log_bytes -= len(self._log.popleft().raw)
        for listener in tuple(self._listeners):
            listener(event)

    def close(self) -> None:
        """Close the file; everything is on disk already."""
        self._db.close()


def _resource(kind: Kind) -> str:
    return f"{kind.group}|{kind.version}|{kind.plural}"


def _sorted(objects: dict[Key, bytes], namespace: str) -> list[tuple[Key, bytes]]:
    return sorted((key, raw) for key, raw in objects.items() if not namespace or key.namespace == namespace)


def _storage(path: str, error: sqlite3.Error) -> ApiError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_FULL:
        return ApiError(
            507, "InsufficientStorage", f"storage {path}: {error}; nothing was written: free some space and try again"
        )
    if code == sqlite3.SQLITE_BUSY:
        return ApiError(500, "InternalError", f"storage {path}: {error}: another API server has this file open")
    return ApiError(500, "InternalError", f"storage {path}: {error}; nothing was written")
