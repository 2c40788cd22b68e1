"""JSON patch (RFC 6902) and JSON merge patch (RFC 7386) on JSON-like values; the input is never changed."""

from __future__ import annotations

import copy
from typing import Any

from glassnet.apiserver.schema.errors import bad_request
from glassnet.net.errors import ApiError


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902. Raises ApiError: 400 for a malformed patch, 422 for one that does not fit the document."""
    if not isinstance(operations, list):
        raise bad_request("json: a JSON patch is an array of operations")
    result = copy.deepcopy(document)
    for operation in operations:
        result = _step(result, operation)
    return result


def _step(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
        raise bad_request(f"json patch: malformed operation {operation!r}")
    verb, path = operation.get("op"), _pointer(operation["path"])
    if verb in ("add", "replace", "test") and "value" not in operation:
        raise bad_request(f"json patch: {verb} {operation['path']} has no value")
    if verb in ("move", "copy"):
        if not isinstance(operation.get("from"), str):
            raise bad_request(f"json patch: {verb} has no from")
        source = _pointer(operation["from"])
        value = copy.deepcopy(_get(document, source))
        if verb == "move":
            document = _remove(document, source)
        return _add(document, path, value)
    if verb == "add":
        return _add(document, path, copy.deepcopy(operation["value"]))
    if verb == "remove":
        return _remove(document, path)
    if verb == "replace":
        _get(document, path)
        return (
            _add(_remove(document, path), path, copy.deepcopy(operation["value"]))
            if path
            else copy.deepcopy(operation["value"])
        )
    if verb == "test":
        if not _equal(_get(document, path), operation["value"]):
            raise _misfit(f"testing value {operation['path']} failed")
        return document
    raise bad_request(f"json patch: unknown operation {verb!r}")


def _equal(one: Any, other: Any) -> bool:
    """JSON equality: unlike Python's, true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise bad_request(f"json patch: {text!r} is no JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _misfit(why: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {why}")


def _index(container: list[Any], step: str, end: bool = False) -> int:
    if step == "-" and end:
        return len(container)
    if not step.isdigit() or (len(step) > 1 and step[0] == "0") or int(step) > len(container) - (not end):
        raise _misfit(f"index {step!r} is out of bounds")
    return int(step)


def _get(document: Any, path: list[str]) -> Any:
    for step in path:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list):
            document = document[_index(document, step)]
        else:
            raise _misfit(f"path /{'/'.join(path)} does not exist")
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif isinstance(parent, list):
        parent.insert(_index(parent, path[-1], end=True), value)
    else:
        raise _misfit(f"path /{'/'.join(path)} leads into a value")
    return document


def _remove(document: Any, path: list[str]) -> Any:
    _get(document, path)
    if not path:
        return None
    parent = _get(document, path[:-1])
    if isinstance(parent, dict):
        del parent[path[-1]]
    else:
        del parent[_index(parent, path[-1])]
    return document
