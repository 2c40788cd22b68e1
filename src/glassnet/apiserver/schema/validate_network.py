"""Validation of Services, Endpoints, EndpointSlices, Ingresses and NetworkPolicies."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from glassnet.apiserver.schema import rules
from glassnet.apiserver.schema.errors import FieldError, duplicate, forbidden, invalid_value, not_supported, required
from glassnet.apiserver.schema.service_spec import family_of

Obj = dict[str, Any]
_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")


def service(obj: Obj) -> Iterator[FieldError]:
    """A Service after defaulting, before allocation."""
    spec = obj.get("spec") or {}
    kind, headless = spec.get("type"), spec.get("clusterIP") == "None"
    yield from rules.one_of(kind, _TYPES, "spec.type")
    ports = spec.get("ports") or []
    if not ports and not headless and kind != "ExternalName":
        yield required("spec.ports")
    yield from _service_ports(ports, str(kind))
    yield from rules.labels(spec.get("selector"), "spec.selector")
    yield from rules.one_of(spec.get("sessionAffinity"), ("ClientIP", "None"), "spec.sessionAffinity")
    if spec.get("sessionAffinity") == "ClientIP":
        seconds = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
        if seconds is None or not 0 < seconds <= 86400:
            yield invalid_value(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                seconds,
                "must be greater than 0 and less than 86400",
            )
    if kind == "ExternalName":
        if not spec.get("externalName"):
            yield required("spec.externalName")
        else:
            yield from rules.dns_subdomain(spec["externalName"].removesuffix("."), "spec.externalName")
        if spec.get("clusterIP"):
            yield forbidden("spec.clusterIPs", "may not be set for ExternalName services")
    elif spec.get("clusterIP") not in (None, "", "None"):
        yield from rules.ip_address(spec["clusterIP"], "spec.clusterIPs[0]")
        for index, address in enumerate(spec.get("clusterIPs") or ()):
            yield from rules.ip_address(address, f"spec.clusterIPs[{index}]") if index else ()
            if family_of(address) in map(family_of, spec["clusterIPs"][:index]):
                yield invalid_value(
                    "spec.clusterIPs", spec["clusterIPs"], "may specify no more than one IP for each IP family"
                )
    if headless and kind in ("NodePort", "LoadBalancer"):
        yield invalid_value("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    yield from _families(spec, str(kind))
    yield from _external(spec, str(kind))


def _families(spec: Obj, kind: str) -> Iterator[FieldError]:
    families, policy = spec.get("ipFamilies") or [], spec.get("ipFamilyPolicy")
    if kind == "ExternalName":
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if spec.get(field):
                yield forbidden(f"spec.{field}", "may not be set for ExternalName services")
        return
    if policy is not None:
        allowed = ("PreferDualStack", "RequireDualStack", "SingleStack")
        yield from rules.one_of(policy, allowed, "spec.ipFamilyPolicy")
    for index, family in enumerate(families):
        if family not in ("IPv4", "IPv6"):
            yield not_supported(f"spec.ipFamilies[{index}]", family, ("IPv4", "IPv6"))
        elif family in families[:index]:
            yield duplicate(f"spec.ipFamilies[{index}]", family)


def _service_ports(ports: list[Obj], kind: str) -> Iterator[FieldError]:
    names: set[str] = set()
    numbers: set[tuple[Any, Any]] = set()
    outside: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        if port.get("nodePort"):
            if (port.get("protocol"), port["nodePort"]) in outside:
                yield duplicate(f"{path}.nodePort", port["nodePort"])
            outside.add((port.get("protocol"), port["nodePort"]))
        name = port.get("name") or ""
        if len(ports) > 1 and not name:
            yield required(f"{path}.name")
        elif name:
            yield from rules.dns_label(name, f"{path}.name")
            if name in names:
                yield duplicate(f"{path}.name", name)
        names.add(name)
        yield from rules.port_number(port.get("port"), f"{path}.port")
        yield from rules.protocol(port.get("protocol"), f"{path}.protocol")
        if kind != "ExternalName" and port.get("targetPort") is not None:
            yield from rules.port_or_name(port["targetPort"], f"{path}.targetPort")
        if port.get("nodePort") and kind not in ("NodePort", "LoadBalancer"):
            yield forbidden(f"{path}.nodePort", "may not be used when `type` is 'ClusterIP'")
        key = (port.get("protocol"), port.get("port"))
        if key in numbers:
            yield duplicate(path, {"port": port.get("port"), "protocol": port.get("protocol")})
        numbers.add(key)


def _external(spec: Obj, kind: str) -> Iterator[FieldError]:
    for index, address in enumerate(spec.get("externalIPs") or ()):
        yield from rules.ip_address(address, f"spec.externalIPs[{index}]")
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            continue
        if parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local or parsed.is_multicast:
            yield invalid_value(
                f"spec.externalIPs[{index}]",
                address,
                "may not be an unspecified, loopback, link-local or multicast address",
            )
    policy = spec.get("externalTrafficPolicy")
    reachable = kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs")
    if policy and not reachable:
        yield invalid_value("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services")
    elif reachable:
        yield from rules.one_of(policy, ("Cluster", "Local"), "spec.externalTrafficPolicy")
    if kind != "ExternalName":
        yield from rules.one_of(spec.get("internalTrafficPolicy"), ("Cluster", "Local"), "spec.internalTrafficPolicy")
    ranges = spec.get("loadBalancerSourceRanges") or []
    if ranges and kind != "LoadBalancer":
        yield forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
    for index, text in enumerate(ranges):
        yield from rules.cidr(text, f"spec.loadBalancerSourceRanges[{index}]")
    if spec.get("healthCheckNodePort") and not (kind == "LoadBalancer" and policy == "Local"):
        yield invalid_value(
            "spec.healthCheckNodePort",
            spec["healthCheckNodePort"],
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )
    if kind != "LoadBalancer":
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(field) is not None:
                yield forbidden(f"spec.{field}", "may only be used when `type` is 'LoadBalancer'")
    distribution = spec.get("trafficDistribution")
    if distribution is not None:
        yield from rules.one_of(
            distribution, ("PreferClose", "PreferSameZone", "PreferSameNode"), "spec.trafficDistribution"
        )


def service_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    """A ClusterIP, once given, stays until the type leaves ClusterIPs behind; a load balancer class stays as long as the type."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" in (after.get("type"), before.get("type")):
        return
    if before.get("clusterIP") and after.get("clusterIP") != before["clusterIP"]:
        shown = [after.get("clusterIP") or ""]
        yield invalid_value("spec.clusterIPs[0]", shown, "may not change once set")
    if after.get("type") == before.get("type") == "LoadBalancer" and after.get("loadBalancerClass") != before.get(
        "loadBalancerClass"
    ):
        yield invalid_value("spec.loadBalancerClass", after.get("loadBalancerClass"), "may not change once set")


def endpoints(obj: Obj) -> Iterator[FieldError]:
    """An Endpoints object."""
    for index, subset in enumerate(obj.get("subsets") or ()):
        path = f"subsets[{index}]"
        addresses = (subset.get("addresses") or []) + (subset.get("notReadyAddresses") or [])
        if not addresses:
            yield required(path, "must specify `addresses` or `notReadyAddresses`")
        for number, address in enumerate(addresses):
            yield from rules.ip_address(address.get("ip", ""), f"{path}.addresses[{number}].ip")
        for number, port in enumerate(subset.get("ports") or ()):
            yield from rules.port_number(port.get("port"), f"{path}.ports[{number}].port")
            yield from rules.protocol(port.get("protocol"), f"{path}.ports[{number}].protocol")


def endpoint_slice(obj: Obj) -> Iterator[FieldError]:
    """An EndpointSlice."""
    kind = obj.get("addressType") or ""
    if not kind:
        yield required("addressType")
    else:
        yield from rules.one_of(kind, ("FQDN", "IPv4", "IPv6"), "addressType")
    found = obj.get("endpoints") or []
    if len(found) > 1000:
        yield FieldError("FieldValueTooMany", f"Too many: {len(found)}: must have at most 1000 items", "endpoints")
    for index, endpoint in enumerate(found):
        path = f"endpoints[{index}]"
        addresses = endpoint.get("addresses") or []
        if not addresses:
            yield required(f"{path}.addresses", "must contain at least 1 address")
        for number, address in enumerate(addresses):
            yield from _slice_address(address, kind, f"{path}.addresses[{number}]")
        if endpoint.get("hostname"):
            yield from rules.dns_label(endpoint["hostname"], f"{path}.hostname")
        if endpoint.get("nodeName"):
            yield from rules.dns_subdomain(endpoint["nodeName"], f"{path}.nodeName")
    names: set[str] = set()
    for index, port in enumerate(obj.get("ports") or ()):
        path = f"ports[{index}]"
        name = port.get("name") or ""
        if name in names:
            yield duplicate(f"{path}.name", name)
        names.add(name)
        yield from rules.protocol(port.get("protocol"), f"{path}.protocol")
        if port.get("port") is not None:
            yield from rules.port_number(port["port"], f"{path}.port")


def _slice_address(address: str, kind: str, path: str) -> Iterator[FieldError]:
    if kind == "FQDN":
        yield from rules.dns_subdomain(address, path)
        return
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        yield from rules.ip_address(address, path)
        return
    if (parsed.version == 4) != (kind == "IPv4"):
        yield invalid_value(path, address, f"must be an {kind} address")
    if parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local or parsed.is_multicast:
        yield invalid_value(path, address, "may not be an unspecified, loopback, link-local or multicast address")


def endpoint_slice_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    """The address type stays."""
    if new.get("addressType") != old.get("addressType"):
        yield invalid_value("addressType", new.get("addressType"), "field is immutable")


def ingress(obj: Obj) -> Iterator[FieldError]:
    """An Ingress."""
    spec = obj.get("spec") or {}
    if not spec.get("rules") and not spec.get("defaultBackend"):
        yield invalid_value("spec", {}, "either `defaultBackend` or `rules` must be specified")
    if spec.get("defaultBackend"):
        yield from _backend(spec["defaultBackend"], "spec.defaultBackend")
    for index, rule in enumerate(spec.get("rules") or ()):
        path = f"spec.rules[{index}]"
        if rule.get("host"):
            host = rule["host"].removeprefix("*.")
            yield from rules.dns_subdomain(host, f"{path}.host")
        if rule.get("http") is not None and not rule["http"].get("paths"):
            yield required(f"{path}.http.paths")
        for number, entry in enumerate((rule.get("http") or {}).get("paths") or ()):
            where = f"{path}.http.paths[{number}]"
            kind = entry.get("pathType")
            if not kind:
                yield required(f"{where}.pathType", "pathType must be specified")
            else:
                yield from rules.one_of(kind, ("Exact", "ImplementationSpecific", "Prefix"), f"{where}.pathType")
            if kind in ("Exact", "Prefix") and not (entry.get("path") or "").startswith("/"):
                yield invalid_value(f"{where}.path", entry.get("path") or "", "must be an absolute path")
            yield from _backend(entry.get("backend") or {}, f"{where}.backend")


def _backend(backend: Obj, path: str) -> Iterator[FieldError]:
    target = backend.get("service")
    if target is None:
        if not backend.get("resource"):
            yield required(path, "a service or a resource backend must be specified")
        return
    if backend.get("resource"):
        yield invalid_value(path, "", "cannot set both resource and service backends")
    yield from rules.dns_1035_label(target.get("name") or "", f"{path}.service.name")
    port = target.get("port") or {}
    if port.get("name") and port.get("number"):
        yield invalid_value(f"{path}.service.port", "", "cannot set both port name & port number")
    elif port.get("name"):
        yield from rules.port_name(port["name"], f"{path}.service.port.name")
    elif port.get("number"):
        yield from rules.port_number(port["number"], f"{path}.service.port.number")
    else:
        yield required(f"{path}.service.port", "port name or number is required")


def network_policy(obj: Obj) -> Iterator[FieldError]:
    """A NetworkPolicy."""
    spec = obj.get("spec") or {}
    yield from rules.label_selector(spec.get("podSelector"), "spec.podSelector")
    for index, word in enumerate(spec.get("policyTypes") or ()):
        if word not in ("Ingress", "Egress"):
            yield not_supported(f"spec.policyTypes[{index}]", word, ("Egress", "Ingress"))
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                yield from _policy_port(port, f"{path}.ports[{number}]")
            for number, peer in enumerate(rule.get(side) or ()):
                yield from _peer(peer, f"{path}.{side}[{number}]")


def _policy_port(port: Obj, path: str) -> Iterator[FieldError]:
    yield from rules.protocol(port.get("protocol"), f"{path}.protocol")
    number, end = port.get("port"), port.get("endPort")
    if number is not None:
        yield from rules.port_or_name(number, f"{path}.port")
    if end is not None:
        if not isinstance(number, int):
            yield (
                required(f"{path}.port", "must be a number when `endPort` is specified")
                if number is None
                else invalid_value(f"{path}.endPort", end, "may not be specified when `port` is non-numeric")
            )
        elif end < number:
            yield invalid_value(f"{path}.endPort", end, "must be greater than or equal to `port`")


def _peer(peer: Obj, path: str) -> Iterator[FieldError]:
    if not peer:
        yield required(path, "must specify a peer")
    for name in ("podSelector", "namespaceSelector"):
        yield from rules.label_selector(peer.get(name), f"{path}.{name}")
    block = peer.get("ipBlock")
    if block is None:
        return
    if peer.get("podSelector") is not None or peer.get("namespaceSelector") is not None:
        yield forbidden(path, "may not specify both ipBlock and another peer")
    if not block.get("cidr"):
        yield required(f"{path}.ipBlock.cidr")
        return
    faults = list(rules.cidr(block["cidr"], f"{path}.ipBlock.cidr"))
    yield from faults
    for index, text in enumerate(block.get("except") or ()):
        where = f"{path}.ipBlock.except[{index}]"
        inner = list(rules.cidr(text, where))
        yield from inner
        if not faults and not inner:
            outer_net, inner_net = (
                ipaddress.ip_network(block["cidr"], strict=False),
                ipaddress.ip_network(text, strict=False),
            )
            if outer_net.version != inner_net.version or not inner_net.subnet_of(outer_net) or inner_net == outer_net:  # type: ignore[arg-type]
                yield invalid_value(where, text, f"must be a strict subset of `cidr`: {json_text(block['cidr'])}")


def json_text(value: str) -> str:
    """A value in double quotes."""
    return f'"{value}"'
