"""affinity: cookie, and session-cookie-*: one client stays with one endpoint as long as it lives.

The cookie names the endpoint: a hash of its address. So it holds over reloads, restarts, all replicas of the controller and every change of
the other endpoints. NGINX has answered by the time the cookie is set, hence it is always the endpoint that has really answered.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from glassnet.ingress.headers import SCHEME
from glassnet.ingress.options import cookies
from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.options.variables import key
from glassnet.ingress.syntax import Directive, block, directive, entry, value

KEPT = 8
"""Idle connections to one endpoint that are kept."""


class Affinity(NamedTuple):
    """`change` takes another endpoint when the cookie's fails; `canary` lets the cookie win over the canary's rules. -1: not given."""

    on: bool = False
    name: str = "INGRESSCOOKIE"
    path: str = ""
    domain: str = ""
    expires: int = -1
    max_age: int = -1
    same_site: str = ""
    secure: bool | None = None
    change: bool = False
    canary: bool = True


def read(annotations: Reader) -> Affinity:
    """The family's annotations."""
    secure = annotations.flag("session-cookie-secure") if annotations.has("session-cookie-secure") else None
    annotations.choice("affinity-mode", ("balanced", "persistent"))
    annotations.flag("session-cookie-conditional-samesite-none")
    return Affinity(
        annotations.choice("affinity", ("cookie",)) == "cookie",
        annotations.match("session-cookie-name", cookies.NAME, "give the name of a cookie", "INGRESSCOOKIE"),
        annotations.match("session-cookie-path", r"/[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{0,500}", "give a path that begins with /"),
        annotations.match("session-cookie-domain", r"\.?[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,9}", "give a domain"),
        annotations.number("session-cookie-expires", 0, 1 << 31),
        annotations.number("session-cookie-max-age", 0, 1 << 31),
        annotations.choice("session-cookie-samesite", ("None", "Lax", "Strict")),
        secure,
        annotations.flag("session-cookie-change-on-failure"),
        annotations.choice("affinity-canary-behavior", ("sticky", "legacy"), "sticky") == "sticky",
    )  # fmt: skip


def mark(endpoint: str) -> str:
    """What the cookie says of an endpoint: its address is not told to clients."""
    return hashlib.sha256(f"glassnet affinity {endpoint}".encode()).hexdigest()[:24]


def spell(affinity: Affinity, draft: Draft) -> None:
    """An upstream for each endpoint, a map from cookies to them, and one from the address that has answered to a cookie."""
    place = draft.place
    backends = [
        each for each in (place.backend, *(backend for _, backend in place.canaries)) if each and each.endpoints
    ]
    if not affinity.on or not backends:
        return
    one = f"sticky_{key(*map(str, affinity), draft.choice, *(each.upstream for each in backends))}"
    cookie, made = cookies.variable(affinity.name)
    lead, said = [entry("default", draft.choice)], [entry("default", "")]
    for backend in backends if affinity.canary else backends[:1]:
        for number, endpoint in enumerate(backend.endpoints):
            name = f"{backend.upstream}_{'any' if affinity.change else 'only'}_{mark(endpoint)}"
            others = backend.endpoints[number + 1 :] + backend.endpoints[:number]
            draft.http.append(_upstream(name, endpoint, others[:2] if affinity.change else ()))
            lead.append(entry(mark(endpoint), name))
    endpoints = dict.fromkeys(each for backend in backends for each in backend.endpoints)
    said += [entry(f"~(?:^|, |: ){re.escape(each)}$", mark(each)) for each in endpoints]
    draft.http += [
        made,
        block("map", cookie, f"${one}", of=lead),
        block("map", "$upstream_addr", f"${one}_mark", of=said),
    ]
    _set(affinity, draft, one, cookie)
    draft.choice = f"${one}"


def _upstream(name: str, endpoint: str, others: tuple[str, ...]) -> Directive:
    servers = [directive("server", endpoint), *(directive("server", each, "backup") for each in others)]
    return block("upstream", name, of=[*servers, directive("keepalive", KEPT)])


def _set(affinity: Affinity, draft: Draft, one: str, cookie: str) -> None:
    """The header, where the client's cookie does not name the endpoint that has answered."""
    attributes = [f"Path={affinity.path or _path(draft)}"]
    if (age := affinity.max_age if affinity.max_age >= 0 else affinity.expires) >= 0:
        attributes.append(f"Max-Age={age}")
    if affinity.domain:
        attributes.append(f"Domain={affinity.domain}")
    attributes.append("HttpOnly")
    if affinity.same_site:
        attributes.append(f"SameSite={affinity.same_site}")
    if affinity.secure or affinity.same_site == "None":
        attributes.append("Secure")
    text = f"{value(affinity.name)}=${{{one}_mark}}; {value('; '.join(attributes))}"
    if affinity.secure is None and affinity.same_site != "None":
        of = [entry("default", ""), entry("https", "; Secure")]
        draft.http.append(block("map", SCHEME, f"${one}_secure", of=of))
        text += f"${{{one}_secure}}"
    same = [entry("default", text), entry("~^:", ""), entry(r"~^([0-9a-f]+):\1$", "")]
    draft.http.append(block("map", f"${{{one}_mark}}:{cookie}", f"${one}_set", of=same))
    draft.response.append(("Set-Cookie", f"${one}_set"))


def _path(draft: Draft) -> str:
    return draft.place.path if not draft.place.regex else "/"
