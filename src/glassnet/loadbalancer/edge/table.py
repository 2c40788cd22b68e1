"""The nftables table of a load balancer, and of the router beside it, as values; two of them as the commands of nft(8) that lead from one to the other.

A change touches elements and chains that differ, in one transaction. Elements carry the Service's port in their comment, nodes their name.
"""

from __future__ import annotations

from typing import NamedTuple

NAME = "glassnet-cloud"
NOTE = "glassnet: the cloud's load balancer"
_BATCH = 500  # elements in one command


class Chain(NamedTuple):
    """A chain: the line that hooks it in ("" for one that others jump to), its comment, its rules."""

    rules: tuple[str, ...]
    hook: str = ""
    note: str = ""


class Element(NamedTuple):
    """What a set or map has under a key; `data` is "" in a set."""

    note: str = ""
    data: str = ""


class Table(NamedTuple):
    """All of a table. `sets` has definitions ("set" or "map", and the words in its braces), `elements` keys by (set, key)."""

    family: str  # ip or ip6
    chains: dict[str, Chain]
    sets: dict[str, tuple[str, str]]
    elements: dict[tuple[str, str], Element]


def whole(table: Table) -> str:
    """A script that makes the table anew, in place of the one there is."""
    empty = Table(table.family, {}, {}, {})
    head = f"table {table.family} {NAME}\ndelete table {table.family} {NAME}\n"
    return f'{head}table {table.family} {NAME} {{\n    comment "{NOTE}"\n}}\n{changes(empty, table)}'


def gone(family: str) -> str:
    """A script that removes the table."""
    return f"table {family} {NAME}\ndelete table {family} {NAME}\n"


def changes(old: Table, new: Table) -> str:
    """A script that leads from one state of a table to another; "" when they are equal. All of it happens at once or not at all."""
    place = f"{new.family} {NAME}"
    lines = [
        f"add {kind} {place} {name} {{ {words} }}" for name, (kind, words) in new.sets.items() if name not in old.sets
    ]
    different = [name for name, chain in new.chains.items() if old.chains.get(name) != chain]
    lines += [_new_chain(place, name, new.chains[name]) for name in different]
    gone = [key for key, element in old.elements.items() if key[0] in new.sets and new.elements.get(key) != element]
    fresh = {key: element for key, element in new.elements.items() if old.elements.get(key) != element}
    lines += _elements("delete", place, {key: Element() for key in gone})
    for name in different:
        if name in old.chains:
            lines.append(f"flush chain {place} {name}")
        lines += [f"add rule {place} {name} {rule}" for rule in new.chains[name].rules]
    lines += _elements("add", place, fresh)
    left = [name for name in old.chains if name not in new.chains]
    lines += [f"flush chain {place} {name}" for name in left]
    lines += [f"delete chain {place} {name}" for name in left]
    lines += [f"delete {kind} {place} {name}" for name, (kind, _) in old.sets.items() if name not in new.sets]
    return "".join(f"{line}\n" for line in lines)


def _new_chain(place: str, name: str, chain: Chain) -> str:
    words = "; ".join(filter(None, (chain.hook, f'comment "{chain.note}"' if chain.note else "")))
    return f"add chain {place} {name}" + (f" {{ {words}; }}" if words else "")


def _elements(verb: str, place: str, found: dict[tuple[str, str], Element]) -> list[str]:
    by_set: dict[str, list[str]] = {}
    for (name, key), element in found.items():
        text = f'{key} comment "{element.note}"' if element.note else key
        by_set.setdefault(name, []).append(f"{text} : {element.data}" if element.data else text)
    return [
        f"{verb} element {place} {name} {{ {', '.join(words[start : start + _BATCH])} }}"
        for name, words in by_set.items()
        for start in range(0, len(words), _BATCH)
    ]
