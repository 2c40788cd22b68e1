"""What the options of each location come to: `options.spell` asked for every location of every server."""

from __future__ import annotations

from glassnet.ingress import headers, options, regex
from glassnet.ingress.backends import Backends
from glassnet.ingress.model import Backend, Location, PathType, Problem, Server, Source
from glassnet.ingress.options import Options, Spelled
from glassnet.ingress.options.variables import key
from glassnet.ingress.syntax import Unwritable, check, directive
from glassnet.kube.view import Key
from glassnet.net.address import with_port

EXTERNAL = "external_"
"""Before the name of an upstream: the variable with the place of a Service of type ExternalName, looked up for each request."""


class Spelling:
    """Spells locations, each once for servers with TLS and once for those without."""

    def __init__(self, backends: Backends, default: Location | None, https_port: int) -> None:
        self._backends, self._default, self._https_port = backends, default, https_port
        self._known: dict[tuple[Source, bool], Spelled] = {}
        self._places: dict[Backend, options.Backend | None] = {}
        self.problems: dict[Problem, None] = {}

    def server(self, server: Server) -> dict[Source, Spelled]:
        """The directives of a server's locations, and of the default backend that takes the rest."""
        rest = server.default or self._default
        every = (*server.locations, rest) if rest else server.locations
        return {each.source: self.location(each, server.tls) for each in every}

    def location(self, location: Location, tls: bool) -> Spelled:
        """The directives of one location."""
        known = self._known.get((location.source, tls))
        if known is None:
            known = self._known[location.source, tls] = self._spell(location, tls)
        return known

    def _spell(self, location: Location, tls: bool) -> Spelled:
        chosen, ingress = location.options, location.source.ingress
        canaries = ((each.options.canary, self._place(each.backend)) for each in location.canaries)
        place = options.Place(
            namespace=ingress.namespace,
            ingress=ingress.name,
            service=location.backend.service.name,
            port=location.backend.port,
            path=location.path if location.type != PathType.REGEX else "/",
            regex=regex.anchored(location.path) if location.type == PathType.REGEX else "",
            tls=tls,
            https_port=self._https_port,
            backend=self._place(location.backend),
            canaries=tuple((canary, found) for canary, found in canaries if found),
            errors=self._errors(chosen, ingress),
        )
        spelled = options.spell(chosen, place, headers.GRPC if chosen.protocol.module == "grpc" else headers.PROXY)
        return spelled if chosen is options.NONE else self._written(spelled, location.source)

    def _written(self, spelled: Spelled, source: Source) -> Spelled:
        """The same if it can be written down; else a location that is closed, and a problem."""
        try:
            for each in spelled:
                check(each)
        except Unwritable as error:
            self.problems[Problem("Ingress", source.ingress, "Unwritable", f"{source.field}: {error}; the path answers 503")] = None  # fmt: skip
            return Spelled((directive("return", 503),))
        return spelled

    def _place(self, backend: Backend) -> options.Backend | None:
        """A backend as options know it; None without endpoints."""
        if backend not in self._places:
            upstream = self._backends.upstreams.get(backend.upstream)
            found = None
            if upstream and upstream.external:
                found = options.Backend(f"${EXTERNAL}{key(upstream.name)}")
            elif upstream and upstream.endpoints:
                found = options.Backend(upstream.name, tuple(with_port(each.address, each.port) for each in upstream.endpoints))  # fmt: skip
            self._places[backend] = found
        return self._places[backend]

    def _errors(self, chosen: Options, ingress: Key) -> options.Backend | None:
        if chosen.errors.backend:
            return self._place(self._backends.named(Key(ingress.namespace, chosen.errors.backend), ""))
        return self._place(self._default.backend) if self._default and chosen.errors.codes else None
