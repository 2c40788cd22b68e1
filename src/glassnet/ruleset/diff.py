"""What has to change in the kernel between two states, each a map from a name to its content: chains to lines, or elements to data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Transaction(NamedTuple, Generic[T]):
    """`written` is to be put in place whole, new or changed; `deleted` is to go. Both in the order of the states they come from."""

    written: dict[str, T]
    deleted: list[str]

    def __bool__(self) -> bool:
        return bool(self.written or self.deleted)


def difference(old: Mapping[str, T], new: Mapping[str, T]) -> Transaction[T]:
    """What leads from `old` to `new`. The same objects in both are not compared in depth: sharing them saves time."""
    written = {
        name: content
        for name, content in new.items()
        if name not in old or (old[name] is not content and old[name] != content)
    }
    return Transaction(written, [name for name in old if name not in new])
