"""Where options are spelled, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from glassnet.ingress.options.reading import Complaint
from glassnet.ingress.syntax import Directive

if TYPE_CHECKING:
    from glassnet.ingress.options.canary import Canary

NOTHING: Mapping[str, Mapping[str, bytes]] = MappingProxyType({})


class Backend(NamedTuple):
    """A Service's port as NGINX knows it: the name of its `upstream` block, and its endpoints as `server` takes them."""

    upstream: str
    endpoints: tuple[str, ...] = ()


class Place(NamedTuple):
    """One location: what options must know of it.

    `key` names it ([a-z0-9_]+, the same after every computation); locations that differ only in how they match (`= /foo`, `/foo/`) share
    one. `regex` is the regular expression it matches by, "" for a literal path. `tls` says that its host has TLS. `canaries` are the
    canary Ingresses of the same host and path, oldest first. `errors` is the Service of the annotation `default-backend`, or else the default
    backend of the controller. `secrets` and `config_maps` are objects of the Ingress' namespace by name. `resolvers` are addresses of
    DNS servers for names in auth-url. `port` is the Service's port, as the Ingress has it.
    """

    key: str
    namespace: str
    ingress: str
    service: str = ""
    port: str = ""
    path: str = "/"
    regex: str = ""
    tls: bool = False
    backend: Backend | None = None
    canaries: tuple[tuple[Canary, Backend], ...] = ()
    errors: Backend | None = None
    secrets: Mapping[str, Mapping[str, bytes]] = NOTHING
    config_maps: Mapping[str, Mapping[str, bytes]] = NOTHING
    resolvers: tuple[str, ...] = ()


class Spelled(NamedTuple):
    """Directives, by where they go: inside the location, further locations of the server, inside the server, inside `http`.

    The same directive may be given for many locations: `http` and `server` take each once. `files` are further files, by names relative to
    nginx.conf. `complaints` are those that only the place tells: a Secret that is not there.
    """

    location: tuple[Directive, ...] = ()
    internal: tuple[Directive, ...] = ()
    server: tuple[Directive, ...] = ()
    http: tuple[Directive, ...] = ()
    files: Mapping[str, bytes] = MappingProxyType({})
    complaints: tuple[Complaint, ...] = ()


class Draft:
    """A `Spelled` in the making. The order of the phases in NGINX: `first` (redirects), `location`, `last` (rewrites, the hand-over).

    `request` and `response` are headers by name, the values as NGINX takes them; a location that sets one of them must set them all.
    `choice` is the variable that holds the upstream's name, or the name itself.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.first: list[Directive] = []
        self.location: list[Directive] = []
        self.last: list[Directive] = []
        self.internal: list[Directive] = []
        self.server: list[Directive] = []
        self.http: list[Directive] = []
        self.files: dict[str, bytes] = {}
        self.request: dict[str, str] = {}
        self.response: list[tuple[str, str]] = []
        self.hidden: list[str] = []
        self.complaints: list[Complaint] = []
        self.denied = ""
        self.choice = place.backend.upstream if place.backend else ""

    def complain(self, reason: str, message: str, *, closes: bool = False) -> None:
        """Records what the place lacks. With `closes` the location answers 503."""
        self.complaints.append(Complaint(reason, message + ("; until then its paths answer 503" if closes else "")))
        if closes:
            self.denied = self.denied or message
