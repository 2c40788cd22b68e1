"""enable-cors and cors-*: which pages of other origins may ask (Fetch standard, 3.2, CORS protocol).

An origin that is not allowed gets no header at all, and its preflight goes to the endpoint like any other request.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.options.variables import key
from glassnet.ingress.syntax import block, directive, entry, value

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_ORIGIN = r"\*|(?i:[a-z][a-z0-9+.-]*://(?:\*\.)?[a-z0-9._-]+(?::(?:[0-9]{1,5}|\*))?)|null"
_METHODS = "GET, PUT, POST, DELETE, PATCH, OPTIONS"
_HEADERS = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization"


class Cors(NamedTuple):
    """`origins` are `*`, origins, or origins with `*.` for one label or more; `max_age` seconds."""

    on: bool = False
    origins: tuple[str, ...] = ("*",)
    methods: str = _METHODS
    headers: str = _HEADERS
    expose: str = ""
    credentials: bool = True
    max_age: int = 1_728_000


def read(annotations: Reader) -> Cors:
    """The family's annotations. If no origin of a list can be read, none is allowed."""
    on = annotations.flag("enable-cors")
    would = "give origins such as https://a.example,https://*.b.example:8443, or *"
    origins = annotations.words("cors-allow-origin", _ORIGIN, would)
    lists = rf"(?:{_TOKEN}|\*)(?:\s*,\s*(?:{_TOKEN}|\*))*"
    headers = "give names of headers, in commas"
    return Cors(
        on,
        origins if annotations.has("cors-allow-origin") else ("*",),
        annotations.match("cors-allow-methods", lists, "give methods, in commas", _METHODS),
        annotations.match("cors-allow-headers", lists, headers, _HEADERS),
        annotations.match("cors-expose-headers", lists, headers),
        annotations.flag("cors-allow-credentials", True),
        annotations.number("cors-max-age", 0, 31_536_000, 1_728_000),
    )


def _pattern(origin: str) -> str:
    """An origin as a regular expression for NGINX; scheme and host know no case (RFC 6454, section 4)."""
    text = re.escape(origin).replace(r"://\*\.", r"://[a-z0-9._-]+\.").replace(r":\*", ":[0-9]+")
    return f"~*^{text}$"


def spell(cors: Cors, draft: Draft) -> None:
    """One variable per header, empty for an origin that is not allowed: NGINX sends no header whose value is empty."""
    if not cors.on or not cors.origins:
        return
    name = f"cors_{key(*map(repr, cors))}"
    every = "*" in cors.origins
    allowed = [entry(_pattern(each), "*" if every else "$http_origin") for each in cors.origins if each != "*"]
    if every:
        allowed = [entry("~.", "*")]
    draft.http.append(block("map", "$http_origin", f"${name}", of=[entry("default", ""), *allowed]))
    preflight = entry("~^OPTIONS:.", 1)
    draft.http.append(block("map", f"$request_method:${name}", f"${name}_preflight", of=[entry("default", ""), preflight]))  # fmt: skip
    said = {
        "Access-Control-Allow-Credentials": "true" if cors.credentials else "",
        "Access-Control-Allow-Methods": cors.methods,
        "Access-Control-Allow-Headers": cors.headers,
        "Access-Control-Max-Age": str(cors.max_age),
        "Access-Control-Expose-Headers": cors.expose,
    }
    headers = [("Access-Control-Allow-Origin", f"${name}")]
    for number, (header, text) in enumerate((each for each in said.items() if each[1]), 1):
        variable = f"${name}_{number}"
        draft.http.append(block("map", f"${name}", variable, of=[entry("default", value(text)), entry("", "")]))
        headers.append((header, variable))
    if not every:
        headers.append(("Vary", "Origin"))
    draft.response += headers
    draft.hidden += [header for header, _ in headers if header != "Vary"]
    of = [directive("add_header", header, text, "always") for header, text in headers]
    draft.first.append(block("if", f"(${name}_preflight)", of=[*of, directive("return", 204)]))
