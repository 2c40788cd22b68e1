"""Snapshots on disk: a directory of files, or all of them in one compressed archive. Reads and writes, and nothing else."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from glassnet.net.errors import UsageError

_MOST = 2 << 30  # bytes of all files together: more is no snapshot


def read_files(path: str) -> dict[str, bytes]:
    """Files of a snapshot by their path in it. Raises UsageError for what cannot be opened or read."""
    place = Path(path)
    try:
        if place.is_dir():
            return _directory(place)
        if not place.exists():
            raise UsageError(f"{path}: no such file or directory; `glassnet snapshot -o FILE` makes one")
        if not tarfile.is_tarfile(place):
            return {place.name: _plain(place)}
        return _archive(place)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: damaged, or cut off: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def _plain(place: Path) -> bytes:
    data = place.read_bytes()
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    return data


def _directory(place: Path) -> dict[str, bytes]:
    found, size = {}, 0
    for file in sorted(place.rglob("*")):
        if file.is_file():
            size += file.stat().st_size
            if size > _MOST:
                raise UsageError(f"{place}: more than 2 GB: not a snapshot")
            found[str(file.relative_to(place))] = file.read_bytes()
    return found


def _archive(place: Path) -> dict[str, bytes]:
    found, size = {}, 0
    with tarfile.open(place) as archive:
        for member in archive:
            if not member.isfile():
                continue
            size += member.size
            if size > _MOST:
                raise UsageError(f"{place}: more than 2 GB: not a snapshot")
            stream = archive.extractfile(member)
            assert stream is not None
            found[member.name.removeprefix("./")] = stream.read()
    tops = {name.partition("/")[0] for name in found}
    if len(tops) == 1 and all("/" in name for name in found):  # an archive of one directory
        top = tops.pop() + "/"
        if f"{top}manifest.json" in found or any(name.count("/") > 1 for name in found):
            return {name.removeprefix(top): data for name, data in found.items()}
    return found


def write_archive(path: str, files: Mapping[str, bytes]) -> None:
    """Write files into one archive, whole or not at all. Raises UsageError."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            archive.addfile(entry, io.BytesIO(files[name]))
    place = Path(path)
    draft = place.with_name(place.name + ".part")
    try:
        draft.write_bytes(buffer.getvalue())
        draft.replace(place)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UsageError(f"{path}: {error.strerror or error}") from None
