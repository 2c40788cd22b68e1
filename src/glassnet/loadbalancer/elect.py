"""Which node speaks for an address: rendezvous hashing, so that all nodes with the same facts name the same one, and a node that comes or goes
moves no other's addresses.

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (highest random weight).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b


@lru_cache(maxsize=1 << 16)
def weight(ip: str, node: str) -> int:
    """How much a node is worth for an address; the same number everywhere."""
    return int.from_bytes(blake2b(f"{node}\n{ip}".encode(), digest_size=8).digest())


def winner(ip: str, nodes: Iterable[str]) -> str:
    """The node that speaks for an address; "" when there is none."""
    return max(nodes, key=lambda node: (weight(ip, node), node), default="")
