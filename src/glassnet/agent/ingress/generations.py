"""NGINX's files: a directory for each generation of them, and `current`, which leads to the one in force.

DIR/generations/000007/nginx.conf, …   written whole before anybody reads them
DIR/current -> generations/000007      switched in one step (rename(2))
DIR/…                                  NGINX's own: pid file, temporary files, the access log
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from glassnet.net.errors import GlassnetError

CURRENT, _ALL = "current", "generations"
_PRIVATE, _SHARED, _KEY = 0o600, 0o644, b"PRIVATE KEY-----"


class Generations:
    """The generations under one directory. Names are numbers that only grow."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._number = directory, 0

    def begin(self) -> None:
        """Make the directory; what an earlier process left there of generations goes. Raises GlassnetError when it cannot be written."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            shutil.rmtree(self._directory / _ALL, ignore_errors=True)
            (self._directory / _ALL).mkdir(mode=0o755)
            (self._directory / CURRENT).unlink(missing_ok=True)
        except OSError as error:
            raise GlassnetError(
                f"{self._directory}: {error.strerror}; NGINX's directory must be ours to write"
            ) from None

    def write(self, files: Mapping[str, bytes]) -> str:
        """A new generation of these files (relative name -> content); its name. Those with a private key are for the master's eyes alone, which
        reads them before it gives up its rights; the workers may read the others while they serve. Raises GlassnetError."""
        self._number += 1
        name = f"{self._number:06d}"
        place = self._directory / _ALL / name
        try:
            place.mkdir(mode=0o755)
            for file, content in files.items():
                self._put(place, file, content, _PRIVATE if _KEY in content else _SHARED)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise GlassnetError(f"{place}: {error.strerror}; NGINX's files cannot be written") from None
        return name

    def _put(self, place: Path, file: str, content: bytes, mode: int) -> None:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts:
            raise GlassnetError(f"{file}: no name of a file in NGINX's directory")
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as out:
            out.write(content)

    def switch(self, name: str) -> None:
        """Have `current` lead to this generation: at every moment it leads to one that is whole."""
        fresh = self._directory / f"{CURRENT}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(f"{_ALL}/{name}")
        fresh.rename(self._directory / CURRENT)

    def remove_but(self, names: Collection[str]) -> None:
        """Remove the generations that nobody uses."""
        for place in (self._directory / _ALL).iterdir():
            if place.name not in names:
                shutil.rmtree(place, ignore_errors=True)

    def inside(self, name: str) -> str:
        """The directory of a generation, relative to ours."""
        return f"{_ALL}/{name}"
