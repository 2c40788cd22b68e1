"""What the annotations of an Ingress ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Options(NamedTuple):
    """The values, typed."""


def read(annotations: Mapping[str, str]) -> tuple[Options, list[tuple[str, str]]]:
    """The values, and what is wrong."""
    return Options(), []
