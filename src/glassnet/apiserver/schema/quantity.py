"""Quantities such as 500m, 1.5Gi or 2e3: reading them. Source: Kubernetes API reference, resource.Quantity."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:[eE]([+-]?\d{1,3})|([KMGTPE]i|[numkMGTPE]))?")
_POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIXES = {letter: Fraction(10) ** power for letter, power in _POWERS.items()} | {
    f"{letter}i": Fraction(1024) ** (power + 1) for power, letter in enumerate("KMGTPE")
}
FORMAT_MESSAGE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def amount(value: Any) -> Fraction | None:
    """The exact number a quantity stands for; None when it is none."""
    match = _FORM.fullmatch(str(value))
    if match is None:
        return None
    scale = Fraction(10) ** int(match[2]) if match[2] else _SUFFIXES.get(match[3] or "", Fraction(1))
    return Fraction(match[1]) * scale
