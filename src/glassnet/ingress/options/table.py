"""All annotations of an Ingress as one value, and that value as directives for a location."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from glassnet.ingress.options import (
    access,
    affinity,
    aliases,
    basic_auth,
    buffers,
    canary,
    cors,
    errors,
    external_auth,
    headers,
    limits,
    passthrough,
    protocol,
    redirects,
    refused,
    rewrite,
    timeouts,
    variables,
)
from glassnet.ingress.options.objects import Objects
from glassnet.ingress.options.place import Draft, Place, Spelled
from glassnet.ingress.options.reading import Complaint, Reader
from glassnet.ingress.syntax import Directive, directive


class Options(NamedTuple):
    """What the annotations of an Ingress ask for, by family. `denied`: nobody may be let in, and why."""

    rewrite: rewrite.Rewrite = rewrite.Rewrite()
    redirects: redirects.Redirects = redirects.Redirects()
    buffers: buffers.Buffers = buffers.Buffers()
    timeouts: timeouts.Timeouts = timeouts.Timeouts()
    protocol: protocol.Protocol = protocol.Protocol()
    access: access.Access = access.Access()
    cors: cors.Cors = cors.Cors()
    affinity: affinity.Affinity = affinity.Affinity()
    basic_auth: basic_auth.BasicAuth = basic_auth.BasicAuth()
    external_auth: external_auth.ExternalAuth = external_auth.ExternalAuth()
    canary: canary.Canary = canary.Canary()
    limits: limits.Limits = limits.Limits()
    headers: headers.Headers = headers.Headers()
    passthrough: bool = False
    errors: errors.Errors = errors.Errors()
    server_aliases: tuple[str, ...] = ()
    denied: str = ""

    @property
    def regex(self) -> bool:
        """Whether paths of type ImplementationSpecific are regular expressions."""
        return self.rewrite.regex or bool(self.rewrite.target)

    @property
    def is_canary(self) -> bool:
        """Whether it serves only some requests of another Ingress' host and path."""
        return self.canary.on

    @property
    def secrets(self) -> frozenset[str]:
        """Names of Secrets that are read, each NAME or NAMESPACE/NAME; only those of the Ingress' namespace do."""
        return frozenset({self.basic_auth.secret, self.protocol.secret} - {""})

    @property
    def config_maps(self) -> frozenset[str]:
        """Names of ConfigMaps that are read, as `secrets`."""
        return frozenset({self.headers.custom, self.external_auth.request_headers} - {""})


NONE = Options()


def read(annotations: Mapping[str, str]) -> tuple[Options, list[Complaint]]:
    """The annotations of an Ingress. What is wrong is left out and complained of; if it is a lock, the Ingress stays closed."""
    reader = Reader(annotations)
    found = Options(
        rewrite.read(reader),
        redirects.read(reader),
        buffers.read(reader),
        timeouts.read(reader),
        protocol.read(reader),
        access.read(reader),
        cors.read(reader),
        affinity.read(reader),
        basic_auth.read(reader),
        external_auth.read(reader),
        canary.read(reader),
        limits.read(reader),
        headers.read(reader),
        passthrough.read(reader),
        errors.read(reader),
        aliases.read(reader),
    )
    refused.read(reader)
    return found._replace(denied=reader.denied), reader.complaints


def resolve(options: Options, objects: Objects) -> Options:
    """The options with what the objects that they name have. `objects` then holds files and complaints."""
    found = options._replace(
        protocol=protocol.resolve(options.protocol, objects),
        basic_auth=basic_auth.resolve(options.basic_auth, objects),
        external_auth=external_auth.resolve(options.external_auth, objects),
        headers=headers.resolve(options.headers, objects),
    )
    return found._replace(denied=found.denied or objects.denied)


def defaults() -> list[Directive]:
    """What holds without annotations, as ingress-nginx has it, for the http block."""
    return [*timeouts.defaults(), *timeouts.defaults("grpc"), *buffers.defaults(), directive("proxy_redirect", "off")]


def spell(options: Options, place: Place, base: Mapping[str, str]) -> Spelled:
    """The directives for a location of an Ingress, the hand-over to the upstream among them.

    `base` are the request headers that the http block sets, by name, values as NGINX takes them: a location that sets one sets all.
    Without a backend the location answers 503, or the Service of `default-backend` does.
    """
    if options.denied:
        return Spelled((directive("return", 503, comment=f"closed: {options.denied}"),))
    if not options.affinity.on:
        place = place._replace(
            path="/"
        )  # only a cookie tells paths apart: all of an Ingress's that lead to one Service are spelled once
    return _spell(options, place, tuple(base.items()))


@lru_cache(1 << 14)
def _spell(options: Options, place: Place, base: tuple[tuple[str, str], ...]) -> Spelled:
    draft = Draft(place)
    module = options.protocol.module
    rewrite.spell(options.rewrite, draft)
    redirects.spell(options.redirects, draft)
    access.spell(options.access, draft)
    basic_auth.spell(options.basic_auth, draft)
    external_auth.spell(options.external_auth, draft)
    limits.spell(options.limits, draft)
    buffers.spell(options.buffers, draft, module)
    timeouts.spell(options.timeouts, draft, module)
    cors.spell(options.cors, draft)
    headers.spell(options.headers, draft)
    if place.backend:
        canary.spell(place.canaries, draft)
        affinity.spell(options.affinity, draft)
        errors.spell(options.errors, draft, module, bool(options.external_auth.signin))
        protocol.spell(options.protocol, draft)
        headers.directives(draft, module, dict(base))
    elif place.errors:
        draft.last = errors.answer(draft, 503)
    else:
        draft.last = [directive("return", 503)]
    if any(_names(each, variables.ESCAPED_URI) for each in (*draft.first, *draft.internal)):
        draft.http += variables.escaped_uri()
    inside = (*draft.first, *draft.location, *draft.last)
    return Spelled(inside, tuple(draft.internal), tuple(draft.server), tuple(draft.http))


def _names(one: Directive, variable: str) -> bool:
    return any(variable in each for each in one.args) or any(_names(each, variable) for each in one.block or ())
