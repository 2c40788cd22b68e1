"""Which way a request goes, and why: the server, the location, the Ingress and its rule, the Service, the endpoints; and why not others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from glassnet.ingress import paths, regex, uri
from glassnet.ingress.model import Backend, Canary, Endpoint, Location, PathType, Server, Site
from glassnet.ingress.options import Options, redirects
from glassnet.kube.view import Key


class Request(NamedTuple):
    """A request. `host` may have a port; `target` is path and arguments; names of headers in lower case. `sni` None: the host."""

    scheme: str
    host: str
    target: str = "/"
    method: str = "GET"
    headers: Mapping[str, str] = {}
    cookies: Mapping[str, str] = {}
    sni: str | None = None


class Choice(NamedTuple):
    """A backend that may get the request, with its share (1.0: all of them), its endpoints, and why."""

    backend: Backend
    ingress: Key
    share: float
    endpoints: tuple[Endpoint, ...]
    why: str


class Explanation(NamedTuple):
    """What becomes of a request. `status` is that of an answer NGINX gives itself, 0 when an endpoint is asked; `to` where a redirect leads.

    `path` is the normalised path that is matched, `sent` the target that the endpoint gets. `certificate` is the name of the Certificate, ""
    for the default one, None without TLS. `why` are the reasons in order, `others` the locations that were passed over, with the reason.
    """

    server: Server | None
    location: Location | None
    path: str
    sent: str = ""
    status: int = 0
    to: str = ""
    certificate: str | None = None
    choices: tuple[Choice, ...] = ()
    why: tuple[str, ...] = ()
    others: tuple[tuple[Location, str], ...] = ()


def explain(site: Site, request: Request) -> Explanation:
    """What becomes of a request."""
    certificate = _certificate(site, request)
    try:
        path = uri.normal(uri.split(request.target)[0])
    except uri.BadRequest as error:
        return Explanation(None, None, request.target, status=400, certificate=certificate, why=(str(error),))
    server, why = find_server(site, request.host)
    if server.redirect:
        to = f"{request.scheme}://{server.redirect}{request.target}"
        return Explanation(server, None, path, status=308, to=to, certificate=certificate, why=(why, f"from-to-www-redirect sends all to {server.redirect}"))  # fmt: skip
    root = next((root for root in _app_roots(server) if path == "/"), "")
    if root:
        return Explanation(server, None, path, status=302, to=f"{request.scheme}://{request.host}{root}", certificate=certificate, why=(why, "app-root sends / there"))  # fmt: skip
    location, others = find_location(server, path)
    reasons = [why]
    if location is None:
        location = server.default or (site.default if server.spelled else None)
        reasons.append("no path of the host matches" + ("" if location is None else f": {'its' if server.default else 'the'} default backend, of Ingress {location.source.ingress}"))  # fmt: skip
    else:
        reasons.append(f"{location.type} path {location.written or '/'} matches, {location.source.field} of Ingress {location.source.ingress}")  # fmt: skip
    base = Explanation(server, location, path, certificate=certificate, others=others)
    if location is None:
        return base._replace(status=404, why=(*reasons, "and there is no default backend"))
    return _answer(site, request, base, location, reasons)


def _answer(site: Site, request: Request, base: Explanation, location: Location, why: list[str]) -> Explanation:
    """What the location does."""
    assert base.server is not None
    options = location.options
    if options.denied:
        return base._replace(status=503, why=(*why, f"closed: {options.denied}"))
    if options.redirects.to:
        to = _expanded(options.redirects.to, request)
        return base._replace(status=options.redirects.code, to=to, why=(*why, "an annotation redirects all requests"))
    if request.scheme == "http" and redirects.to_https(options.redirects, base.server.tls):
        to = f"https://{_name(request.host)}{request.target}"
        return base._replace(status=308, to=to, why=(*why, "ssl-redirect: the host has TLS"))
    choices = tuple(_choices(site, request, location))
    if not location.backend.upstream or not any(each.endpoints or _external(site, each.backend) for each in choices):
        return base._replace(status=503, choices=choices, why=(*why, location.backend.lack))
    return base._replace(sent=_sent(request, base.path, location, options), choices=choices, why=tuple(why))


def find_server(site: Site, host: str) -> tuple[Server, str]:
    """The server of a host, as NGINX and our rule of one label for a wildcard find it, and why."""
    name = _name(host)
    servers = {each: server for server in site.servers for each in (server.host, *server.aliases)}
    every = servers[""]
    if name and name in servers and not name.startswith("*"):
        server = servers[name]
        like = "" if server.like is None else f"; its rules are those of {server.like or 'all other hosts'}"
        return server, f"host {name} is that of a server" + (f" (an alias of {server.host})" if server.host != name else "") + like  # fmt: skip
    above = paths.parent(name)
    if above and above in servers:
        return servers[above], f"host {name} has one label more than {above[2:]}: server {above}"
    chosen = next((servers[each] for each in _wildcards(name) if each in servers), None)
    if chosen is None or not chosen.deep:
        return chosen or every, f"no rule has host {name or '(none)'}: the server for all others"
    if not chosen.others and every.spelled:
        return (
            chosen._replace(locations=(), default=None, spelled={}),
            f"no rule has host {name}, and there are too many wildcards for the rules without host to be copied for {chosen.host}",
        )
    return every, f"no rule has host {name}, and {chosen.host} is for one label: the server for all others"


def _wildcards(name: str) -> Iterator[str]:
    while above := paths.parent(name):
        yield above
        name = above[2:]


def find_location(server: Server, path: str) -> tuple[Location | None, tuple[tuple[Location, str], ...]]:
    """The first location, in order of precedence, that matches a normalised path; and those that do not have it, with the reason."""
    found, others = None, []
    for each in server.locations:
        if not matches(each, path):
            others.append((each, "does not match"))
        elif found is None:
            found = each
        else:
            others.append((each, f"matches, but {found.type} {found.written} goes before"))
    return found, tuple(others)


def matches(location: Location, path: str) -> bool:
    """Whether a location's path matches a normalised one."""
    if location.type == PathType.EXACT:
        return path == location.path
    if location.type == PathType.PREFIX:
        return paths.covers(location.path, path)
    return regex.python(location.path).match(uri.octets(path)) is not None


def _name(host: str) -> str:
    return re.sub(r":[0-9]*$", "", host).lower().rstrip(".")


def _certificate(site: Site, request: Request) -> str | None:
    if request.scheme != "https":
        return None
    name = _name(request.host if request.sni is None else request.sni)
    servers = {each: server for server in site.servers for each in (server.host, *server.aliases)}
    found = servers.get(name) or next((servers[each] for each in _wildcards(name) if each in servers), servers[""])
    return found.certificate or site.default_certificate


def _app_roots(server: Server) -> Iterator[str]:
    rest = (server.default,) if server.default else ()
    for each in (*server.locations, *rest):
        if each.options.rewrite.app_root:
            yield each.options.rewrite.app_root


def _values(request: Request) -> dict[str, str]:
    _, arguments = uri.split(request.target)
    return {
        "scheme": request.scheme, "pass_access_scheme": request.scheme, "host": _name(request.host), "http_host": request.host,
        "best_http_host": request.host, "request_uri": request.target, "args": arguments, "query_string": arguments,
        "is_args": "?" if arguments else "", "request_method": request.method,
    }  # fmt: skip


def _expanded(text: str, request: Request) -> str:
    """A text with variables, as far as they are known beforehand."""
    values = _values(request)
    return re.sub(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))", lambda found: values.get(found[1] or found[2], found[0]), text)


def _sent(request: Request, path: str, location: Location, options: Options) -> str:
    """The target that the endpoint gets: the client's own, or what rewrite-target makes of it."""
    target = options.rewrite.target
    if not target:
        return request.target
    groups: tuple[str | None, ...] = ()
    if location.type == PathType.REGEX:
        found = regex.python(location.path).match(uri.octets(path))
        groups = found.groups() if found else ()
    values = [text.encode("latin-1").decode("utf-8", "replace") if text else "" for text in groups]
    new = re.sub(r"\$(?:\{([1-9])\}|([1-9]))", lambda m: values[n - 1] if (n := int(m[1] or m[2])) <= len(values) else "", target)  # fmt: skip
    arguments = uri.split(request.target)[1]
    return new + (("&" if "?" in new else "?") + arguments if arguments else "")


def _choices(site: Site, request: Request, location: Location) -> Iterator[Choice]:
    """The backends in question: a canary takes what its header or cookie says, else its share."""
    rest = 1.0
    for each in location.canaries:
        share, why = _share(each, request)
        endpoints = _endpoints(site, each.backend)
        if share and endpoints:
            yield Choice(each.backend, each.source.ingress, rest * share, endpoints, f"canary: {why}")
            rest *= 1 - share
    if rest:
        yield Choice(location.backend, location.source.ingress, rest, _endpoints(site, location.backend), location.backend.lack)  # fmt: skip


def _share(canary: Canary, request: Request) -> tuple[float, str]:
    asked = canary.options.canary
    if asked.header and (said := request.headers.get(asked.header.lower())) is not None:
        if asked.value or asked.pattern:
            if said == asked.value or (asked.pattern and re.search(asked.pattern, said)):
                return 1.0, f"header {asked.header} is {said!r}"
        elif said in ("always", "never"):
            return float(said == "always"), f"header {asked.header} is {said}"
    if asked.cookie and (said := request.cookies.get(asked.cookie)) in ("always", "never"):
        return float(said == "always"), f"cookie {asked.cookie} is {said}"
    return asked.weight / asked.total, f"weight {asked.weight} of {asked.total}"


def _endpoints(site: Site, backend: Backend) -> tuple[Endpoint, ...]:
    found = site.upstreams.get(backend.upstream)
    return found.endpoints if found else ()


def _external(site: Site, backend: Backend) -> bool:
    found = site.upstreams.get(backend.upstream)
    return bool(found and found.external)
