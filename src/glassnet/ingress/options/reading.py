"""Annotations read one by one: each value checked, each fault told, each name that nobody asked for told as well."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

PREFIX = "nginx.ingress.kubernetes.io/"
INVALID, UNSUPPORTED, UNKNOWN, REFUSED = (
    "AnnotationInvalid",
    "AnnotationUnsupported",
    "AnnotationUnknown",
    "SnippetRefused",
)
LONGEST = 3000
"""Octets of a value as `weight` counts them: NGINX reads tokens of 4,096."""
_LONGEST_LIST = 30_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)  # fmt: skip
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_YEAR = 31_536_000
_T = TypeVar("_T")


class Complaint(NamedTuple):
    """What an annotation asks for and does not get: `reason` (CamelCase, for an Event), `message` (for people)."""

    reason: str
    message: str


def weight(text: str) -> int:
    """Octets that a text may take as an argument: a dollar sign is written by the name of a variable."""
    return len(text.encode("utf-8", "surrogatepass")) + 18 * text.count("$")


def octets(size: str) -> int:
    """The octets of a size as NGINX writes it: `8m` is 8,388,608."""
    return int(size.rstrip("kmg")) * _UNITS[size.lstrip("0123456789")]


class Reader:
    """The annotations of one Ingress. Whoever asks for one gets a checked value or the default; `complaints` tells the rest.

    With `closes` a value that does not do sets `denied`: an Ingress is not left open because its lock was misspelt.
    """

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self._given = {name[len(PREFIX) :]: text for name, text in annotations.items() if name.startswith(PREFIX)}
        self._asked: set[str] = set()
        self.complaints: list[Complaint] = []
        self.denied = ""

    def complain(self, name: str, would: str, *, closes: bool = False) -> None:
        """Records that the value of `name` is left out, and what would do."""
        text = self._given.get(name, "").strip()
        shown = text if len(text) <= 60 else text[:57] + "..."
        end = "; until then the Ingress answers 503" if closes else ""
        self.complaints.append(Complaint(INVALID, f"{PREFIX}{name}: {shown!r} is left out: {would}{end}"))
        if closes:
            self.denied = self.denied or f"{PREFIX}{name} cannot be used"

    def unasked(self) -> list[str]:
        """Names that nobody asked for, in order."""
        return sorted(set(self._given) - self._asked)

    def raw(self, name: str) -> str:
        """The value as it is given, without blanks around it; "" when it is not given."""
        self._asked.add(name)
        return self._given.get(name, "").strip()

    def has(self, name: str) -> bool:
        """Whether a value is given that is not blank."""
        return bool(self.raw(name))

    def take(
        self,
        name: str,
        of: Callable[[str], _T],
        default: _T,
        would: str,
        *,
        closes: bool = False,
        longest: int = LONGEST,
    ) -> _T:
        """What `of` makes of the value; ValueError from it is a complaint that says `would`. `default` when nothing is given."""
        text = self.raw(name)
        if not text:
            return default
        try:
            if _CONTROL.search(text) or weight(text) > longest:
                raise ValueError(text)
            return of(text)
        except ValueError:
            self.complain(name, would, closes=closes)
            return default

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value."""

        def of(text: str) -> bool:
            if text not in _BOOLEANS:
                raise ValueError(text)
            return _BOOLEANS[text]

        return self.take(name, of, default, 'give "true" or "false"')

    def number(self, name: str, low: int, high: int, default: int = -1, *, closes: bool = False) -> int:
        """A whole number from `low` to `high`; -1 when it is not given."""

        def of(text: str) -> int:
            if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
                raise ValueError(text)
            return int(text)

        return self.take(name, of, default, f"give a whole number from {low} to {high}", closes=closes)

    def seconds(self, name: str, low: int = 1, high: int = _YEAR) -> int:
        """Seconds, with or without an `s` behind; -1 when it is not given."""

        def of(text: str) -> int:
            match = re.fullmatch(r"([0-9]{1,9})s?", text)
            if match is None or not low <= int(match[1]) <= high:
                raise ValueError(text)
            return int(match[1])

        return self.take(name, of, -1, f"give seconds from {low} to {high}, as a whole number")

    def size(self, name: str, units: str = "km", low: int = 0, high: int = 1 << 50) -> str:
        """A size as NGINX writes it (`8m`), in lower case; "" when it is not given. `low` and `high` are octets."""

        def of(text: str) -> str:
            match = re.fullmatch(rf"[0-9]{{1,12}}[{units}]?", text.lower())
            if match is None or not low <= octets(match[0]) <= high:
                raise ValueError(text)
            return match[0]

        return self.take(
            name, of, "", f"give a size such as 8{units[0]}, {low} to {high} octets; units: {', '.join(units)}"
        )

    def choice(self, name: str, choices: Sequence[str], default: str = "", *, closes: bool = False) -> str:
        """One of `choices`, found without case."""
        known = {each.lower(): each for each in choices}

        def of(text: str) -> str:
            if text.lower() not in known:
                raise ValueError(text)
            return known[text.lower()]

        return self.take(name, of, default, f"give one of {', '.join(choices)}", closes=closes)

    def match(self, name: str, pattern: str, would: str, default: str = "", *, closes: bool = False) -> str:
        """A text that matches `pattern` (Python's, the whole text)."""

        def of(text: str) -> str:
            if not re.fullmatch(pattern, text):
                raise ValueError(text)
            return text

        return self.take(name, of, default, would, closes=closes)

    def words(self, name: str, pattern: str, would: str, *, closes: bool = False) -> tuple[str, ...]:
        """Texts between commas, each of which matches `pattern`. With `closes` a bad one voids all, else it alone is left out."""
        if self.raw(name) and (_CONTROL.search(self.raw(name)) or len(self.raw(name)) > _LONGEST_LIST):
            self.complain(name, would, closes=closes)
            return ()
        given = [each for text in self.raw(name).split(",") if (each := text.strip())]
        good = tuple(dict.fromkeys(each for each in given if re.fullmatch(pattern, each) and len(each) <= 300))
        if len(good) < len(set(given)):
            bad = next(each for each in given if each not in good)
            self.complain(name, f"{bad[:60]!r} does not do: {would}", closes=closes)
            return () if closes else good
        return good

    def networks(self, name: str, *, closes: bool = False) -> tuple[str, ...]:
        """Addresses and prefixes in CIDR notation between commas, written as NGINX takes them."""

        def of(text: str) -> tuple[str, ...]:
            found = (ipaddress.ip_network(each.strip(), strict=False) for each in text.split(",") if each.strip())
            return tuple(dict.fromkeys(str(each) for each in found))

        would = "give addresses or prefixes such as 10.0.0.0/8,2001:db8::/32"
        nothing: tuple[str, ...] = ()
        found = self.take(name, of, nothing, would, closes=closes, longest=_LONGEST_LIST)
        if any("%" in each for each in found):  # a scope is no part of an address that NGINX reads
            self.complain(name, would, closes=closes)
            return ()
        return found
