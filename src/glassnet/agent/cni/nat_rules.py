"""The nat table of one machine and family: what plugins have added and deleted there, shared rules put in once, lost ones put back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from glassnet.agent.cni.kept_rules import Kept, KeptRules
from glassnet.cni import nat_table
from glassnet.cni.effects import Restore
from glassnet.kernel.restore import RestoreProgram
from glassnet.net.errors import CommandError, GlassnetError

log = logging.getLogger(__name__)
_MARGIN = 1.0  # seconds that a notice may come late
_TRY = 0.005  # seconds between looks at a lock that a plugin's own process holds


class NatRules:
    """One family's table. Changes come one after the other, so that what is looked at first still holds when it is changed."""

    def __init__(self, program: RestoreProgram, family: int, kept: KeptRules) -> None:
        self._program, self._family, self._kept = program, family, kept
        self._lock = asyncio.Lock()
        self.wrote: Callable[[], None] = lambda: None
        self.settled: set[str] = set()  # shared lines that are there, as far as is known
        self.untouched: Callable[[str], bool] = lambda shared: (
            False
        )  # whether nobody has deleted any of shared lines since
        self.owed: set[str] = set()  # what iptables refused to put back

    async def restore(self, effect: Restore) -> bool:
        """Carry an effect out; whether rules are kept now. Raises CommandError with what iptables says."""
        async with self._lock:
            self._kept.before(effect)
            try:
                await self._program.restore(self._checks(effect.shared) + effect.lines)
            except CommandError:
                if effect.shared:
                    await self._completed(effect)
                elif effect.otherwise:
                    await self._program.restore(effect.otherwise)
                else:
                    raise
            self.wrote()
            if effect.shared:
                self.settled.add(effect.shared)
            return self._kept.after(effect)

    def _checks(self, shared: str) -> str:
        """For what was seen to be there, and has not been touched since, none: to find a rule takes iptables longer than to add some."""
        return "" if shared in self.settled and self.untouched(shared) else nat_table.checks(shared)

    async def _completed(self, effect: Restore) -> None:
        """The shared rules are not all there: look, and add what is missing."""
        async with alone(self._kept):
            table = nat_table.parse(await self._program.listing())
            await self._program.restore(nat_table.missing_shared(effect.shared, table) + effect.lines)

    async def listing(self, chain: str) -> str:
        """The table's rules, or those of a chain: "" when there is no such. Raises CommandError."""
        try:
            return await self._program.listing(chain)
        except CommandError as error:
            if chain and error.status == 1:
                return ""
            raise

    async def repair(self, since: float) -> int:
        """Put back what is kept and was lost at `since`; of how many containers. What iptables refuses is told in the log, and is `owed`."""
        async with self._lock, alone(self._kept):
            kept = {name: one for name, one in self._kept.all().items() if one.family == self._family}
            if not kept:
                return 0
            table = nat_table.parse(await self._program.listing())
            self.owed &= set(kept)
            for name in taken_away({name: one for name, one in kept.items() if name not in self.owed}, table, since):
                self._kept.remove(name)
                del kept[name]
            lines, count = lost(kept, table)
            if not lines:
                return 0
            try:
                await self._program.restore(lines)
                self.owed.clear()
            except CommandError:
                count = await self._one_by_one(kept)
            self.wrote()
            return count

    async def _one_by_one(self, kept: Mapping[str, Kept]) -> int:
        """One container's rules may lead to a chain that somebody else has yet to make: the others' come back without it."""
        count = 0
        for name, one in kept.items():
            lines, lacking = lost({name: one}, nat_table.parse(await self._program.listing()))
            try:
                if lines:
                    await self._program.restore(lines)
                    count += lacking
                self.owed.discard(name)
            except CommandError as error:
                if name not in self.owed:
                    log.warning("rules %s cannot be put back yet: %s", name, error)
                self.owed.add(name)
        return count


@contextlib.asynccontextmanager
async def alone(kept: KeptRules) -> AsyncIterator[None]:
    """Plugins in processes of their own wait meanwhile. Raises GlassnetError when one of them has no end."""
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        with kept.lock(wait=False) as mine:
            if mine:
                yield
                return
        if asyncio.get_running_loop().time() > deadline:
            raise GlassnetError("a plugin's process holds /run/glassnet/cni/rules.lock for 30 s already")
        await asyncio.sleep(_TRY)


def lost(kept: Mapping[str, Kept], table: nat_table.Table) -> tuple[str, int]:
    """The lines that put back what is lost, and of how many; shared lines come once."""
    shared = "".join(dict.fromkeys(line + "\n" for one in kept.values() for line in one.shared.splitlines()))
    first = nat_table.missing_shared(shared, table)
    own = [text for one in kept.values() if (text := nat_table.missing_own(one.lines, table))]
    return first + "".join(own), max(len(own), 1 if first else 0)


def taken_away(kept: Mapping[str, Kept], table: nat_table.Table, since: float) -> list[str]:
    """Those that somebody took away on purpose: their chains are deleted, and not together with all others, as by a flush at `since`
    (seconds since 1970; 0: at a time not known).

    Others are there that are older than the loss; or what mappings share is there, and no newer one can have brought it back.
    """
    gone = [name for name, one in kept.items() if not any(chain in table for chain in nat_table.own_chains(one.lines))]
    ages = [one.written < since - _MARGIN for name, one in kept.items() if name not in gone]
    old, fresh = any(ages), not all(ages)
    return [name for name in gone if old or (not fresh and _shared_there(kept[name], table))]


def _shared_there(kept: Kept, table: nat_table.Table) -> bool:
    return bool(kept.shared) and not nat_table.missing_shared(kept.shared, table)
