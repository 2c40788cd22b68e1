"""Hosts and paths of rules: checked, and brought into the form they are compared in.

Sources: networking.k8s.io/v1 (pathType, host), RFC 1123 (names), nginx's ngx_http_parse_complex_uri (which paths a request can have once it is
decoded: no empty elements, no `.` and `..`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from glassnet.ingress import regex
from glassnet.ingress.model import PathType
from glassnet.net.address import canonical
from glassnet.net.errors import UsageError

LONGEST_PATH = 1000
"""Octets of a path: more than anyone writes, and less than NGINX takes for an argument."""
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_NEVER = re.compile(r"//|/\.\.?(?=/|\Z)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PATTERN = re.compile(r"[()\[\]{}*?|^$\\]")  # what a plain path has no use for


class BadHost(UsageError):
    """No host an Ingress can have."""


class BadPath(UsageError):
    """A path that no request can have, or that cannot be written down."""


@lru_cache(65536)
def host(text: str) -> str:
    """A rule's host in lower case; "" for all. Raises BadHost."""
    name = text.lower()
    if not name:
        return ""
    if len(name) > 253 or not _HOST.fullmatch(name):
        raise BadHost(f"host {text[:80]!r} is no DNS name: give one such as shop.example.com, or *.example.com")
    if canonical(name):
        raise BadHost(f"host {text!r} is an address: a rule without host takes requests for addresses")
    return name


def parent(name: str) -> str:
    """The wildcard that covers a host: `*.example.com` for `shop.example.com`; "" for names of one label and for wildcards."""
    label, _, rest = name.partition(".")
    return f"*.{rest}" if rest and label != "*" else ""


@lru_cache(65536)
def path(text: str, written: str, as_regex: bool) -> tuple[str, PathType]:
    """What a path of type `written` matches, and how. `as_regex`: the Ingress asks for regular expressions. Raises BadPath, regex.BadRegex.

    ImplementationSpecific is Prefix, or a regular expression; so is a Prefix that could not be meant as one (guides of ingress-nginx write
    `/app(/|$)(.*)` with pathType Prefix). Escapes are decoded, as NGINX decodes those of requests before it compares.
    """
    if written not in ("Exact", "Prefix", "ImplementationSpecific"):
        raise BadPath(f"pathType {written!r} is not known: give Exact, Prefix or ImplementationSpecific")
    text = text or "/"
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST_PATH:
        raise BadPath(f"path {text[:60]!r}… is longer than {LONGEST_PATH} octets")
    if not text.startswith("/"):
        raise BadPath(f"path {text!r} does not begin with /")
    if _CONTROL.search(text):
        raise BadPath(f"path {text!r} has control characters")
    if as_regex and (written == "ImplementationSpecific" or (written == "Prefix" and _PATTERN.search(text))):
        regex.check(text)
        return text, PathType.REGEX
    plain = _decoded(text)
    if written == "Exact":
        return plain, PathType.EXACT
    return plain.rstrip("/") or "/", PathType.PREFIX


def _decoded(text: str) -> str:
    if re.search("%2f", text, re.IGNORECASE):
        raise BadPath(f"path {text!r} has an escaped slash, which is a slash once it is decoded")
    try:
        plain = unquote_to_bytes(text).decode() if "%" in text else text
        plain.encode()
    except UnicodeError as error:
        raise BadPath(f"path {text!r} is not UTF-8 once it is decoded") from error
    if _NEVER.search(plain):
        raise BadPath(f"path {text!r} has //, /./ or /../, which no request has once it is normalised")
    if _CONTROL.search(plain):
        raise BadPath(f"path {text!r} has control characters once it is decoded")
    return plain


def covers(prefix: str, of: str) -> bool:
    """Whether a Prefix path (in the form of `path`) matches, element by element."""
    return prefix == "/" or (of.startswith(prefix) and (len(of) == len(prefix) or of[len(prefix)] == "/"))


def ancestors(of: str) -> Iterator[str]:
    """The Prefix paths that match a path, longest first: `/a/b`, `/a`, `/`."""
    here = of
    while here and here != "/":
        if here[-1] != "/":
            yield here
        here = here[: here.rfind("/")]
    yield "/"
