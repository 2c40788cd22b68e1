"""The nftables elements of one node over time: what the kernel was last given, and the commands that lead to what is wanted now.

Pure. Work is in proportion to what changed, not to the cluster. When loading fails the caller starts over with `full`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from glassnet.kube.view import Key
from glassnet.proxy.backends.nftables import TABLE, Elements, Options, picks_for, skeleton

NOTHING = Elements()


class State:
    """What one node's table holds. Elements that several Services ask for belong to the first by namespace and name."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.picks = 0
        self._pieces: dict[Key, Elements] = {}
        self._owners: dict[str, dict[str, tuple[Key, ...]]] = {}

    def full(self, pieces: Mapping[Key, Elements]) -> str:
        """Commands that replace the table by what `pieces` want, in one transaction."""
        self.picks = picks_for(max((piece.picks for piece in pieces.values()), default=0))
        self._pieces, self._owners = {}, {}
        return skeleton(self.options, self.picks) + self._change(dict(pieces))

    def update(self, changed: Mapping[Key, Elements | None]) -> str | None:
        """Commands for the Services that changed (None: gone), "" when nothing differs; None when the table has too few pick chains."""
        if any(piece and piece.picks > self.picks for piece in changed.values()):
            return None
        return self._change({key: piece or NOTHING for key, piece in changed.items()})

    def _change(self, pieces: Mapping[Key, Elements]) -> str:
        before: dict[tuple[str, str], str | None] = {}
        for key, piece in pieces.items():
            for name, content in self._pieces.get(key, NOTHING).of.items():
                for element in content:
                    before.setdefault((name, element), self._value(name, element))
            for name, content in piece.of.items():
                for element in content:
                    before.setdefault((name, element), self._value(name, element))
        gone, fresh = self._own_objects(pieces)
        for key, piece in pieces.items():
            self._replace(key, piece)
        removals: dict[str, list[str]] = {}
        additions: dict[str, list[str]] = {}
        for (name, element), old in before.items():
            new = self._value(name, element)
            if old != new:
                if old is not None:
                    removals.setdefault(name, []).append(element)
                if new is not None:
                    additions.setdefault(name, []).append(element + new)
        lines = [f"delete element ip {TABLE} {name} {{ {', '.join(removals[name])} }}" for name in sorted(removals)]
        lines += [*gone, *fresh]
        lines += [f"add element ip {TABLE} {name} {{ {', '.join(additions[name])} }}" for name in sorted(additions)]
        return "".join(f"{line}\n" for line in lines)

    def _value(self, name: str, element: str) -> str | None:
        owners = self._owners.get(name, {}).get(element)
        return self._pieces[owners[0]].of[name][element] if owners else None

    def _replace(self, key: Key, piece: Elements) -> None:
        """Take a Service's elements in place of those it had."""
        for name, content in self._pieces.pop(key, NOTHING).of.items():
            for element in content:
                left = tuple(owner for owner in self._owners[name][element] if owner != key)
                if left:
                    self._owners[name][element] = left
                else:
                    del self._owners[name][element]
        if piece is NOTHING:
            return
        self._pieces[key] = piece
        alone = (key,)
        for name, content in piece.of.items():
            owners = self._owners.setdefault(name, {})
            for element in content:
                there = owners.get(element)
                owners[element] = tuple(sorted((*there, key))) if there else alone

    def _own_objects(self, pieces: Mapping[Key, Elements]) -> tuple[list[str], list[str]]:
        """Commands for chains and sets that Services have for themselves: first what goes, then what comes."""
        flushed, dropped, made, filled = [], [], [], []
        for key, piece in pieces.items():
            old = self._pieces.get(key, NOTHING)
            changed = [name for name, rules in old.chains.items() if piece.chains.get(name) != rules]
            flushed += [f"flush chain ip {TABLE} {name}" for name in changed]
            dropped += [f"delete chain ip {TABLE} {name}" for name in changed if name not in piece.chains]
            other = [name for name, text in old.sets.items() if piece.sets.get(name) != text]
            if any(
                name in piece.sets for name in other
            ):  # a set cannot change while rules use it: they are written anew
                changed = list(old.chains)
                flushed = [line for line in flushed if line.rpartition(" ")[2] not in old.chains]
                flushed += [f"flush chain ip {TABLE} {name}" for name in changed]
            dropped += [f"delete set ip {TABLE} {name}" for name in other]
            made += [
                f"add set ip {TABLE} {name} {{ {text} }}"
                for name, text in piece.sets.items()
                if old.sets.get(name) != text
            ]
            anew = [name for name in piece.chains if name in changed or name not in old.chains]
            made += [f"add chain ip {TABLE} {name}" for name in anew]
            filled += [f"add rule ip {TABLE} {name} {rule}" for name in anew for rule in piece.chains[name]]
        return [*flushed, *dropped], [*made, *filled]

    def contents(self) -> dict[str, dict[str, str]]:
        """Every element that is wanted, by set or map: for comparing states."""
        return {
            name: {element: self._value(name, element) or "" for element in owners}
            for name, owners in self._owners.items()
            if owners
        }

    def services(self) -> Iterable[Key]:
        """The Services the table is for."""
        return self._pieces.keys()
