"""How an answer looks: JSON or YAML, whole objects, Tables or metadata alone; what the client's Accept header asks for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import msgspec
import yaml
from aiohttp import web

from glassnet.apiserver.schema.errors import bad_request
from glassnet.net.errors import ApiError

_OFFERED = "application/json, application/yaml, application/json;stream=watch, application/vnd.kubernetes.protobuf"
# clients that a human reads the output of: the real server sends them indented JSON
_HUMANE = ("curl/", "Wget/", "Mozilla/")


class Form(NamedTuple):
    """The form a client wants its objects in: `view` "" is whole, "Metadata" a PartialObjectMetadata."""

    view: Literal["", "Table", "Metadata"] = ""
    yaml: bool = False


def form_of(request: web.Request) -> Form:
    """The first form of the Accept header that can be served. Raises ApiError 406 when none can."""
    return _negotiate(request.headers.get("Accept", ""))


@lru_cache(256)
def _negotiate(accept: str) -> Form:
    if not accept.strip():
        return Form()
    clauses = [_clause(part) for part in accept.split(",") if part.strip()]
    for media, parameters in sorted(clauses, key=lambda c: -_quality(c[1])):  # stable: the client's order among equals
        # protobuf is never the only thing a client reads: it gets the JSON it can tell from the content type
        known = media in ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "*/*")
        if not (known or media == "application/*") or _quality(parameters) <= 0:
            continue
        wanted = parameters.get("as", "")
        if not wanted:
            return Form("", media == "application/yaml")
        if parameters.get("g") == "meta.k8s.io" and parameters.get("v") == "v1":
            if wanted == "Table":
                return Form("Table", media == "application/yaml")
            if wanted in ("PartialObjectMetadata", "PartialObjectMetadataList"):
                return Form("Metadata", media == "application/yaml")
    raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {_OFFERED}")


def _clause(text: str) -> tuple[str, dict[str, str]]:
    media, *rest = (part.strip() for part in text.split(";"))
    return media.lower(), dict(part.partition("=")[::2] for part in rest if "=" in part)


def _quality(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0


def include_object(request: web.Request) -> str:
    """The query parameter of that name: how much of an object a Table's row carries. Raises ApiError 400."""
    found = request.query.get("includeObject", "Metadata")
    if found not in ("None", "Metadata", "Object"):
        raise bad_request(
            f'includeObject: Unsupported value: "{found}": supported values: "None", "Metadata", "Object"'
        )
    return found


def partial(obj: dict[str, Any]) -> dict[str, Any]:
    """An object's metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def answer(body: Any, status: int = 200, warnings: Iterable[str] = ()) -> web.Response:
    """A JSON answer; bytes are taken for JSON already."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    response = web.Response(body=raw, status=status, content_type="application/json")
    for text in warnings:
        shown = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")
        response.headers.add("Warning", f'299 - "{shown}"')
    return response


def shaped(request: web.Request, response: web.Response) -> web.Response:
    """The answer in YAML when the client asked for it, indented when a human reads it."""
    if response.content_type != "application/json" or not isinstance(response.body, bytes):
        return response
    try:
        as_yaml = form_of(request).yaml
    except ApiError:
        as_yaml = False
    if as_yaml:
        response.body = yaml.safe_dump(msgspec.json.decode(response.body), sort_keys=True).encode()
        response.content_type = "application/yaml"
    elif _indented(request):
        response.body = msgspec.json.format(response.body, indent=2) + b"\n"
    return response


def _indented(request: web.Request) -> bool:
    wanted = request.query.get("pretty")
    if wanted is not None:
        return wanted.lower() not in ("false", "0")
    return request.headers.get("User-Agent", "").startswith(_HUMANE)
