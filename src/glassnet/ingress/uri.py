"""A request's path as NGINX normalises it before it looks for a location (nginx, ngx_http_parse_complex_uri; merge_slashes on)."""

from __future__ import annotations

import re

from glassnet.net.errors import UsageError

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})|%")


class BadRequest(UsageError):
    """A request that NGINX answers with 400."""


def split(target: str) -> tuple[str, str]:
    """Path and arguments (without `?`) of a request's target; a fragment is cut off."""
    path, _, arguments = target.partition("?")
    path, hashed, _ = path.partition("#")
    return path, "" if hashed else arguments


def normal(path: str) -> str:
    """The path, decoded, without empty elements, `.` and `..`; octets that are not UTF-8 as lone surrogates. Raises BadRequest."""
    raw = _ESCAPE.sub(_octet, path.encode("utf-8", "surrogateescape"))
    if not raw.startswith(b"/"):
        raise BadRequest(f"path {path!r} does not begin with /")
    kept: list[bytes] = []
    for element in raw.split(b"/"):
        if element == b"..":
            if not kept:
                raise BadRequest(f"path {path!r} leads out of /")
            kept.pop()
        elif element not in (b"", b"."):
            kept.append(element)
    slash = b"/" if kept and raw.rpartition(b"/")[2] in (b"", b".", b"..") else b""
    return (b"/" + b"/".join(kept) + slash).decode("utf-8", "surrogateescape")


def octets(path: str) -> str:
    """A normalised path with a character for each octet, for regular expressions."""
    return path.encode("utf-8", "surrogateescape").decode("latin-1")


def _octet(found: re.Match[bytes]) -> bytes:
    if not found[1] or found[1] == b"00":
        raise BadRequest("an escape that is none, or that of NUL")
    return bytes([int(found[1], 16)])
