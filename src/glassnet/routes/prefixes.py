"""Prefixes by who has them, and which of them overlap a given one; in time that does not grow with their number, nearly.

Two prefixes overlap only when one holds the other. Those that a prefix holds stand together in the order of their first addresses; those that
hold it are looked up, one question for each length in use.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from ipaddress import IPv6Address

from glassnet.net.address import prefix

Block = tuple[
    int, int, int
]  # a prefix as numbers: bits of the family (32, 128), first address, length of the host part


def block(text: str) -> Block:
    """A prefix (an address alone counts as one of full length) as numbers; bits of the host part are left out. Raises ValueError."""
    address, _, tail = text.partition("/")
    if ":" in address and "%" not in address and (not tail or (tail.isascii() and tail.isdigit() and int(tail) <= 128)):
        host = 128 - int(
            tail or 128
        )  # parsed once: a node of a large cluster does this ten thousand times as it begins
        return 128, int(IPv6Address(address)) >> host << host, host
    first, mask, bits = prefix(text)
    return bits, first, bits - mask.bit_count()


def overlap(one: Block, other: Block) -> bool:
    """Does one of two prefixes hold the other?"""
    host = max(one[2], other[2])
    return one[0] == other[0] and one[1] >> host == other[1] >> host


def holds(outer: Block, inner: Block) -> bool:
    """Does `outer` hold all of `inner`?"""
    return outer[2] >= inner[2] and overlap(outer, inner)


class Prefixes:
    """Prefixes of both families, each with the names that have it."""

    def __init__(self) -> None:
        self._names: dict[
            tuple[int, int, int], set[str]
        ] = {}  # (bits, first address, length of the host part) -> names
        self._order: dict[int, list[tuple[int, int]]] = {32: [], 128: []}  # (first address, length of the host part)
        self._lengths: dict[tuple[int, int], int] = {}  # (bits, length of the host part) -> how many

    def add(self, place: Block, name: str) -> None:
        """`name` has the prefix."""
        bits, first, host = place
        if place not in self._names:
            self._names[place] = set()
            insort(self._order[bits], (first, host))
            self._lengths[bits, host] = self._lengths.get((bits, host), 0) + 1
        self._names[place].add(name)

    def remove(self, place: Block, name: str) -> None:
        """`name` has it no more; nothing happens when it had not."""
        bits, first, host = place
        names = self._names.get(place, set())
        names.discard(name)
        if place in self._names and not names:
            del self._names[place]
            order = self._order[bits]
            del order[bisect_left(order, (first, host))]
            self._lengths[bits, host] -= 1
            if not self._lengths[bits, host]:
                del self._lengths[bits, host]

    def overlapping(self, place: Block) -> set[str]:
        """The names that have a prefix which overlaps this one."""
        bits, first, host = place
        found: set[str] = set()
        order = self._order[bits]
        for at in range(bisect_left(order, (first, 0)), len(order)):
            begin, length = order[at]
            if begin >> host != first >> host:
                break
            found |= self._names[bits, begin, length]
        for family, length in self._lengths:
            if family == bits and length > host:
                found |= self._names.get((bits, first >> length << length, length), set())
        return found
