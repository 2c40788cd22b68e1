"""What NGINX says on its standard error, into our log; some of it is kept for those who ask why something failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections import deque

log = logging.getLogger(__name__)
_HEAD = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\] (?:\d+#\d+: )?(?:\*\d+ )?")
_LEVELS = {
    "emerg": logging.ERROR,
    "alert": logging.ERROR,
    "crit": logging.ERROR,
    "error": logging.WARNING,
    "warn": logging.WARNING,
}
RATE = 20  # lines a second that are logged: one that says the same a thousand times is heard twenty times
_KEPT = 200


class Lines:
    """A pipe for NGINX's standard error (`pipe`), and what came through it."""

    def __init__(self) -> None:
        self._reading = self.pipe = -1
        self._rest = b""
        self._kept: deque[str] = deque(maxlen=_KEPT)
        self._number = 0
        self._second, self._told = 0.0, 0
        self.silenced = 0

    def forget(self) -> None:
        """Begin anew, for a new process."""
        self.close()
        self._kept.clear()
        self._reading, self.pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # both ends: NGINX never waits for us to read

    def listen(self) -> None:
        """The process has been started: read what it says, until it has ended."""
        os.close(self.pipe)
        self.pipe = -1
        asyncio.get_running_loop().add_reader(self._reading, self._read)

    def close(self) -> None:
        """Read the rest, and listen no longer."""
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1
        if self._reading >= 0:
            self._read()
        if self._reading >= 0:
            self._stop()

    def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reading)
        os.close(self._reading)
        self._reading, self._rest = -1, b""

    def mark(self) -> int:
        """Now, for `since`."""
        return self._number

    def since(self, mark: int) -> str:
        """The lines that came after a mark."""
        with contextlib.suppress(OSError):
            self._read()
        count = min(self._number - mark, len(self._kept))
        return "\n".join(list(self._kept)[len(self._kept) - count :]) if count > 0 else ""

    def last(self) -> str:
        """The last line."""
        return _HEAD.sub("", self._kept[-1]) if self._kept else "it said nothing"

    def _read(self) -> None:
        if self._reading < 0:
            return
        try:
            data = os.read(self._reading, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stop()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(line.decode(errors="replace"))
        self._rest = self._rest[-4096:]

    def _hear(self, line: str) -> None:
        self._kept.append(line)
        self._number += 1
        now = time.monotonic()
        if now - self._second > 1:
            self._second, self._told = now, 0
        self._told += 1
        if self._told > RATE:
            self.silenced += 1
            return
        found = _HEAD.match(line)
        log.log(
            _LEVELS.get(found[1], logging.INFO) if found else logging.INFO,
            "nginx: %s",
            line[found.end() :] if found else line,
        )
