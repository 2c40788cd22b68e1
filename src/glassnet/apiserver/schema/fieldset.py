"""Sets of field paths, as managedFields keeps them (FieldsV1), and merging and comparing values by the types' merge rules.

A path is a tuple of steps: `f:name` a field, `k:{"name":"x"}` an item of an associative list, `v:"x"` a member of a set.
Source: KEP-555 and sigs.k8s.io/structured-merge-diff, value/fieldpath documentation.
"""

from __future__ import annotations

import json
from typing import Any

from glassnet.apiserver.schema.types import ANY, Node, Schema, is_atomic_map, list_keys

Path = tuple[str, ...]
FieldSet = set[Path]


def of_value(schema: Schema, node: Node, value: Any, prefix: Path = ()) -> FieldSet:
    """Every leaf of a value, and every item of its associative lists: what an applied configuration owns."""
    if isinstance(value, dict) and value and not is_atomic_map(schema, node):
        found: FieldSet = set()
        for name, item in value.items():
            found |= of_value(schema, schema.field(node, name) or ANY, item, (*prefix, f"f:{name}"))
        return found
    if isinstance(value, list) and value and list_keys(node):
        found = set()
        for step, item in items(schema, node, value):
            found.add((*prefix, step))
            if step.startswith("k:"):
                found |= of_value(schema, schema.items(node), item, (*prefix, step))
        return found
    return {prefix} if prefix else set()


def items(schema: Schema, node: Node, value: list[Any]) -> list[tuple[str, Any]]:
    """(step, item) pairs of an associative list or a set; keys that are absent take their default."""
    keys = list_keys(node)
    if keys == ("",):
        return [("v:" + json.dumps(item), item) for item in value]
    item_type = schema.items(node)
    out = []
    for item in value:
        named = {
            key: item[key] if key in item else (schema.field(item_type, key) or ANY).get("default") for key in keys
        }
        named = {key: part for key, part in sorted(named.items()) if part is not None}
        out.append(("k:" + json.dumps(named, separators=(",", ":")), item))
    return out


def merge(schema: Schema, node: Node, live: Any, config: Any) -> Any:
    """The live value with a configuration laid over it, by the rules of server-side apply."""
    if isinstance(live, dict) and isinstance(config, dict) and not is_atomic_map(schema, node):
        result = dict(live)
        for name, item in config.items():
            result[name] = merge(schema, schema.field(node, name) or ANY, live.get(name), item)
        return result
    if isinstance(live, list) and isinstance(config, list) and list_keys(node):
        merged = dict(items(schema, node, live))
        for step, item in items(schema, node, config):
            merged[step] = merge(schema, schema.items(node), merged.get(step), item) if step in merged else item
        return list(merged.values())
    return config


def compare(schema: Schema, node: Node, old: Any, new: Any, prefix: Path = ()) -> tuple[FieldSet, FieldSet]:
    """(paths added or changed, paths removed) from old to new."""
    if old == new:
        return set(), set()
    if isinstance(old, dict) and isinstance(new, dict) and not is_atomic_map(schema, node):
        pairs = [
            (f"f:{name}", schema.field(node, name) or ANY, old.get(name), new.get(name)) for name in {**old, **new}
        ]
    elif isinstance(old, list) and isinstance(new, list) and list_keys(node):
        before, after = dict(items(schema, node, old)), dict(items(schema, node, new))
        pairs = [(step, schema.items(node), before.get(step), after.get(step)) for step in {**before, **after}]
    elif old is None:
        return of_value(schema, node, new, prefix), set()
    elif new is None:
        return set(), of_value(schema, node, old, prefix)
    else:
        return {prefix}, set()
    changed: FieldSet = set()
    removed: FieldSet = set()
    for step, inner, before_item, after_item in pairs:
        more, less = compare(schema, inner, before_item, after_item, (*prefix, step))
        if step[1] == ":" and step[0] in "kv":
            if before_item is None:
                more = more | {(*prefix, step)}
            elif after_item is None:
                less = less | {(*prefix, step)}
        changed |= more
        removed |= less
    return changed, removed


def remove(schema: Schema, node: Node, value: Any, gone: FieldSet, kept: FieldSet, prefix: Path = ()) -> Any:
    """The value without the paths `gone`, as far as nothing in `kept` lies at or below them."""
    if isinstance(value, dict) and not is_atomic_map(schema, node):
        result = {}
        for name, item in value.items():
            path = (*prefix, f"f:{name}")
            if path in gone and not _covers(path, kept):
                continue
            inner = remove(schema, schema.field(node, name) or ANY, item, gone, kept, path)
            if inner in ({}, []) and item not in ({}, []) and not _covers(path, kept):
                continue
            result[name] = inner
        return result
    if isinstance(value, list) and list_keys(node):
        out = []
        for step, item in items(schema, node, value):
            path = (*prefix, step)
            if path in gone and not _covers(path, kept):
                continue
            out.append(remove(schema, schema.items(node), item, gone, kept, path) if step.startswith("k:") else item)
        return out
    return value


def _covers(path: Path, kept: FieldSet) -> bool:
    return any(other[: len(path)] == path for other in kept)


def to_fields_v1(paths: FieldSet) -> dict[str, Any]:
    """The nested form that managedFields carries; "." marks a path that is owned itself and has owned paths below."""
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        place = tree
        for step in path:
            place = place.setdefault(step, {})
        place["."] = {}
    return _tidy(tree)


def _tidy(tree: dict[str, Any]) -> dict[str, Any]:
    if set(tree) == {"."}:
        return {}
    return {step: ({} if step == "." else _tidy(inner)) for step, inner in tree.items()}


def from_fields_v1(tree: dict[str, Any], prefix: Path = ()) -> FieldSet:
    """The paths of the nested form."""
    if not tree:
        return {prefix} if prefix else set()
    found: FieldSet = set()
    for step, inner in tree.items():
        found |= {prefix} if step == "." else from_fields_v1(inner, (*prefix, step))
    return found


def show(path: Path) -> str:
    """A path as conflict messages print it: .spec.containers[name="web"].image."""
    text = ""
    for step in path:
        kind, rest = step[0], step[2:]
        if kind == "f":
            text += "." + rest
        elif kind == "k":
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(rest).items()) + "]"
        else:
            text += f"[={rest}]"
    return text
