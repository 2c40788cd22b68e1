"""Where options are spelled, and what comes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glassnet.ingress.syntax import Directive

if TYPE_CHECKING:
    from glassnet.ingress.options.canary import Canary


class Backend(NamedTuple):
    """A Service's port that can be served: the name of its `upstream` block, and its endpoints as `server` takes them.

    `endpoints` may be empty when only NGINX knows them (a name that it looks up); a cookie then leads nowhere.
    """

    upstream: str
    endpoints: tuple[str, ...] = ()


class Place(NamedTuple):
    """One location: what options must know of it.

    `regex` is the regular expression it matches by, "" for a literal path; `path` is as the Ingress has it. `tls` says that its host has
    TLS, which clients reach at `https_port`. `backend` is None without endpoints. `canaries` are the canary Ingresses of the same host and path, oldest first, those with
    endpoints. `errors` is the Service of the annotation `default-backend`, or else the controller's default backend; None without endpoints.
    `port` is the Service's port, as the Ingress has it.
    """

    namespace: str
    ingress: str
    service: str = ""
    port: str = ""
    path: str = "/"
    regex: str = ""
    tls: bool = False
    https_port: int = 443
    backend: Backend | None = None
    canaries: tuple[tuple[Canary, Backend], ...] = ()
    errors: Backend | None = None


class Spelled(NamedTuple):
    """Directives, by where they go: inside the location, further locations of the server, inside the server, inside `http`.

    Many places give the same directive: `internal`, `server` and `http` take each once (they compare equal).
    """

    location: tuple[Directive, ...] = ()
    internal: tuple[Directive, ...] = ()
    server: tuple[Directive, ...] = ()
    http: tuple[Directive, ...] = ()


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
        self.request: dict[str, str] = {}
        self.response: list[tuple[str, str]] = []
        self.hidden: list[str] = []
        self.choice = place.backend.upstream if place.backend else ""
