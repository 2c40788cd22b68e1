"""Services and EndpointSlices -> ServicePorts: which endpoints count, on this node, for which policy.

Sources: Kubernetes documentation, "Virtual IPs and Service Proxies"; KEP-1672 (terminating endpoints), KEP-2086 (internalTrafficPolicy),
KEP-2433 and KEP-4444 (hints); kube-proxy's topology.go for the order of fallbacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from glassnet.kube.types import EndpointSlice, Service, ServicePortSpec, SliceEndpoint
from glassnet.proxy.model import Endpoint, ServicePort
from glassnet.proxy.naming import service_port_name

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"


def depends_on_node(service: Service, slices: Iterable[EndpointSlice]) -> bool:
    """True when the rules of a Service differ between nodes: a Local policy, source ranges, or hints."""
    spec = service.spec
    if spec.internal_traffic_policy == "Local" or spec.external_traffic_policy == "Local":
        return True
    if spec.load_balancer_source_ranges:  # a range with the node's own address lets the load balancer's through as well
        return True
    return any(endpoint.hints for piece in slices for endpoint in piece.endpoints)


def service_ports(
    service: Service, slices: Iterable[EndpointSlice], node: str = "", zone: str = "", node_ips: Iterable[str] = ()
) -> list[ServicePort]:
    """The ports of a Service as `node` must treat them; none for Services that are not proxied. `node_ips`: the node's own addresses."""
    spec = service.spec
    if (
        spec.cluster_ip in ("", "None")
        or spec.type == "ExternalName"
        or PROXY_NAME in service.metadata.labels
        or ":" in spec.cluster_ip
    ):
        return []
    usable = [piece for piece in slices if piece.address_type == "IPv4" and HEADLESS not in piece.metadata.labels]
    return [_service_port(service, port, usable, node, zone, tuple(node_ips)) for port in spec.ports]


def _service_port(
    service: Service,
    port: ServicePortSpec,
    slices: list[EndpointSlice],
    node: str,
    zone: str,
    node_ips: tuple[str, ...],
) -> ServicePort:
    spec, meta = service.spec, service.metadata
    external = tuple(ip for ip in spec.external_ips if ":" not in ip)
    balancers = tuple(
        i.ip for i in service.status.load_balancer.ingress if i.ip and ":" not in i.ip and i.ip_mode in (None, "VIP")
    )
    accessible = bool(port.node_port or external or (spec.type == "LoadBalancer" and balancers))
    external_local = spec.external_traffic_policy == "Local" and (
        spec.type in ("NodePort", "LoadBalancer") or bool(external)
    )
    found = _endpoints(port, slices, node)
    internal_local = spec.internal_traffic_policy == "Local"
    ready = [e for e, state in found if state.ready]
    draining = [e for e, state in found if state.serving and state.terminating and not state.ready]
    cluster = _near(found, node, zone) or draining
    local = [e for e in ready if e.local] or [e for e in draining if e.local]
    uses_local = internal_local or (external_local and accessible)
    config = (spec.session_affinity_config or {}).get("clientIP") or {}
    return ServicePort(
        name=service_port_name(meta.namespace, meta.name, port.name),
        protocol=port.protocol,
        cluster_ip=spec.cluster_ip,
        port=port.port,
        node_port=port.node_port if spec.type in ("NodePort", "LoadBalancer") else 0,
        external_ips=external,
        load_balancer_ips=balancers if spec.type == "LoadBalancer" else (),
        source_ranges=_ranges(spec.load_balancer_source_ranges, node_ips, balancers),
        external_local=external_local,
        internal_local=internal_local,
        affinity_seconds=int(config.get("timeoutSeconds", 10800)) if spec.session_affinity == "ClientIP" else 0,
        health_check_port=spec.health_check_node_port if spec.type == "LoadBalancer" and external_local else 0,
        cluster=tuple(sorted(cluster, key=lambda e: e.text)),
        local=tuple(sorted(local, key=lambda e: e.text)),
        any_endpoints=bool(cluster) or (uses_local and bool(ready or draining)),
    )


class _State:
    __slots__ = ("hints", "ready", "serving", "terminating")

    def __init__(self, endpoint: SliceEndpoint) -> None:
        conditions = endpoint.conditions
        self.ready = conditions.ready is not False
        self.serving = conditions.serving is not False
        self.terminating = conditions.terminating is True
        self.hints = endpoint.hints


def _endpoints(port: ServicePortSpec, slices: list[EndpointSlice], node: str) -> list[tuple[Endpoint, _State]]:
    """Endpoints of one port, joined by its name and protocol; of doublets the one that is not terminating."""
    found: dict[str, tuple[Endpoint, _State]] = {}
    for piece in slices:
        for there in piece.ports or ():
            if (
                there.name is None
                or there.name != port.name
                or (there.protocol or "TCP") != port.protocol
                or not there.port
            ):
                continue
            for endpoint in piece.endpoints:
                if not endpoint.addresses:
                    continue
                made = Endpoint(endpoint.addresses[0], there.port, bool(node) and endpoint.node_name == node)
                state = _State(endpoint)
                if made.text not in found or not state.terminating:
                    found[made.text] = (made, state)
    return list(found.values())


def _near(found: list[tuple[Endpoint, _State]], node: str, zone: str) -> list[Endpoint]:
    """Ready endpoints, narrowed by hints when every one of them has one and some are for here."""
    ready = [(e, state) for e, state in found if state.ready]
    for field, here in (("for_nodes", node), ("for_zones", zone)):
        hinted = [(e, {h.name for h in getattr(state.hints, field)} if state.hints else set()) for e, state in ready]
        if here and hinted and all(names for _, names in hinted):
            mine = [e for e, names in hinted if here in names]
            if mine:
                return mine
    return [e for e, _ in ready]


def _ranges(texts: Iterable[str], node_ips: tuple[str, ...], balancers: tuple[str, ...]) -> tuple[str, ...]:
    """IPv4 source ranges; none when one of them is everything.

    When a range holds an address of the node, the node's own traffic to the load balancer's address counts as allowed; it may carry that very
    address as its source (kube-proxy allows it for the same reason).
    """
    networks = []
    for text in texts:
        with contextlib.suppress(ValueError):  # the API refuses new ones; an old object may still hold one
            networks.append(ip_network(text.strip(), strict=False))
    mine = [network for network in networks if network.version == 4]
    if any(network.prefixlen == 0 for network in mine):
        return ()
    node_allowed = any(ip_address(ip) in network for network in mine for ip in node_ips if ":" not in ip)
    return (*(str(network) for network in mine), *(f"{ip}/32" for ip in balancers if node_allowed))
