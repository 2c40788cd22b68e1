"""Keeps the rules of the load balancer, and of the router beside it, at what they are to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glassnet.kernel.api import Host
from glassnet.loadbalancer.edge import layout, table
from glassnet.loadbalancer.edge.model import Front, Pool, Site, Target
from glassnet.loadbalancer.edge.table import Table


class Programmed:
    """The tables of one machine."""

    def __init__(self, machine: Host) -> None:
        self._machine = machine
        self._present: dict[str, Table] = {}

    async def write(self, tables: Iterable[Table]) -> None:
        """Lead the kernel to these tables, by what differs. Raises CommandError; the next call then writes all anew."""
        wanted = {each.family: each for each in tables}
        script = "".join(
            table.changes(self._present[family], each) if family in self._present else table.whole(each)
            for family, each in wanted.items()
        )
        if not script:
            return
        try:
            await self._machine.run(["nft", "-f", "-"], script.encode())
        except BaseException:
            self._present.clear()  # what is there is not known any more
            raise
        self._present = wanted


class Edge:
    """The two machines whose rules make a load balancer: its own, and the router."""

    def __init__(self, own: Host, router: Host, site: Site) -> None:
        self._own, self._router, self._machine, self._site = Programmed(own), Programmed(router), own, site

    async def write(self, pools: Sequence[Pool], fronts: Sequence[Front]) -> None:
        """Have both machines serve these ports. Raises GlassnetError."""
        site = self._site
        await self._own.write([layout.table(family, site, pools, fronts) for family in site.families])
        await self._router.write([layout.router_table(family, site, fronts) for family in site.families])

    async def end_flows(self, node: Target, fronts: Iterable[Front] | None = None, begun_only: bool = False) -> None:
        """Forget the flows of a node, of some ports or (None) all: their next packets are a new flow's. `begun_only`: those it has not answered."""
        if not self._site.usual.translates:
            words = [
                f"flush set {layout.Words(family).ip} {table.NAME} flows-{node.name}\n"
                for family in self._site.families
                if node.address(family)
            ]
            if not begun_only:  # the rules see to those
                await self._machine.run(["nft", "-f", "-"], "".join(words).encode())
            return
        for place in node.addresses:
            base = [
                "conntrack",
                "-D",
                "--reply-src",
                place,
                *(["-p", "tcp", "--state", "SYN_SENT"] if begun_only else []),
            ]
            if fronts is None:
                commands = [base]
            else:
                wanted = dict.fromkeys((front.protocol, front.node_port) for front in fronts)
                commands = [[*base, "-p", protocol, "--reply-port-src", str(port)] for protocol, port in wanted]
            for command in commands:
                await self._machine.run(["sh", "-c", f"{' '.join(command)} || true"])  # status 1: there was none
