"""Bringing rules into the kernel: one writer per kind of rules and IP family. Each keeps what it has written, and never lists on the hot path."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import Callable, Mapping
from typing import Protocol

from glassnet.agent.proxy.legacy import LegacyWriter
from glassnet.kernel import nft_features
from glassnet.kernel.api import Host
from glassnet.kernel.counters import Counters
from glassnet.kernel.iptables import Iptables, LegacyInfo, choose, legacy_tables
from glassnet.kernel.nftables import GENERATION, Change, NfTables, NfTablesListener
from glassnet.kube.view import Key
from glassnet.net import address
from glassnet.net.errors import CommandError, KernelError, PreflightError
from glassnet.proxy.backends import iptables_layouts, iptables_state, nftables_state
from glassnet.proxy.backends.iptables import INVALID_COUNTER, LOCALHOST_COUNTER, TOP
from glassnet.proxy.backends.nftables import Element
from glassnet.proxy.backends.nftables_layout import FAMILIES, TABLE
from glassnet.proxy.backends.nftables_state import Touched
from glassnet.proxy.model import Rules, ServicePort
from glassnet.ruleset import nft_messages as m

Ports = tuple[ServicePort, ...]
KUBE_PROXY = "kube-proxy"
MOST_TOUCHED = 20_000  # elements; to undo more one by one is no quicker than a listing
LOOK_PERIOD = 0.05  # seconds between looks at a legacy table, which gives no notice of changes


class Writer(Protocol):
    """Brings one family's rules in the kernel from what they are to what is wanted."""

    async def write(self, changed: Mapping[Key, Ports | None]) -> bool:
        """Take in the Services that changed. The first call, and the next one after a failure, compares with what is there and mends all
        that differs. False when nothing had to be done. Raises KernelError; the kernel then has what it had before."""

    async def adopt(self, rules: Rules) -> None:
        """Take in what holds for the whole node. Raises KernelError."""

    async def repair(self) -> bool:
        """Compare with what is there, after somebody else has changed it. False when nothing had to be done. Raises KernelError."""

    def watch(self, suspicious: Callable[[], None]) -> None:
        """Call `suspicious` whenever somebody else changes tables of ours, from now on."""

    async def sweep(self) -> None:
        """Remove all that is ours. Raises KernelError."""

    def close(self) -> None:
        """Give back sockets."""


class NftablesWriter:
    """Elements of the constant ruleset."""

    def __init__(self, machine: Host, rules: Rules) -> None:
        self._tables = NfTables(machine.netns)
        self._state = nftables_state.State(rules)
        self._family = FAMILIES[rules.family].number
        self._listener: NfTablesListener | None = None
        self._known = self._probed = False
        self._machine = machine
        self._touched: dict[Element, Touched] | None = {}  # what others did to elements; None: more than that

    async def write(self, changed: Mapping[Key, Ports | None]) -> bool:
        """One transaction of what differs."""
        messages = self._state.update(changed)
        if not self._known:
            self._probe()
            return await self.repair()
        return self._commit(messages)

    def _probe(self) -> None:
        """Find out what the kernel lacks before anything is written. Raises PreflightError that names it."""
        if not self._probed and (lacks := nft_features.missing(self._machine.netns, self._family)):
            raise PreflightError(f"this kernel lacks, for the nftables mode: {', '.join(lacks)}; use the iptables mode, or another kernel")  # fmt: skip
        self._probed = True

    def _commit(self, messages: list[m.Message]) -> bool:
        try:
            if messages:
                self._tables.commit(messages)
        except KernelError:
            self._known = False
            raise
        return bool(messages)

    async def adopt(self, rules: Rules) -> None:
        """Addresses and ranges as elements; other things by the frame's chains anew."""
        messages = self._state.adopt(rules)
        if self._known:
            self._commit(messages)

    async def repair(self) -> bool:
        """Undo what was heard of; where that does not do, list the table once, and send what differs."""
        touched, self._touched = self._touched, {}
        if self._known and touched:
            messages = self._state.mend(touched)
            if messages is not None:
                try:
                    return self._commit(messages)
                except KernelError:
                    pass  # there is more to it
        self._known = False
        messages = self._state.reconcile(self._observe())
        try:
            self._commit(messages)
        except KernelError as error:
            if error.number not in (errno.EEXIST, errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self._commit(
                self._state.full(self._state.everything())
            )  # what is there has another shape: replace it whole
        self._known = True
        return True

    def _observe(self) -> nftables_state.Observed:
        note = self._tables.table_note(self._family, TABLE)
        seen = nftables_state.Observed(note or "")
        if note != self._state.layout.note():
            return seen
        seen.chains = self._tables.chains(self._family, TABLE)
        seen.sets = self._tables.sets(self._family, TABLE)
        for name in self._state.layout.set_names():
            if name not in seen.sets:
                return nftables_state.Observed()  # somebody deleted a set: nothing less than a new table will do
            seen.take(name, self._tables.elements(self._family, TABLE, name))
        return seen

    def watch(self, suspicious: Callable[[], None]) -> None:
        """The kernel tells who listens what others do to the table."""
        self._listener = listener = self._tables.listen()

        def heard() -> None:
            changes = listener.read()
            mine = [] if changes is None else [c for c in changes if c.table == TABLE and c.family == self._family]
            if changes is None or mine:
                self._hear(None if changes is None else mine)
                suspicious()

        asyncio.get_running_loop().add_reader(listener.fileno(), heard)

    def _hear(self, changes: list[Change] | None) -> None:
        """Remember what happened to elements. A change of anything else, or too many of them, take a listing."""
        if changes is None or any(change.kind not in (m.ELEMENTS, m.ELEMENTS + 2) for change in changes):
            self._touched = None
        for change in changes or ():
            for key, rest, _ in change.elements:
                if self._touched is None or len(self._touched) > MOST_TOUCHED:
                    self._touched = None
                    return
                gone = change.kind == m.ELEMENTS + 2
                self._touched[change.name, key] = Touched(None if gone else rest, rest)

    async def sweep(self) -> None:
        """Remove the table; that it is there at all is made sure of first, in the same transaction."""
        self._known = False
        if self._tables.table_note(self._family, TABLE) is not None:
            self._tables.commit([m.new_table(self._family, TABLE), m.delete_table(self._family, TABLE)])

    def close(self) -> None:
        """Close sockets."""
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        self._tables.close()


def remove_kube_proxy(machine: Host, family: str) -> bool:
    """Delete the table of kube-proxy's nftables mode, which would go on sending traffic where nobody keeps it current. False when there is none."""
    tables, number = NfTables(machine.netns), FAMILIES[family].number
    try:
        if tables.table_note(number, KUBE_PROXY) is None:
            return False
        tables.commit([m.delete_table(number, KUBE_PROXY)])
        return True
    finally:
        tables.close()


class IptablesWriter:
    """Chains as kube-proxy has them. A chain is written whole, and only when it changes; in shared chains single rules come and go."""

    def __init__(self, machine: Host, rules: Rules, tool: str = "") -> None:
        self._machine, self._rules, self._tool = machine, rules, tool
        self.state = iptables_state.State(rules)
        self._counters = Counters(machine.netns)
        self._tools: Iptables | None = None
        self._legacy: LegacyWriter | None = None
        self._known = False
        self._listener: NfTablesListener | None = None
        self._sizes: LegacyInfo | None = None
        self._left: tuple[object, ...] = ()
        self._look: asyncio.Task[None] | None = None
        self._writing = False

    async def _prepare(self) -> Iptables:
        """Find out what the node has: which tool, and which of the features that rules may use."""
        if self._tools is None:
            try:
                self._tool = self._tool or await choose(self._machine)
                tools = Iptables(self._machine, self._rules.family, self._tool)
                version = await tools.version()
                await tools.save("nat")  # a kernel without the family's tables says so here
            except CommandError as error:
                raise PreflightError(f"no iptables that works: {error}; install Debian's package iptables, or use the nftables mode") from None  # fmt: skip
            self._tools = tools
            if self._tool == "legacy":
                self._legacy = LegacyWriter(self._machine, self._rules.family)
            counters = self._counters.ensure((INVALID_COUNTER, LOCALHOST_COUNTER))
            self._rules = _with(self._rules, random_fully=version >= (1, 6, 2), counters=counters)
            self.state.adopt(self._rules)
        return self._tools

    async def write(self, changed: Mapping[Key, Ports | None]) -> bool:
        """One load, a transaction in each table."""
        if not self._known:
            await self._prepare()
            self.state.set_ports(changed)
            return await self.repair()
        return await self._restore(self.state.update(changed))

    async def _restore(self, text: str) -> bool:
        if not text:
            return False
        tools = await self._prepare()
        self._known, self._writing = False, True
        whole = False
        try:
            whole = self._legacy is not None and await self._legacy.commit(text)
            if not whole:
                await tools.restore(text)
            self._known = True
        finally:
            self._writing = False
            if whole and self._legacy:
                self._left = self._legacy.size, *self._left[1:]
            else:
                self._remember(text)
        return True

    async def adopt(self, rules: Rules) -> None:
        """Compare all, as the few rules that differ are in shared chains."""
        self._rules = _with(rules, random_fully=self._rules.random_fully, counters=self._rules.counters)
        self.state.adopt(self._rules)
        if self._known:
            await self.repair()

    async def repair(self) -> bool:
        """Save the tables once, and write what differs."""
        self._known = False
        tools = await self._prepare()
        self._own_settings()
        saved = iptables_state.parse_save(await tools.save())
        done = await self._restore(self.state.reconcile(saved))
        self._known = True
        return done

    def _own_settings(self) -> None:
        """Node ports on 127.0.0.1 need packets from there routed; a rule in KUBE-FIREWALL keeps strangers from it."""
        if self._rules.family == address.IPV4 and self._rules.localhost_node_ports:
            self._machine.sysctl({"net.ipv4.conf.all.route_localnet": 1})

    # -- what others do

    def watch(self, suspicious: Callable[[], None]) -> None:
        """nf_tables gives notice; legacy tables are looked at often, which costs one system call."""
        self._suspicious = suspicious
        if self._tool == "legacy":
            self._sizes = LegacyInfo(self._machine.netns, self._rules.family)
            self._left = self._legacy_sizes()
            self._look = asyncio.create_task(self._keep_looking())
            return
        tables = NfTables(self._machine.netns)
        self._listener = tables.listen()
        tables.close()
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._heard)

    def _heard(self) -> None:
        """Notices come in the middle of our own writing too; how many there should have been is counted afterwards."""
        if self._listener is None or self._writing:
            return
        changes = self._listener.read()
        if changes is None or any(self._concerns(each) for each in changes):
            self._suspicious()

    def _concerns(self, change: Change) -> bool:
        """Whether a change may have hurt our chains or the jumps to them; what others add to their own chains does not."""
        if change.family != FAMILIES[self._rules.family].number or change.table not in TOP:
            return False
        gone = change.kind % 3 == 2
        return change.name.startswith("KUBE-") or (
            gone and (change.kind == m.TABLE + 2 or not change.name.startswith("CNI"))
        )

    def _remember(self, text: str) -> None:
        """After our own writing: the notices it caused are read, and more of them than that are somebody else's."""
        if self._listener is not None:
            changes = self._listener.read()
            if changes is None or sum(each.kind == GENERATION for each in changes) > text.count("COMMIT\n"):
                self._suspicious()
        if self._sizes is not None:
            self._left = self._legacy_sizes()

    def _legacy_sizes(self) -> tuple[object, ...]:
        assert self._sizes is not None
        return tuple(self._sizes.read(table) for table in ("nat", "filter"))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_PERIOD)
            if self._writing or not self._known or (self._legacy and self._legacy.busy):
                continue
            if self._legacy_sizes() != self._left:
                self._left = self._legacy_sizes()
                self._suspicious()

    async def sweep(self) -> None:
        """Remove our chains from both kinds of tables where they are; our counters too."""
        self._known = False
        for tool in ("nft", "legacy") if not self._tool else (self._tool,):
            if tool == "legacy" and not legacy_tables(self._machine.netns):
                continue
            tools = Iptables(self._machine, self._rules.family, tool)
            saved = iptables_state.parse_save(await tools.save())
            firewall = iptables_layouts.firewall(self._rules)
            if text := iptables_state.sweep(saved, firewall):
                await tools.restore(text)
        self._counters.remove((INVALID_COUNTER, LOCALHOST_COUNTER))

    def close(self) -> None:
        """Close sockets, stop looking."""
        if self._look:
            self._look.cancel()
        if self._legacy:
            self._legacy.close()
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._sizes:
            self._sizes.close()
        self._counters.close()


def _with(rules: Rules, *, random_fully: bool, counters: bool) -> Rules:
    return dataclasses.replace(rules, random_fully=random_fully, counters=counters)
