"""Does an object have only the fields its type has, each of the right JSON type?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glassnet.apiserver.schema.errors import bad_request
from glassnet.apiserver.schema.quantity import FORMAT_MESSAGE, amount
from glassnet.apiserver.schema.types import Node, Schema
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

_JSON = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number", type(None): "null"}


def unknown_fields(schema: Schema, kind: Kind, obj: dict[str, Any]) -> list[str]:
    """Texts `unknown field "spec.foo"` for every field the type does not have.

    Raises ApiError 400 for a value of the wrong JSON type, naming the field.
    """
    return [f'unknown field "{path}"' for path in _walk(schema, schema.root(kind), obj, "", kind)]


def prune(schema: Schema, kind: Kind, obj: dict[str, Any]) -> None:
    """Drop unknown fields and nulls in place, as decoding into a Go struct does."""
    _prune(schema, schema.root(kind), obj)


def wrong_type(kind: Kind, path: str, value: Any, want: str) -> ApiError:
    """The 400 answer for a value of the wrong JSON type."""
    got = _JSON.get(type(value), "value")
    return bad_request(
        f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: json: cannot unmarshal {got} into Go struct field '
        f"{kind.name}.{path} of type {want}"
    )


def _walk(schema: Schema, node: Node, value: Any, path: str, kind: Kind) -> Iterator[str]:
    if value is None:
        return
    resolved = schema.resolve(node)
    declared = resolved.get("type")
    if declared == "object" or "properties" in resolved:
        if not isinstance(value, dict):
            raise wrong_type(kind, path, value, "object")
        for name, item in value.items():
            inner = schema.field(node, name)
            where = f"{path}.{name}" if path else name
            if inner is None:
                yield where
            else:
                yield from _walk(schema, inner, item, where, kind)
    elif declared == "array":
        if not isinstance(value, list):
            raise wrong_type(kind, path, value, "[]" + schema.items(node).get("type", "object"))
        for index, item in enumerate(value):
            yield from _walk(schema, schema.items(node), item, f"{path}[{index}]", kind)
    else:
        _scalar(resolved, value, path, kind)


def _scalar(node: Node, value: Any, path: str, kind: Kind) -> None:
    declared, form = node.get("type"), node.get("format", "")
    if form == "int-or-string" or "oneOf" in node:
        if not isinstance(value, int | str | float) or isinstance(value, bool):
            raise wrong_type(kind, path, value, "intstr.IntOrString")
        if form != "int-or-string" and amount(value) is None:
            raise bad_request(
                f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: {path}: {FORMAT_MESSAGE}'
            )
    elif (declared == "string" and not isinstance(value, str)) or (
        declared == "boolean" and not isinstance(value, bool)
    ):
        raise wrong_type(kind, path, value, declared if declared == "string" else "bool")
    elif declared == "integer" and (isinstance(value, bool) or not isinstance(value, int)):
        raise wrong_type(kind, path, value, form or "int64")
    elif declared == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise wrong_type(kind, path, value, "float64")


def _prune(schema: Schema, node: Node, value: Any) -> None:
    if isinstance(value, dict):
        for name in list(value):
            inner = schema.field(node, name)
            if inner is None or value[name] is None:
                del value[name]
            else:
                _prune(schema, inner, value[name])
    elif isinstance(value, list):
        for item in value:
            _prune(schema, schema.items(node), item)
