"""Chains of a legacy table put in place of others in half the time of the legacy tool, which reads the whole table at each change.

The table is kept as the kernel has it. A change's chains are made by the tool itself in an empty network namespace, read from there, spliced
into what is kept, and the whole is written under the tools' lock. What is kept counts only while nobody else has had the lock and the kernel
still says of the table what it said after our last writing; else it is read anew. What this cannot do, the caller has the tool do.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from glassnet.kernel.api import Host
from glassnet.kernel.iptables import Size
from glassnet.kernel.legacy_table import ROOM, Info, LegacyTable, usable
from glassnet.kernel.netns import KernelNetNs
from glassnet.kernel.restore import RestoreProgram
from glassnet.kernel.xtables_lock import XtablesLock
from glassnet.net.errors import GlassnetError, KernelError, ParseError
from glassnet.ruleset import legacy_table as legacy
from glassnet.ruleset.legacy_table import Piece, Table

TABLE = "nat"
MOST_FAILURES = 3
_LOG = logging.getLogger(__name__)


class Chains(NamedTuple):
    """Whole chains out of an input of iptables-restore: those to be made with their rules, those to be deleted, and those jumped to."""

    made: tuple[str, ...]
    deleted: tuple[str, ...]
    led_to: tuple[str, ...]
    rules: tuple[str, ...]


def whole_chains(text: str) -> Chains | None:
    """An input that does nothing but write chains of table nat whole, or delete them; None when it does other things too."""
    first, *lines = text.splitlines() or [""]
    if first != f"*{TABLE}" or not lines or lines.pop() != "COMMIT":
        return None
    declared: dict[str, None] = {}
    deleted: dict[str, None] = {}
    led_to: dict[str, None] = {}
    rules = []
    for line in lines:
        words = line.split()
        if line.startswith(":") and words[1:] == ["-", "[0:0]"]:
            declared[words[0][1:]] = None
        elif words[:1] == ["-X"] and len(words) == 2 and words[1] in declared:
            deleted[words[1]] = None
        elif words[:1] == ["-A"] and words[1] in declared:
            rules.append(line)
            led_to.update(
                (to, None) for option, to in pairwise(words) if option in ("-j", "-g") and to.startswith("KUBE-")
            )
        else:
            return None
    made = tuple(name for name in declared if name not in deleted)
    return Chains(made, tuple(deleted), tuple(name for name in led_to if name not in declared), tuple(rules))


class LegacyWriter:
    """The nat table of one machine and family ("IPv4", "IPv6")."""

    def __init__(self, machine: Host, family: str) -> None:
        self._machine, self._family = machine, family
        self._layout = legacy.IPV4 if family == "IPv4" else legacy.IPV6
        self._tool = RestoreProgram(machine, 4 if family == "IPv4" else 6, "legacy", apart=True)
        self._scratch: tuple[int, LegacyTable] | None = None  # whose network namespace the tool's process is in
        self._table: LegacyTable | None = None
        self._lock: XtablesLock | None = None
        self._known: Table | None = None
        self._info: Info | None = None
        self._work: asyncio.Future[bool] | None = None
        self._failures = 0 if usable() else MOST_FAILURES  # in a row

    @property
    def busy(self) -> bool:
        """Whether the last change's counters are still being carried over; to ask the kernel about tables takes until then."""
        return self._work is not None and not self._work.done()

    @property
    def size(self) -> Size:
        """What the table measures after our last writing."""
        return Size(self._info.entries, self._info.bytes) if self._info else Size(0, 0)

    async def commit(self, text: str) -> bool:
        """Carry out an input of iptables-restore; False, and nothing is done, when that takes the tool."""
        chains = whole_chains(text) if self._failures < MOST_FAILURES else None
        if chains is None:
            return False
        try:
            pieces = await self._made(chains)
            await self._settled()
            self._open()
        except (GlassnetError, OSError) as error:
            self._refused(error)
            return False
        committed = asyncio.get_running_loop().create_future()
        tell = _teller(committed)
        self._work = asyncio.ensure_future(asyncio.to_thread(self._write, pieces, tell))
        await asyncio.wait({self._work, committed}, return_when=asyncio.FIRST_COMPLETED)
        return committed.done() or await self._work

    def _open(self) -> None:
        if self._lock is not None and not self._lock.current():
            self._lock.close()  # somebody has put another file in its place
            self._lock = None
            self._forget()
        self._lock = self._lock or XtablesLock(self._machine.root)
        if self._table is None:
            self._table = LegacyTable(self._machine.netns, self._family, TABLE)

    async def _made(self, chains: Chains) -> dict[bytes, Piece | None]:
        """The chains as the tool makes them, out of a table with nothing else in it."""
        pieces: dict[bytes, Piece | None] = {name.encode(): None for name in chains.deleted}
        if not chains.made:
            return pieces
        await self._tool.restore("", TABLE)  # starts it, and makes the table
        table = self._scratch_table()
        lines = ["-F", "-X", *(f":{name} - [0:0]" for name in (*chains.made, *chains.led_to)), *chains.rules]
        await self._tool.restore("\n".join(lines) + "\n", TABLE)
        made = Table(table.read(table.info()), self._layout, ROOM)
        return pieces | {name.encode(): made.piece(name.encode()) for name in chains.made}

    def _scratch_table(self) -> LegacyTable:
        """The tool's own table. Raises KernelError when it is the machine's, whose rules are not to be flushed."""
        if self._scratch is None or self._scratch[0] != self._tool.pid:
            self._leave_scratch()
            netns = KernelNetNs("scratch", os.open(f"/proc/{self._tool.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            try:
                with self._machine.netns.entered():
                    here = os.stat("/proc/thread-self/ns/net").st_ino
                if netns.inode == here:
                    raise KernelError("give iptables-restore a network namespace of its own", errno.EBUSY)
                self._scratch = self._tool.pid, LegacyTable(netns, self._family, TABLE)
            finally:
                netns.close()
        return self._scratch[1]

    def _leave_scratch(self) -> None:
        if self._scratch is not None:
            self._scratch[1].close()
            self._scratch = None

    def _write(self, pieces: dict[bytes, Piece | None], tell: Callable[[], None]) -> bool:
        """In a thread: `tell` as soon as the kernel has the rules; then carry over the counters, and let go of the lock."""
        assert self._lock and self._table
        try:
            with self._lock.held() as held:
                if not held:
                    return False
                info = self._table.info()
                if self._lock.heard() or info != self._info:
                    self._forget()
                known = self._known or Table(self._table.read(info), self._layout, ROOM)
                self._known = None  # from here until the kernel has taken it, it is not what the kernel has
                edits = known.splice({n: p for n, p in pieces.items() if p is not None or n in known})
                counters = self._table.replace(info, known.buffer, known.entries)
                self._info = Info(info.hooks, info.places, known.entries, known.size)
                self._known, self._failures = known, 0
                tell()
                with contextlib.suppress(KernelError):  # the rules stand; counters begin at zero
                    self._table.add_counters(known.carried(counters, edits))
                return True
        except (ParseError, KernelError, OSError) as error:
            self._refused(error)
            return False

    def _forget(self) -> None:
        self._known = self._info = None

    def _refused(self, error: Exception) -> None:
        """The tool does it, or says better what is wrong; after some such changes in a row it does all."""
        self._failures += 1
        if self._failures == MOST_FAILURES:
            _LOG.warning("the legacy %s table %s is written by the tool alone from now on: %s", self._family, TABLE, error)  # fmt: skip

    async def _settled(self) -> None:
        if self._work is not None:
            await asyncio.wait({self._work})

    def close(self) -> None:
        """End the tool, and close files once what is being written is written."""
        self._tool.rest()
        if self._work is not None and not self._work.done():
            self._work.add_done_callback(lambda _: self._let_go())
        else:
            self._let_go()

    def _let_go(self) -> None:
        self._leave_scratch()
        for each in (self._table, self._lock):
            if each is not None:
                each.close()
        self._table = self._lock = None
        self._forget()


def _teller(committed: asyncio.Future[bool]) -> Callable[[], None]:
    """Tells a future from another thread that it is so."""
    loop = committed.get_loop()

    def set_it() -> None:
        if not committed.done():
            committed.set_result(True)

    def tell() -> None:
        loop.call_soon_threadsafe(set_it)

    return tell
