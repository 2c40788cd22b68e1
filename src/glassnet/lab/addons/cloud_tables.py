"""Keeps the rules of the load balancer, and of the router beside it, at what they are to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glassnet.kernel.api import Host
from glassnet.loadbalancer.edge import layout, table
from glassnet.loadbalancer.edge.model import Front, Pool, Target
from glassnet.loadbalancer.edge.table import Table
from glassnet.net import address


class Programmed:
    """The tables of one machine."""

    def __init__(self, machine: Host) -> None:
        self._machine = machine
        self._present: dict[str, Table] = {}

    async def write(self, tables: Iterable[Table]) -> bool:
        """Lead the kernel to these tables, by what differs; whether anything did. Raises CommandError; the next call then writes all anew."""
        wanted = {each.family: each for each in tables}
        script = "".join(
            table.changes(self._present[family], each) if family in self._present else table.whole(each)
            for family, each in wanted.items()
        )
        if not script:
            return False
        try:
            await self._machine.run(["nft", "-f", "-"], script.encode())
        except BaseException:
            self._present.clear()  # what is there is not known any more
            raise
        self._present = wanted
        return True


class Edge:
    """The two machines whose rules make a load balancer: its own, and the router."""

    def __init__(
        self, own: Host, router: Host, nodes: Sequence[Target], vips: Sequence[str], translates: bool, silent: bool
    ) -> None:
        self._own, self._router, self._machine = Programmed(own), Programmed(router), own
        self._nodes, self._vips, self._translates = nodes, vips, translates
        self._silent = silent
        self._families = tuple(dict.fromkeys(address.family(cidr.partition("/")[0]) for cidr in vips))

    async def write(self, pools: Sequence[Pool], fronts: Sequence[Front], idle: int) -> bool:
        """Have both machines serve these ports. Whether anything changed. Raises GlassnetError."""
        made = [
            layout.table(
                family, self._translates, [cidr for cidr in self._vips if address.family(cidr) == family], self._nodes, pools,
                [front for front in fronts if address.family(front.ip) == family], idle,
            )
            for family in self._families
        ]  # fmt: skip
        changed = await self._own.write(made)
        routers = [layout.router_table(family, self._nodes, fronts, self._silent) for family in self._families]
        return await self._router.write(routers) or changed

    async def end_flows(self, node: Target, fronts: Iterable[Front] | None = None, begun_only: bool = False) -> None:
        """Forget the flows of a node, of some ports or (None) all: their next packets are a new flow's. `begun_only`: those it has not answered."""
        if not self._translates:
            words = [
                f"flush set {layout.Words(family).ip} {table.NAME} flows-{node.name}\n"
                for family in self._families
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
