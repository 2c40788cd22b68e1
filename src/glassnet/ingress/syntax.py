"""nginx.conf as values: directives with arguments, and the text that NGINX reads as exactly those.

Source: nginx, src/core/ngx_conf_file.c (ngx_conf_read_token: quotes, backslashes, the limit of one token).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from glassnet.net.errors import GlassnetError

LONGEST = 4000
"""Octets of one argument; NGINX reads tokens into a buffer of 4,096."""
DOLLAR = "glassnet_dollar"
"""The variable that holds a dollar sign: NGINX has no other way to write one where variables are expanded."""
_BARE = re.compile(r"[A-Za-z0-9_./:@,+*=~^%&!?<>|-]+|\(?\$[a-z][a-z0-9_]*\)?|\)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Unwritable(GlassnetError):
    """A text that cannot be an argument of a directive: control characters, or too long."""


class Directive(NamedTuple):
    """One directive. `args` are what NGINX is to see; a `block` of further directives, or None; `comment` stands above it."""

    name: str
    args: tuple[str, ...] = ()
    block: tuple[Directive, ...] | None = None
    comment: str = ""


def directive(name: str, *args: object, comment: str = "") -> Directive:
    """A directive without a block."""
    return Directive(name, tuple(map(str, args)), None, comment)


def block(name: str, *args: object, of: Iterable[Directive], comment: str = "") -> Directive:
    """A directive with a block."""
    return Directive(name, tuple(map(str, args)), tuple(of), comment)


def entry(key: str, *args: object) -> Directive:
    """A line of a `map`, `geo` or `split_clients` block, whose first word is an argument too. Raises Unwritable."""
    return Directive(word(key), tuple(map(str, args)), None, "")


def value(text: str) -> str:
    """A user's text as an argument where NGINX expands variables: it comes out as it is. `DOLLAR` must be defined (see `dollar`)."""
    return text.replace("$", f"${{{DOLLAR}}}")


def dollar() -> Directive:
    """Defines `DOLLAR`; for the http block."""
    return block("geo", f"${DOLLAR}", of=[directive("default", "$")])


def word(text: str) -> str:
    """One argument as it is written. Raises Unwritable."""
    if _CONTROL.search(text):
        raise Unwritable(f"{text[:80]!r} has control characters")
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST:
        raise Unwritable(f"{text[:80]!r}… is longer than {LONGEST} octets")
    if _BARE.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render(directives: Iterable[Directive], indent: int = 0) -> str:
    """The text of directives. Raises Unwritable."""
    return "".join(line + "\n" for line in _lines(directives, indent))


def _lines(directives: Iterable[Directive], indent: int) -> Iterator[str]:
    margin = "    " * indent
    for each in directives:
        for line in each.comment.splitlines():
            yield f"{margin}# {_CONTROL.sub('?', line)}"
        text = " ".join((each.name, *map(word, each.args)))
        if each.block is None:
            yield f"{margin}{text};"
            continue
        yield f"{margin}{text} {{"
        yield from _lines(each.block, indent + 1)
        yield f"{margin}}}"
