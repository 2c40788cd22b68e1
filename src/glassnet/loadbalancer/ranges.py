"""Ranges of addresses as numbers, and the next free address of them."""

from __future__ import annotations

import heapq
import ipaddress
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from glassnet.net import address

_UNFIT = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/3",
            "::/127",
            "::ffff:0:0/96",
            "fe80::/10",
            "ff00::/8",
        ),
    )
)  # this host, loopback, link-local, multicast and reserved, mapped; RFC 6890, RFC 4291


class Range(NamedTuple):
    """Addresses from `first` to `last`, both in it; `bits` is 32 (IPv4) or 128. Ordered by family, then address."""

    bits: int
    first: int
    last: int

    @property
    def family(self) -> str:
        """IPv4 or IPv6."""
        return address.IPV4 if self.bits == 32 else address.IPV6

    def overlaps(self, other: Range) -> bool:
        """Whether an address is in both."""
        return self.bits == other.bits and self.first <= other.last and other.first <= self.last

    def has(self, bits: int, number: int) -> bool:
        """Whether an address is in it."""
        return bits == self.bits and self.first <= number <= self.last

    @property
    def text(self) -> str:
        """As it may be written in a configuration."""
        ends = address.text_of(self.first, self.bits), address.text_of(self.last, self.bits)
        return ends[0] if self.first == self.last else "-".join(ends)


def parse(text: str) -> Range:
    """A range of `ADDRESS/LENGTH`, `FIRST-LAST` or one address. Raises ValueError that says what is wrong."""
    text = text.strip()
    if "-" in text:
        ends = [address.canonical(part.strip()) for part in text.split("-")]
        if len(ends) != 2 or not all(ends):
            raise ValueError(f"{text!r} is no range of addresses such as 192.0.2.10-192.0.2.20")
        bits, last_bits = (128 if ":" in each else 32 for each in ends)
        if bits != last_bits:
            raise ValueError(f"{text!r} begins in one family and ends in the other")
        first, last = map(address.number, ends)
        if first > last:
            raise ValueError(f"{text!r} ends before it begins")
        return _fit(Range(bits, first, last), text)
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no CIDR, range or address ({error}); want 192.0.2.0/28 or 192.0.2.10-192.0.2.20"
        ) from None
    return _fit(of_network(network), text)


def of_network(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Range:
    """A network's addresses, its first and last with them."""
    return Range(network.max_prefixlen, int(network.network_address), int(network.broadcast_address))


def _fit(found: Range, text: str) -> Range:
    for network in _UNFIT:
        if found.overlaps(of_network(network)):
            raise ValueError(f"{text!r} has addresses of {network}, which nobody can be reached by")
    return found


class Space:
    """The free addresses of some ranges of one family, lowest first, however many there are.

    `refused` says of a number where the search goes on: the number itself when it may be had, else a higher one.
    """

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._ranges: Sequence[Range] = sorted(ranges)
        self._starts = [each.first for each in self._ranges]
        self._next = self._starts[0] if self._starts else 0
        self._freed: list[int] = []

    def free(self, number: int) -> None:
        """An address was given back."""
        if number < self._next:
            heapq.heappush(self._freed, number)

    def take(self, refused: Callable[[int], int]) -> int | None:
        """The lowest free address; None when there is none. It is not offered again before it is freed."""
        while self._freed:
            number = heapq.heappop(self._freed)
            if refused(number) == number:
                return number
        while (place := self._in_range(self._next)) is not None:
            beyond = refused(place)
            if beyond == place:
                self._next = place + 1
                return place
            self._next = beyond
        return None

    def _in_range(self, number: int) -> int | None:
        """The number, or the first one of the next range."""
        at = bisect_right(self._starts, number) - 1
        if at >= 0 and number <= self._ranges[at].last:
            return number
        return self._starts[at + 1] if at + 1 < len(self._starts) else None
