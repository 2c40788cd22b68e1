"""Objects in Kubernetes' protobuf encoding, read into what their JSON would be: kubectl's `create` and `auth can-i` send nothing else.

Source: Protocol Buffers encoding; `runtime.Unknown` around an object with the magic "k8s\\0" before it (Kubernetes API concepts,
"Alternate representations of resources").
"""

from __future__ import annotations

import base64
import gzip
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from glassnet.apiserver.schema.errors import bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"
_DEPTH = 32
_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Obj = dict[str, Any]


class Field(NamedTuple):
    """A message's field: JSON name, one|list|map|inline, kind of its value, its message type, 1 where zero is not absence."""

    name: str
    shape: str
    kind: str
    message: str
    nullable: int


@cache
def _messages() -> dict[str, dict[int, Field]]:
    packed = resources.files("glassnet.apiserver").joinpath("data/protobuf.json.gz").read_bytes()
    return msgspec.json.decode(gzip.decompress(packed), type=dict[str, dict[int, Field]])


def decode_object(raw: bytes) -> Obj:
    """The object. Raises ApiError 400 for bytes that are none, or of a type or with fields this server does not know."""
    if not raw.startswith(MAGIC):
        raise bad_request("the body is not in Kubernetes' protobuf encoding")
    try:
        return _envelope(raw[len(MAGIC) :])
    except (ValueError, IndexError, struct.error) as error:
        raise bad_request(f"the object provided is unrecognized: protobuf: {error}") from None


def _envelope(raw: bytes) -> Obj:
    envelope = dict(_fields(raw))
    named = {
        number: value.decode() for number, value in _fields(_bytes(envelope.get(1, b""))) if isinstance(value, bytes)
    }
    api_version, kind = named.get(1, ""), named.get(2, "")
    message = _message_of(api_version, kind)
    found = _message(message, _bytes(envelope.get(2, b"")), 0)
    return {"apiVersion": api_version, "kind": kind, **found}


def _message_of(api_version: str, kind: str) -> str:
    group, _, version = api_version.rpartition("/")
    package = group.removesuffix(".k8s.io") or "core"
    for name in (f"k8s.io.api.{package}.{version}.{kind}", _META + kind):
        if name in _messages():
            return name
    raise bad_request(f'no kind "{kind}" is registered for version "{api_version}"')


# -- the wire


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(raw, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(raw):
            raise ValueError("unexpected end of data")
        yield tag >> 3, raw[at : at + size]
        at += size


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


# -- messages


def _message(name: str, raw: bytes, depth: int) -> Obj:
    if depth > _DEPTH:
        raise ValueError("messages are nested too deeply")
    known, found = _messages()[name], Obj()
    for number, value in _fields(raw):
        field = known.get(number)
        if field is None:
            if value:  # a newer client's field that says nothing may pass
                raise ValueError(f"{name.rpartition('.')[2]} has no field number {number} here")
        elif field.shape == "inline":
            found.update(_message(field.message, _bytes(value), depth + 1))
        elif field.shape == "map":
            key, inner = _entry(field, _bytes(value), depth)
            found.setdefault(field.name, {})[key] = inner
        elif field.shape == "list":
            found.setdefault(field.name, []).append(_value(field, value, depth))
        else:
            one = _value(field, value, depth)
            if one is not None and (field.nullable or field.kind == "message" or one):
                found[field.name] = one
    return found


def _entry(field: Field, raw: bytes, depth: int) -> tuple[str, Any]:
    parts = dict(_fields(raw))
    empty: int | bytes = 0 if field.kind in ("int", "bool") else b""
    return _bytes(parts.get(1, b"")).decode(), _value(field, parts.get(2, empty), depth)


def _value(field: Field, value: int | bytes, depth: int) -> Any:
    if field.kind == "bool":
        return bool(value)
    if field.kind == "int":
        if isinstance(value, bytes):
            raise ValueError(f"{field.name} is not a number")
        return value - (1 << 64) if value >> 63 else value
    data = _bytes(value)
    if field.kind == "string":
        return data.decode()
    if field.kind == "bytes":
        return base64.b64encode(data).decode()
    if special := _SPECIAL.get(field.message):
        return special(dict(_fields(data)))
    return _message(field.message, data, depth + 1)


# -- types whose JSON is no object


def _time(digits: int) -> Callable[[dict[int, int | bytes]], str | None]:
    def read(parts: dict[int, int | bytes]) -> str | None:
        seconds, nanos = parts.get(1, 0), parts.get(2, 0)
        if not isinstance(seconds, int) or not isinstance(nanos, int) or not seconds:
            return None
        moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000 if digits else 0)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if digits else "%Y-%m-%dT%H:%M:%SZ")

    return read


def _quantity(parts: dict[int, int | bytes]) -> str:
    return _bytes(parts.get(1, b"0")).decode()


def _int_or_string(parts: dict[int, int | bytes]) -> int | str:
    if parts.get(1):
        return _bytes(parts.get(3, b"")).decode()
    number = parts.get(2, 0)
    if isinstance(number, bytes):
        raise ValueError("a number is none")
    return number - (1 << 64) if number >> 63 else number


def _raw_json(parts: dict[int, int | bytes]) -> Any:
    return msgspec.json.decode(_bytes(parts.get(1, b"{}")))


_SPECIAL: dict[str, Callable[[dict[int, int | bytes]], Any]] = {
    _META + "Time": _time(0),
    _META + "MicroTime": _time(6),
    _META + "FieldsV1": _raw_json,
    "k8s.io.apimachinery.pkg.api.resource.Quantity": _quantity,
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": _int_or_string,
}
