"""NGINX's access log: handed on to standard output, and counted by Ingress.

NGINX writes it into a file, in pieces of many lines, and never waits for us: what reads slowly, or not at all, holds up no request. What has been
read is given back to the file system at once (fallocate(2), FALLOC_FL_PUNCH_HOLE), so the file stays small however long it becomes. A reader that
falls far behind skips what is oldest, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from glassnet.kernel.libc import punch_hole
from glassnet.net.errors import KernelError

log = logging.getLogger(__name__)
FILE = "access.log"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
EVERY = 0.25  # seconds between looks
_PIECE, _BEHIND = 1 << 20, 64 << 20  # octets read in one go; octets behind which the oldest are skipped
# What of a line is counted: these four stand together (ingress.defaults). In what a client wrote quotes are escaped: it does not look like this.
_COUNTED = re.compile(rb'"namespace":"([^"\\]*)","ingress":"([^"\\]*)","status":(\d+),"duration":([\d.]+)')


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

    def add(self, status: int, duration: float, times: int = 1) -> None:
        """So many more requests, all alike."""
        name = _CLASSES[status // 100] if 100 <= status < 600 else "other"
        self.classes[name] = self.classes.get(name, 0) + times
        self.seconds += times * duration
        place = 0
        while place < len(BUCKETS) and duration > BUCKETS[place]:
            place += 1
        self.buckets[place] += times


_CLASSES = ("", "1xx", "2xx", "3xx", "4xx", "5xx")
_NOBODY = Owner("", "")


class AccessLog:
    """Reads `directory`/access.log. Counts are kept for the Ingresses in `known`, all others are counted as nobody's; `out` takes the lines, if
    anybody wants them."""

    def __init__(self, directory: Path, out: Callable[[bytes], None] | None) -> None:
        self._path, self._out = directory / FILE, out
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
        self._count(lines)
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

    def _count(self, lines: bytes) -> None:
        """Count whole lines. Most are alike but for some milliseconds, so they are counted together first."""
        found = _COUNTED.findall(lines)
        self.unread += lines.count(b"\n") + (not lines.endswith(b"\n") and bool(lines)) - len(found)
        for (namespace, ingress, status, duration), times in Counter(found).items():
            owner = Owner(namespace.decode(), ingress.decode())
            if owner not in self._known:
                owner = _NOBODY
            count = self.counts.get(owner)
            if count is None:
                count = self.counts[owner] = Count()
            count.add(int(status), float(duration), times)


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
