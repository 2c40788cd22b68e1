"""Pod CIDRs for Nodes that have none, one of each of the cluster's ranges. Off unless asked for: kube-controller-manager may do it, too.

Source: kube-controller-manager's --allocate-node-cidrs, --cluster-cidr, --node-cidr-mask-size-ipv4 (24) and -ipv6 (64).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from glassnet.controllers.noderoutes import SOURCE, Ranges, pod_cidrs
from glassnet.controllers.result import NOTHING, Result, record
from glassnet.kube import kinds
from glassnet.kube.change import Patch
from glassnet.kube.types import Node
from glassnet.net import address


class Space:
    """One of the cluster's ranges, cut into pieces of `mask` bits. Raises ValueError for a range or a mask that cannot be."""

    def __init__(self, cluster_cidr: str, mask: int) -> None:
        self.text, self._mask = cluster_cidr, mask
        network, bits_mask, self._bits = address.prefix(cluster_cidr)
        self._first, length = network & bits_mask, bits_mask.bit_count()
        if not length <= mask <= self._bits:
            raise ValueError(f"{cluster_cidr} has no pieces of /{mask}")
        self._pieces, self._next = 1 << mask - length, 0

    def take(self, ranges: Ranges) -> str:
        """The next piece that nobody has any of; "" when there is none. Pieces given back are used again last."""
        for step in range(min(self._pieces, 1 << 20)):
            number = (self._next + step) % self._pieces
            first = self._first | number << self._bits - self._mask
            text = f"{address.text_of(first, self._bits)}/{self._mask}"
            if ranges.free(text):
                self._next = number + 1
                return text
        return ""


def allocate(node: Node, ranges: Ranges, spaces: Sequence[Space]) -> tuple[Result, Node]:
    """The patch that gives a Node its pod CIDRs, and the Node as it will be: `ranges` must know of it before the next is asked for."""
    if pod_cidrs(node) or node.metadata.deletion_timestamp:
        return NOTHING, node
    found = [(space, space.take(ranges)) for space in spaces]
    meta = node.metadata
    for space, piece in found:
        if not piece:
            text = f"{space.text} has no free range left: a larger --cluster-cidr or smaller ranges for each Node are needed"
            return Result([record(kinds.NODE, meta, "CIDRNotAvailable", text, SOURCE, "Warning")]), node
    pieces = tuple(piece for _, piece in found)
    patch = Patch(kinds.NODE, "", meta.name, {"spec": {"podCIDR": pieces[0], "podCIDRs": list(pieces)}}, resource_version=meta.resource_version)  # fmt: skip
    spec = msgspec.structs.replace(node.spec, pod_cidr=pieces[0], pod_cidrs=pieces)
    return Result([patch]), msgspec.structs.replace(node, spec=spec)
