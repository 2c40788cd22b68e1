"""nginx.conf as values: directives with arguments, and the text that NGINX reads as exactly those.

Source: nginx, src/core/ngx_conf_file.c (ngx_conf_read_token: quotes, backslashes, the limit of one token).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

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


@lru_cache(1 << 16)
def word(text: str) -> str:
    """One argument as it is written. Raises Unwritable."""
    if _CONTROL.search(text):
        raise Unwritable(f"{text[:80]!r} has control characters")
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST:
        raise Unwritable(f"{text[:80]!r}… is longer than {LONGEST} octets")
    if _BARE.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def check(directives: Iterable[Directive]) -> None:
    """Raises Unwritable for directives that `render` could not write."""
    for each in directives:
        for text in each.args:
            word(text)
        if each.block:
            check(each.block)


def render(directives: Iterable[Directive], indent: int = 0) -> str:
    """The text of directives. Raises Unwritable."""
    out: list[str] = []
    _write(directives, "    " * indent, out, {})
    return "".join(out)


def _write(directives: Iterable[Directive], margin: str, out: list[str], written: dict[tuple[int, str], Any]) -> None:
    """Appends the text. Blocks that directives share are written once: `written` has them (lest their `id` changes hands) and their text."""
    for name, args, inside, comment in directives:
        if comment:
            out += [f"{margin}# {_CONTROL.sub('?', line)}\n" for line in comment.splitlines()]
        text = " ".join((margin + name, *map(word, args)))
        if inside is None:
            out.append(text + ";\n")
            continue
        place = (id(inside), margin)
        if place not in written:
            body: list[str] = []
            _write(inside, margin + "    ", body, written)
            written[place] = inside, "".join(body)
        out.append(f"{text} {{\n{written[place][1]}{margin}}}\n")
