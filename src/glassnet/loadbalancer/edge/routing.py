"""Routes and rules by which a mark takes a packet to a node, and what the router knows of the load balancer."""

from __future__ import annotations

from collections.abc import Iterable

from glassnet.loadbalancer.edge.layout import BACK
from glassnet.loadbalancer.edge.model import Target
from glassnet.net import address
from glassnet.netstack.ops import AddRoute, AddRule, Operation

FIRST = 1000
"""Table and priority of node number 0; those of node number N are FIRST + N."""
BACK_TABLE = 900


def to_nodes(nodes: Iterable[Target], dev: str) -> list[Operation]:
    """On the load balancer: each node's number, as a mark, leads out of `dev` to the node, whatever the destination."""
    made: list[Operation] = []
    for node in nodes:
        for place in node.addresses:
            family, table = 6 if address.family(place) == address.IPV6 else 4, FIRST + node.number
            made.append(AddRoute("default", gateway=place, dev=dev, table=table, onlink=True))
            made.append(AddRule(table, family=family, priority=table, mark=node.number))
    return made


def to_balancer(vips: Iterable[str], gateways: Iterable[str], dev: str, back: bool) -> list[Operation]:
    """On the VPC's router: the load balancer's addresses, and (`back`) what carries the mark `layout.BACK`, go out of `dev` to it."""
    hops = {address.family(place): place for place in gateways}
    ways = ((cidr, hops.get(address.family(cidr.partition("/")[0]))) for cidr in vips)
    made: list[Operation] = [AddRoute(cidr, gateway=hop, dev=dev) for cidr, hop in ways if hop]
    for family, hop in hops.items() if back else ():
        made.append(AddRoute("default", gateway=hop, dev=dev, table=BACK_TABLE))
        made.append(AddRule(BACK_TABLE, family=6 if family == address.IPV6 else 4, priority=BACK_TABLE, mark=BACK))
    return made
