"""Texts for `kubectl explain`: our own words on the types and fields people ask about most."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources

_META = "io.k8s.apimachinery.pkg.apis."
_API = "io.k8s.api."


def describe(definition: str, field: str = "") -> str:
    """Description of a type (by its definition name), or of one of its fields; "" when there is none."""
    return _texts().get((definition, field), "")


@cache
def _texts() -> dict[tuple[str, str], str]:
    text = resources.files(__package__).joinpath("data/descriptions.txt").read_text()
    return dict(_parse(text))


def _parse(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    definition = ""
    for line in text.splitlines():
        name, _, words = line.strip().partition(": ")
        if line.startswith("#") or not words:
            continue
        if line.startswith(" "):
            yield (definition, name), words
        else:
            definition = (_META if name.startswith("meta.") else _API) + name
            yield (definition, ""), words
