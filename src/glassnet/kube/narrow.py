"""Services, EndpointSlices and Nodes with the fields a Service proxy looks at, and no more: a third of the memory.

The structs have the names and fields of `kube.types`, so that a View and the proxy take either. Strings and conditions that repeat are shared.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import msgspec

from glassnet.kube import kinds, types
from glassnet.kube.kinds import Kind
from glassnet.kube.types import EndpointConditions, EndpointHints, SlicePort

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


class Meta(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Who an object is."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @property
    def owner_references(self) -> tuple[()]:
        """Nobody asks a proxy's View for what belongs to whom."""
        return ()


class SliceEndpoint(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One endpoint."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    node_name: str = ""
    hints: EndpointHints | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Endpoints of one family behind a Service."""

    metadata: Meta
    address_type: str = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] | None = ()


_SLICES = msgspec.json.Decoder(EndpointSlice)
_KEPT = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless", "kubernetes.io/service-name")
_shared: dict[Any, Any] = {}


def decode(kind: Kind, raw: bytes) -> Any:
    """Decode one object. Raises msgspec.ValidationError when a field has another type than the API gives it."""
    if kind is not kinds.ENDPOINT_SLICE:
        return types.decode(kind, raw)
    try:
        piece = _SLICES.decode(raw)
    except msgspec.ValidationError:
        piece = msgspec.convert(types.without_nulls(msgspec.json.decode(raw)), EndpointSlice)
    meta = piece.metadata
    labels = {name: value for name, value in meta.labels.items() if name in _KEPT}
    annotations = {TRIGGER: meta.annotations[TRIGGER]} if TRIGGER in meta.annotations else {}
    return EndpointSlice(
        Meta(
            meta.name,
            sys.intern(meta.namespace),
            "",
            meta.resource_version,
            None,
            None,
            labels,
            annotations,
        ),
        sys.intern(piece.address_type),
        tuple(
            SliceEndpoint(each.addresses[:1], _one(each.conditions), sys.intern(each.node_name), each.hints)
            for each in piece.endpoints
        ),
        _one(piece.ports),
    )


def _one(value: Any) -> Any:
    """The same object for equal values: there are few different ones."""
    if len(_shared) > 10_000:
        _shared.clear()
    return _shared.setdefault(value, value)
