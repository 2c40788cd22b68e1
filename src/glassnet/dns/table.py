"""All records of a cluster, by the object that gave them; says what changed since it was last asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Set
from typing import NamedTuple

from glassnet.dns.model import NOTHING, Answer, Problem, Record


class Delta(NamedTuple):
    """Records that are to go, and records that are to come."""

    removed: frozenset[Record]
    added: frozenset[Record]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)


class Table:
    """Records by source. A source is whatever its caller calls it: the key of a Service, the name of a namespace."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, Answer] = {}
        self._removed: set[Record] = set()
        self._added: set[Record] = set()
        self._zones: Counter[str] = Counter()
        self._aliases: dict[str, str] = {}
        self.layout = 0  # counts changes of what `zones` and `aliases` give

    def put(self, source: Hashable, answer: Answer) -> tuple[Problem, ...]:
        """What a source gives now; NOTHING when it is gone. The problems that it did not have before."""
        old = self._answers.get(source, NOTHING)
        if answer.records or answer.problems:
            self._answers[source] = answer
        else:
            self._answers.pop(source, None)
        for record in old.records - answer.records:
            self._forget(record)
            if record in self._added:
                self._added.discard(record)
            else:
                self._removed.add(record)
        for record in answer.records - old.records:
            self._know(record)
            if record in self._removed:
                self._removed.discard(record)
            else:
                self._added.add(record)
        return tuple(problem for problem in answer.problems if problem not in old.problems)

    def _know(self, record: Record) -> None:
        self._zones[record.zone] += 1
        if self._zones[record.zone] == 1:
            self.layout += 1
        if _is_alias(record):
            self._aliases[record.owner] = record.data
            self.layout += 1

    def _forget(self, record: Record) -> None:
        self._zones[record.zone] -= 1
        if not self._zones[record.zone]:
            del self._zones[record.zone]
            self.layout += 1
        if _is_alias(record):
            self._aliases.pop(record.owner, None)
            self.layout += 1

    def take(self) -> Delta:
        """What changed since the last call; changes that took each other back are not in it."""
        delta = Delta(frozenset(self._removed), frozenset(self._added))
        self._removed, self._added = set(), set()
        return delta

    def of(self, source: Hashable) -> Answer:
        """What a source gives."""
        return self._answers.get(source, NOTHING)

    def zones(self) -> Set[str]:
        """The zones that have records."""
        return self._zones.keys()

    def aliases(self) -> Mapping[str, str]:
        """The names of Services that stand for other names (type ExternalName), and those."""
        return self._aliases

    def records(self) -> Iterator[Record]:
        """All of them, in no order."""
        for answer in self._answers.values():
            yield from answer.records

    def problems(self) -> Iterator[tuple[Hashable, Problem]]:
        """All problems, with their sources."""
        for source, answer in self._answers.items():
            for problem in answer.problems:
                yield source, problem

    def __len__(self) -> int:
        return sum(len(answer.records) for answer in self._answers.values())


def _is_alias(record: Record) -> bool:
    return record.type == "CNAME" and not record.owner.startswith("*.")
