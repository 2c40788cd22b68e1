"""Label and field selectors: the text syntax of the API's query parameters and the LabelSelector object.

Source: Kubernetes API conventions, "Labels and Selectors" (equality- and set-based requirements).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from glassnet.kube.types import LabelSelector
from glassnet.net.errors import ParseError

_NAME = r"[A-Za-z0-9./_\-]+"
_SET = re.compile(rf"\s*({_NAME})\s+(in|notin)\s*\(([^()]*)\)\s*$")
_EQUAL = re.compile(rf"\s*({_NAME})\s*(==|=|!=|>|<)\s*([A-Za-z0-9._\-]*)\s*$")
_EXISTS = re.compile(rf"\s*(!?)\s*({_NAME})\s*$")


class Requirement(NamedTuple):
    """One requirement; `operator` is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """True when `labels` meet the requirement (NotIn is also met by an absent key)."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                bound = next(iter(self.values))
                if value is None or not value.lstrip("-").isdigit() or not bound.lstrip("-").isdigit():
                    return False
                return int(value) > int(bound) if self.operator == "Gt" else int(value) < int(bound)
        raise ValueError(f"unknown selector operator {self.operator!r}")


Selector = tuple[Requirement, ...]


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """True when every requirement is met; an empty selector matches everything."""
    return all(requirement.matches(labels) for requirement in selector)


def parse(text: str) -> Selector:
    """Parse a labelSelector query parameter such as `app=web,tier in (a,b),!old`. Raises ParseError."""
    return tuple(_requirement(part) for part in _split(text) if part.strip())


def of(selector: LabelSelector | Mapping[str, str]) -> Selector:
    """The requirements of a LabelSelector, or of a plain map of labels (a Service's selector)."""
    if not isinstance(selector, LabelSelector):
        return tuple(Requirement(key, "In", frozenset((value,))) for key, value in selector.items())
    exact = tuple(Requirement(key, "In", frozenset((value,))) for key, value in selector.match_labels.items())
    return exact + tuple(Requirement(e.key, e.operator, frozenset(e.values)) for e in selector.match_expressions)


def parse_fields(text: str) -> tuple[tuple[str, bool, str], ...]:
    """Parse a fieldSelector: (path, equal, value) triples. Raises ParseError."""
    out = []
    for part in text.split(","):
        if not part.strip():
            continue
        match = re.match(r"\s*([A-Za-z0-9.]+)\s*(==|=|!=)\s*(.*?)\s*$", part)
        if not match:
            raise ParseError(f"invalid field selector {part.strip()!r}: want path=value or path!=value")
        out.append((match[1], match[2] != "!=", match[3]))
    return tuple(out)


def fields_match(selector: tuple[tuple[str, bool, str], ...], read: Callable[[str], str]) -> bool:
    """True when every triple holds; `read(path)` gives an object's field as text ("" when absent)."""
    return all((read(path) == value) is equal for path, equal, value in selector)


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _requirement(text: str) -> Requirement:
    if match := _SET.match(text):
        values = frozenset(value.strip() for value in match[3].split(","))
        return Requirement(match[1], "In" if match[2] == "in" else "NotIn", values)
    if match := _EQUAL.match(text):
        operator = {"=": "In", "==": "In", "!=": "NotIn", ">": "Gt", "<": "Lt"}[match[2]]
        return Requirement(match[1], operator, frozenset((match[3],)))
    if match := _EXISTS.match(text):
        return Requirement(match[2], "DoesNotExist" if match[1] else "Exists")
    raise ParseError(f"invalid label selector {text.strip()!r}")
