"""Texts with variables in them: the few that do no harm stand for what they mean, every other dollar sign is a dollar sign."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping

from glassnet.ingress import headers
from glassnet.ingress.syntax import Directive, block, entry, value

ESCAPED_URI = "glassnet_escaped_uri"
"""The variable with the request's URI and arguments, escaped to be one argument of another URL."""
REQUEST: Mapping[str, str] = {
    "scheme": headers.SCHEME,
    "pass_access_scheme": headers.SCHEME,
    "host": "$host",
    "best_http_host": headers.HOST,
    "http_host": headers.HOST,
    "request_uri": "$request_uri",
    "escaped_request_uri": "$" + ESCAPED_URI,
    "args": "$args",
    "query_string": "$args",
    "is_args": "$is_args",
    "remote_addr": "$remote_addr",
    "request_id": headers.REQUEST_ID,
    "req_id": headers.REQUEST_ID,
    "request_method": "$request_method",
    "server_port": headers.PORT,
    "server_name": "$server_name",
}
"""Variables of a request that a text may name. `$uri` is none: it is decoded, and may hold line ends."""
_NAMED = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")
_CAPTURE = re.compile(r"\$([1-9])|\$\{([1-9])\}")


_MOST = 8


def key(*parts: str) -> str:
    """A short name for what `parts` are, the same in every run: fit for NGINX's variables and zones."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def unknown(text: str, names: Mapping[str, str] = REQUEST) -> list[str]:
    """Variables in `text` that are not among `names`."""
    return [found[1] or found[2] for found in _NAMED.finditer(text) if (found[1] or found[2]) not in names]


def used(text: str) -> frozenset[str]:
    """Names of all variables in `text`, whether there are such or not."""
    return frozenset(found[1] or found[2] for found in _NAMED.finditer(text))


def expand(text: str, names: Mapping[str, str] = REQUEST) -> str:
    """An argument for NGINX: variables of `names` are replaced by what stands there, all else comes out as it is."""
    return _split(text, _NAMED, lambda found: names.get(found[1] or found[2]))


def captures(text: str) -> str:
    """An argument for NGINX in which only the groups of a regular expression, $1 to $9, are variables."""
    return _split(text, _CAPTURE, lambda found: f"${found[1] or found[2]}")


def escaped_uri() -> list[Directive]:
    """Variables for the http block that end in `ESCAPED_URI`: $request_uri escaped to be one argument of another URL (RFC 3986, 2.1).

    NGINX escapes nothing by itself. One line for each count of a text, the most first; beyond `_MOST` the rest stays as it is.
    """
    made, source = [], "$request_uri"
    for text, code in (("%2", "%252"), ("&", "%26"), ("+", "%2B")):
        target = f"${ESCAPED_URI}" + {"%2": "_1", "&": "_2", "+": ""}[text]
        of = [entry("default", source)]
        for count in range(_MOST, 0, -1):
            pattern = re.escape(text).join(f"(?<u{each}>.*?)" for each in range(count))
            of.append(entry(f"~^{pattern}{re.escape(text)}(?<u{count}>.*)$", code.join(f"${{u{each}}}" for each in range(count + 1))))  # fmt: skip
        made.append(block("map", source, target, of=of, comment=f"{text} becomes {code}"))
        source = target
    return made


def _split(text: str, pattern: re.Pattern[str], of: Callable[[re.Match[str]], str | None]) -> str:
    out: list[str] = []
    at = 0
    for found in pattern.finditer(text):
        said = of(found)
        out.append(value(text[at : found.start()]))
        at = found.end()
        if said is None:
            said = value(found[0])
        elif re.fullmatch(r"\$[a-z]\w*", said) and re.match(r"\w", text[at:]):
            said = f"${{{said[1:]}}}"
        out.append(said)
    return "".join((*out, value(text[at:])))
