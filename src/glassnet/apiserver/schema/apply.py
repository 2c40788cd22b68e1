"""Server-side apply and the bookkeeping of managedFields. Source: KEP-555; Kubernetes documentation, "Server-Side Apply"."""

from __future__ import annotations

import copy
from typing import Any

from glassnet.apiserver.schema import fieldset
from glassnet.apiserver.schema.fieldset import FieldSet
from glassnet.apiserver.schema.types import Schema
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

# never owned by anyone
_STRIPPED = {"f:apiVersion", "f:kind"}
_STRIPPED_META = {
    "f:name", "f:namespace", "f:creationTimestamp", "f:selfLink", "f:uid", "f:generation", "f:managedFields", "f:resourceVersion",
    "f:deletionTimestamp", "f:deletionGracePeriodSeconds", "f:generateName",
}  # fmt: skip

Entry = dict[str, Any]


def apply(
    schema: Schema,
    kind: Kind,
    live: dict[str, Any] | None,
    config: dict[str, Any],
    manager: str,
    force: bool,
    now: str,
    subresource: str = "",
) -> dict[str, Any]:
    """The object after `manager` has applied `config` (complete intent of that manager).

    Fields the manager applied before and no longer names go, unless another manager owns them. Raises ApiError 409 with
    FieldManagerConflict causes when a change touches what others own and `force` is off.
    """
    root = schema.root(kind)
    intent = {name: value for name, value in config.items() if name != "metadata"}
    intent["metadata"] = {
        k: v for k, v in (config.get("metadata") or {}).items() if k not in ("managedFields", "resourceVersion", "uid")
    }
    before = live or {}
    entries = copy.deepcopy((before.get("metadata") or {}).get("managedFields") or [])
    mine = next((e for e in entries if _is(e, manager, "Apply", subresource)), None)
    others = [e for e in entries if e is not mine]
    wanted = _owned(fieldset.of_value(schema, root, intent))
    held_by_others: FieldSet = set().union(*(_paths(e) for e in others)) if others else set()
    merged: dict[str, Any] = fieldset.merge(schema, root, before, copy.deepcopy(intent))
    if mine:
        gone = _paths(mine) - wanted - held_by_others
        merged = fieldset.remove(schema, root, merged, gone, wanted | held_by_others)
    changed, removed = fieldset.compare(schema, root, before, merged)
    _settle_conflicts(others, _owned(changed) & wanted, force)
    _forget(others, _owned(removed))
    fresh = {**_entry(manager, "Apply", kind, now, subresource), "fieldsV1": fieldset.to_fields_v1(wanted)}
    if mine and mine["fieldsV1"] == fresh["fieldsV1"] and not changed and not removed:
        fresh["time"] = mine.get("time", now)
    _store(merged, [fresh, *others])
    return merged


def managed_update(
    schema: Schema,
    kind: Kind,
    old: dict[str, Any] | None,
    new: dict[str, Any],
    manager: str,
    operation: str,
    now: str,
    subresource: str = "",
) -> None:
    """Keep the books of a create, update or patch in place: what changed now belongs to `manager`, what went belongs to nobody."""
    given = (new.get("metadata") or {}).get("managedFields")
    kept = (old or {}).get("metadata", {}).get("managedFields") or []
    if old is not None and given == [{}]:  # the documented way to give up all ownership
        kept = []
    elif old is not None and given:
        kept = given
    entries = copy.deepcopy(kept)
    strip = {"metadata": {k: v for k, v in (new.get("metadata") or {}).items() if k != "managedFields"}}
    changed, removed = fieldset.compare(schema, schema.root(kind), _without_books(old or {}), {**new, **strip})
    changed, removed = _owned(changed), _owned(removed)
    if changed or removed:
        mine = next((e for e in entries if _is(e, manager, operation, subresource)), None)
        others = [e for e in entries if e is not mine]
        _forget(others, changed | removed)
        paths = ((_paths(mine) if mine else set()) | changed) - removed
        entries = others
        if paths:
            entries = [
                *others,
                {**_entry(manager, operation, kind, now, subresource), "fieldsV1": fieldset.to_fields_v1(paths)},
            ]
    _store(new, entries)


def _without_books(obj: dict[str, Any]) -> dict[str, Any]:
    metadata = obj.get("metadata")
    return obj if not metadata else {**obj, "metadata": {k: v for k, v in metadata.items() if k != "managedFields"}}


def _settle_conflicts(others: list[Entry], changed: FieldSet, force: bool) -> None:
    conflicts: list[tuple[Entry, list[str]]] = []
    for entry in others:
        clash = _paths(entry) & changed
        if clash and not force:
            conflicts.append((entry, sorted(fieldset.show(path) for path in clash)))
    if conflicts:
        raise _conflict(conflicts)
    _forget(others, changed)


def _conflict(conflicts: list[tuple[Entry, list[str]]]) -> ApiError:
    causes, texts, total = [], [], 0
    for entry, paths in conflicts:
        who = f'"{entry["manager"]}"' + (
            f' with subresource "{entry["subresource"]}"' if entry.get("subresource") else ""
        )
        who += f" using {entry['apiVersion']}"
        total += len(paths)
        causes += [
            {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path} for path in paths
        ]
        if len(paths) == 1:
            texts.append(f"conflict with {who}: {paths[0]}")
        else:
            texts.append(f"conflicts with {who}:\n" + "\n".join(f"- {path}" for path in paths))
    word = "conflict" if total == 1 else "conflicts"
    return ApiError(409, "Conflict", f"Apply failed with {total} {word}: " + "\n".join(texts), {"causes": causes})


def _forget(entries: list[Entry], paths: FieldSet) -> None:
    """Take paths from entries that own them; Apply entries keep what they applied unless it was taken by force or removed."""
    for entry in entries:
        owned = _paths(entry)
        left = owned - paths
        if left != owned:
            entry["fieldsV1"] = fieldset.to_fields_v1(left)


def _owned(paths: FieldSet) -> FieldSet:
    return {
        path
        for path in paths
        if path[0] not in _STRIPPED and not (path[0] == "f:metadata" and (len(path) == 1 or path[1] in _STRIPPED_META))
    }


def _is(entry: Entry, manager: str, operation: str, subresource: str) -> bool:
    return (
        entry.get("manager") == manager
        and entry.get("operation") == operation
        and entry.get("subresource", "") == subresource
    )


def _paths(entry: Entry) -> FieldSet:
    return fieldset.from_fields_v1(entry.get("fieldsV1") or {})


def _entry(manager: str, operation: str, kind: Kind, now: str, subresource: str) -> Entry:
    entry = {
        "manager": manager,
        "operation": operation,
        "apiVersion": kind.api_version,
        "time": now,
        "fieldsType": "FieldsV1",
    }
    if subresource:
        entry["subresource"] = subresource
    return entry


def _store(obj: dict[str, Any], entries: list[Entry]) -> None:
    metadata = obj.setdefault("metadata", {})
    entries = [entry for entry in entries if entry.get("fieldsV1")]
    if entries:
        metadata["managedFields"] = entries
    else:
        metadata.pop("managedFields", None)
