"""Command line flags and durations as Go programs read them (pflag and time.ParseDuration). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")

Value = int | str | bool | tuple[str, ...]


class FlagError(ValueError):
    """Arguments the program would refuse; the text is what it would say."""


class Flags(NamedTuple):
    """Values by flag name, and the other arguments."""

    values: Mapping[str, Value]
    rest: tuple[str, ...]

    def number(self, name: str) -> int:
        """An int flag's value."""
        value = self.values[name]
        return value if isinstance(value, int) else 0

    def word(self, name: str) -> str:
        """A string flag's value."""
        return str(self.values[name])

    def on(self, name: str) -> bool:
        """A bool flag's value."""
        return bool(self.values[name])

    def many(self, name: str) -> tuple[str, ...]:
        """The values of a flag that may be given more than once (its default is a tuple)."""
        value = self.values[name]
        return value if isinstance(value, tuple) else ()


def parse_flags(args: Sequence[str], defaults: Mapping[str, Value]) -> Flags:
    """Read `--name=value`, `--name value`, `-name=value`, and bare `--name` for bools; a flag's type is that of its default.

    Raises FlagError for unknown flags and unfit values.
    """
    values, rest = dict(defaults), []
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "--":
            rest.extend(words)
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name not in defaults:
            raise FlagError(f"unknown flag: {word.partition('=')[0]}")
        if not equals:
            if isinstance(defaults[name], bool):
                value = "true"
            elif words:
                value = words.pop(0)
            else:
                raise FlagError(f"flag needs an argument: --{name}")
        given = values[name]
        values[name] = (*given, value) if isinstance(given, tuple) else _typed(name, value, defaults[name])
    return Flags(values, tuple(rest))


def _typed(name: str, value: str, default: Value) -> Value:
    if isinstance(default, bool):
        if value not in _TRUE and value not in _FALSE:
            raise FlagError(f'invalid argument "{value}" for "--{name}" flag: not true or false')
        return value in _TRUE
    if isinstance(default, int):
        try:
            return int(value, 0)
        except ValueError:
            raise FlagError(f'invalid argument "{value}" for "--{name}" flag: not a number') from None
    return value


def parse_duration(value: str) -> float:
    """Seconds of a Go duration such as `1m30s`, `250ms`, `0`. Raises ValueError."""
    if value in ("0", "+0", "-0"):
        return 0.0
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no duration")
    seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(match[2]))
    return -seconds if match[1] == "-" else seconds
