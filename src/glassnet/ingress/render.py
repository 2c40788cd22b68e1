"""From the Site to NGINX's files. Pure, and the same Site always gives the same octets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

from glassnet.ingress import defaults, order
from glassnet.ingress.model import Location, Server, Settings, Site, Source, Upstream
from glassnet.ingress.options import NONE, Spelled, passthrough, redirects
from glassnet.ingress.options.passthrough import Passthrough
from glassnet.ingress.options.variables import key
from glassnet.ingress.spelling import EXTERNAL
from glassnet.ingress.syntax import Directive, block, directive, entry, render, value
from glassnet.net.address import with_port

CONF = "nginx.conf"
OTHERS = "others:"
"""What a request's path begins with while it looks for the copies of the locations for all other hosts: no path of a client does."""
_JUMP, _GO = "@others", directive("return", 418)
_TERMINATOR, _THROUGH = "unix:tls.sock", "unix:through.sock"


def files(site: Site, settings: Settings, chain: bytes = b"", key: bytes = b"") -> dict[str, bytes]:
    """All files by names relative to NGINX's configuration. `chain` and `key` (PEM) are the default certificate where the Site names none.

    NGINX is to be started with a prefix (-p) it may write to. Raises Unwritable only for Settings that cannot be written.
    """
    out = {f"certificates/{each.name}.pem": each.chain + each.key for each in site.certificates}
    if site.default_certificate:
        out[defaults.DEFAULT_CERTIFICATE] = out[f"certificates/{site.default_certificate}.pem"]
    elif chain:
        out[defaults.DEFAULT_CERTIFICATE] = chain + key
    out |= dict(site.files)
    text = render(configuration(site, settings, defaults.DEFAULT_CERTIFICATE in out))
    digest = hashlib.sha256(text.encode())
    for name in sorted(out):
        digest.update(name.encode() + b"\0" + out[name])
    generation = digest.hexdigest()[:16]
    out[CONF] = ("# Written by glassnet; changes are lost.\n" + text.replace("return 200 _;", f"return 200 {generation};", 1)).encode()  # fmt: skip
    return out


def configuration(site: Site, settings: Settings, tls: bool = True, generation: str = "_") -> Iterator[Directive]:
    """nginx.conf as values. `tls`: there is a default certificate; `generation` is what its own server says it is."""
    yield from defaults.main(settings)
    through = [(each.host, each.passthrough) for each in site.servers if each.passthrough]
    if through and tls:
        yield _stream(site, settings)
    yield block("http", of=_http(site, settings, tls, generation))


def _http(site: Site, settings: Settings, tls: bool, generation: str) -> Iterator[Directive]:
    names = [name for each in site.servers for name in (each.host, *each.aliases)]
    spelled = {id(each): each for server in site.servers for each in server.spelled.values()}.values()
    extra = dict.fromkeys(each for one in spelled for each in one.http)
    yield from defaults.http(
        settings,
        names,
        len(extra) + len(site.upstreams),
        tls and any(each.passthrough for each in site.servers),
    )
    yield defaults.status(settings, generation)  # before all that comes of objects
    external = [each for each in site.upstreams.values() if each.external]
    if settings.resolvers:
        yield directive(
            "resolver",
            *(f"[{each}]" if each.count(":") > 1 and each[0] != "[" else each for each in settings.resolvers),
            "valid=10s",
        )
    for each in external:
        yield block("map", "$host", f"${EXTERNAL}{key(each.name)}", of=[entry("default", f"{each.external}:{each.port}")])  # fmt: skip
    yield from _labels(site)
    yield from extra
    yield from (_upstream(each, settings) for each in site.upstreams.values() if each.endpoints)
    writer = _Writer(site, settings, tls)
    yield from (writer.server(each) for each in site.servers)


def _upstream(upstream: Upstream, settings: Settings) -> Directive:
    """Of two endpoints taken at random the one with fewer requests: in turn, every reload would begin with the first again. Which endpoints
    are well is Kubernetes' to say: none is left out for failures NGINX has seen."""
    of = [directive("random", "two", "least_conn")] if len(upstream.endpoints) > 1 else []
    of += [directive("server", with_port(each.address, each.port), "max_fails=0") for each in upstream.endpoints]
    of += [directive("keepalive", settings.keepalive), directive("keepalive_requests", 10000)]
    return block("upstream", upstream.name, of=of, comment=f"Service {upstream.service}, port {upstream.port}")


def _labels(site: Site) -> Iterator[Directive]:
    """Whether a host has one label more than a wildcard of ours: NGINX's own wildcards stand for any number of labels."""
    wildcards = [name for each in site.servers if each.deep for name in (each.host, *each.aliases)]
    if not wildcards:
        return
    yield block("map", "$host", "$glassnet_parent", of=[entry("default", ""), entry(r"~^[^.]+(\..+)$", "$1")])
    yield block("map", "$glassnet_parent", "$glassnet_others", of=[entry("default", "1"), *(entry(name[1:], "") for name in sorted(wildcards))])  # fmt: skip


def _stream(site: Site, settings: Settings) -> Directive:
    from glassnet.ingress.options import Backend

    hosts = []
    for server in site.servers:
        if server.passthrough:
            upstream = site.upstreams.get(server.passthrough.upstream)
            endpoints = tuple(with_port(each.address, each.port) for each in upstream.endpoints) if upstream else ()
            hosts.append(Passthrough(server.host, Backend(server.passthrough.upstream, endpoints)))
    return passthrough.spell(hosts, settings.https, _TERMINATOR, _THROUGH, proxy_protocol=settings.proxy_protocol)


class _Writer:
    """Writes servers. Locations are written once, whatever servers they are in."""

    def __init__(self, site: Site, settings: Settings, tls: bool) -> None:
        self._site, self._settings, self._tls = site, settings, tls
        self._every = site.servers[0]
        self._passes = any(each.passthrough for each in site.servers)
        self._known: dict[tuple[Source, bool], tuple[Directive, ...]] = {}

    def server(self, server: Server) -> Directive:
        """One server block."""
        of = [*self._listen(server), directive("server_name", server.host or "_", *server.aliases)]
        if self._tls and (server.certificate or not server.host):
            name = f"certificates/{server.certificate}.pem" if server.certificate else defaults.DEFAULT_CERTIFICATE
            of += [directive("ssl_certificate", name), directive("ssl_certificate_key", name)]
        if server.redirect:
            of.append(redirects.www(server.redirect)[1])
            return block("server", of=of, comment=f"Host {server.host}, sent to {server.redirect}")
        copies = list(self._others()) if server.others else []
        if server.deep:
            go = directive("rewrite", "^", f"{OTHERS}$uri", "last") if copies else directive("return", 404)
            of.append(block("if", "($glassnet_others)", of=[go]))
        of += dict.fromkeys(each for one in server.spelled.values() for each in one.server)
        of += dict.fromkeys(each for one in (*server.spelled.values(), *(self._every.spelled.values() if copies else ())) for each in one.internal)  # fmt: skip
        of += self._locations(server)
        if any(step == _GO for each in copies for step in each.block or ()):
            to = directive("proxy_pass", "http://$glassnet_upstream$request_uri")
            of += [directive("error_page", 418, "=", _JUMP), block("location", _JUMP, of=[to])]
        of += copies
        return block("server", of=of, comment=_title(server))

    def _listen(self, server: Server) -> Iterator[Directive]:
        default = () if server.host else ("default_server",)
        protocol = ("proxy_protocol",) if self._settings.proxy_protocol else ()
        for each in self._settings.http:
            yield directive("listen", each, *default, *protocol)
        if not self._tls:
            return
        http2 = ("http2",) if self._settings.http2 else ()
        behind = self._passes
        for each in (_TERMINATOR,) if behind else self._settings.https:
            yield directive("listen", each, "ssl", *http2, *default, *(("proxy_protocol",) if behind else protocol))

    def _locations(self, server: Server) -> Iterator[Directive]:
        for match in order.matches(server.locations):
            location = match.location or server.default or self._site.default
            of = self._inside(location, server) if location else (directive("return", 404),)
            yield block("location", *([match.modifier] if match.modifier else []), match.pattern, of=of, comment=_about(location))  # fmt: skip

    def _inside(self, location: Location, server: Server) -> tuple[Directive, ...]:
        place = (location.source, server.tls)
        if place not in self._known:
            self._known[place] = tuple(_directives(location, server.spelled))
        return self._known[place]

    def _others(self) -> Iterator[Directive]:
        """Copies of the locations for all other hosts, for requests whose host has more labels than the wildcard of the server stands for."""
        server = self._every
        if not server.spelled:
            return
        back = directive("rewrite", f"(?s)^{OTHERS}(.*)$", "$1")
        every = dict.fromkeys(each for one in server.spelled.values() for each in one.server)
        for match in order.matches(server.locations):
            location = match.location or server.default or self._site.default
            of = [directive("return", 404)]
            if location is not None:
                of = _directives(location, server.spelled)
                plain = not every and location.options == NONE
                # Options look at the path: it is put back. Without any there is no need to, and a pattern for each is dear to compile.
                of = list(_jumping(of)) if plain else [back, *every, *_unrouted(of), directive("break")]
            pattern = match.pattern
            pattern = f"^{OTHERS}" + pattern.removeprefix("^") if match.modifier == "~" else OTHERS + pattern
            yield block("location", *([match.modifier] if match.modifier else []), pattern, of=of, comment=f"{_about(location)} (all other hosts)")  # fmt: skip


def _directives(location: Location, spelled: dict[Source, Spelled]) -> list[Directive]:
    source, backend = location.source, location.backend
    service = f"{backend.service.name}:{backend.port}" if backend.service.name else ""
    return [
        _set("$glassnet_namespace", source.ingress.namespace),
        _set("$glassnet_ingress", source.ingress.name),
        _set("$glassnet_rule", source.field),
        _set("$glassnet_service", service),
        *spelled[source].location,
    ]


@lru_cache(1 << 16)
def _set(variable: str, text: str) -> Directive:
    return directive("set", variable, value(text))


def _unrouted(of: Iterable[Directive]) -> Iterator[Directive]:
    """The same where the path has been changed and changed back: NGINX has forgotten how the client wrote it, so it is said. Not where the
    options rewrite the path."""
    every = list(of)
    rewrites = any(each.name == "rewrite" for each in every)
    for each in every:
        if each.name == "proxy_pass" and not rewrites:
            yield each._replace(args=(each.args[0] + "$request_uri",))
        else:
            yield each


def _jumping(of: Iterable[Directive]) -> Iterator[Directive]:
    """The same for a location without options, by one location for all: a proxy_pass with variables has a TLS context, which is dear."""
    for each in of:
        if each.name == "proxy_pass":
            yield directive("set", "$glassnet_upstream", each.args[0].removeprefix("http://"))
            yield _GO
        else:
            yield each


def _title(server: Server) -> str:
    names = ", ".join((server.host or "all others", *server.aliases))
    if server.like is None:
        return f"Host {names}"
    return f"Host {names}: as {server.like or 'all others'}, with a certificate or name of its own"


def _about(location: Location | None) -> str:
    if location is None:
        return "No rule"
    source, backend = location.source, location.backend
    what = "default backend" if source.rule < 0 else f"{location.type} {location.written or '/'}"
    lack = f" ({backend.lack})" if backend.lack else ""
    canaries = "".join(f"; canary: Ingress {each.source.ingress} -> Service {each.backend}" for each in location.canaries)  # fmt: skip
    return f"Ingress {source.ingress} {source.field}: {what} -> Service {backend}{lack}{canaries}"
