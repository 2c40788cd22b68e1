"""What cluster DNS reads of an API server, and how much of each object it keeps."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from glassnet.client.watches import Watches
from glassnet.kube import kinds, types
from glassnet.kube.kinds import Kind
from glassnet.kube.narrow import Meta
from glassnet.kube.types import EndpointConditions, ServicePortSpec, SlicePort, TargetRef

WATCHED = (kinds.NAMESPACE, kinds.SERVICE, kinds.ENDPOINT_SLICE)
_NAME, _HEADLESS = "kubernetes.io/service-name", "service.kubernetes.io/headless"
_MANAGED = ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io")


class SliceEndpoint(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """One endpoint, with what gives it a name."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str = ""
    target_ref: TargetRef | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Endpoints of one family behind a Service."""

    metadata: Meta
    address_type: str = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] | None = ()


class ServiceSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What of a Service has a name."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] = msgspec.field(name="clusterIPs", default=())
    ports: tuple[ServicePortSpec, ...] = ()
    external_name: str = ""
    publish_not_ready_addresses: bool = False

    @property
    def selector(self) -> dict[str, str]:
        """Nobody asks this View for the pods of a Service."""
        return {}


class Service(msgspec.Struct, frozen=True, gc=False):
    """A Service."""

    metadata: Meta
    spec: ServiceSpec = ServiceSpec()


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """A namespace."""

    metadata: Meta


_STRUCTS: dict[Kind, type[Any]] = {kinds.NAMESPACE: Namespace, kinds.SERVICE: Service, kinds.ENDPOINT_SLICE: EndpointSlice}  # fmt: skip
_DECODERS = {kind: msgspec.json.Decoder(struct) for kind, struct in _STRUCTS.items()}
_shared: dict[Any, Any] = {}


def decode(kind: Kind, raw: bytes) -> Any:
    """Decode one object, without labels, annotations and endpoints that no record comes from. Raises msgspec.ValidationError."""
    try:
        found = _DECODERS[kind].decode(raw)
    except msgspec.ValidationError:
        found = msgspec.convert(types.without_nulls(msgspec.json.decode(raw)), _STRUCTS[kind])
    meta = found.metadata
    labels = {name: sys.intern(value) for name, value in meta.labels.items() if name in (_NAME, _HEADLESS)}
    own = Meta(meta.name, sys.intern(meta.namespace), meta.uid if kind is kinds.SERVICE else "", meta.resource_version, labels=labels)  # fmt: skip
    if kind is kinds.NAMESPACE:
        return Namespace(own)
    if kind is kinds.SERVICE:
        spec = found.spec
        return Service(own, msgspec.structs.replace(spec, ports=tuple(_one(port) for port in spec.ports)))
    # the controller of slices says which Services are headless; endpoints of others have no names
    named = _HEADLESS in meta.labels or meta.labels.get(_MANAGED[0]) != _MANAGED[1]
    endpoints = tuple(msgspec.structs.replace(each, conditions=_one(each.conditions)) for each in found.endpoints) if named else ()  # fmt: skip
    return EndpointSlice(own, sys.intern(found.address_type), endpoints, _one(found.ports) if named else ())


def _one(value: Any) -> Any:
    """The same object for equal values: there are few different ones."""
    if len(_shared) > 10_000:
        _shared.clear()
    return _shared.setdefault(value, value)


def watch_names(watches: Watches) -> None:
    """Watch all that has a name."""
    for kind in WATCHED:
        watches.add(kind, decode=decode, never_empty=True)
