"""host-local's leases on a machine's disk, file for file as the reference plugin keeps them, so that either may go on where the other left off.

Another hand is told by the directory's time of change, which is as coarse as the kernel's tick (some milliseconds): a directory read within a
tick of its last change may change again unseen. So nothing is taken or said to be absent on the word of such a reading alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from glassnet.agent.cni.whole_files import create
from glassnet.cni import host_local
from glassnet.cni.errors import TRY_AGAIN, CniError
from glassnet.cni.fields import Address
from glassnet.cni.host_local import Range
from glassnet.cni.request import Attachment
from glassnet.net.errors import GlassnetError

TICK = 20_000_000  # ns, twice the longest tick of a kernel's clock (HZ=100)
LOCK_WAIT, LOCK_PAUSE = (
    10.0,
    0.005,
)  # seconds: how long to wait for another process that holds the lock, how long between two looks
_BESIDE = "lease.new"  # a lease being written, where the file system has no files without a name: one for all, as there is one lock


class Busy(CniError):
    """Another process holds the lock: whoever asked may wait a little and ask again."""


class _Table:
    """The leases of one directory as they were when its time of change was `changed` (ns)."""

    __slots__ = ("_by_container", "changed", "holders", "settled")

    def __init__(self, changed: int, settled: bool) -> None:
        self.changed, self.settled = changed, settled
        self.holders: dict[str, Attachment] = {}
        self._by_container: dict[str, list[str]] = {}

    def take(self, address: str, holder: Attachment) -> None:
        self.give(address)
        self.holders[address] = holder
        self._by_container.setdefault(holder.container_id, []).append(address)

    def give(self, address: str) -> None:
        holder = self.holders.pop(address, None)
        if holder is not None:
            self._by_container[holder.container_id].remove(address)
            if not self._by_container[holder.container_id]:
                del self._by_container[holder.container_id]

    def written(self, directory: Path) -> None:
        """The directory has just been changed to what the table says."""
        self.changed, self.settled = os.stat(directory).st_mtime_ns, False

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
        """Take an address of each set, all or none. Raises Busy, host_local.Exhausted, CniError, GlassnetError when the disk refuses."""
        asked = host_local.assign(sets, wanted)
        gateways = frozenset(one.gateway for ranges in sets for one in ranges)
        taken: list[str] = []
        try:
            with self._locked(place, make=True) as directory:
                try:
                    for number, ranges in enumerate(sets):
                        self._refuse_second(directory, place, number, ranges, holder)
                    for number, ranges in enumerate(sets):
                        taken.append(self._take(directory, place, number, ranges, asked[number], gateways, holder))
                except BaseException:
                    self._known.pop(place, None)
                    for address in taken:
                        with suppress(OSError):
                            (directory / address).unlink()
                    raise
                return tuple(taken)
        except OSError as error:
            raise self._failed(place, error) from None

    def _refuse_second(
        self, directory: Path, place: str, number: int, ranges: tuple[Range, ...], holder: Attachment
    ) -> None:
        """An interface gets one address of a set, however often it is asked for."""
        table, _ = self._table(directory, place)
        if mine := [one for one in table.of(holder) if host_local.lies_in(ranges, one)]:
            who = f"{mine[0]} has been allocated to {holder.container_id}"
            raise host_local.Exhausted(
                f"failed to allocate for range {number}: {who}, duplicate allocation is not allowed"
            )

    def _take(
        self,
        directory: Path,
        place: str,
        number: int,
        ranges: tuple[Range, ...],
        asked: str,
        gateways: frozenset[Address],
        holder: Attachment,
    ) -> str:
        last, text = directory / f"{host_local.LAST}{number}", host_local.lease_text(*holder)
        for _ in range(2):
            table, fresh = self._table(directory, place)
            try:
                address = host_local.choose(ranges, number, table.holders, _read(last), asked, gateways)
                create(directory, address, text, _BESIDE)
            except (FileExistsError, host_local.Exhausted):
                if fresh:
                    raise
                self._known.pop(place)  # another hand was here within one tick of the directory's clock: look again
                continue
            table.take(address, holder)
            table.written(directory)
            _replace(last, address)
            return address
        raise AssertionError("a table that was just read is fresh")

    def holders(self, place: str) -> Mapping[str, Attachment]:
        """Who holds which address. Raises GlassnetError when the disk refuses."""
        try:
            return dict(self._certain(self._path(place), place).holders)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._failed(place, error) from None

    def held(self, place: str, holder: Attachment) -> tuple[str, ...]:
        """The addresses of a container's interface. Raises GlassnetError when the disk refuses."""
        try:
            return self._certain(self._path(place), place, holder).of(holder)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._failed(place, error) from None

    def _certain(self, directory: Path, place: str, holder: Attachment | None = None) -> _Table:
        """The leases, read once more when another hand may have changed them unseen; a holder that is found is enough."""
        table, fresh = self._table(directory, place)
        if not fresh and not table.settled and (holder is None or not table.of(holder)):
            self._known.pop(place)
            table, _ = self._table(directory, place)
        return table

    def _table(self, directory: Path, place: str) -> tuple[_Table, bool]:
        """The leases, read again when another hand has made or removed files since; True when they have just been read."""
        changed = os.stat(directory).st_mtime_ns
        known = self._known.get(place)
        if known is not None and known.changed == changed:
            return known, False
        known = self._known[place] = _Table(changed, time.time_ns() - changed > TICK)
        for name in os.listdir(directory):
            if host_local.is_lease(name):
                known.take(name, host_local.read_lease(_read(directory / name)))
        return known, True

    def release(self, place: str, addresses: Sequence[str]) -> None:
        """Give addresses back; idempotent. One that has changed hands meanwhile stays. It goes on after an error.

        Raises Busy, GlassnetError naming every file that the disk keeps.
        """
        problems: list[GlassnetError] = []
        try:
            with self._locked(place) as directory:
                table, _ = self._table(directory, place)
                for address in addresses:
                    try:
                        self._give(directory, table, address)
                    except OSError as error:
                        problems.append(self._failed(f"{place}/{address}", error))
                table.written(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(place, error) from None
        if problems:
            raise GlassnetError("; ".join(map(str, problems)))

    @staticmethod
    def _give(directory: Path, table: _Table, address: str) -> None:
        path = directory / address
        if os.path.isfile(path) and (holder := host_local.read_lease(_read(path))) != table.holders.get(address):
            table.take(address, holder)
            return
        path.unlink(missing_ok=True)
        table.give(address)

    @contextmanager
    def _locked(self, place: str, make: bool = False) -> Iterator[Path]:
        directory = self._path(place)
        if make:
            directory.mkdir(parents=True, exist_ok=True)
        path = directory / host_local.LOCK
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o750)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(
                    TRY_AGAIN, f"{self._name}: {place}/{host_local.LOCK} is locked by another process", "try again"
                ) from None
            yield directory
        finally:
            os.close(lock)

    def _path(self, place: str) -> Path:
        return self._root / place.lstrip("/")

    def _failed(self, place: str, error: OSError) -> GlassnetError:
        where = str(error.filename or place)
        if self._root != Path("/"):
            where = where.replace(str(self._root), "", 1)
        return GlassnetError(f"{self._name}: {where}: {error.strerror}")


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16).decode(errors="replace")
    except OSError:
        return ""


def _replace(path: Path, text: str) -> None:
    """The last address is a hint: on a full disk the lease counts without it."""
    try:
        with open(path, "wb") as file:
            file.write(text.encode())
    except OSError:
        with suppress(OSError):
            path.unlink(missing_ok=True)
