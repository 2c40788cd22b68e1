"""What the server does to a Service's spec around its type: fields that belong together are kept together.

Source: Kubernetes documentation, "Service" and "IPv4/IPv6 dual-stack"; `clusterIP` always equals `clusterIPs[0]`.
"""

from __future__ import annotations

from typing import Any

Obj = dict[str, Any]


def needs_cluster_ip(spec: Obj) -> bool:
    """True for types that have a ClusterIP (headless ones have the word None in its place)."""
    return spec.get("type") != "ExternalName"


def needs_node_ports(spec: Obj) -> bool:
    """True when every port wants a node port."""
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def needs_health_port(spec: Obj) -> bool:
    """True for load balancers that ask each node for its own endpoints."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def family_of(address: object) -> str:
    """IPv4 or IPv6; what is no address counts as IPv4."""
    return "IPv6" if ":" in str(address) else "IPv4"


def normalize(new: Obj, old: Obj | None) -> None:
    """In place: tie clusterIP to clusterIPs; on update take over what was allocated and drop what the new type has no use for."""
    after, before = new.setdefault("spec", {}), (old or {}).get("spec") or {}
    _tie(after, before)
    if before:
        _take_over(after, before)
        _drop(after, before)


def _tie(after: Obj, before: Obj) -> None:
    single, several = after.get("clusterIP") or "", after.get("clusterIPs") or []
    if not before:
        if single and not several:
            after["clusterIPs"] = [single]
        return
    if not single and before.get("clusterIP") and several == (before.get("clusterIPs") or []):
        after.pop("clusterIPs", None)  # an old client cleared the one field it knows
    elif single != (before.get("clusterIP") or "") and several == (before.get("clusterIPs") or []):
        after["clusterIPs"] = [single]
    elif several and not single:
        after["clusterIP"] = several[0]
    elif single and not several:
        after["clusterIPs"] = [single]


def _take_over(after: Obj, before: Obj) -> None:
    """A replacement without the allocated values means them."""
    if needs_cluster_ip(before) and needs_cluster_ip(after):
        for field in ("clusterIP", "clusterIPs"):
            if not after.get(field) and before.get(field):
                after[field] = before[field]
    if needs_node_ports(before) and needs_node_ports(after):
        known = {_port_key(port): port["nodePort"] for port in before.get("ports") or () if port.get("nodePort")}
        taken = {(port["nodePort"], _port_key(port)[1]) for port in after.get("ports") or () if port.get("nodePort")}
        for port in after.get("ports") or ():
            number = known.get(_port_key(port))
            if not port.get("nodePort") and number and (number, _port_key(port)[1]) not in taken:
                port["nodePort"] = number
    health_port = before.get("healthCheckNodePort")
    if health_port and needs_health_port(after) and not after.get("healthCheckNodePort"):
        after["healthCheckNodePort"] = health_port


def _drop(after: Obj, before: Obj) -> None:
    """Values the user left as they were go with the type that needed them."""

    def same(field: str) -> bool:
        return after.get(field) == before.get(field)

    if needs_cluster_ip(before) and not needs_cluster_ip(after):
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            if same(field):
                after.pop(field, None)
    if needs_node_ports(before) and not needs_node_ports(after):
        old_numbers = {port.get("nodePort") for port in before.get("ports") or ()}
        for port in after.get("ports") or ():
            if port.get("nodePort") in old_numbers:
                port.pop("nodePort", None)
    if needs_health_port(before) and not needs_health_port(after) and same("healthCheckNodePort"):
        after.pop("healthCheckNodePort", None)
    if before.get("type") == "LoadBalancer" != after.get("type"):
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if same(field):
                after.pop(field, None)
    if _reached_from_outside(before) and not _reached_from_outside(after) and same("externalTrafficPolicy"):
        after.pop("externalTrafficPolicy", None)


def _reached_from_outside(spec: Obj) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))


def _port_key(port: Obj) -> tuple[Any, Any]:
    return port.get("port"), port.get("protocol") or "TCP"
