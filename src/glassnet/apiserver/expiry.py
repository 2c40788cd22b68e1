"""How long Events are kept: an hour after their last write, as the real server keeps them (kube-apiserver --event-ttl)."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

LIFETIME = timedelta(hours=1)
PERIOD = timedelta(minutes=1)


class Ages:
    """Remembers which revision the store was at, minute by minute, so that no object needs a time of its own."""

    def __init__(self, now: datetime, revision: int) -> None:
        self._marks: deque[tuple[datetime, int]] = deque([(now, revision)])

    def expired(self, now: datetime, revision: int) -> int:
        """The revision up to which writes are older than LIFETIME; 0 when there is nothing new to expire."""
        if now - self._marks[-1][0] >= PERIOD:
            self._marks.append((now, revision))
        bound = 0
        while len(self._marks) > 1 and now - self._marks[0][0] >= LIFETIME:
            bound = self._marks.popleft()[1]
        return bound
