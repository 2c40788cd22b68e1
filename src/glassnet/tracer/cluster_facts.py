"""Kubernetes objects -> who an address is: pods, nodes, and the addresses and endpoints of Services. What a connection is joined to.

Sources: kube-proxy's meaning of an endpoint's conditions (an absent one counts as true), KEP-1672 (terminating endpoints that still serve).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from glassnet.kube.types import EndpointSlice, Node, Pod, Service, without_nulls
from glassnet.kube.view import SERVICE_NAME_LABEL
from glassnet.net import address
from glassnet.net.errors import UsageError
from glassnet.proxy import compute
from glassnet.proxy.naming import service_port_name

CLUSTER_IP, NODE_PORT, EXTERNAL_IP, LOAD_BALANCER_IP = "ClusterIP", "NodePort", "ExternalIP", "LoadBalancerIP"
_STRUCTS: dict[str, type[Any]] = {"Service": Service, "EndpointSlice": EndpointSlice, "Pod": Pod, "Node": Node}

Place = tuple[str, int]


class Party(NamedTuple):
    """Who an address is. `kind`: "pod", "node", "lost" (of a pod range, but no living pod's), "outside". `node`: where it is, "" if unknown."""

    kind: str
    name: str
    node: str
    address: str

    def __str__(self) -> str:
        if self.kind == "lost":
            return f"{self.address} (no living pod)"
        return f"{self.kind} {self.name} ({self.address})" if self.name else self.address


@dataclass(frozen=True, slots=True)
class ServicePortFact:
    """One port of a Service: `namespace/name[:port]`, protocol in lower case, the (address, port) pairs of endpoints.

    `listed` are all its endpoints in slices, `live` those of them whose condition serving or ready is not false.
    """

    name: str
    protocol: str
    live: frozenset[Place] = frozenset()
    listed: frozenset[Place] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """A cluster as far as its addresses go. Make it with `facts_from`; addresses are in their one spelling.

    `pods`: address -> (namespace/name, node) of living pods with an address of their own. `nodes`: address -> name.
    `virtual`: (protocol, address, port) -> (Service port, kind of address). `node_ports`: (protocol, port) -> Service port.
    `ranges`: (bits of the address, prefix length, the prefix's bits) -> node, of the nodes' pod ranges. `pods_known`, `endpoints_known`: pods,
    EndpointSlices were given at all; without them nothing is said about what is missing.
    """

    pods: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    virtual: Mapping[tuple[str, str, int], tuple[ServicePortFact, str]] = field(default_factory=dict)
    node_ports: Mapping[Place, ServicePortFact] = field(default_factory=dict)
    ranges: Mapping[tuple[int, int, int], str] = field(default_factory=dict)
    pods_known: bool = False
    endpoints_known: bool = False

    def party(self, text: str) -> Party:
        """Who an address (in its one spelling) is. The first address of a node's pod range is the node's own: its bridge, the pods' gateway."""
        if text in self.pods:
            name, node = self.pods[text]
            return Party("pod", name, node, text)
        if text in self.nodes:
            return Party("node", self.nodes[text], self.nodes[text], text)
        found = ipaddress.ip_address(text)
        for bits, length in {(bits, length) for bits, length, _ in self.ranges} if self.ranges else ():
            prefix = int(found) >> (bits - length)
            if bits == found.max_prefixlen and (bits, length, prefix) in self.ranges:
                node = self.ranges[bits, length, prefix]
                if int(found) - (prefix << (bits - length)) <= 1:
                    return Party("node", node, node, text)
                return Party("lost" if self.pods_known else "outside", "", node, text)
        return Party("outside", "", "", text)


def facts_from(objects: Iterable[Mapping[str, Any]]) -> Facts:
    """Take Services, EndpointSlices, Pods and Nodes (JSON objects, or lists of them) for what they say about addresses; skip other kinds.

    Services without a virtual IP, and those another proxy serves, have none. Raises UsageError for an object whose fields have wrong types.
    """
    services: list[Service] = []
    slices: dict[tuple[str, str], list[EndpointSlice]] = {}
    pods: list[Pod] = []
    nodes: list[Node] = []
    for body in _flat(objects):
        found = _decoded(body)
        if isinstance(found, Service):
            services.append(found)
        elif isinstance(found, EndpointSlice):
            owner = found.metadata.labels.get(SERVICE_NAME_LABEL, "")
            slices.setdefault((found.metadata.namespace, owner), []).append(found)
        elif isinstance(found, Pod):
            pods.append(found)
        elif isinstance(found, Node):
            nodes.append(found)
    virtual: dict[tuple[str, str, int], tuple[ServicePortFact, str]] = {}
    node_ports: dict[Place, ServicePortFact] = {}
    for service in services:
        pieces = slices.get((service.metadata.namespace, service.metadata.name), [])
        _take_service(service, pieces, virtual, node_ports)
    return Facts(_pods(pods), _nodes(nodes), virtual, node_ports, _ranges(nodes), bool(pods), bool(slices))


def _flat(objects: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for body in objects:
        if not isinstance(body, Mapping):
            raise UsageError(f"want Kubernetes objects, got {type(body).__name__}")
        kind = body.get("kind")
        if isinstance(kind, str) and kind.endswith("List") and isinstance(body.get("items"), list):
            for item in body["items"]:
                if isinstance(item, Mapping) and "kind" not in item:  # items of a typed list do not say their kind
                    item = {**item, "kind": kind.removesuffix("List")}
                yield from _flat([item])
        else:
            yield body


def _decoded(body: Mapping[str, Any]) -> Any:
    struct = _STRUCTS.get(str(body.get("kind")))
    if struct is None:
        return None
    try:
        return msgspec.convert(without_nulls(dict(body)), struct)
    except msgspec.ValidationError as error:
        metadata = body.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, Mapping) else ""
        raise UsageError(f"{body['kind']}/{name}: {error}") from None


def _take_service(
    service: Service,
    slices: list[EndpointSlice],
    virtual: dict[tuple[str, str, int], tuple[ServicePortFact, str]],
    node_ports: dict[Place, ServicePortFact],
) -> None:
    facts = {
        (name := service_port_name(service.metadata.namespace, service.metadata.name, port.name), port.protocol): (
            ServicePortFact(name, port.protocol.lower(), *_endpoints(port.name, port.protocol, slices))
        )
        for port in service.spec.ports
    }
    for family in (address.IPV4, address.IPV6):
        for port in compute.service_ports(service, (), family=family):
            fact = facts[port.name, port.protocol]
            for kind, ips in (
                (LOAD_BALANCER_IP, port.load_balancer_ips),
                (EXTERNAL_IP, port.external_ips),
                (CLUSTER_IP, (port.cluster_ip,)),
            ):
                for ip in ips:
                    virtual[fact.protocol, ip, port.port] = (fact, kind)
            if port.node_port:
                node_ports[fact.protocol, port.node_port] = fact


def _endpoints(name: str, protocol: str, slices: list[EndpointSlice]) -> tuple[frozenset[Place], frozenset[Place]]:
    live: set[Place] = set()
    listed: set[Place] = set()
    for piece in slices:
        for there in piece.ports or ():
            if there.name != name or (there.protocol or "TCP") != protocol or not there.port:
                continue
            for endpoint in piece.endpoints:
                ip = address.canonical(endpoint.addresses[0]) if endpoint.addresses else ""
                if ip:
                    listed.add((ip, there.port))
                    if endpoint.conditions.serving is not False or endpoint.conditions.ready is not False:
                        live.add((ip, there.port))
    return frozenset(live), frozenset(listed)


def _pods(pods: Iterable[Pod]) -> dict[str, tuple[str, str]]:
    """Addresses of pods that are not finished; a pod in the node's own network has none of its own."""
    out: dict[str, tuple[str, str]] = {}
    for pod in pods:
        if pod.finished() or pod.spec.host_network:
            continue
        for text in (pod.status.pod_ip, *(item.ip for item in pod.status.pod_ips)):
            if ip := address.canonical(text):
                out[ip] = (f"{pod.metadata.namespace}/{pod.metadata.name}", pod.spec.node_name)
    return out


def _nodes(nodes: Iterable[Node]) -> dict[str, str]:
    """Addresses of nodes: those of the status, and annotations that are one (network add-ons leave a tunnel's address there)."""
    out: dict[str, str] = {}
    for node in nodes:
        noted = (text.partition("/")[0] for text in node.metadata.annotations.values() if len(text) < 50)
        for text in (*(item.address for item in node.status.addresses), *noted):
            if ip := address.canonical(text):
                out[ip] = node.metadata.name
    return out


def _ranges(nodes: Iterable[Node]) -> dict[tuple[int, int, int], str]:
    out: dict[tuple[int, int, int], str] = {}
    for node in nodes:
        for text in {node.spec.pod_cidr, *node.spec.pod_cidrs} - {""}:
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise UsageError(f"Node/{node.metadata.name}: pod range {text!r} is no CIDR") from None
            bits, length = network.max_prefixlen, network.prefixlen
            out[bits, length, int(network.network_address) >> (bits - length)] = node.metadata.name
    return out
