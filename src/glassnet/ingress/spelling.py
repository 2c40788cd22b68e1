"""What the options of each location come to: `options.spell` asked for every location of every server."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from glassnet.ingress import headers, options, regex
from glassnet.ingress.backends import Backends
from glassnet.ingress.model import Backend, Location, PathType, Problem, Server, Settings, Source
from glassnet.ingress.options import Options, Spelled
from glassnet.ingress.options.affinity import Affinity
from glassnet.ingress.options.variables import key
from glassnet.kube import kinds
from glassnet.kube.types import Data
from glassnet.kube.view import Key, View
from glassnet.net.address import with_port

EXTERNAL = "external_"
"""Before the name of an upstream: the variable with the place of a Service of type ExternalName, looked up for each request."""


class Spelling:
    """Spells locations; `files` and `problems` are what came with it."""

    def __init__(self, view: View, backends: Backends, settings: Settings, default: Location | None) -> None:
        self._view, self._backends, self._settings, self._default = view, backends, settings, default
        self._known: dict[tuple[Source, bool], Spelled] = {}
        self._places: dict[Backend, options.Backend | None] = {}
        self.files: dict[str, bytes] = {}
        self.problems: dict[Problem, None] = {}

    def server(self, server: Server) -> dict[Source, Spelled]:
        """The directives of a server's locations, and of the default backend that takes the rest."""
        rest = server.default or self._default
        every = (*server.locations, rest) if rest else server.locations
        return {each.source: self.location(each, server) for each in every}

    def location(self, location: Location, server: Server) -> Spelled:
        """The directives of one location: a location has the same in all servers with TLS, and in all without."""
        known = self._known.get((location.source, server.tls))
        if known is None:
            known = self._known[location.source, server.tls] = self._spell(location, server)
        return known

    def _spell(self, location: Location, server: Server) -> Spelled:
        chosen, ingress = location.options, location.source.ingress
        backend = self.place(location.backend)
        if backend and backend.upstream.startswith("$"):
            chosen = chosen._replace(
                affinity=Affinity()
            )  # a cookie can name an endpoint, but not what a name stands for
        canaries = ((each.options.canary, self.place(each.backend)) for each in location.canaries)
        place = options.Place(
            key(str(location.source), location.type, location.path),
            ingress.namespace,
            ingress.name,
            location.backend.service.name,
            location.backend.port,
            location.path if location.type != PathType.REGEX else "/",
            regex.anchored(location.path) if location.type == PathType.REGEX else "",
            server.tls,
            backend,
            tuple((canary, found) for canary, found in canaries if found),
            self._errors(chosen, ingress),
            self._data(kinds.SECRET, ingress, chosen.secrets) if chosen.secrets else options.place.NOTHING,
            self._data(kinds.CONFIG_MAP, ingress, chosen.config_maps) if chosen.config_maps else options.place.NOTHING,
            self._settings.resolvers,
        )
        spelled = options.spell(chosen, place, headers.GRPC if chosen.protocol.module == "grpc" else headers.PROXY)
        self.files.update(spelled.files)
        for reason, message in spelled.complaints:
            self.problems[Problem("Ingress", ingress, reason, message)] = None
        return spelled

    def place(self, backend: Backend) -> options.Backend | None:
        """A backend as options know it; None without a Service."""
        if not backend.upstream:
            return None
        if backend not in self._places:
            upstream = self._backends.upstreams[backend.upstream]
            if upstream.external:
                found = options.Backend(f"${EXTERNAL}{key(upstream.name)}", (f"{upstream.external}:{upstream.port}",))
            else:
                found = options.Backend(upstream.name, tuple(with_port(each.address, each.port) for each in upstream.endpoints))  # fmt: skip
            self._places[backend] = found
        return self._places[backend]

    def _errors(self, chosen: Options, ingress: Key) -> options.Backend | None:
        if chosen.errors.backend:
            return self.place(self._backends.named(Key(ingress.namespace, chosen.errors.backend), ""))
        return self.place(self._default.backend) if self._default and chosen.errors.codes else None

    def _data(self, kind: kinds.Kind, ingress: Key, names: frozenset[str]) -> Mapping[str, Mapping[str, bytes]]:
        """Objects of the Ingress's own namespace; those of others are not for it."""
        out = {}
        for text in sorted(names):
            namespace, _, name = text.rpartition("/")
            found: Data | None = self._view.get(kind, Key(ingress.namespace, name))
            if found is not None and namespace in ("", ingress.namespace):
                out[name] = _octets(found, encoded=kind is kinds.SECRET)
        return out


def _octets(found: Data, *, encoded: bool) -> dict[str, bytes]:
    out = {}
    for name, text in found.data.items():
        try:
            out[name] = base64.b64decode(text) if encoded else text.encode()
        except (binascii.Error, ValueError):
            continue
    return out
