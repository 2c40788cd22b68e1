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
from glassnet.kube.types import EndpointConditions, EndpointHints, NodeAddress, SlicePort, Taint

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


class NodeSpec(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What a node is to have."""

    pod_cidr: str = msgspec.field(name="podCIDR", default="")
    pod_cidrs: tuple[str, ...] = msgspec.field(name="podCIDRs", default=())
    taints: tuple[Taint, ...] = ()


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    """Where a node is reached."""

    addresses: tuple[NodeAddress, ...] = ()


class Node(msgspec.Struct, frozen=True, gc=False):
    """A machine of the cluster: its pods' ranges, its addresses, its zone."""

    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def internal_ips(self) -> tuple[str, ...]:
        """Addresses of type InternalIP, in order."""
        return tuple(each.address for each in self.status.addresses if each.type == "InternalIP")


_NODES = msgspec.json.Decoder(Node)
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"  # well-known label: no load balancer's business
_NODE_LABELS = frozenset(
    {"topology.kubernetes.io/zone", "topology.kubernetes.io/region", "kubernetes.io/hostname", EXCLUDED}
)
_ADDRESSES = ("InternalIP", "ExternalIP")
_SLICES = msgspec.json.Decoder(EndpointSlice)
_KEPT = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless", "kubernetes.io/service-name")
_shared: dict[Any, Any] = {}


def decode(kind: Kind, raw: bytes) -> Any:
    """Decode one object. Raises msgspec.ValidationError when a field has another type than the API gives it."""
    if kind is kinds.NODE:
        return _node(_read(_NODES, Node, raw))
    if kind is not kinds.ENDPOINT_SLICE:
        return types.decode(kind, raw)
    piece = _read(_SLICES, EndpointSlice, raw)
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


def _read(decoder: Any, struct: type[Any], raw: bytes) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        return msgspec.convert(types.without_nulls(msgspec.json.decode(raw)), struct)


def _node(node: Node) -> Node:
    """Without the labels, annotations and addresses nobody asks for: a Node of a cloud has kilobytes of them."""
    meta, spec = node.metadata, node.spec
    labels = {name: sys.intern(value) for name, value in meta.labels.items() if name in _NODE_LABELS}
    own = Meta(meta.name, "", meta.uid, meta.resource_version, meta.creation_timestamp, meta.deletion_timestamp, labels)
    cidrs = spec.pod_cidrs or ((spec.pod_cidr,) if spec.pod_cidr else ())
    addresses = tuple(each for each in node.status.addresses if each.type in _ADDRESSES)
    return Node(own, NodeSpec(cidrs[0] if cidrs else "", cidrs, _one(spec.taints)), NodeStatus(addresses))


def _one(value: Any) -> Any:
    """The same object for equal values: there are few different ones."""
    if len(_shared) > 10_000:
        _shared.clear()
    return _shared.setdefault(value, value)
