"""Which path of a host goes before which, and how NGINX is told so.

NGINX takes `location = …` first; then the longest prefix, and if that has `^~`, no regular expression is tried; then regular expressions in
the order they stand in; then that prefix (ngx_http_core_find_location). The rule of a host here: Exact first, then the longest path as it is
written, a Prefix before a regular expression of the same length. So a Prefix path that a longer regular expression could take a request
from is written as a regular expression too, in its place among them; every other stays a literal.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from glassnet.ingress import paths, regex
from glassnet.ingress.model import Location, PathType

LONGEST = 247
"""Octets of a literal: NGINX 1.22 keeps the length of a location's name in one octet (ngx_http_create_locations_tree), and a longer one would
take requests that are not its own. Longer paths are written as regular expressions too. Less room for "others:" in front and a slash behind."""
_RANK = {PathType.EXACT: 0, PathType.PREFIX: 1, PathType.REGEX: 2}


class Match(NamedTuple):
    """`location MODIFIER PATTERN`; `location` None: what no location of the server takes."""

    modifier: str
    pattern: str
    location: Location | None


def precedence(location: Location) -> tuple[bool, int, int, str]:
    """Order of locations of one host: the first that matches a request has it."""
    return location.type != PathType.EXACT, -len(location.path), _RANK[location.type], location.path


def matches(locations: Iterable[Location]) -> Iterator[Match]:
    """How the locations of a server (in order of precedence) are written, regular expressions in order, each name once."""
    every = list(locations)
    exact = {each.path: each for each in every if each.type == PathType.EXACT}
    prefix = {each.path: each for each in every if each.type == PathType.PREFIX}
    ordered = [each for each in every if each.type == PathType.REGEX or _is_long(each.path)]
    contested = _Contested(ordered)
    if "/" in prefix:
        ordered = [each for each in ordered if len(each.path) > 1]
    yield from (Match("=", path, each) for path, each in exact.items() if not _is_long(path))
    yield from _guards(exact, prefix, contested)
    for path, each in prefix.items():
        if path == "/" or _is_long(path):
            continue
        if contested.has(path):
            ordered.append(each)
            continue
        if path not in exact:
            yield Match("=", path, each)
        yield Match("^~", path + "/", each)
    for each in sorted(ordered, key=precedence):
        yield Match("~", _regex(each), each)
    yield Match("", "/", prefix.get("/"))


def _is_long(path: str) -> bool:
    return len(path) > LONGEST // 4 and len(path.encode("utf-8", "surrogatepass")) > LONGEST


def _regex(location: Location) -> str:
    if location.type == PathType.REGEX:
        return regex.anchored(location.path)
    end = r"\z" if location.type == PathType.EXACT else r"(?:/|\z)"
    return "^" + re.sub(r"([^A-Za-z0-9_/~%:@!,;=&'\u0080-\U0010ffff-])", r"\\\1", location.path) + end


def _guards(exact: dict[str, Location], prefix: dict[str, Location], contested: _Contested) -> Iterator[Match]:
    """NGINX answers `/a` with a redirect to `/a/` where there is `location = /a/` with a proxy, unless a location of the name `/a` is there:
    a transparent one, which does what is done without it, for `/a`, `/ab` and all the others it takes. (A Prefix path `/a` that is written as a
    regular expression is tried before that.)"""
    for path in exact:
        short = path[:-1]
        if (
            not path.endswith("/")
            or _is_long(path)
            or not short
            or short in exact
            or (short in prefix and not contested.has(short))
        ):
            continue
        taker = next((each for each in paths.ancestors(short) if each in prefix and each != short), "/")
        literal = taker != "/" and not contested.has(taker)
        yield Match("^~" if literal else "", short, prefix.get(taker))


def _start(location: Location) -> tuple[str, int]:
    """What a path begins with, as far as it is plain, and its length; Exact goes before paths of any length."""
    if location.type == PathType.REGEX:
        return regex.literal(location.path), len(location.path)
    return location.path, sys.maxsize if location.type == PathType.EXACT else len(location.path)


class _Contested:
    """Prefix paths from which something that is written as a regular expression could take a request: their literal starts fit together."""

    def __init__(self, ordered: list[Location]) -> None:
        self._longest: dict[str, int] = {}
        for start, length in map(_start, ordered):
            self._longest[start] = max(length, self._longest.get(start, 0))
        self._sorted = sorted(self._longest)

    def has(self, path: str) -> bool:
        """Whether one that is longer than a Prefix path may match what that does."""
        if not self._longest:
            return False
        below, own = path + "/", len(path)
        if any(self._longest.get(below[:end], 0) > own for end in range(len(below) + 1)):
            return True
        at = bisect_right(self._sorted, path)
        return at < len(self._sorted) and self._sorted[at].startswith(
            path
        )  # longer than the path, and so is its pattern
