"""NGINX's access log: handed on to standard output, and counted by Ingress.

NGINX writes it into a file, in pieces of many lines, and never waits for us: what reads slowly, or not at all, holds up no request. What has been
read is given back to the file system at once (fallocate(2), FALLOC_FL_PUNCH_HOLE), so the file stays small however long it becomes. A reader that
falls far behind skips what is oldest, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from glassnet.kernel.libc import punch_hole
from glassnet.net.errors import KernelError

log = logging.getLogger(__name__)
FILE = "access.log"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
EVERY = 0.25  # seconds between looks
_PIECE, _BEHIND = 1 << 20, 64 << 20  # octets read in one go; octets behind which the oldest are skipped
_AT_ONCE = 2000  # lines after which others have their turn


class Line(msgspec.Struct, gc=False):
    """What of a line is counted."""

    namespace: str = ""
    ingress: str = ""
    status: int | str = 0
    duration: float | str = 0.0


class Owner(NamedTuple):
    """An Ingress; both "" for what none has a rule for."""

    namespace: str
    ingress: str


class Count:
    """The requests of one Ingress: by class of status ("2xx"), seconds altogether, and how many took at most BUCKETS seconds."""

    __slots__ = ("buckets", "classes", "seconds")

    def __init__(self) -> None:
        self.classes: dict[str, int] = {}
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def add(self, status: int, duration: float) -> None:
        """One more request."""
        name = _CLASSES[status // 100] if 100 <= status < 600 else "other"
        self.classes[name] = self.classes.get(name, 0) + 1
        self.seconds += duration
        place = 0
        while place < len(BUCKETS) and duration > BUCKETS[place]:
            place += 1
        self.buckets[place] += 1


_CLASSES = ("", "1xx", "2xx", "3xx", "4xx", "5xx")
_NOBODY = Owner("", "")


class AccessLog:
    """Reads `directory`/access.log. Counts are kept for the Ingresses in `known`, all others are counted as nobody's; `out` takes the lines, if
    anybody wants them."""

    def __init__(self, directory: Path, out: Callable[[bytes], None] | None) -> None:
        self._path, self._out = directory / FILE, out
        self._decoder = msgspec.json.Decoder(Line)
        self._fd, self._offset = -1, 0
        self._known: frozenset[Owner] = frozenset()
        self._rest = b""
        self.counts: dict[Owner, Count] = {}
        self.unread = self.skipped = 0  # lines that could not be read; octets that were skipped

    def know(self, owners: Iterable[Owner]) -> None:
        """Which Ingresses there are: the counts of others go, so that there are never more than Ingresses."""
        self._known = frozenset(owners)
        for owner in self.counts.keys() - self._known - {_NOBODY}:
            del self.counts[owner]

    async def run(self) -> None:
        """Until cancelled; then once more, for the rest."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._offset = os.fstat(self._fd).st_size  # what an earlier process left was its business
        try:
            while True:
                try:
                    await asyncio.sleep(EVERY)
                    while await self._piece():
                        pass
                except asyncio.CancelledError:
                    await self._piece()
                    raise
        finally:
            os.close(self._fd)
            self._fd = -1

    async def _piece(self) -> bool:
        """One piece of the file; whether there may be more."""
        behind = os.fstat(self._fd).st_size - self._offset
        if behind > _BEHIND:
            self.skipped += behind - _PIECE
            log.warning("the access log is not read as fast as it is written: %d octets are skipped", behind - _PIECE)
            self._offset += behind - _PIECE
            self._rest = b""
        data = os.pread(self._fd, _PIECE, self._offset)
        if not data:
            return False
        self._offset += len(data)
        whole, newline, rest = data.rpartition(b"\n")
        lines, self._rest = (self._rest + whole + newline, rest) if newline else (b"", self._rest + rest)
        self._free()
        if lines and self._out is not None:
            await asyncio.to_thread(self._out, lines)
        split = lines.splitlines()
        for begin in range(0, len(split), _AT_ONCE):
            for line in split[begin : begin + _AT_ONCE]:
                self._count(line)
            await asyncio.sleep(0)
        return len(data) == _PIECE

    def _free(self) -> None:
        try:
            punch_hole(self._fd, 0, self._offset)
        except (
            KernelError
        ):  # a file system that cannot: NGINX appends, so the file may be cut when nobody has written since
            if os.fstat(self._fd).st_size == self._offset:
                os.ftruncate(self._fd, 0)
                self._offset = 0

    def _count(self, line: bytes) -> None:
        try:
            found = self._decoder.decode(line)
            status, duration = int(found.status), float(found.duration)
        except (msgspec.MsgspecError, ValueError):
            self.unread += 1
            return
        owner = Owner(found.namespace, found.ingress)
        if owner not in self._known:
            owner = _NOBODY
        count = self.counts.get(owner)
        if count is None:
            count = self.counts[owner] = Count()
        count.add(status, duration)


def to_stdout(lines: bytes) -> None:
    """Write whole lines to standard output, however long it takes."""
    view = memoryview(lines)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:
            os.set_blocking(1, True)
        except BrokenPipeError:
            return
