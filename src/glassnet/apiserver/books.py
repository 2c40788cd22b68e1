"""managedFields as clients send them back: are they still readable? The form is that of structured-merge-diff's fieldpath (FieldsV1)."""

from __future__ import annotations

import json
from typing import Any

_WORDS = ("manager", "operation", "apiVersion", "fieldsType", "time", "subresource")


def readable(entries: Any) -> bool:
    """True for a list of entries each of which says who owns which fields; `[{}]`, the way to give all up, is one too."""
    return isinstance(entries, list) and all(_entry(entry) for entry in entries)


def _entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(word, ""), str) for word in _WORDS)
        and _tree(entry.get("fieldsV1", {}))
    )


def _tree(tree: Any) -> bool:
    return isinstance(tree, dict) and all(_step(step) and _tree(inner) for step, inner in tree.items())


def _step(step: str) -> bool:
    """f:NAME, k:{"key": value} of a list's element, v:VALUE of a set's, i:INDEX, or "." for the path itself."""
    kind, _, rest = step.partition(":")
    if kind in ("k", "v"):
        try:
            found = json.loads(rest)
        except ValueError:
            return False
        return kind == "v" or isinstance(found, dict)
    return step == "." or kind == "f" or (kind == "i" and rest.isdigit())
