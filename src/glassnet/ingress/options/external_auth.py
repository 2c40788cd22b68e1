"""auth-url, auth-signin and their kin: another server says whether a request may pass (nginx, ngx_http_auth_request_module)."""

from __future__ import annotations

import re
from typing import NamedTuple

from glassnet.ingress.headers import HOST, REQUEST_ID, SCHEME
from glassnet.ingress.options import variables
from glassnet.ingress.options.headers import TOKEN, named
from glassnet.ingress.options.objects import Objects
from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.options.redirects import check_variables, host_part, url
from glassnet.ingress.syntax import Directive, block, directive, value

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE")
_ADDRESS = re.compile(r"[0-9.]+|\[[0-9A-Fa-f:.]+\]")
_NAMES = {**variables.REQUEST, "http_host": "$host", "best_http_host": "$host"}
"""Without the port that the client names: who is asked is not his to choose."""


class ExternalAuth(NamedTuple):
    """`url` is asked; `signin` is where a client without rights is sent, with its URL as argument `argument`."""

    url: str = ""
    method: str = ""
    signin: str = ""
    argument: str = "rd"
    response_headers: tuple[str, ...] = ()
    request_headers: str = ""
    redirect: str = ""
    cookie_always: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    resolvers: tuple[str, ...] = ()


def read(annotations: Reader) -> ExternalAuth:
    """The family's annotations. A URL that does not do lets nobody in."""
    would = "give a URL such as http://auth.default.svc.cluster.local/check"
    asked = url(annotations, "auth-url", would, closes=True)
    signin = url(annotations, "auth-signin", "give a URL such as https://auth.example/start")
    redirect = annotations.match("auth-request-redirect", r"[A-Za-z0-9._~%!$&'()*+,;=:@/?{}-]+", "give a URL or a path")
    check_variables(annotations, "auth-request-redirect", redirect)
    return ExternalAuth(
        asked,
        annotations.choice("auth-method", METHODS),
        signin,
        annotations.match("auth-signin-redirect-param", r"[A-Za-z0-9._~-]+", "give the name of an argument", "rd"),
        annotations.words("auth-response-headers", TOKEN, "give names of headers, in commas"),
        annotations.match("auth-proxy-set-headers", r"(?:[a-z0-9.-]+/)?[a-z0-9.-]+", "give a ConfigMap as NAMESPACE/NAME"),
        redirect,
        annotations.flag("auth-always-set-cookie"),
    )  # fmt: skip


def resolve(auth: ExternalAuth, objects: Objects) -> ExternalAuth:
    """The headers of a ConfigMap, and the name servers if the URL has a name."""
    if not auth.url:
        return auth
    name = re.sub(r":\d+$", "", host_part(auth.url))
    if "$" in name and "" in objects.hosts:
        objects.complain(
            "auth-url", "with a rule without host any client could choose who is asked: name the host", closes=True
        )
    if _ADDRESS.fullmatch(name):
        resolvers: tuple[str, ...] = ()
    else:
        resolvers = objects.resolvers
        if not resolvers:
            objects.complain("auth-url", f"{name} is a name, and no name server is known", closes=True)
    sent = named("auth-proxy-set-headers", auth.request_headers, objects) if auth.request_headers else ()
    return auth._replace(headers=sent, resolvers=resolvers)


def spell(auth: ExternalAuth, draft: Draft) -> None:
    """A location that asks, one that sends to the sign-in page, and the headers that go from the answer to the endpoint."""
    if not auth.url:
        return
    place = draft.place
    one = variables.key("auth", place.namespace, place.ingress, *map(str, auth))
    path = f"/_glassnet/auth/{one}"
    draft.internal.append(block("location", "=", path, of=_asks(auth, one), comment=f"auth-url of {place.namespace}/{place.ingress}"))  # fmt: skip
    draft.location.append(directive("auth_request", path))
    for number, header in enumerate(auth.response_headers):
        variable = f"$auth_{one}_{number}"
        draft.location.append(directive("auth_request_set", variable, "$upstream_http_" + re.sub(r"\W", "_", header.lower())))  # fmt: skip
        draft.request[header] = variable
    draft.location.append(directive("auth_request_set", f"$auth_{one}_cookie", "$upstream_http_set_cookie"))
    always = ["always"] if auth.cookie_always else []
    draft.location.append(directive("add_header", "Set-Cookie", f"$auth_{one}_cookie", *always))
    if auth.signin:
        _signin(auth, draft, one)


def _asks(auth: ExternalAuth, one: str) -> list[Directive]:
    """The host of the request to the other server is that of its URL."""
    headers = {
        "Host": variables.expand(host_part(auth.url), _NAMES),
        "Content-Length": "",
        "Connection": "",
        "X-Forwarded-Proto": "",
        "X-Request-ID": REQUEST_ID,
        "X-Original-URL": f"{SCHEME}://{HOST}$request_uri",
        "X-Original-Method": "$request_method",
        "X-Sent-From": "glassnet-ingress",
        "X-Real-IP": "$remote_addr",
        "X-Forwarded-For": "$remote_addr",
        "X-Auth-Request-Redirect": variables.expand(auth.redirect) if auth.redirect else "$request_uri",
    }
    headers |= {header: value(text) for header, text in auth.headers}
    of = [
        directive("internal"),
        directive("access_log", "off"),
        directive("proxy_pass_request_body", "off"),
        directive("client_max_body_size", 0),
        directive("proxy_ssl_server_name", "on"),
        directive("proxy_buffering", "on"),
        *(directive("proxy_set_header", header, text) for header, text in headers.items()),
    ]
    if auth.method:
        of.append(directive("proxy_method", auth.method))
    if auth.resolvers:
        of.append(directive("resolver_timeout", "5s"))  # the http block says who is asked
    # a variable in the URL: names are looked up when asked, hence one that cannot be found fails this Ingress alone
    of.append(directive("set", f"$auth_{one}_url", variables.expand(auth.url, _NAMES)))
    of.append(directive("proxy_pass", f"$auth_{one}_url"))
    return of


def _signin(auth: ExternalAuth, draft: Draft, one: str) -> None:
    url = variables.expand(auth.signin)
    if not re.search(rf"[?&]{re.escape(auth.argument)}=", auth.signin):
        mark = "&" if "?" in auth.signin else "?"
        url += f"{mark}{auth.argument}={SCHEME}://{HOST}${variables.ESCAPED_URI}"
    of = [directive("internal"), directive("add_header", "Set-Cookie", f"$auth_{one}_cookie", "always"), directive("return", 302, url)]  # fmt: skip
    draft.internal.append(block("location", f"@auth_{one}", of=of))
    draft.location.append(directive("error_page", 401, "=", f"@auth_{one}"))
