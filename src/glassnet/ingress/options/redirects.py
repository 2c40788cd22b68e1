"""ssl-redirect, force-ssl-redirect, permanent-redirect, temporal-redirect, from-to-www-redirect, proxy-redirect-from and -to."""

from __future__ import annotations

import re
from typing import NamedTuple

from glassnet.ingress.headers import SCHEME
from glassnet.ingress.options import variables
from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import INVALID, PREFIX, Complaint, Reader
from glassnet.ingress.syntax import Directive, block, directive, value

URL = r"https?://(?:[A-Za-z0-9._-]|\$\{?\w+\}?|\[[0-9A-Fa-f:.]+\])+(?::[0-9]{1,5})?(?:[/?#][A-Za-z0-9._~%!$&'()*+,;=:@/?#{}-]*|\$[\w$]*)?"
"""A URL whose host and rest may name variables."""
_HOSTS = frozenset({"host", "http_host", "best_http_host", "server_name"})


class Redirects(NamedTuple):
    """`to` is a URL that all requests are sent to, with the status `code`; `ssl` is None where the annotation is not given."""

    ssl: bool | None = None
    force_ssl: bool = False
    to: str = ""
    code: int = 0
    www: bool = False
    replace: str = ""
    replacement: str = ""
    relative: bool = False


def read(annotations: Reader) -> Redirects:
    """The family's annotations. temporal-redirect wins over permanent-redirect, as in ingress-nginx."""
    would = "give a URL such as https://example.com$request_uri"
    permanent = url(annotations, "permanent-redirect", would)
    temporal = url(annotations, "temporal-redirect", would)
    permanent_code = annotations.number("permanent-redirect-code", 300, 308, 301)
    temporal_code = annotations.number("temporal-redirect-code", 300, 308, 302)
    ssl = annotations.flag("ssl-redirect") if annotations.has("ssl-redirect") else None
    header = r"[A-Za-z0-9._~%!$&'()*+,;=:@/?\[\]-]+"
    return Redirects(
        ssl,
        annotations.flag("force-ssl-redirect"),
        temporal or permanent,
        (temporal_code if temporal else permanent_code) if temporal or permanent else 0,
        annotations.flag("from-to-www-redirect"),
        annotations.match("proxy-redirect-from", header, 'give a URL, "default" or "off"'),
        annotations.match("proxy-redirect-to", header, "give a URL"),
        annotations.flag("relative-redirects"),
    )


def url(annotations: Reader, name: str, would: str, *, closes: bool = False) -> str:
    """A URL with variables; in its host only those of the request's host, lest a client choose where to."""

    def of(text: str) -> str:
        if not re.fullmatch(URL, text) or not host_part(text) or not variables.used(host_part(text)) <= _HOSTS:
            raise ValueError(text)
        return text

    text = annotations.take(name, of, "", would, closes=closes)
    check_variables(annotations, name, text)
    return text


def host_part(text: str) -> str:
    """Host and port of a URL. A variable that begins with / or ? may follow without one of them."""
    return re.split(r"[/?#]|\$\{?(?:request_uri|is_args)\b", text.partition("//")[2], maxsplit=1)[0]


def check_variables(annotations: Reader, name: str, text: str) -> None:
    """Complains about variables of `text` that are none here: they stay as they are written."""
    if strange := variables.unknown(text):
        known = ", ".join("$" + each for each in variables.REQUEST)
        annotations.complaints.append(Complaint(INVALID, f"{PREFIX}{name}: ${strange[0]} is no variable here and stays as it is; there are {known}"))  # fmt: skip


def to_https(redirects: Redirects, tls: bool) -> bool:
    """Whether requests over HTTP are sent to HTTPS: by default where the host has TLS."""
    return redirects.force_ssl or (tls and redirects.ssl is not False)


def www(host: str) -> tuple[str, Directive]:
    """The other host of from-to-www-redirect, and what its server does."""
    other = host[4:] if host.startswith("www.") else f"www.{host}"
    return other, directive("return", 308, f"{SCHEME}://" + value(host) + "$request_uri")


def spell(redirects: Redirects, draft: Draft) -> None:
    """Redirects come before all else in a location: they are no secret, and need no endpoint."""
    if redirects.to:
        draft.first.append(directive("return", redirects.code, variables.expand(redirects.to)))
    elif to_https(redirects, draft.place.tls):
        port = "" if draft.place.https_port == 443 else f":{draft.place.https_port}"
        draft.first.append(
            block(
                "if", f"({SCHEME}", "=", "http", ")", of=[directive("return", 308, f"https://$host{port}$request_uri")]
            )
        )
    if redirects.relative:
        draft.location.append(directive("absolute_redirect", "off"))
    # "default" replaces the name of our own upstream block, which no endpoint knows: it changes nothing
    if redirects.replace not in ("", "off", "default") and redirects.replacement:
        draft.location.append(
            directive("proxy_redirect", value(redirects.replace), variables.expand(redirects.replacement))
        )
