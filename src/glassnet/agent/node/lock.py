"""One agent a node: a locked file that says who holds it. The kernel lets go of the lock when its process ends, however it ends (flock(2))."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

from glassnet.net.errors import GlassnetError

RUN = "/run/glassnet"  # 0700: what is in it is root's alone
LOCK = f"{RUN}/agent.lock"


class NodeLock:
    """Held from `take` until `release`."""

    def __init__(self, path: str = LOCK) -> None:
        self._path, self._file = Path(path), -1

    def take(self, what: str) -> None:
        """Take it; `what` says in words who we are. Raises GlassnetError that names the process that has it."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self._path.parent, 0o700)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise GlassnetError(f"{self._path}: {error.strerror}; the agent runs as root") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(file)
            os.close(file)
            raise GlassnetError(
                f"an agent runs on this node already: {holder}; it holds {self._path}. End that one first (it leaves rules and routes in place)"
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"pid": os.getpid(), "what": what}).encode(), 0)
        self._file = file

    def release(self, remove: bool = False) -> None:
        """Let go; with `remove` the file goes too."""
        if self._file >= 0:
            if remove:
                with contextlib.suppress(OSError):
                    self._path.unlink()
            os.close(self._file)
            self._file = -1


def _holder(file: int) -> str:
    """Who holds the lock, in words: process number (of its own PID namespace), and what it said of itself."""
    with contextlib.suppress(ValueError, OSError, TypeError):
        said = json.loads(os.pread(file, 4096, 0))
        return f"process {said['pid']} ({said['what']})"
    return "a process that has not said its name yet"
