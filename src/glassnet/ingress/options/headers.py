"""upstream-vhost, custom-headers, connection-proxy-header: what headers the endpoint and the client get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from glassnet.ingress.options import variables
from glassnet.ingress.options.objects import Objects
from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import LONGEST, Reader, weight
from glassnet.ingress.syntax import directive, value

TOKEN = r"[A-Za-z0-9!#%&'*+.^_|~-]{1,128}"
OWN = frozenset({"content-length", "transfer-encoding", "connection", "upgrade", "trailer", "te", "keep-alive"})
"""Headers that frame a message (RFC 9110, 7.6.1): nobody but the server sets them."""
_VALUE = re.compile(r"[\x20-\x7e]*")


class Headers(NamedTuple):
    """`custom` names a ConfigMap of the Ingress' namespace with headers of the answers; `connection` is what the endpoint gets as Connection."""

    host: str = ""
    custom: str = ""
    connection: str = ""
    values: tuple[tuple[str, str], ...] = ()


def read(annotations: Reader) -> Headers:
    """The family's annotations."""
    return Headers(
        annotations.match("upstream-vhost", r"(?=.{1,300}$)(?:[A-Za-z0-9._-]|\$\{?\w+\}?)+(?::(?:[0-9]{1,5}|\$\{?\w+\}?))?", "give a host, with a port if need be"),
        annotations.match("custom-headers", r"(?:[a-z0-9.-]+/)?[a-z0-9.-]+", "give a ConfigMap as NAMESPACE/NAME"),
        annotations.match("connection-proxy-header", r"(?i:keep-alive|close|upgrade)", "give keep-alive, close or upgrade"),
    )  # fmt: skip


def spell(headers: Headers, draft: Draft) -> None:
    """The endpoint's go to `request`, the client's to `response`."""
    if headers.host:
        place = draft.place
        names = {
            **variables.REQUEST,
            "namespace": value(place.namespace),
            "ingress_name": value(place.ingress),
            "service_name": value(place.service),
            "service_port": value(place.port),
        }
        draft.request["Host"] = variables.expand(headers.host, names)
    if headers.connection:
        draft.request["Connection"] = headers.connection
    for header, text in headers.values:
        draft.response.append((header, value(text)))
        draft.hidden.append(header)


def resolve(headers: Headers, objects: Objects) -> Headers:
    """The ConfigMap's headers."""
    return headers._replace(values=named("custom-headers", headers.custom, objects)) if headers.custom else headers


def named(annotation: str, reference: str, objects: Objects) -> tuple[tuple[str, str], ...]:
    """Names and values of the headers in a ConfigMap; those that may not be set are complained of."""
    good = []
    for header, raw in sorted((objects.config_map(annotation, reference) or {}).items()):
        text = raw.decode("utf-8", "replace").strip()
        if (
            re.fullmatch(TOKEN, header)
            and _VALUE.fullmatch(text)
            and header.lower() not in OWN
            and weight(text) <= LONGEST
        ):
            good.append((header, text))
        else:
            objects.complain(annotation, f"ConfigMap {reference}: {header[:60]!r} is left out: no header that may be set here, or its value has other than printable ASCII")  # fmt: skip
    return tuple(good)


def directives(draft: Draft, module: str, base: Mapping[str, str]) -> None:
    """The headers as directives. A location that sets one loses those of the http block: `base` is given again."""
    if draft.request:
        for header, text in {**base, **draft.request}.items():
            draft.location.append(directive(f"{module}_set_header", header, text))
    draft.location += [directive(f"{module}_hide_header", each) for each in dict.fromkeys(draft.hidden)]
    draft.location += [directive("add_header", header, text, "always") for header, text in draft.response]
