"""OpenAPI v3 documents: what `kubectl explain` shows and what its validation, diff and apply read.

One document per group-version, made when first asked for and kept compressed. Source: KEP-2896 (OpenAPI v3).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from aiohttp import web

from glassnet.apiserver import openapi_v2, subresources
from glassnet.apiserver.discovery import ENTRIES, Entry, tagged
from glassnet.apiserver.http import VERSION
from glassnet.apiserver.schema import WITH_STATUS, Schema
from glassnet.apiserver.schema.descriptions import describe
from glassnet.kube import kinds
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
_PREFIX = "#/components/schemas/"
_JSON = "application/json"
_PATCHES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
_STATUS = "io.k8s.apimachinery.pkg.apis.meta.v1.Status"
_PATCH = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
_READ = ("labelSelector", "fieldSelector", "resourceVersion", "limit:integer", "continue", "watch:boolean")


def routes(schema: Schema) -> list[web.RouteDef]:
    """Routes of /openapi/v3, of each group-version's document, and of /openapi/v2."""
    documents = Documents(schema)

    async def index(request: web.Request) -> web.StreamResponse:
        found = {"paths": {path: {"serverRelativeURL": documents.url(path)} for path in documents.paths}}
        return tagged(request, msgspec.json.encode(found))

    async def one(request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if path not in documents.paths:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        response = tagged(request, documents.document(path))
        current = request.query.get("hash") == documents.hash(path)
        response.headers["Cache-Control"] = "public, immutable" if current else "no-cache"
        return response

    return [
        web.get("/openapi/v3", index, allow_head=False),
        web.get("/openapi/v3/{path:.+}", one, allow_head=False),
        *openapi_v2.routes(schema),
    ]


class Documents:
    """The documents of all group-versions, made lazily."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._kept: dict[str, tuple[str, bytes]] = {}
        self.paths = {
            f"apis/{group}/{version}" if group else f"api/{version}": (group, version) for group, version in ENTRIES
        }

    def url(self, path: str) -> str:
        """Where a document is; the hash changes with the document, so that clients may keep what they read."""
        return f"/openapi/v3/{path}?hash={self.hash(path)}"

    def hash(self, path: str) -> str:
        """SHA-256 of a document, in hexadecimal digits."""
        return self._made(path)[0]

    def document(self, path: str) -> bytes:
        """A document as JSON."""
        return zlib.decompress(self._made(path)[1])

    def _made(self, path: str) -> tuple[str, bytes]:
        if path not in self._kept:
            raw = msgspec.json.encode(build(self._schema, *self.paths[path]))
            self._kept[path] = hashlib.sha256(raw).hexdigest().upper(), zlib.compress(raw, 9)
        return self._kept[path]


def build(schema: Schema, group: str, version: str) -> Obj:
    """The OpenAPI v3 document of one group-version."""
    paths: Obj = {}
    wanted: set[str] = set()
    for entry in ENTRIES[group, version]:
        for path, item in _paths(schema, group, version, entry):
            paths["/" + path] = item
            wanted |= set(_references(item))
    components = _components(schema, wanted)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": components},
    }


# -- paths


def _paths(schema: Schema, group: str, version: str, entry: Entry) -> Iterator[tuple[str, Obj]]:
    base = f"apis/{group}/{version}" if group else f"api/{version}"
    gvk = {"group": group, "kind": entry.response.name, "version": version}
    body = schema.name_of(group, version, entry.response.name)
    if body is None:
        body = _STATUS
    many = schema.name_of(group, version, entry.response.name + "List") or body
    names = ["namespace"] if entry.namespaced else []
    place = f"{base}/namespaces/{{namespace}}/{entry.plural}" if entry.namespaced else f"{base}/{entry.plural}"
    writes = ("list", "post", "deletecollection") if "list" in entry.verbs else ("post",)
    yield place, _item(gvk, {verb: many if verb == "list" else body for verb in writes}, names)
    if "get" not in entry.verbs:
        return
    if entry.namespaced:
        yield f"{base}/{entry.plural}", _item(gvk, {"list": many}, [])
    one = f"{place}/{{name}}"
    names = [*names, "name"]
    yield one, _item(gvk, dict.fromkeys(("get", "put", "patch", "delete"), body), names)
    kind = kinds.BY_PATH.get((group, version, entry.plural))
    if kind in WITH_STATUS:
        yield f"{one}/status", _item(gvk, dict.fromkeys(("get", "put", "patch"), body), names)
    scale = schema.name_of("autoscaling", "v1", "Scale")
    if kind in subresources.SCALABLE and scale:
        gvk = {"group": "autoscaling", "kind": "Scale", "version": "v1"}
        yield f"{one}/scale", _item(gvk, dict.fromkeys(("get", "put", "patch"), scale), names)


def _item(gvk: Obj, verbs: dict[str, str], names: Iterable[str]) -> Obj:
    item: Obj = {}
    for verb, body in verbs.items():
        method = {"list": "get", "deletecollection": "delete"}.get(verb, verb)
        item[method] = _operation(gvk, verb, body)
    item["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "uniqueItems": True}}
        for name in names
    ]
    return item


def _operation(gvk: Obj, verb: str, body: str) -> Obj:
    queries: list[str] = []
    if verb in ("list", "deletecollection"):
        queries += _READ
    if verb in ("post", "put", "patch"):
        queries += ["dryRun", "fieldManager", "fieldValidation"]
    if verb in ("delete", "deletecollection"):
        queries += ["dryRun", "gracePeriodSeconds:integer", "propagationPolicy"]
    if verb == "patch":
        queries.append("force:boolean")
    answered = _STATUS if verb in ("delete", "deletecollection") else body
    found: Obj = {
        "parameters": [_query(word) for word in queries],
        "responses": {
            "201" if verb == "post" else "200": {"description": "OK", "content": _content((_JSON,), answered)}
        },
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": gvk,
    }
    if verb == "patch":
        found["requestBody"] = {"required": True, "content": _content(_PATCHES, _PATCH)}
    elif verb in ("post", "put"):
        found["requestBody"] = {"required": True, "content": _content(("*/*",), body)}
    elif verb.startswith("delete"):
        found["requestBody"] = {"content": _content(("*/*",), _DELETE_OPTIONS)}
    return found


def _query(word: str) -> Obj:
    name, _, kind = word.partition(":")
    return {"name": name, "in": "query", "schema": {"type": kind or "string", "uniqueItems": True}}


def _content(types: Iterable[str], name: str) -> Obj:
    return {media: {"schema": {"$ref": _PREFIX + name}} for media in types}


# -- types


def _components(schema: Schema, wanted: set[str]) -> Obj:
    """The types that are named, and all that these name, with absolute references and descriptions."""
    found: Obj = {}
    todo = [name.removeprefix(_PREFIX) for name in wanted]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        node = schema.definitions.get(name, {"type": "object"})
        found[name] = described(_absolute(node), name)
        todo += [other.removeprefix(_PREFIX) for other in _references(found[name])]
    return dict(sorted(found.items()))


def _absolute(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _PREFIX + value if key == "$ref" and isinstance(value, str) else _absolute(value)
            for key, value in node.items()
        }
    return [_absolute(one) for one in node] if isinstance(node, list) else node


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for one in node:
            yield from _references(one)


def described(node: Obj, name: str) -> Obj:
    """A type with its descriptions and those of its fields, where there are any."""
    if text := describe(name):
        node["description"] = text
    for field, inner in (node.get("properties") or {}).items():
        if text := describe(name, field):
            inner["description"] = text
    return node
