"""Puts CNI's rules back when somebody else has flushed them: a reload of firewalld, `iptables -F -t nat`, `nft flush ruleset`.

nf_tables gives notice of what is deleted; legacy tables are looked at twice a second, which takes one system call. A notice is worth a look only
when it is about a chain that holds kept rules, or leads to one: what plugins delete themselves is forgotten before, so nobody is woken by it.
A look compares, and writes only what is missing; so its own writing ends in a look that finds nothing. A container's chain that is deleted by name,
while others are there, has been taken away by somebody who means it (the reference plugin's DEL): that one is forgotten, and so are masquerade
rules of a container without a link on the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from glassnet.agent.cni.kept_rules import Kept, KeptRules
from glassnet.agent.cni.nat_rules import NatRules, alone
from glassnet.cni.effects import NftMark
from glassnet.cni.masquerade import owners
from glassnet.cni.nat_table import own_chains
from glassnet.cni.wiring import owner
from glassnet.kernel.api import Host
from glassnet.kernel.iptables import LegacyInfo, legacy_tables
from glassnet.kernel.network_state import list_links
from glassnet.kernel.nfnetlink import Listener
from glassnet.kernel.nftables import GROUP, NfTables
from glassnet.net.errors import GlassnetError, KernelError
from glassnet.ruleset import nft_messages as m
from glassnet.ruleset.nft_reader import Rule

log = logging.getLogger(__name__)
DELAY, LONGEST = 0.2, 3.0  # seconds from the last notice to a look, and from the first
PATIENCE = 1.5  # seconds from the last notice when only containers' own rules go: maybe another plugin's DEL, one slow program after the other
SLOWEST = 30.0  # seconds between looks when each finds something lost: somebody means it
_LOOK_PERIOD = 0.5  # seconds between looks at legacy tables
_NOBODY = 0xFFFFFFFF  # no socket has this number: notices of all are heard
_GONE = (m.TABLE + 2, m.CHAIN + 2, m.RULE + 2)
_NAME = re.compile(rb"CNI-[0-9A-Za-z-]+")
_FAMILIES = {"ip": m.IPV4, "ip6": m.IPV6, "inet": 1}


class RuleKeeper:
    """Watches one machine's rules. `nat` has the nat table of each family; nothing is watched before something is kept."""

    def __init__(self, host: Host, kept: KeptRules, nat: Mapping[int, NatRules]) -> None:
        self._host, self._kept, self._nat = host, kept, nat
        self._names: set[bytes] = set()
        self._listener: Listener | None = None
        self._sizes: dict[str, LegacyInfo] = {}
        self._left: dict[str, object] = {}
        self._polling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._again = self._decided = False
        self._since = self._last = self._not_before = self._pause = 0.0
        self._delay = DELAY
        self.nft_lock = asyncio.Lock()  # held by whoever runs a script that is kept, or forgotten

    def start(self) -> None:
        """Put back what was lost before this process began; watch if there is anything to watch."""
        if self._listener is None and self._learn(self._kept.all().values()):
            self._watch()
            self._suspect()
            self._since = 0.0

    def added(self, chains: Iterable[str]) -> None:
        """Rules that fill these chains, or the tables of that name, are kept from now on."""
        self._names.update(name.encode() for name in chains)
        if self._listener is None:
            self._watch()

    def forgotten(self, chains: Iterable[str]) -> None:
        """Rules of these chains are going to be deleted."""
        self._names.difference_update(name.encode() for name in chains)

    def _learn(self, kept: Iterable[Kept]) -> bool:
        self._names = {name.encode() for one in kept for name in one.chains()}
        return bool(self._names)

    def _watch(self) -> None:
        try:
            self._listener = Listener(self._host.netns, GROUP, _NOBODY)
        except OSError as error:
            log.warning("%s: no notice of changed rules: %s", self._host.name, error)
            return
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._heard)
        for nat in self._nat.values():
            nat.wrote, nat.untouched = self._remember, self._untouched
        self._remember()

    def _heard(self) -> None:
        notices = self._listener.read() if self._listener is not None else []
        delays = [concerns(kind, body, self._names) for kind, _, body in notices] if notices is not None else [DELAY]
        if delays := [delay for delay in delays if delay]:
            self._suspect(min(delays))

    def _untouched(self, shared: str) -> bool:
        """Whether no notice has come of shared lines since the last look. Notices are there before whoever deleted something knows it is done."""
        if self._polling is not None or not {name.encode() for name in own_chains(shared)} <= self._names:
            return False
        self._heard()
        return not self._again

    # -- legacy tables

    def _remember(self) -> None:
        """After writing of our own: the sizes of legacy tables, if they are what is in use."""
        if not self._decided:  # our first rules are there: they are in a legacy table, or will never be
            self._decided = True
            if any("nat" in legacy_tables(self._host.netns, each) for each in ("IPv4", "IPv6")):
                self._polling = asyncio.create_task(self._poll())
        if self._polling is not None:
            self._left = self._read_sizes()

    def _read_sizes(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for family in ("IPv4", "IPv6"):
            if "nat" in legacy_tables(self._host.netns, family):  # to ask would make it
                if family not in self._sizes:
                    self._sizes[family] = LegacyInfo(self._host.netns, family)
                found[family] = self._sizes[family].read("nat")
        return found

    async def _poll(self) -> None:
        before: dict[str, object] = {}
        while True:
            await asyncio.sleep(_LOOK_PERIOD)
            now = self._read_sizes()
            if (
                now != self._left and now == before
            ):  # still changing: a DEL of another plugin that takes one program a rule
                self._left = now
                self._suspect()
                self._since -= 2 * _LOOK_PERIOD
            before = now

    # -- looks

    def _suspect(self, delay: float = DELAY) -> None:
        """Something is lost, maybe: look when there has been no notice for `delay` seconds. A reload takes its time, another plugin's DEL too."""
        loop = asyncio.get_running_loop()
        for nat in self._nat.values():
            nat.settled.clear()
        if not self._again:
            self._again, self._since, self._last, self._delay = True, time.time(), loop.time() + LONGEST, delay
        self._delay = min(delay, self._delay)
        if self._looking is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(max(min(loop.time() + self._delay, self._last), self._not_before), self._begin)

    def _begin(self) -> None:
        self._timer, self._again = None, False
        self._looking = asyncio.create_task(self._look(self._since))

    async def _look(self, since: float) -> None:
        loop = asyncio.get_running_loop()
        begun, count = loop.time(), 0
        try:
            count = await self.repair(since)
        except (GlassnetError, OSError) as error:
            log.warning("%s: rules cannot be looked at: %s", self._host.name, error)
            count, self._again = 1, True
        if any(nat.owed for nat in self._nat.values()):
            count, self._again = 1, True  # nobody may tell when it can be done
        # a look may take a tenth of the time at most; who deletes again and again is answered ever more slowly
        self._pause = min(SLOWEST, max(DELAY, self._pause * 2)) if count else 0.0
        self._not_before = loop.time() + max(self._pause, 10 * (loop.time() - begun))
        self._looking = None
        if self._again:
            self._timer = loop.call_at(self._not_before, self._begin)

    async def repair(self, since: float) -> int:
        """Put back what is lost now; of how many containers. Raises GlassnetError."""
        self._forget_gone()
        kept = self._kept.all()
        self._learn(kept.values())
        count = 0
        for family, nat in self._nat.items():
            if any(one.family == family for one in kept.values()):
                count += await nat.repair(since)
        if any(one.script for one in kept.values()):
            async with self.nft_lock, alone(self._kept):
                count += await self._run_scripts([one for one in self._kept.all().values() if one.script])
        if count:
            log.warning("%s: rules of %d containers were lost, they are put back", self._host.name, count)
        return count

    def _forget_gone(self) -> None:
        """Forget masquerade rules of containers that no link of the node belongs to any more: another plugin's DEL took them away."""
        linked = {found[:2] for link in list_links(self._host.netns) if (found := owner(link.alias))}
        for name, one in self._kept.all().items():
            mine = owners(one.lines) if name.startswith("masquerade") else set()
            if mine and mine.isdisjoint(linked):
                self._kept.remove(name)

    async def _run_scripts(self, kept: list[Kept]) -> int:
        tables, count = NfTables(self._host.netns), 0
        try:
            places = {(mark.family, mark.table) for one in kept for mark in one.marks}
            there = {place: tables.rules(_FAMILIES[place[0]], place[1]) for place in places}
            noted = Counter(note for one in kept for note in {(mark.family, mark.note) for mark in one.marks})
            for one in kept:
                if script := lost_script(
                    one, there, all(noted[mark.family, mark.note] == 1 for mark in _noted(one.marks))
                ):
                    await self._host.run(["nft", script])
                    count += 1
        except KernelError as error:
            log.warning("%s: nftables rules cannot be put back: %s", self._host.name, error)
        finally:
            tables.close()
        return count

    async def close(self) -> None:
        """Watch no more; rules stay as they are."""
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._polling, self._looking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for each in self._sizes.values():
            each.close()


def concerns(kind: int, body: bytes, names: set[bytes]) -> float:
    """How many seconds to wait for more when a notice of nf_tables tells of a loss to `names`, chains of the nat table, and tables; 0 if it does not.

    A rule that leads to a container's chain, or is in one, is that container's; others are shared.
    """
    kind &= 0xFF
    if kind not in _GONE:
        return 0.0
    if any(name + b"\0" in body for name in names if not name.startswith(b"CNI-")):
        return DELAY
    if kind == m.TABLE + 2:
        return DELAY if b"nat\0" in body else 0.0
    found = _NAME.findall(body)
    owned = [name for name in found if not name.startswith(b"CNI-HOSTPORT")]
    if names.isdisjoint(owned or found):
        return 0.0
    return PATIENCE if owned else DELAY


def lost_script(kept: Kept, there: Mapping[tuple[str, str], list[Rule]], alone: bool = True) -> str:
    """The script that puts back what a kept one has lost, with the rest of it deleted before; "" for nothing lost.

    A container in two networks has the same comment in both: not `alone`, then a rule twice is better than none.
    """
    lacking, rest = False, ""
    for mark in kept.marks:
        rules = there[mark.family, mark.table]
        sizes = Counter(rule.chain for rule in rules if not mark.note or rule.note == mark.note)
        lacking = lacking or sizes[mark.chain] < mark.rules
    for mark in _noted(kept.marks) if alone else ():
        rest += "".join(
            f"delete rule {mark.family} {mark.table} {rule.chain} handle {rule.handle}\n"
            for rule in there[mark.family, mark.table]
            if rule.chain == mark.chain and rule.note == mark.note
        )
    return rest + kept.script if lacking else ""


def _noted(marks: Iterable[NftMark]) -> list[NftMark]:
    return [mark for mark in dict.fromkeys(marks) if mark.note]
