"""Quantities such as 500m, 1.5Gi or 2e3: reading them. Source: Kubernetes API reference, resource.Quantity."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([eE][+-]?\d+)|([KMGTPE]i|[numkMGTPE]))?")
_BINARY = {f"{letter}i": Fraction(1024) ** (power + 1) for power, letter in enumerate("KMGTPE")}
_DECIMAL = {letter: Fraction(10) ** power for letter, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)}
FORMAT_MESSAGE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def amount(value: Any) -> Fraction | None:
    """The exact number a quantity stands for; None when it is none."""
    match = _FORM.fullmatch(str(value))
    if match is None:
        return None
    number, exponent, suffix = Fraction(match[1]), match[2], match[3]
    if exponent:
        return number * Fraction(10) ** int(exponent[1:])
    return number * {**_BINARY, **_DECIMAL}.get(suffix or "", Fraction(1))
