"""Strategic merge patch: merge by the types' patch strategies and merge keys, with its directives.

Source: Kubernetes community, devel/sig-api-machinery/strategic-merge-patch.md ($patch, $retainKeys, $setElementOrder, $deleteFromPrimitiveList).
"""

from __future__ import annotations

import copy
from typing import Any

from glassnet.apiserver.schema.errors import bad_request
from glassnet.apiserver.schema.types import ANY, Node, Schema
from glassnet.kube.kinds import Kind

_DELETE, _ORDER = "$deleteFromPrimitiveList/", "$setElementOrder/"


def strategic_merge(schema: Schema, kind: Kind, document: dict[str, Any], patch: Any) -> dict[str, Any]:
    """The document with the patch merged in; neither is changed. Raises ApiError 400 for a patch that is no object or misuses a directive."""
    if not isinstance(patch, dict):
        raise bad_request("a strategic merge patch is an object")
    return _merge_map(schema, schema.root(kind), document, patch)


def _merge_map(schema: Schema, node: Node, old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: copy.deepcopy(value) for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"Unknown type of patch directive: {directive}")
    result = dict(old)
    if (retain := patch.get("$retainKeys")) is not None:
        result = {name: value for name, value in result.items() if name in retain}
    for name, value in patch.items():
        if name.startswith(_DELETE):
            field = name[len(_DELETE) :]
            result[field] = [item for item in result.get(field) or [] if item not in value]
        elif name in ("$patch", "$retainKeys") or name.startswith(_ORDER):
            continue
        elif value is None:
            result.pop(name, None)
        else:
            inner = schema.field(node, name)
            result[name] = _merge(
                schema, ANY if inner is None else inner, result.get(name), value, patch.get(_ORDER + name)
            )
    for name, order in patch.items():
        if (
            name.startswith(_ORDER)
            and name[len(_ORDER) :] not in patch
            and isinstance(result.get(name[len(_ORDER) :]), list)
        ):
            field = name[len(_ORDER) :]
            result[field] = _ordered(result[field], order, _merge_key(schema.field(node, field)), [])
    return result


def _merge(schema: Schema, node: Node, old: Any, patch: Any, order: Any) -> Any:
    strategy = node.get("x-kubernetes-patch-strategy", "")
    if isinstance(patch, dict):
        if "replace" in strategy.split(","):
            return _clean(patch)
        return _merge_map(schema, node, old if isinstance(old, dict) else {}, patch)
    if isinstance(patch, list):
        if "merge" not in strategy.split(","):
            return copy.deepcopy(patch)
        key = _merge_key(node)
        return _merge_list(schema, schema.items(node), old if isinstance(old, list) else [], patch, key, order)
    return patch


def _merge_key(node: Node | None) -> str:
    return str((node or {}).get("x-kubernetes-patch-merge-key", ""))


def _merge_list(schema: Schema, item: Node, old: list[Any], patch: list[Any], key: str, order: Any) -> list[Any]:
    if not key:
        merged = old + [value for value in patch if value not in old]
        return _ordered(merged, order, "", patch)
    if any(isinstance(entry, dict) and entry.get("$patch") == "replace" for entry in patch):
        return [_clean(entry) for entry in patch if entry.get("$patch") != "replace"]
    result = list(old)
    for entry in patch:
        if not isinstance(entry, dict) or key not in entry:
            raise bad_request(f"map: {entry} does not contain declared merge key: {key}")
        place = next(
            (i for i, existing in enumerate(result) if isinstance(existing, dict) and existing.get(key) == entry[key]),
            None,
        )
        if entry.get("$patch") == "delete":
            result = [existing for existing in result if existing.get(key) != entry[key]]
        elif place is None:
            result.append(_clean(entry))
        else:
            result[place] = _merge_map(schema, item, result[place], entry)
    return _ordered(result, order, key, patch)


def _ordered(items: list[Any], order: Any, key: str, patch: list[Any]) -> list[Any]:
    """Put items in the order asked for; those it does not name stay behind the one they followed."""
    if not isinstance(order, list):
        return items
    wanted = [entry.get(key) if key and isinstance(entry, dict) else entry for entry in order]

    def identity(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    named = sorted((item for item in items if identity(item) in wanted), key=lambda item: wanted.index(identity(item)))
    rest = iter(named)
    return [item if identity(item) not in wanted else next(rest) for item in items]


def _clean(value: Any) -> Any:
    """A copy without directives and nulls."""
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items() if not name.startswith("$") and item is not None}
    if isinstance(value, list):
        return [_clean(item) for item in value if not (isinstance(item, dict) and item.get("$patch") == "delete")]
    return value
