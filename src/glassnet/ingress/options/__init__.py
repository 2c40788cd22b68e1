"""What the annotations of an Ingress ask for."""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """The values, typed."""
