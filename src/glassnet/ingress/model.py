"""What NGINX is to do, as values: servers, their locations, upstreams, certificates, and what could not be had.

Names are those of the Ingress API (networking.k8s.io/v1) and of NGINX.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from glassnet.ingress.options import Options, Spelled
from glassnet.kube.view import Key

CONTROLLER = "glassnet.dev/ingress"
OTHER_CONTROLLER = "k8s.io/ingress-nginx"
CLASS_ANNOTATION = "kubernetes.io/ingress.class"
DEFAULT_CLASS_ANNOTATION = "ingressclass.kubernetes.io/is-default-class"


class Settings(NamedTuple):
    """What a controller is told. `files` is what a worker may have open, 0 for four times its connections. Addresses are as `listen` takes them ("0.0.0.0:80", "[::]:80", "unix:/run/x.sock").

    `controllers` are the values of IngressClass.spec.controller that are ours; `class_name` is ours in the annotation kubernetes.io/ingress.class;
    with `watch_without_class` an Ingress without any class is ours too. `default_certificate` is NAMESPACE/NAME of a Secret, "" for the one
    given to `render.files`. `https_port` is what clients use, for redirects. `resolvers` are name servers for Services of type ExternalName;
    without them such a Service has no endpoints. `trusted` are the addresses and prefixes whose X-Forwarded-* (or PROXY protocol header, with
    `proxy_protocol`) are believed. `access_log` are NGINX's destinations; none for no log. `workers` 0 is one a core; `user` may have a group behind it. `shutdown` is in seconds.
    `copies` bounds the locations that are written more than once. Ingresses in `left_out` are not looked at: NGINX refused what came of them.
    """

    controllers: tuple[str, ...] = (CONTROLLER,)
    class_name: str = "nginx"
    watch_without_class: bool = False
    default_certificate: str = ""
    http: tuple[str, ...] = ("0.0.0.0:80", "[::]:80")
    https: tuple[str, ...] = ("0.0.0.0:443", "[::]:443")
    status: str = "127.0.0.1:10246"
    https_port: int = 443
    http2: bool = True
    proxy_protocol: bool = False
    trusted: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    access_log: tuple[str, ...] = ("/dev/stdout",)
    error_log: str = "stderr"
    workers: int = 0
    connections: int = 16384
    files: int = 0
    shutdown: int = 240
    user: str = ""
    modules: tuple[str, ...] = ()
    keepalive: int = 32
    copies: int = 5_000
    left_out: frozenset[Key] = frozenset()


class Problem(NamedTuple):
    """What an object asks for and does not get, or gets in a way that may surprise: `kind` and `key` of the object, `reason` (CamelCase) for
    an Event, `message` for people."""

    kind: str
    key: Key
    reason: str
    message: str


class PathType(StrEnum):
    """How a path is matched: the whole of it, element by element, or as a regular expression anchored at the start."""

    EXACT = "Exact"
    PREFIX = "Prefix"
    REGEX = "Regex"


class Endpoint(NamedTuple):
    """One address and port of a backend, and the pod and node it is, where known."""

    address: str
    port: int
    pod: str = ""
    node: str = ""


class Upstream(NamedTuple):
    """One port of a Service: `name` is that of NGINX's upstream block. `external` is the host of a Service of type ExternalName, else ""."""

    name: str
    service: Key
    port: int
    endpoints: tuple[Endpoint, ...] = ()
    external: str = ""
    app_protocol: str = ""


class Source(NamedTuple):
    """Where a location comes from. `rule` and `path` are indexes; -1: spec.defaultBackend."""

    ingress: Key
    rule: int = -1
    path: int = -1

    @property
    def field(self) -> str:
        """The field of the Ingress, as in `spec.rules[0].http.paths[1]`."""
        return "spec.defaultBackend" if self.rule < 0 else f"spec.rules[{self.rule}].http.paths[{self.path}]"


class Backend(NamedTuple):
    """The Service of a path: `port` as it is written (a name or a number). `upstream` is "" where it has none (503), and `lack` says why."""

    service: Key
    port: str = ""
    upstream: str = ""
    lack: str = ""

    def __str__(self) -> str:
        return f"{self.service}:{self.port}"


class Canary(NamedTuple):
    """Another backend for some of a location's requests: which of them, its options say."""

    source: Source
    backend: Backend
    options: Options


class Location(NamedTuple):
    """One path of a host. `path` is what is matched (Prefix: without the slash at the end, "/" stays; Regex: the pattern, without anchor);
    `written` is what the user wrote."""

    path: str
    type: PathType
    written: str
    source: Source
    backend: Backend
    options: Options
    canaries: tuple[Canary, ...] = ()


class Server(NamedTuple):
    """One host: in lower case, `*.` for one label, "" for all that no other server has. `aliases` are further names (server-alias).

    `default` takes what no location does; None: the Site's, and 404 without one. `certificate` is a Certificate's name, "" for the default
    one; `tls` that an Ingress of this host asks for TLS. `ingresses` are the options of every Ingress with a rule for the host, oldest first.

    `like` is the host whose locations these are, where a server is there for its names or its certificate alone; None for its own. A server
    of a wildcard is chosen by NGINX for names of more labels too; with `others` it has to serve them as the server of all others does.
    `redirect` is the host all requests are sent to (from-to-www-redirect), "" for none; `passthrough` the backend that TLS goes to unopened.
    `spelled` are the directives that options and the hand-over come to, for each location by its source.
    """

    host: str
    locations: tuple[Location, ...] = ()
    default: Location | None = None
    aliases: tuple[str, ...] = ()
    certificate: str = ""
    tls: bool = False
    ingresses: tuple[tuple[Key, Options], ...] = ()
    like: str | None = None
    others: bool = False
    redirect: str = ""
    passthrough: Backend | None = None
    spelled: dict[Source, Spelled] = {}

    @property
    def deep(self) -> bool:
        """Whether NGINX chooses it for hosts whose rules are others: its wildcard is for one label."""
        return self.host.startswith("*") and self.like != "" and not self.redirect


class Certificate(NamedTuple):
    """A Secret of type kubernetes.io/tls, checked: PEM of the chain and of the key. `repr` shows no key."""

    name: str
    secret: Key
    chain: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Certificate({self.name!r})"


class Site(NamedTuple):
    """All of it. Servers are in order of their hosts, the one for all others ("") first; it is always there. `files` are further ones that
    options need, by name. `problems` are those of all objects, in order."""

    servers: tuple[Server, ...]
    upstreams: dict[str, Upstream] = {}
    certificates: tuple[Certificate, ...] = ()
    default: Location | None = None
    default_certificate: str = ""
    files: tuple[tuple[str, bytes], ...] = ()
    problems: tuple[Problem, ...] = ()
