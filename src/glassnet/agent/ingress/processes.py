"""The NGINX processes of one directory: found by where they stand, never by name.

Every NGINX of ours is started with its own directory as working directory, which master and workers keep (nginx(8): workers change it
only when told to, `working_directory`). So what stands in the directory is ours, whoever its parent was, and outlives neither us nor it unseen.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

from glassnet.net.errors import KernelError

_LEAVING = b"is shutting down"
_WORKER, _MASTER = b"nginx: worker process", b"nginx: master process"


class Member(NamedTuple):
    """One process. `role` is "master", "worker" or "" (a check of a configuration, one that has just begun); `leaving`: it accepts nobody any more."""

    pid: int
    role: str
    leaving: bool


def members(directory: Path) -> list[Member]:
    """The processes that stand in a directory, as our /proc shows them."""
    try:
        place = os.stat(directory)
    except FileNotFoundError:
        return []
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ends while we look
            where = os.stat(f"/proc/{name}/cwd")
            if (where.st_dev, where.st_ino) == (place.st_dev, place.st_ino):
                found.append(_member(int(name)))
    return found


def _member(pid: int) -> Member:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        title = file.read(200)
    role = "worker" if title.startswith(_WORKER) else "master" if title.startswith(_MASTER) else ""
    return Member(pid, role, _LEAVING in title)


def send(directory: Path, pid: int, number: int) -> bool:
    """Send a signal to a process if it (still) stands in the directory; whether it was sent."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        place, where = (
            os.stat(directory),
            os.stat(f"/proc/{pid}/cwd"),
        )  # of the process the descriptor holds, which cannot be another by now
        if (place.st_dev, place.st_ino) != (where.st_dev, where.st_ino):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except PermissionError as error:
        raise KernelError(f"signal {number} to process {pid} of {directory}", error.errno or 0) from None
    except OSError:
        return False
    finally:
        os.close(descriptor)
