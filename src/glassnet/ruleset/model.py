"""Packet filter rules as values, read from any tool's listing: the tables of one network namespace.

Rules stay text until somebody looks at them: a node with ten thousand Services has 230,000, of which a packet meets a few dozen.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside: much is made that all stays, and looking through it again and again takes longer than to make it."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


LEGACY, IPTABLES_NFT, NFT = "iptables-legacy", "iptables-nft", "nft"


@dataclass(slots=True)
class Rule:
    """One rule as its tool wrote it. `number` counts from 1 in its chain, `line` in its file (0: unknown).

    `body` is what a parser made of the text (an `XtRule`, or a list of libnftables expressions); `compiled` is the evaluator's.
    """

    chain: Chain
    number: int
    text: str
    line: int = 0
    handle: int = 0
    comment: str = ""
    body: Any = None
    compiled: Any = None


@dataclass(slots=True)
class Option:
    """One option of an iptables match or target: its words, and whether `!` stood before it."""

    name: str
    values: list[str]
    negated: bool = False


@dataclass(slots=True)
class XtPart:
    """A match or target of an iptables rule: the module's name and its options in order."""

    name: str
    options: list[Option] = field(default_factory=list)

    def get(self, name: str, default: str = "") -> str:
        """The first word of an option."""
        for option in self.options:
            if option.name == name:
                return option.values[0] if option.values else ""
        return default


@dataclass(slots=True)
class XtRule:
    """An iptables rule taken apart: matches in order, then where it goes. `goto` tells `-g` from `-j`; no target: None."""

    matches: list[XtPart]
    target: XtPart | None
    goto: bool = False


@dataclass(slots=True)
class Chain:
    """A chain: a base chain when `hook` is set. `priority` orders base chains at a hook, `policy` ends them ("accept" or "drop").

    `raw` holds what rules are made from when somebody asks; `make(chain, index)` makes the rule at an index.
    `line` is where the chain stands in its file.
    """

    table: Table
    name: str
    hook: str = ""
    type: str = "filter"
    priority: int = 0
    policy: str = "accept"
    devices: tuple[str, ...] = ()
    line: int = 0
    raw: Sequence[Any] = ()
    make: Callable[[Chain, int], Rule] | None = None
    made: dict[int, Rule] = field(default_factory=dict)
    index: Any = None  # the evaluator's own way to the rules that can match

    def __len__(self) -> int:
        return len(self.raw)

    def rule(self, index: int) -> Rule:
        """The rule at an index (from 0)."""
        found = self.made.get(index)
        if found is None:
            assert self.make is not None
            found = self.made[index] = self.make(self, index)
        return found

    def rules(self) -> Iterator[Rule]:
        """All rules, in order."""
        return map(self.rule, range(len(self.raw)))

    @property
    def where(self) -> str:
        """`table chain`, as a person would say it."""
        return f"{self.table.name} {self.name}"


@dataclass(slots=True)
class SetObject:
    """A named set or map of nft, or an ipset. `elements` are in the tool's own JSON form, `kind` "set", "map" or "ipset"."""

    name: str
    kind: str
    key_type: tuple[str, ...]
    value_type: str = ""
    flags: frozenset[str] = frozenset()
    elements: Any = None
    line: int = 0
    source: str = ""
    comment: str = ""
    unknown: str = ""  # what of it was not understood
    index: Any = None  # the evaluator's


@dataclass(slots=True)
class Table:
    """One table. `family` as nft names it: ip, ip6, inet, bridge, arp, netdev. `tool` says whose listing it came from."""

    family: str
    name: str
    tool: str
    source: str
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, SetObject] = field(default_factory=dict)
    line: int = 0
    comment: str = ""
    dormant: bool = False


@dataclass(slots=True)
class Ruleset:
    """Everything the packet filter of one network namespace is known to hold. `notes` say what could not be read, and where."""

    tables: list[Table] = field(default_factory=list)
    ipsets: dict[str, SetObject] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def base_chains(self, hook: str, families: tuple[str, ...]) -> list[Chain]:
        """Base chains at a hook, in no order."""
        return [
            chain
            for table in self.tables
            if table.family in families and not table.dormant
            for chain in table.chains.values()
            if chain.hook == hook
        ]

    def count(self) -> int:
        """How many rules there are."""
        return sum(len(chain) for table in self.tables for chain in table.chains.values())
