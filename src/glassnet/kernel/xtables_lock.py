"""The lock that all legacy iptables tools of a node take before they write, and whether anybody else has had it.

They open the file, lock it with flock(2), write, and close it. So does everyone who calls them, and kube-proxy. We open it once and keep it
open; whoever opens or closes it is somebody else, and inotify(7) tells. Who has the lock and has heard nothing since a time knows that the
tables have not been written since, but for programs that take no lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from glassnet.net.errors import KernelError

PLACE = "run/xtables.lock"
_EVENTS = 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x400 | 0x800  # modify, attributes, both ways of close, open, delete, move
_libc = ctypes.CDLL(None, use_errno=True)


class XtablesLock:
    """The lock of the machine whose files are at `root`. Raises OSError, KernelError (no more inotify instances, as fs.inotify allows)."""

    def __init__(self, root: Path) -> None:
        self._path = root / PLACE
        self._file = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._notify = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if self._notify < 0:
                raise KernelError(f"watch {self._path}", ctypes.get_errno())
            if _libc.inotify_add_watch(self._notify, f"/proc/self/fd/{self._file}".encode(), _EVENTS) < 0:
                raise KernelError(f"watch {self._path}", ctypes.get_errno())
        except KernelError:
            self.close()
            raise

    def heard(self) -> bool:
        """Whether anybody else has opened or closed the file since the last call."""
        found = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._notify, 1 << 16):
                found = True
        return found

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the lock; False at once when somebody else does, or when others find another file."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield self.current()
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def current(self) -> bool:
        """Whether the file is still the one that others find."""
        try:
            there, mine = os.stat(self._path), os.fstat(self._file)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def close(self) -> None:
        """Let go of the file."""
        for descriptor in (self._file, self._notify):
            if descriptor >= 0:
                os.close(descriptor)
