"""Container logs: a bounded ring of lines in memory, with the time of each, and its readers.

Nothing is written to disk: what a ring has dropped, and the logs of a pod that is gone, are gone.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

PROCESS_LIMIT = 256 * 1024
"""Bytes of log kept of real processes."""
BUILT_IN_LIMIT = 16 * 1024
"""Bytes of log kept of a built-in server."""
MAX_LINE = 16 * 1024
"""Longer lines are cut into pieces of this size, as container runtimes do (the CRI log format's partial lines)."""

_HEAD = struct.Struct("<qBH")
_PARTIAL = 0x80


class Line(NamedTuple):
    """A line or a piece of one: nanoseconds since the epoch, 1 stdout or 2 stderr, whether more of the line follows, text."""

    time: int
    stream: int
    partial: bool
    text: bytes


def nanoseconds(moment: datetime) -> int:
    """A time as nanoseconds since the epoch, exactly."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def stamp(time: int) -> bytes:
    """RFC 3339 with nine digits of fraction, as the kubelet prints it."""
    seconds, fraction = divmod(time, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z".encode()


class LogRing:
    """The last `limit` bytes of a container's log. Takes no memory before its first line."""

    __slots__ = ("_data", "_dropped", "_limit", "_waiters", "closed")

    def __init__(self, limit: int) -> None:
        self._limit = max(limit, MAX_LINE + _HEAD.size)
        self._data = bytearray()
        self._dropped = 0
        self._waiters: list[asyncio.Future[None]] | None = None
        self.closed = False

    @property
    def size(self) -> int:
        """Bytes held."""
        return len(self._data)

    def append(self, time: int, text: bytes, stream: int = 1, partial: bool = False) -> None:
        """Add a line (without its end) of at most MAX_LINE bytes; the oldest make room for it."""
        size = _HEAD.size + len(text)
        excess = len(self._data) + size - self._limit
        if excess > 0:
            self._drop(excess)
        self._data += _HEAD.pack(time, stream | (_PARTIAL if partial else 0), len(text))
        self._data += text
        self._wake()

    def _drop(self, excess: int) -> None:
        cut = 0
        while cut < excess and cut < len(self._data):
            cut += _HEAD.size + _HEAD.unpack_from(self._data, cut)[2]
        del self._data[:cut]
        self._dropped += cut

    def close(self) -> None:
        """The container has ended: followers come to their end."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def changed(self) -> None:
        """Wait for the next line, or the end."""
        if self.closed:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    @property
    def end(self) -> int:
        """The place behind the last line; places only grow."""
        return self._dropped + len(self._data)

    def lines(self, place: int = 0) -> Iterator[tuple[int, Line]]:
        """Lines from `place` on, each with the place behind it. What has been dropped is passed over."""
        while True:
            place = max(place, self._dropped)
            offset = place - self._dropped
            if offset >= len(self._data):
                return
            time, flags, length = _HEAD.unpack_from(self._data, offset)
            start = offset + _HEAD.size
            place += _HEAD.size + length
            yield place, Line(time, flags & 0x7F, bool(flags & _PARTIAL), bytes(self._data[start : start + length]))


class LineWriter:
    """Cuts a process's output into lines for a ring."""

    __slots__ = ("_clock", "_rest", "_ring", "_stream")

    def __init__(self, ring: LogRing, stream: int, clock: Callable[[], datetime]) -> None:
        self._ring, self._stream, self._clock = ring, stream, clock
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take output as it comes."""
        now = nanoseconds(self._clock())
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._ring.append(now, self._pieces(line, now), self._stream)
        self._rest = self._pieces(rest, now)

    def _pieces(self, line: bytes, now: int) -> bytes:
        """Log all whole MAX_LINE pieces of a line but the last, and return that."""
        while len(line) > MAX_LINE:
            self._ring.append(now, line[:MAX_LINE], self._stream, partial=True)
            line = line[MAX_LINE:]
        return line

    def finish(self) -> None:
        """The output has ended, perhaps in the middle of a line."""
        if self._rest:
            self._ring.append(nanoseconds(self._clock()), self._rest, self._stream, partial=True)
            self._rest = b""


class LogOptions(NamedTuple):
    """What a reader wants; `since` in nanoseconds since the epoch."""

    follow: bool = False
    timestamps: bool = False
    tail: int = -1
    since: int = 0
    limit: int = -1


def options_of(options: Mapping[str, Any], now: datetime) -> LogOptions:
    """LogOptions of a PodLogOptions-like mapping (see kube.runtime.PodStreams.logs); sinceTime wins over sinceSeconds."""
    since = 0
    if (moment := options.get("sinceTime")) is not None:
        since = nanoseconds(moment)
    elif (seconds := options.get("sinceSeconds")) is not None:
        since = nanoseconds(now - timedelta(seconds=int(seconds)))
    tail, limit = options.get("tailLines"), options.get("limitBytes")
    return LogOptions(
        follow=bool(options.get("follow")),
        timestamps=bool(options.get("timestamps")),
        tail=-1 if tail is None else int(tail),
        since=since,
        limit=-1 if limit is None else int(limit),
    )


async def read_log(ring: LogRing, options: LogOptions) -> AsyncIterator[bytes]:
    """Log bytes as `kubectl logs` shows them; with `follow` until the container ends."""
    place, left, begun = _first_place(ring, options), options.limit, False
    while True:
        batch = bytearray()
        for behind, line in ring.lines(place):
            place = behind
            if line.time >= options.since:
                batch += _shown(line, options.timestamps and not begun)
                begun = line.partial
            if len(batch) > 64 * 1024:
                break
        if batch:
            if 0 <= left < len(batch):
                del batch[left:]
            if left >= 0:
                left -= len(batch)
            yield bytes(batch)
        if left == 0:
            return
        if place < ring.end:
            continue
        if ring.closed or not options.follow:
            return
        await ring.changed()


def _shown(line: Line, with_time: bool) -> bytes:
    end = b"" if line.partial else b"\n"
    return stamp(line.time) + b" " + line.text + end if with_time else line.text + end


def _first_place(ring: LogRing, options: LogOptions) -> int:
    """Where the last `tail` lines begin."""
    if options.tail < 0:
        return 0
    starts: list[int] = []
    place, within = 0, False
    for behind, line in ring.lines():
        if not within:
            starts.append(behind - _HEAD.size - len(line.text))
        within, place = line.partial, behind
    if options.tail == 0 or not starts:
        return place
    return starts[-options.tail] if options.tail <= len(starts) else starts[0]
