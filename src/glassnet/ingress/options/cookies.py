"""Cookies of a request as variables. NGINX's own `$cookie_NAME` knows neither case nor names with other than letters, digits and _."""

from __future__ import annotations

import re

from glassnet.ingress.options.variables import key
from glassnet.ingress.syntax import Directive, block, entry

NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}"
"""A cookie's name (RFC 6265, section 4.1.1: a token)."""


def variable(name: str) -> tuple[str, Directive]:
    """The variable with the value of cookie `name`, "" without it, and the `map` that makes it."""
    of = f"$cookie_of_{key(name)}"
    pattern = f"~(?:^|;[ ]*){re.escape(name)}=([^;]*)"
    return of, block("map", "$http_cookie", of, of=[entry("default", ""), entry(pattern, "$1")], comment=f"cookie {name}")  # fmt: skip
