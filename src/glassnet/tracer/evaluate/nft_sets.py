"""Sets and maps of nft, indexed for lookup: exact keys in a dictionary, single-dimension intervals by bisection, the rest in a list."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from glassnet.net.errors import ParseError
from glassnet.ruleset.model import NFT, SetObject, Table, uncollected
from glassnet.ruleset.parse_nft import decode
from glassnet.tracer.evaluate.nft_values import NotUnderstood, literal


class SetIndex:
    """The elements of one set for one type of key. `find` gives the element's data (True in a set that is no map), or None."""

    def __init__(self, elements: list[Any], kinds: tuple[str, ...], is_map: bool) -> None:
        self.exact: dict[Any, Any] = {}
        self.ranges: list[tuple[Any, Any, Any]] = []  # one dimension: low, high, data
        self.boxes: list[tuple[list[tuple[Any, Any]], Any]] = []
        self.words: list[tuple[str, Any]] = []  # names that end with *
        self.catch_all: Any = None
        self._known: dict[str, Any] = {}  # names of protocols
        single = len(kinds) == 1
        kind = kinds[0]
        for element in elements:
            key, data = element if is_map else (element, True)
            if isinstance(key, dict) and "elem" in key:
                key = key["elem"]["val"]
            if key == "*":
                self.catch_all = data
            elif single:
                self._add_single(literal(kind, key), data)
            else:
                self._add_concat(key, kinds, data)
        self.ranges.sort(key=lambda each: each[0])
        self._lows = [each[0] for each in self.ranges]

    def _add_single(self, bounds: tuple[Any, Any], data: Any) -> None:
        low, high = bounds
        if low != high:
            self.ranges.append((low, high, data))
        elif isinstance(low, str) and low.endswith("*"):
            self.words.append((low[:-1], data))
        else:
            self.exact[low] = data

    def _add_concat(self, key: Any, kinds: tuple[str, ...], data: Any) -> None:
        parts = key.get("concat") if isinstance(key, dict) else None
        if parts is None or len(parts) != len(kinds):
            raise NotUnderstood(f"element {key} of a set with {len(kinds)} parts")
        try:
            self.exact[tuple([self._value(kind, part) for kind, part in zip(kinds, parts, strict=True)])] = data
        except (ValueError, TypeError):
            bounds = [literal(kind, part) for kind, part in zip(kinds, parts, strict=True)]
            if all(low == high for low, high in bounds):
                self.exact[tuple([low for low, _ in bounds])] = data
            else:
                self.boxes.append((bounds, data))

    def _value(self, kind: str, part: Any) -> Any:
        """A part that is a single value, the quick way. Raises ValueError or TypeError for what needs a closer look."""
        if part.__class__ is int:
            return part
        if kind == "ipv4_addr":
            if part.__class__ is not str:
                raise ValueError
            a, b, c, d = part.split(".")
            return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
        found = self._known.get(part)
        if found is None:
            low, found = literal(kind, part)
            if low != found or kind != "inet_proto":
                raise ValueError
            self._known[part] = found
        return found

    def find(self, key: Any) -> Any:
        """The data of the element that holds `key`, or None."""
        found = self.exact.get(key)
        if found is not None:
            return found
        if self.ranges and isinstance(key, int):
            place = bisect_right(self._lows, key) - 1
            if place >= 0 and key <= self.ranges[place][1]:
                return self.ranges[place][2]
        for bounds, data in self.boxes:
            if all(low <= part <= high for (low, high), part in zip(bounds, key, strict=True)):
                return data
        for start, data in self.words:
            if isinstance(key, str) and key.startswith(start):
                return data
        return self.catch_all


def named_index(found: SetObject, kinds: tuple[str, ...]) -> SetIndex:
    """The index of a named set for keys of these types; made once. Raises NotUnderstood, ParseError."""
    if found.unknown:
        raise NotUnderstood(f"set {found.name}: {found.unknown}")
    if found.index is None:
        found.index = {}
    index = found.index.get(kinds)
    if index is None:
        with uncollected():
            elements = found.elements if isinstance(found.elements, list) else decode(found.elements, found.source)
            index = found.index[kinds] = SetIndex(elements, kinds, found.kind == "map")
            del elements
    return index  # type: ignore[no-any-return]


_LARGE = 50_000  # bytes of elements


def prepare(tables: Iterable[Table]) -> None:
    """Index large sets of declared types now, so that the first packet need not wait for it. What cannot be indexed is left to the rule that asks."""
    with uncollected():
        for table in tables:
            for found in table.sets.values():
                if (
                    table.tool != NFT
                    or isinstance(found.elements, list)
                    or len(bytes(found.elements)) < _LARGE
                    or not found.key_type
                ):
                    continue
                with contextlib.suppress(NotUnderstood, ParseError, KeyError, ValueError, TypeError):
                    named_index(found, found.key_type)
