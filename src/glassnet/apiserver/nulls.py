"""Nulls in lists: what decoding into a Go struct makes of them, the zero value of the list's elements."""

from __future__ import annotations

from typing import Any

from glassnet.apiserver.schema import Schema
from glassnet.kube.kinds import Kind

_ZERO: dict[str, Any] = {"string": "", "integer": 0, "number": 0, "boolean": False}


def fill(schema: Schema, kind: Kind, obj: dict[str, Any]) -> None:
    """Replace every null that is an element of a list, in place."""
    if _has_null(obj):
        _fill(schema, schema.root(kind), obj)


def _has_null(value: Any) -> bool:
    """True when a list somewhere holds a null; told without looking at types, as hardly any object has one."""
    if isinstance(value, dict):
        return any(_has_null(item) for item in value.values() if isinstance(item, dict | list))
    return isinstance(value, list) and any(item is None or _has_null(item) for item in value)


def _fill(schema: Schema, node: dict[str, Any], value: Any) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _fill(schema, schema.field(node, name) or {}, item)
    elif isinstance(value, list):
        inner = schema.items(node)
        declared = schema.resolve(inner).get("type", "object")
        for index, item in enumerate(value):
            if item is None:
                value[index] = _ZERO.get(declared, [] if declared == "array" else {})
            else:
                _fill(schema, inner, item)
