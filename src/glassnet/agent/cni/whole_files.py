"""Files that are written whole or not at all, whenever the process that writes them is killed, and with nothing left beside them.

Source: open(2), O_TMPFILE; linkat(2).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from glassnet.net.errors import GlassnetError


def create(directory: Path, name: str, text: str, beside: str, mode: int = 0o644) -> None:
    """Make a file. Where the file system has no files without a name the text comes under the name `beside` first.

    Raises FileExistsError, OSError naming the file.
    """
    try:
        file = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
        _create_beside(directory, name, text, beside, mode)
        return
    here = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _write(file, text)
        # the descriptor for the directory makes Python call linkat(2), which alone follows the link in /proc
        os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=here, follow_symlinks=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory / name)) from None
    finally:
        os.close(here)
        os.close(file)


def _create_beside(directory: Path, name: str, text: str, beside: str, mode: int) -> None:
    path = directory / beside
    path.unlink(
        missing_ok=True
    )  # of one who was killed; it may be a second name of a whole file, so it is not written to
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _write(file, text)
        os.link(path, directory / name)
    finally:
        os.close(file)
        with suppress(OSError):
            path.unlink()


def replace(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that may be there. Raises OSError naming it."""
    beside = f".{path.name}.new"
    try:
        create(path.parent, path.name, text, beside, mode)
    except FileExistsError:
        (path.parent / beside).unlink(missing_ok=True)
        create(path.parent, beside, text, f"{beside}er", mode)
        os.replace(path.parent / beside, path)


def read_whole(path: Path) -> str | None:
    """The text of a file, None when there is none that can be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def write_whole(path: Path, text: str) -> None:
    """Write a file that others read (a runtime watches its directory of networks), and its directory. Raises GlassnetError naming it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, text, 0o644)
    except OSError as error:
        raise GlassnetError(f"{path}: {error.strerror}") from None


def _write(file: int, text: str) -> None:
    data = text.encode()
    while data:
        if not (done := os.write(file, data)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[done:]
