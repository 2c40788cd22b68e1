"""The rules of all Ingresses, gathered by host: who has which path, and who comes too late."""

from __future__ import annotations

from dataclasses import dataclass, field

from glassnet.ingress import paths, regex
from glassnet.ingress.backends import Backends
from glassnet.ingress.model import Backend, Canary, Location, PathType, Source
from glassnet.ingress.options import Options
from glassnet.ingress.taken import Taken
from glassnet.kube.ingress import HTTPIngressPath, IngressBackend
from glassnet.kube.view import Key


@dataclass
class Host:
    """What is known of one host. `tls`: an Ingress with a rule for it asks for TLS."""

    locations: dict[tuple[PathType, str], Location] = field(default_factory=dict)
    default: Location | None = None
    ingresses: dict[Key, Options] = field(default_factory=dict)
    tls: bool = False


class Hosts:
    """All hosts. Ingresses are added oldest first: the first to claim something has it."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self.by_name: dict[str, Host] = {"": Host()}
        self.default: Location | None = None

    def add(self, taken: Taken) -> None:
        """An Ingress's rules and its default backend."""
        ingress, rules = taken.ingress, taken.ingress.spec.rules
        for number, rule in enumerate(rules):
            try:
                name = paths.host(rule.host)
            except paths.BadHost as error:
                taken.wrong("BadHost", f"spec.rules[{number}].host: {error}; the rule is left out")
                continue
            host = self.by_name.setdefault(name, Host())
            host.ingresses[taken.key] = taken.options
            if name not in taken.hosts:
                taken.hosts.append(name)
            for place, path in enumerate(rule.http.paths if rule.http else ()):
                self._add_path(taken, name, host, Source(taken.key, number, place), path)
        if ingress.spec.default_backend is None:
            return
        if not rules:
            self._add_global(taken, ingress.spec.default_backend)
        for name in taken.hosts:
            self._add_default(taken, name, ingress.spec.default_backend)

    def _add_path(self, taken: Taken, name: str, host: Host, source: Source, path: HTTPIngressPath) -> None:
        found = self._path(taken, source, path)
        if found is None:
            return
        other = host.locations.get((found.type, found.path))
        if other is not None:
            whose = "" if other.source.ingress == taken.key else f" of the older Ingress {other.source.ingress}"
            taken.wrong("Conflict", f"{source.field}: {found.type} path {found.path!r} of host {name or '*'} is that of {other.source.field}{whose}, which keeps it")  # fmt: skip
            return
        host.locations[found.type, found.path] = found

    def _path(self, taken: Taken, source: Source, path: HTTPIngressPath) -> Location | None:
        """A path checked; None, and a problem, when it cannot be had."""
        try:
            matched, how = paths.path(path.path, path.path_type, taken.options.regex)
        except regex.BadRegex as error:
            taken.wrong("BadRegex", f"{source.field}.path: {error}; the path is left out")
            return None
        except paths.BadPath as error:
            taken.wrong("BadPath", f"{source.field}.path: {error}; the path is left out")
            return None
        return Location(matched, how, path.path, source, self._backend(taken, source, path.backend), taken.options)

    def _backend(self, taken: Taken, source: Source, backend: IngressBackend) -> Backend:
        found = self._backends.of(taken.key.namespace, backend, taken.options.protocol.pool)
        if not found.upstream:
            what = source.field if source.rule < 0 else f"{source.field}.backend"
            taken.wrong("BackendUnavailable", f"{what}: {found.lack}; requests get 503")
        return found

    def _default(self, taken: Taken, backend: IngressBackend) -> Location:
        source = Source(taken.key)
        return Location("/", PathType.PREFIX, "", source, self._backend(taken, source, backend), taken.options)

    def _add_global(self, taken: Taken, backend: IngressBackend) -> None:
        if self.default is not None:
            taken.wrong("Conflict", f"spec.defaultBackend: the default backend for all is that of the older Ingress {self.default.source.ingress}, which keeps it")  # fmt: skip
            return
        self.default = self._default(taken, backend)

    def _add_default(self, taken: Taken, name: str, backend: IngressBackend) -> None:
        host = self.by_name[name]
        if host.default is not None:
            taken.wrong("Conflict", f"spec.defaultBackend: the default backend of host {name or '*'} is that of the older Ingress {host.default.source.ingress}, which keeps it")  # fmt: skip
            return
        host.default = self._default(taken, backend)

    def add_canary(self, taken: Taken) -> None:
        """A canary's backends, for the locations of others with the same host and path."""
        for number, rule in enumerate(taken.ingress.spec.rules):
            for place, path in enumerate(rule.http.paths if rule.http else ()):
                source = Source(taken.key, number, place)
                try:
                    name = paths.host(rule.host)
                except paths.BadHost as error:
                    taken.wrong("BadHost", f"spec.rules[{number}].host: {error}; the rule is left out")
                    break
                self._attach(taken, self.by_name.get(name), name, source, path)

    def _attach(self, taken: Taken, host: Host | None, name: str, source: Source, path: HTTPIngressPath) -> None:
        found = self._path(taken, source, path)
        if found is None:
            return
        for how in (found.type, PathType.REGEX):
            main = host.locations.get((how, found.path if how == found.type else path.path)) if host else None
            if host is not None and main is not None:
                # its endpoints are spoken to as the main Ingress says, hence over connections of that kind
                backend = self._backends.of(taken.key.namespace, path.backend, main.options.protocol.pool)
                canary = Canary(source, backend, taken.options)
                host.locations[how, main.path] = main._replace(canaries=(*main.canaries, canary))
                return
        taken.wrong("CanaryAlone", f"{source.field}: no other Ingress has {found.type} path {found.path!r} of host {name or '*'}: a canary needs one")  # fmt: skip
