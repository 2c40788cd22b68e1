"""Services and EndpointSlices -> ServicePorts: what holds for every kind of rules, decided once.

Sources: Kubernetes documentation, "Virtual IPs and Service Proxies"; kube-proxy 1.36 (serviceport.go, endpointslicecache.go) for the details.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from glassnet.kube.types import EndpointSlice, Service, ServicePortSpec
from glassnet.net import address
from glassnet.proxy.endpoints import select
from glassnet.proxy.model import NodeFacts, ServicePort
from glassnet.proxy.naming import service_port_name

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
ANYWHERE = NodeFacts()
_PROTOCOLS = ("TCP", "UDP", "SCTP")


def depends_on_node(service: Service, slices: Iterable[EndpointSlice]) -> bool:
    """True when what a Service needs differs between nodes: a Local policy, source ranges, or hints. (Which endpoints are local always does.)"""
    spec = service.spec
    if spec.internal_traffic_policy == "Local" or spec.external_traffic_policy == "Local":
        return True
    if spec.load_balancer_source_ranges:  # a range with the node's own address lets the load balancer's through as well
        return True
    return any(endpoint.hints for piece in slices for endpoint in piece.endpoints)


def proxied(service: Service) -> bool:
    """False for Services without a virtual IP of their own, and for those that name another proxy."""
    spec = service.spec
    return (
        spec.cluster_ip not in ("", "None")
        and spec.type != "ExternalName"
        and PROXY_NAME not in service.metadata.labels
    )


def cluster_ip(service: Service, family: str) -> str:
    """The ClusterIP of a family; "" when there is none."""
    spec = service.spec
    if not spec.ip_families:
        mine = address.canonical(spec.cluster_ip)
        return mine if mine and address.family(mine) == family else ""
    ips = spec.cluster_ips or (spec.cluster_ip,)
    for index, name in enumerate(spec.ip_families):
        if name == family and index < len(ips):
            return address.canonical(ips[index])
    return ""


def service_ports(
    service: Service,
    slices: Iterable[EndpointSlice],
    node: NodeFacts = ANYWHERE,
    family: str = address.IPV4,
) -> tuple[ServicePort, ...]:
    """The ports of a Service as `node` must treat them in one IP family; none for Services that are not proxied."""
    if not proxied(service):
        return ()
    virtual = cluster_ip(service, family)
    if not virtual:
        return ()
    usable = [piece for piece in slices if piece.address_type == family and HEADLESS not in piece.metadata.labels]
    return tuple(
        _service_port(service, port, virtual, usable, node, family)
        for port in service.spec.ports
        if port.protocol in _PROTOCOLS and port.port
    )


def _service_port(
    service: Service,
    port: ServicePortSpec,
    virtual: str,
    slices: list[EndpointSlice],
    node: NodeFacts,
    family: str,
) -> ServicePort:
    spec, meta = service.spec, service.metadata
    chosen = select(port.name, port.protocol, slices, node)
    name = service_port_name(meta.namespace, meta.name, port.name)
    internal_local = spec.internal_traffic_policy == "Local"
    affinity = 0
    if spec.session_affinity == "ClientIP":
        config = (spec.session_affinity_config or {}).get("clientIP") or {}
        affinity = int(config.get("timeoutSeconds") or 10800)
    external: tuple[str, ...] = ()
    balancers: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    node_port, external_local = 0, False
    if spec.type != "ClusterIP" or spec.external_ips:
        external = _of_family(spec.external_ips, family)
        if spec.type == "LoadBalancer":
            ingress = service.status.load_balancer.ingress
            balancers = _of_family((i.ip for i in ingress if i.ip_mode in (None, "", "VIP")), family)
            ranges = _ranges(spec.load_balancer_source_ranges, node.addresses, balancers, family)
        node_port = port.node_port if spec.type in ("NodePort", "LoadBalancer") else 0
        external_local = spec.external_traffic_policy == "Local"
    uses_local = internal_local or (external_local and bool(node_port or external or balancers))
    return ServicePort(
        name=name,
        protocol=port.protocol,
        cluster_ip=virtual,
        port=port.port,
        node_port=node_port,
        external_ips=external,
        load_balancer_ips=balancers,
        source_ranges=ranges,
        external_local=external_local,
        internal_local=internal_local,
        affinity_seconds=affinity,
        health_check_port=spec.health_check_node_port if spec.type == "LoadBalancer" and external_local else 0,
        cluster=chosen.cluster,
        local=chosen.local if uses_local else (),
        any_endpoints=bool(chosen.cluster) or (uses_local and chosen.usable_anywhere),
    )


def _of_family(texts: Iterable[str], family: str) -> tuple[str, ...]:
    """The valid addresses of a family, each once."""
    found = (address.canonical(text) for text in texts)
    return tuple(dict.fromkeys(ip for ip in found if ip and address.family(ip) == family))


def _ranges(
    texts: Iterable[str], node_ips: tuple[str, ...], balancers: tuple[str, ...], family: str
) -> tuple[str, ...]:
    """Source ranges of a family; none when one of them is everything.

    When a range holds an address of the node, the node's own traffic to the load balancer's address counts as allowed; it may carry that very
    address as its source (kube-proxy allows it for the same reason).
    """
    version = 4 if family == address.IPV4 else 6
    networks = []
    for text in texts:
        with contextlib.suppress(ValueError):  # the API refuses new ones; an old object may still hold one
            networks.append(ip_network(text.strip(), strict=False))
    mine = [network for network in networks if network.version == version]
    if any(network.prefixlen == 0 for network in mine):
        return ()
    nodes = [ip_address(ip) for ip in node_ips if address.family(ip) == family]
    node_allowed = any(ip in network for network in mine for ip in nodes)
    length = 32 if version == 4 else 128
    return (*(str(network) for network in mine), *(f"{ip}/{length}" for ip in balancers if node_allowed))
