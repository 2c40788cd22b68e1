"""What Ingress reads of an API server, and how much of it is kept.

Secrets: one watch brings word of all that could hold a certificate or passwords, but only of those that an Ingress names is more kept than name
and version; service accounts' tokens, credentials of registries and Helm's releases do not even come over the wire. A Secret that an Ingress
begins to name is fetched once by its name; from then on the watch keeps it up to date.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import msgspec

from glassnet.client.watches import Watches
from glassnet.kube import kinds, types
from glassnet.kube.api import Api
from glassnet.kube.kinds import Kind
from glassnet.kube.types import Data
from glassnet.kube.view import Key, View
from glassnet.net.errors import ApiError, GlassnetError

log = logging.getLogger(__name__)
WATCHED = (kinds.INGRESS_CLASS, kinds.INGRESS, kinds.SERVICE, kinds.ENDPOINT_SLICE, kinds.CONFIG_MAP, kinds.SECRET)
_NEVER = ("kubernetes.io/service-account-token", "kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg", "helm.sh/release.v1", "bootstrap.kubernetes.io/token")  # fmt: skip
SECRETS = ",".join(f"type!={kind}" for kind in _NEVER)
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_HELD = "glassnet.dev/held"  # in the View only: the Secret's content is there
_shared: dict[Any, Any] = {}


def decode(kind: Kind, raw: bytes) -> Any:
    """Decode one object without what nobody looks at. Raises msgspec.ValidationError."""
    found = types.decode(kind, raw)
    meta = found.metadata
    annotations = {name: value for name, value in meta.annotations.items() if name != _APPLIED}
    slim = msgspec.structs.replace(
        meta, annotations=annotations, namespace=sys.intern(meta.namespace), owner_references=(), finalizers=(),
        labels={sys.intern(name): sys.intern(value) for name, value in meta.labels.items()},
    )  # fmt: skip
    if kind is kinds.ENDPOINT_SLICE:
        endpoints = tuple(
            msgspec.structs.replace(each, conditions=_one(each.conditions), node_name=sys.intern(each.node_name), zone="", hints=None)
            for each in found.endpoints
        )  # fmt: skip
        return msgspec.structs.replace(found, metadata=slim, endpoints=endpoints, ports=_one(found.ports))
    return msgspec.structs.replace(found, metadata=slim)


def _one(value: Any) -> Any:
    """The same object for equal values: there are few different ones."""
    if len(_shared) > 10_000:
        _shared.clear()
    return _shared.setdefault(value, value)


class NamedContents:
    """Secrets and ConfigMaps: of those that are named, the content; of the others, that they are there."""

    def __init__(self, api: Api, view: View) -> None:
        self._api, self._view = api, view
        self._named: dict[Kind, frozenset[Key]] = {kinds.SECRET: frozenset(), kinds.CONFIG_MAP: frozenset()}

    def decode(self, kind: Kind, raw: bytes) -> Data:
        """As the View is to hold it. Raises msgspec.ValidationError."""
        found: Data = types.decode(kind, raw)
        return self._held(kind, found, Key(found.metadata.namespace, found.metadata.name) in self._named[kind])

    def _held(self, kind: Kind, found: Data, whole: bool) -> Data:
        meta = types.Meta(
            found.metadata.name,
            sys.intern(found.metadata.namespace),
            found.metadata.uid,
            found.metadata.resource_version,
        )
        if not whole:
            return Data(meta, type=sys.intern(found.type))
        return Data(
            msgspec.structs.replace(meta, annotations={_HELD: ""}),
            found.data,
            found.binary_data,
            sys.intern(found.type),
        )

    async def fetch(self, kind: Kind, named: frozenset[Key]) -> None:
        """From now on these are the ones that are named; returns when the View has the content of each that exists."""
        before, self._named[kind] = self._named[kind], named
        for key in before - named:
            if (held := self._view.get(kind, key)) is not None:
                self._view.apply(kind, self._held(kind, held, False))
        for key in named:
            held = self._view.get(kind, key)
            if held is None or _HELD in held.metadata.annotations:
                continue  # a watch tells when it comes
            try:
                body = await self._api.get(kind, key.namespace, key.name)
            except GlassnetError as error:
                if not isinstance(error, ApiError) or error.status != 404:
                    log.warning("%s %s cannot be read: %s", kind.name, key, error)
                continue
            held = self._view.get(kind, key)
            if held is not None and _HELD not in held.metadata.annotations:  # else the watch was faster
                self._view.apply(kind, self.decode(kind, json.dumps(body).encode()))


def watch_ingresses(watches: Watches, contents: NamedContents) -> None:
    """Watch all that Ingress is made of."""
    for kind in WATCHED:
        named = kind in (kinds.SECRET, kinds.CONFIG_MAP)
        watches.add(
            kind,
            field_selector=SECRETS if kind is kinds.SECRET else "",
            decode=contents.decode if named else decode,
            never_empty=kind in (kinds.SERVICE, kinds.ENDPOINT_SLICE),
        )
