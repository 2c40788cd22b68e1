"""The types once more, as OpenAPI v2 in protobuf: kubectl reads them for lists (kind: List) and for kinds it finds in no v3 document.

There are no paths in it: those are in the v3 documents. Source: the message definitions of gnostic's OpenAPIv2.proto (field numbers);
kube-openapi's media types.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
from aiohttp import web

from glassnet.apiserver.discovery import tagged
from glassnet.apiserver.http import VERSION
from glassnet.apiserver.schema import Schema
from glassnet.apiserver.schema.descriptions import describe
from glassnet.net.errors import ApiError

Node = dict[str, Any]
MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_MEDIA_TYPES = (MEDIA_TYPE, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
# numbers of fields: Document, Info, NamedSchema, Schema; 1 is the only field of Definitions, Properties, TypeItem, ItemsItem
_SWAGGER, _INFO, _DEFINITIONS = 1, 2, 9
_TITLE, _VERSION = 1, 2
_NAME, _VALUE = 1, 2
_REF, _FORMAT, _DESCRIPTION, _DEFAULT, _REQUIRED, _ADDITIONAL = 1, 2, 4, 5, 19, 21
_TYPE, _ITEMS, _PROPERTIES, _EXTENSION = 22, 23, 25, 31
_YAML = 2


def routes(schema: Schema) -> list[web.RouteDef]:
    """The route of /openapi/v2; the document is made when first asked for and kept compressed."""
    kept: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        accepted = [offer.split(";")[0].strip() for offer in request.headers.get("Accept", "").split(",")]
        if not any(one in _MEDIA_TYPES for one in accepted):
            why = f"only {MEDIA_TYPE} is served here; /openapi/v3 has the same types, and the paths, in JSON"
            raise ApiError(406, "NotAcceptable", why)
        if not kept:
            kept.append(zlib.compress(document(schema), 9))
        response = tagged(request, zlib.decompress(kept[0]))
        if response.status == 200:
            response.headers["Content-Type"] = MEDIA_TYPE
        return response

    return [web.get("/openapi/v2", handler, allow_head=False)]


def document(schema: Schema) -> bytes:
    """All types, as an openapi.v2.Document."""
    info = _text(_TITLE, "Kubernetes") + _text(_VERSION, VERSION["gitVersion"])
    definitions = b"".join(
        _part(1, _named(name, _schema(node, describe(name), name))) for name, node in sorted(schema.definitions.items())
    )
    return _text(_SWAGGER, "2.0") + _part(_INFO, info) + _part(_DEFINITIONS, definitions)


def _schema(node: Node, description: str, owner: str = "") -> bytes:
    """One type. `owner` is a definition's name, by which the descriptions of its fields are found."""
    reference = node.get("$ref") or next((one["$ref"] for one in node.get("allOf", ()) if "$ref" in one), "")
    found = _text(_REF, f"#/definitions/{reference}") if reference else b""
    found += _text(_FORMAT, node.get("format", "")) + _text(_DESCRIPTION, description)
    if "default" in node:
        found += _part(_DEFAULT, _any(node["default"]))
    found += b"".join(_text(_REQUIRED, name) for name in node.get("required", ()))
    if isinstance(inner := node.get("additionalProperties"), dict):
        found += _part(_ADDITIONAL, _part(1, _schema(inner, "")))
    # v2 has no oneOf: a quantity, and a number or a name, are strings there, as kubectl knows them
    if kind := "string" if "oneOf" in node else node.get("type", ""):
        found += _part(_TYPE, _text(1, kind))
    if "items" in node:
        found += _part(_ITEMS, _part(1, _schema(node["items"], "")))
    if fields := node.get("properties"):
        found += _part(
            _PROPERTIES,
            b"".join(_part(1, _named(name, _schema(one, describe(owner, name)))) for name, one in fields.items()),
        )
    extensions = sorted((name, value) for name, value in node.items() if name.startswith("x-"))
    return found + b"".join(_part(_EXTENSION, _named(name, _any(value))) for name, value in extensions)


def _any(value: Any) -> bytes:
    """An openapi.v2.Any: YAML text, of which JSON is a part."""
    return _text(_YAML, msgspec.json.encode(value).decode())


def _named(name: str, value: bytes) -> bytes:
    return _text(_NAME, name) + _part(_VALUE, value)


def _text(number: int, text: str) -> bytes:
    return _part(number, text.encode()) if text else b""


def _part(number: int, raw: bytes) -> bytes:
    """A field of the wire type for lengths: text, or a message."""
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
