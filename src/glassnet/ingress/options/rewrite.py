"""rewrite-target, use-regex, x-forwarded-prefix, app-root: the path that the endpoint sees.

A rewrite concerns the paths of its own Ingress, never the whole host. Only the groups of the path's regular expression are variables.
"""

from __future__ import annotations

from typing import NamedTuple

from glassnet.ingress.headers import HOST, SCHEME
from glassnet.ingress.options import variables
from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.syntax import block, directive, value


class Rewrite(NamedTuple):
    """`target` replaces the whole path, "" leaves it; `regex` asks that paths be regular expressions."""

    target: str = ""
    regex: bool = False
    prefix: str = ""
    app_root: str = ""


def read(annotations: Reader) -> Rewrite:
    """The family's annotations."""
    return Rewrite(
        annotations.match("rewrite-target", r"(?:/|\$[1-9]|https?://)[^\s\"'`\\<>{}|^;]*", "give a path that begins with / or $1, with groups $1 to $9, or an http URL"),
        annotations.flag("use-regex"),
        annotations.match("x-forwarded-prefix", r"/[A-Za-z0-9._~%!$&'()*+,;=:@/-]*", "give a path that begins with /"),
        annotations.match("app-root", r"/(?!/)[A-Za-z0-9._~%!$&'()*+,;=:@/?#-]*", "give a path that begins with one /"),
    )  # fmt: skip


def spell(rewrite: Rewrite, draft: Draft) -> None:
    """A redirect of / for the server; the rewrite and the header for the location."""
    if rewrite.app_root:
        to = directive("return", 302, f"{SCHEME}://{HOST}" + value(rewrite.app_root))
        draft.server.append(block("if", "($uri", "=", "/", ")", of=[to]))
    if rewrite.prefix:
        draft.request["X-Forwarded-Prefix"] = value(rewrite.prefix)
    if rewrite.target:
        pattern = draft.place.regex or "^"
        draft.last.append(directive("rewrite", pattern, variables.captures(rewrite.target), "break"))
