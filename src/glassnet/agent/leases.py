"""host-local's leases on a machine's disk, file for file as the reference plugin keeps them, so that either may go on where the other left off."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from glassnet.cni import host_local
from glassnet.cni.host_local import Range
from glassnet.cni.request import Attachment
from glassnet.net.errors import GlassnetError


class _Table:
    """The leases of one directory as they were when its time of change was `changed`."""

    __slots__ = ("_by_container", "changed", "fresh", "holders")

    def __init__(self, changed: int) -> None:
        self.changed, self.fresh = changed, True
        self.holders: dict[str, Attachment] = {}
        self._by_container: dict[str, list[str]] = {}

    def take(self, address: str, holder: Attachment) -> None:
        self.holders[address] = holder
        self._by_container.setdefault(holder.container_id, []).append(address)

    def give(self, address: str) -> None:
        holder = self.holders.pop(address, None)
        if holder is not None:
            self._by_container[holder.container_id].remove(address)
            if not self._by_container[holder.container_id]:
                del self._by_container[holder.container_id]

    def of(self, holder: Attachment) -> tuple[str, ...]:
        """The addresses of an interface; those without interface count, as they are from an old plugin."""
        mine = self._by_container.get(holder.container_id, ())
        return tuple(one for one in mine if self.holders[one].ifname in ("", holder.ifname))


class LeaseFiles:
    """The leases of one machine. `root` is where its / can be written, `name` what errors call it."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._known: dict[str, _Table] = {}

    def reserve(
        self, place: str, sets: Sequence[tuple[Range, ...]], wanted: Sequence[str], holder: Attachment
    ) -> tuple[str, ...]:
        """Take an address of each set, all or none. Raises host_local.Exhausted, CniError, GlassnetError when the disk refuses."""
        taken: list[str] = []
        try:
            with self._locked(place, make=True) as directory:
                for number, (ranges, asked) in enumerate(zip(sets, host_local.assign(sets, wanted), strict=True)):
                    taken.append(self._take(directory, place, number, ranges, asked, holder))
                return tuple(taken)
        except OSError as error:
            self._give_up(place, taken)
            raise self._failed(error.filename or place, error) from None
        except GlassnetError:
            self._give_up(place, taken)
            raise

    def _take(
        self, directory: Path, place: str, number: int, ranges: tuple[Range, ...], asked: str, holder: Attachment
    ) -> str:
        last, text = directory / f"{host_local.LAST}{number}", host_local.lease_text(*holder)
        for _ in range(2):
            table = self._table(directory, place)
            if mine := [one for one in table.of(holder) if host_local.lies_in(ranges, one)]:
                who = f"{mine[0]} has been allocated to {holder.container_id}"
                raise host_local.Exhausted(
                    f"failed to allocate for range {number}: {who}, duplicate allocation is not allowed"
                )
            try:
                address = host_local.choose(ranges, number, table.holders, _read(last), asked)
                _create(directory / address, text)
            except (FileExistsError, host_local.Exhausted):
                if table.fresh:
                    raise
                self._known.pop(place)  # another hand was here within one tick of the directory's clock: look again
                continue
            table.take(address, holder)
            table.changed = os.stat(directory).st_mtime_ns
            _replace(last, address)
            table.fresh = False
            return address
        raise AssertionError("a table that was just read is fresh")

    def _give_up(self, place: str, taken: Sequence[str]) -> None:
        self._known.pop(place, None)
        for address in taken:
            (self._path(place) / address).unlink(missing_ok=True)

    def holders(self, place: str) -> Mapping[str, Attachment]:
        """Who holds which address. Raises GlassnetError when the disk refuses."""
        try:
            return dict(self._table(self._path(place), place).holders)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._failed(place, error) from None

    def held(self, place: str, holder: Attachment) -> tuple[str, ...]:
        """The addresses of a container's interface. Raises GlassnetError when the disk refuses."""
        try:
            return self._table(self._path(place), place).of(holder)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._failed(place, error) from None

    def _table(self, directory: Path, place: str) -> _Table:
        """The leases, read again when another hand has made or removed files since."""
        changed = os.stat(directory).st_mtime_ns
        known = self._known.get(place)
        if known is None or known.changed != changed:
            known = self._known[place] = _Table(changed)
            for name in os.listdir(directory):
                if host_local.is_lease(name):
                    known.take(name, host_local.read_lease(_read(directory / name)))
        return known

    def release(self, place: str, addresses: Sequence[str]) -> None:
        """Give addresses back; idempotent. Raises GlassnetError when the disk refuses."""
        try:
            with self._locked(place) as directory:
                table = self._table(directory, place)
                for address in addresses:
                    (directory / address).unlink(missing_ok=True)
                    table.give(address)
                table.changed = os.stat(directory).st_mtime_ns
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error.filename or place, error) from None

    @contextmanager
    def _locked(self, place: str, make: bool = False) -> Iterator[Path]:
        directory = self._path(place)
        if make:
            directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / host_local.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o750)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
        finally:
            os.close(lock)

    def _path(self, place: str) -> Path:
        return self._root / place.lstrip("/")

    def _failed(self, place: str, error: OSError) -> GlassnetError:
        where = str(place)
        if self._root != Path("/"):
            where = where.replace(str(self._root), "", 1)
        return GlassnetError(f"{self._name}: {where}: {error.strerror}")


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _create(path: Path, text: str) -> None:
    """Write a new file; nothing is left of a half-written one."""
    try:
        with open(path, "xb") as file:
            file.write(text.encode())
    except FileExistsError:
        raise
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _replace(path: Path, text: str) -> None:
    """The last address is a hint: on a full disk the lease counts without it."""
    try:
        with open(path, "wb") as file:
            file.write(text.encode())
    except OSError:
        path.unlink(missing_ok=True)
