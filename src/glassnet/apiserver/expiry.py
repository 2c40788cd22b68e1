"""How long Events are kept: an hour after their last write, as the real server keeps them (kube-apiserver --event-ttl)."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

LIFETIME = timedelta(hours=1)
PERIOD = timedelta(minutes=1)


class Ages:
    """Remembers, a mark a minute, which revision was written by when, so that no object needs a time of its own."""

    def __init__(self, now: datetime, revision: int) -> None:
        self._last = (now, revision)
        self._marks: deque[tuple[datetime, int]] = deque()

    def wrote(self, now: datetime, revision: int) -> None:
        """Take note of a write."""
        self._last = (now, revision)

    def expired(self, now: datetime) -> int:
        """The revision up to which all writes are older than LIFETIME; 0 when there are none such."""
        newest = self._marks[-1] if self._marks else None
        if newest is None or (newest is not self._last and now - newest[0] >= PERIOD):
            self._marks.append(self._last)
        bound = 0
        while self._marks and now - self._marks[0][0] >= LIFETIME:
            bound = self._marks.popleft()[1]
        return bound
