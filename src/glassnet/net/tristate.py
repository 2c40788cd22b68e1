"""What a question can be answered with besides yes and no: by chance, and not known. Both carry their reason."""

from __future__ import annotations

from typing import NamedTuple


class Chance(NamedTuple):
    """Yes with a probability. None: nobody can say how often (a rate limit, a table that changes)."""

    probability: float | None
    reason: str


class Unknown(NamedTuple):
    """Not known: the text that is not understood or the fact that is missing, and why."""

    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.text} ({self.reason})" if self.reason else self.text


Answer = bool | Chance | Unknown


def negate(answer: Answer) -> Answer:
    """The answer to the opposite question."""
    if isinstance(answer, bool):
        return not answer
    if isinstance(answer, Chance):
        return Chance(None if answer.probability is None else 1 - answer.probability, answer.reason)
    return answer
