"""What a request's body says, out of JSON, YAML or protobuf."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml
from aiohttp import web

from glassnet.apiserver import protobuf
from glassnet.apiserver.schema.errors import bad_request
from glassnet.net.errors import ApiError

_JSON = "application/json"
_ACCEPTED = (_JSON, "application/yaml", "application/vnd.kubernetes.protobuf")
# what aiohttp calls a body without a Content-Type is read as JSON, like the real server does
_UNNAMED = "application/octet-stream"
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML whose values are JSON's: a time stays a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}


class _Twice(dict[str, Any]):
    """A JSON object some of whose names came more than once."""

    names: list[str]


async def read_body(request: web.Request, duplicates: list[str] | None = None) -> Any:
    """The request's object; {} for an empty body. `duplicates` collects a text for every field that a JSON body has twice.

    Raises ApiError 400 for what cannot be read, 415 for a type of content the server does not know.
    """
    raw, form = await request.read(), request.content_type
    if not raw:
        return {}
    if raw.startswith(protobuf.MAGIC):
        return protobuf.decode_object(raw)
    try:
        if form in ("application/yaml", "application/apply-patch+yaml"):
            return _plain(yaml.load(raw, _Loader))
        if form not in (_JSON, _UNNAMED) and not form.endswith("+json"):
            raise unsupported(_ACCEPTED)
        found = msgspec.json.decode(raw)
        if duplicates is not None:
            duplicates += _duplicates(raw)
        return found
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from None


def unsupported(accepted: tuple[str, ...]) -> ApiError:
    """The 415 answer."""
    return ApiError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}",
    )


def _plain(value: Any) -> Any:
    """A YAML value as JSON has it: names are texts."""
    if isinstance(value, dict):
        return {_name(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"a value of type {type(value).__name__} has no place in JSON")


def _name(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool | int | float):
        return json.dumps(key)
    raise ValueError(f"{key!r} cannot be the name of a field")


def _duplicates(raw: bytes) -> list[str]:
    """Texts `duplicate field "spec.replicas"`, in the words of the real server's strict decoding."""
    flawed = False

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal flawed
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        flawed, twice = True, _Twice(found)
        seen: set[str] = set()
        twice.names = list(dict.fromkeys(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
        return twice

    found = json.loads(raw, object_pairs_hook=note)
    return [f'duplicate field "{path}"' for path in _paths(found, "")] if flawed else []


def _paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        if isinstance(value, _Twice):
            yield from (prefix + name for name in value.names)
        for name, item in value.items():
            yield from _paths(item, prefix + name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, f"{path}[{index}]")
