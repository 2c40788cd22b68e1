"""What has to change in the kernel: chains (iptables) and elements (nft) that differ between two states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from glassnet.ruleset.emit_iptables import restore_text
from glassnet.ruleset.model import Chain, Element


@dataclass(slots=True)
class ChainChanges:
    """iptables chains to write whole, chains to delete, and lines to run as they stand, each by table."""

    written: dict[str, list[Chain]] = field(default_factory=dict)
    deleted: dict[str, list[str]] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.written.values()) or any(self.deleted.values()) or any(self.lines.values())

    def compare(self, table: str, old: Iterable[Chain], new: Iterable[Chain]) -> None:
        """Take in the difference between two states of the same owner's chains in a table."""
        before = {chain.name: chain for chain in old}
        after = {chain.name: chain for chain in new}
        for name, chain in after.items():
            known = before.get(name)
            if known is not chain and known != chain:
                self.written.setdefault(table, []).append(chain)
        self.deleted.setdefault(table, []).extend(name for name in before if name not in after)

    def text(self) -> str:
        """Input for `iptables-restore --noflush`; a chain that is written is not deleted, whatever order they came in."""
        deleted = {}
        for table, names in self.deleted.items():
            kept = {chain.name for chain in self.written.get(table, ())}
            deleted[table] = [name for name in dict.fromkeys(names) if name not in kept]
        return restore_text(self.written, deleted, self.lines)


Elements = Mapping[str, Mapping[str, Element]]


@dataclass(slots=True)
class ElementChanges:
    """Elements to delete and to add, by set or map name. A changed element is deleted and added."""

    deleted: dict[str, list[Element]] = field(default_factory=dict)
    added: dict[str, list[Element]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.deleted.values()) or any(self.added.values())

    def compare(self, name: str, old: Mapping[str, Element], new: Mapping[str, Element]) -> None:
        """Take in the difference between two states of the same owner's elements in a container."""
        for key, element in old.items():
            if new.get(key) != element:
                self.deleted.setdefault(name, []).append(element)
        for key, element in new.items():
            if old.get(key) != element:
                self.added.setdefault(name, []).append(element)
