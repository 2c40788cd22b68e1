"""Bringing rules into the kernel: one writer per kind of rules. Each keeps what it has written, and never lists on the hot path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glassnet.kernel.api import Machine
from glassnet.kernel.iptables import Iptables
from glassnet.kernel.nft import Nft
from glassnet.kube.view import Key
from glassnet.proxy.backends import iptables, nftables
from glassnet.proxy.backends.iptables import CANARY, JUMPS, PREFIXES, TOP, Options, Piece
from glassnet.proxy.backends.nftables import Elements
from glassnet.proxy.backends.nftables_state import State
from glassnet.proxy.model import ServicePort
from glassnet.ruleset.diff import difference
from glassnet.ruleset.emit_iptables import emit
from glassnet.ruleset.model import Rule


class IptablesWriter:
    """Chains as kube-proxy has them. A chain is written whole, and only when it changes: an endpoint leaves the shared ones alone."""

    def __init__(self, machine: Machine, options: Options) -> None:
        self._machine, self._tools, self._options = machine, Iptables(machine), options
        self._chains: dict[str, list[str]] = {}
        self._top: dict[tuple[str, str], list[str]] = {}
        self._known = False

    def forget(self) -> None:
        """What is in the kernel is no longer known."""
        self._known = False

    def spell(self, ports: list[ServicePort]) -> Piece:
        """One Service."""
        return iptables.piece(ports, self._options)

    async def write(self, changed: Mapping[Key, Piece | None], everything: Mapping[Key, Piece]) -> None:
        """One load, a transaction in each table; the first one also adds the jumps that are missing and drops chains left by others before us."""
        jumps: list[tuple[str, str]] = []
        if not self._known:
            jumps, self._top = await self._look(), {}
        wanted = {name: lines for piece in everything.values() for name, lines in piece.chains.items()}
        fresh, stale = difference(self._chains, wanted)
        top = iptables.fixed(self._options)
        for _, piece in sorted(everything.items()):
            for place, lines in piece.top.items():
                top.setdefault(place, []).extend(lines)
        top.setdefault(("nat", iptables.SERVICES), []).extend(iptables.last(self._options))
        text = "".join(
            self._table(
                table,
                {
                    name: lines
                    for name in TOP[table]
                    if (lines := top.get((table, name), [])) != self._top.get((table, name))
                },
                fresh if table == "nat" else {},
                stale if table == "nat" else [],
                [line for where, line in jumps if where == table],
            )
            for table in TOP
        )
        if text:
            await self._tools.restore(text)
        if self._options.localhost_node_ports and not self._known:
            self._machine.sysctl({"net.ipv4.conf.all.route_localnet": 1})
        self._chains, self._known = wanted, True
        self._top = {(table, name): top.get((table, name), []) for table in TOP for name in TOP[table]}

    def _table(
        self,
        table: str,
        shared: Mapping[str, list[str]],
        own: Mapping[str, list[str]],
        stale: Sequence[str],
        jumps: Sequence[str],
    ) -> str:
        """One table's part of the input: chains to fill anew, jumps to add, chains to delete; "" when there is nothing to do."""
        if not (shared or own or stale or jumps):
            return ""
        lines = [f"*{table}"]
        lines += [f":{chain} - [0:0]" for chain in (*shared, *own, *stale)]
        lines += [line for content in (*shared.values(), *own.values()) for line in content]
        lines += [*jumps, *(f"-X {chain}" for chain in stale)]
        return "\n".join(lines) + "\nCOMMIT\n"

    async def _look(self) -> list[tuple[str, str]]:
        """Learn which chains of ours are there; the jumps that are not, as lines to add."""
        found: dict[str, list[str]] = {}
        present: dict[str, set[str]] = {}
        for table in TOP:
            lines = await self._tools.save(table)
            present[table] = {line for line in lines if line.startswith("-A ")}
            for line in lines:
                if line.startswith(":") and (name := line[1:].split()[0]).startswith(PREFIXES):
                    found[name] = []
        self._chains = found
        return [
            (table, _jump(chain, rule).replace("-A ", "-I ", 1))
            for table, chain, rule in JUMPS
            if _jump(chain, rule) not in present[table]
        ]

    async def intact(self) -> bool:
        """Whether the canary in the least used table lives: who flushes all tables takes it as well (kube-proxy's way to notice)."""
        return any(line.startswith(f":{CANARY} ") for line in await self._tools.save("mangle"))

    async def sweep(self) -> None:
        """Remove every chain of ours and the jumps to them."""
        if not await self.intact():
            return
        await self._look()
        text = ""
        for table in reversed(TOP):
            saved = {line for line in await self._tools.save(table) if line.startswith("-A ")}
            own = [*TOP[table], *(self._chains if table == "nat" else ())]
            lines = [f"*{table}", *(f":{chain} - [0:0]" for chain in own)]
            lines += [
                _jump(chain, rule).replace("-A ", "-D ", 1)
                for where, chain, rule in JUMPS
                if where == table and _jump(chain, rule) in saved
            ]
            text += "\n".join([*lines, *(f"-X {chain}" for chain in own), "COMMIT"]) + "\n"
        await self._tools.restore(text)
        self._chains, self._known = {}, False


def _jump(builtin: str, rule: Rule) -> str:
    """A jump into our chains, the connection state before the comment, as kube-proxy writes it and iptables-save then shows it.

    The matches keep the order they were given in, so one text has to do for adding, finding and deleting the rule.
    """
    line = emit(builtin, rule)
    state = " -m conntrack --ctstate NEW"
    if state not in line:
        return line
    line = line.replace(state, "", 1)
    return line.replace(" -m comment ", f"{state} -m comment ", 1)


class NftablesWriter:
    """Elements of the constant ruleset. The table is made anew when more pick chains are needed than it has."""

    def __init__(self, machine: Machine, options: nftables.Options) -> None:
        self._nft, self._state = Nft(machine), State(options)
        self._known = False

    def forget(self) -> None:
        """What is in the kernel is no longer known: the next write starts with a fresh table."""
        self._known = False

    def spell(self, ports: list[ServicePort]) -> Elements:
        """One Service."""
        return nftables.elements(ports)

    async def write(self, changed: Mapping[Key, Elements | None], everything: Mapping[Key, Elements]) -> None:
        """One transaction: the difference, or the whole table when the kernel's state is not known or the table has grown too small."""
        text = self._state.update(changed) if self._known else None
        if text is None:
            text = self._state.full(everything)
        await self._nft.run(text)
        self._known = True

    async def intact(self) -> bool:
        """Whether our table is there."""
        return await self._nft.has_table("ip", nftables.TABLE)

    async def sweep(self) -> None:
        """Remove the table; that it is there at all is made sure of first, as older nft has no other way to delete without an error."""
        await self._nft.run(f"add table ip {nftables.TABLE}\ndelete table ip {nftables.TABLE}\n")
        self.forget()
