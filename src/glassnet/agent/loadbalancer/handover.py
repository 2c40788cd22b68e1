"""Connections of an address that was taken over from a node that is still there: what this node knows nothing of is sent on to that one.

A connection through a node's proxy is in that node's conntrack alone. So packets that belong to a TCP connection, but to none that is known here,
go to the former owner of their address, by an nftables table of our own (nft(8), dup; tables `ip glassnet_lb` and `ip6 glassnet_lb`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from glassnet.kernel.api import Host
from glassnet.net.errors import CommandError

log = logging.getLogger(__name__)
TABLE = "glassnet_lb"
COMMENT = "glassnet: connections of addresses that were taken over"
LOOK = 5.0  # seconds between looks at what the tables depend on, and tries after a failure
_GATHER = 0.005  # seconds in which what is to be changed comes together
_RULE = (
    "{ip} daddr @former ether saddr != @nodes ct state new,invalid tcp flags & syn == 0 "
    'dup to {ip} daddr map @former device "{link}" drop'
)


class Handover:
    """Keeps the tables. `address_of` gives a node's address of a family ("IPv4", "IPv6"; "" for none); `macs` all nodes' hardware addresses."""

    def __init__(
        self,
        machine: Host,
        address_of: Callable[[str, bool], str],
        macs: Callable[[], set[str]],
        link: Callable[[], str],
    ) -> None:
        self._machine, self._address_of, self._macs, self._link = machine, address_of, macs, link
        self._wanted: dict[str, str] = {}
        self._there: dict[str, str] = {}
        self._made: tuple[str, frozenset[str]] | None = None
        self._awake = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self.problem = ""

    def set(self, ip: str, node: str) -> None:
        """Send what belongs to a connection of an address to the node it is on; "" to nobody."""
        there = self._address_of(node, ":" in ip) if node else ""
        if there:
            self._wanted[ip] = there
        else:
            self._wanted.pop(ip, None)
        self._awake.set()

    async def write(self) -> None:
        """Have the kernel know by the return of this what has been set so far."""
        self._awake.clear()
        await self._write_whole()

    async def run(self) -> None:
        """Until cancelled; then the tables go."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._awake.wait()
                await asyncio.sleep(_GATHER)
                self._awake.clear()
                await self._write_whole()
        finally:
            if self._writing is not None:
                await asyncio.wait({self._writing})
            await sweep(self._machine)

    async def _write_whole(self) -> None:
        """In a task of its own: who is cancelled meanwhile leaves it to end, and hears of it for sure (asyncio.wait_for may lose that)."""
        self._writing = asyncio.create_task(self._write())
        await asyncio.shield(self._writing)

    async def _write(self) -> None:
        link, macs = self._link(), frozenset(self._macs())
        if not link or (self._made is None and not self._wanted):
            return
        lines = []
        if self._made != (link, macs):
            for family in ("ip", "ip6"):
                lines += _table(family, link, macs)
            self._there = {}
        for ip in [ip for ip in self._there if self._wanted.get(ip) != self._there[ip]]:
            lines.append(f"delete element {_family(ip)} {TABLE} former {{ {ip} }}")
        for ip, there in self._wanted.items():
            if self._there.get(ip) != there:
                lines.append(f"add element {_family(ip)} {TABLE} former {{ {ip} : {there} }}")
        if not lines:
            return
        wanted = dict(self._wanted)
        try:
            await self._machine.run(["nft", "-f", "-"], "\n".join([*lines, ""]).encode())
        except CommandError as error:
            if self.problem != str(error):
                self.problem = str(error)
                log.warning("connections of addresses that are taken over from other nodes may break: %s", error)
            self._made = None
            return
        self._there, self._made, self.problem = wanted, (link, macs), ""


def _family(ip: str) -> str:
    return "ip6" if ":" in ip else "ip"


def _table(family: str, link: str, macs: frozenset[str]) -> list[str]:
    kind = "ipv6_addr" if family == "ip6" else "ipv4_addr"
    nodes = f"elements = {{ {', '.join(sorted(macs))} }};" if macs else ""
    return [
        f"add table {family} {TABLE}",
        f"delete table {family} {TABLE}",
        f'table {family} {TABLE} {{ comment "{COMMENT}";',
        f" map former {{ type {kind} : {kind}; }}",
        f" set nodes {{ type ether_addr; {nodes} }}",
        f" chain prerouting {{ type filter hook prerouting priority mangle; {_RULE.format(ip=family, link=link)}; }}",
        "}",
    ]


async def sweep(machine: Host) -> None:
    """Take our tables away."""
    for family in ("ip", "ip6"):
        try:
            await machine.run(["nft", "delete", "table", family, TABLE])
        except CommandError as error:
            if "No such file" not in str(error):
                log.warning("%s", error)
