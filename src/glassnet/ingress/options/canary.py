"""canary and canary-*: some requests of a host and path go to another Service. Header before cookie before weight."""

from __future__ import annotations

import re
from typing import NamedTuple

from glassnet.ingress import regex
from glassnet.ingress.options import cookies
from glassnet.ingress.options.place import Backend, Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.options.variables import key
from glassnet.ingress.syntax import block, entry

_HEADER = r"[A-Za-z0-9-]{1,128}"


class Canary(NamedTuple):
    """An Ingress with `on` is no Ingress of its own, but a canary of another's host and path. `weight` is in parts of `total`."""

    on: bool = False
    header: str = ""
    value: str = ""
    pattern: str = ""
    cookie: str = ""
    weight: int = 0
    total: int = 100


def read(annotations: Reader) -> Canary:
    """The family's annotations."""
    on = annotations.flag("canary")
    header = annotations.match("canary-by-header", _HEADER, "give the name of a header: letters, digits and -")
    exact = annotations.match(
        "canary-by-header-value", r"[\x20-\x7e]{1,256}", "give up to 256 characters of printable ASCII"
    )
    pattern = annotations.take(
        "canary-by-header-pattern", _pattern, "", "give a regular expression without named groups and references"
    )
    cookie = annotations.match("canary-by-cookie", cookies.NAME, "give the name of a cookie")
    total = annotations.number("canary-weight-total", 1, 1_000_000_000, 100)
    weight = annotations.number("canary-weight", 0, 1_000_000_000, 0)
    if weight > total:
        annotations.complain("canary-weight", f"give at most the total, {total}; all requests go to the canary")
    return Canary(on, header, exact, "" if exact else pattern, cookie, min(weight, total), total)


def _pattern(text: str) -> str:
    try:
        if len(text) > 1000:
            raise ValueError(text)
        regex.check(text)
    except regex.BadRegex as error:
        raise ValueError(str(error)) from None
    return text


def spell(canaries: tuple[tuple[Canary, Backend], ...], draft: Draft) -> None:
    """A chain of maps whose result, `draft.choice`, is the name of an upstream. A canary without endpoints gets nothing."""
    for canary, backend in reversed(canaries):
        _one(canary, backend.upstream, draft)


def _one(canary: Canary, upstream: str, draft: Draft) -> None:
    one = f"canary_{key(draft.choice, upstream, *map(str, canary))}"
    main = draft.choice
    if canary.weight >= canary.total:
        main = upstream
    elif share := f"{100 * canary.weight / canary.total:.2f}" if canary.weight else "":
        share = "0.01" if share == "0.00" else min(share, "99.99", key=float)
        of = [entry(f"{share}%", "canary"), entry("*", "main")]
        draft.http.append(block("split_clients", "$request_id", f"${one}_share", of=of))
        draft.http.append(
            block("map", f"${one}_share", f"${one}_weight", of=[entry("default", main), entry("canary", upstream)])
        )
        main = f"${one}_weight"
    if canary.cookie:
        cookie, made = cookies.variable(canary.cookie)
        of = [entry("default", main), entry("~^always$", upstream), entry("~^never$", draft.choice)]
        draft.http += [made, block("map", cookie, f"${one}_cookie", of=of)]
        main = f"${one}_cookie"
    if canary.header:
        of = [entry("default", main)]
        if canary.value:
            of.append(entry(f"~^{re.escape(canary.value)}$", upstream))
        elif canary.pattern:
            of.append(entry(f"~{canary.pattern}", upstream))
        else:
            of += [entry("~^always$", upstream), entry("~^never$", draft.choice)]
        header = "$http_" + canary.header.lower().replace("-", "_")
        draft.http.append(block("map", header, f"${one}_header", of=of))
        main = f"${one}_header"
    draft.choice = main
