"""The routes of a VPC: every pod CIDR by way of its node. Nodes that route to each other themselves have `compute` and `plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from glassnet.kube.types import Node
from glassnet.netstack.ops import AddRoute, DelRoute

PROTOCOL = 114  # ours; see `ip route show proto 114`


def routes(nodes: Iterable[Node]) -> dict[str, str]:
    """Pod CIDR -> address, of the same family, of the node that has it."""
    found: dict[str, str] = {}
    for node in nodes:
        addresses = node.internal_ips()
        for cidr in node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ()):
            if mine := next((one for one in addresses if (":" in one) == (":" in cidr)), ""):
                found[cidr] = mine
    return found


def diff(
    wanted: Mapping[str, str], present: Mapping[str, str], dev: str, table: int = 254
) -> list[AddRoute | DelRoute]:
    """Operations that lead from the routes there are to those wanted, in one table; what goes, goes first."""
    gone: list[AddRoute | DelRoute] = [
        DelRoute(cidr, gateway=via, dev=dev, protocol=PROTOCOL, missing_ok=True, table=table)
        for cidr, via in present.items()
        if wanted.get(cidr) != via
    ]
    fresh = [
        AddRoute(cidr, gateway=via, dev=dev, protocol=PROTOCOL, replace=True, table=table)
        for cidr, via in wanted.items()
        if present.get(cidr) != via
    ]
    return [*gone, *fresh]
