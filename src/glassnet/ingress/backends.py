"""From a Service's port to the endpoints behind it.

Sources: networking.k8s.io/v1 (IngressBackend), discovery.k8s.io/v1 (which endpoints are ready), KEP-1672 (those that shut down and still serve).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from glassnet.ingress.model import Backend, Endpoint, Settings, Upstream
from glassnet.kube import kinds
from glassnet.kube.ingress import IngressBackend
from glassnet.kube.types import EndpointSlice, Service, ServicePortSpec, SliceEndpoint
from glassnet.kube.view import Key, View
from glassnet.net.address import canonical

_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_OBJECT = re.compile(r"[A-Za-z0-9.-]{1,253}")


class Backends:
    """Services as Ingresses name them. Each port of a Service is one Upstream, however many locations use it."""

    def __init__(self, view: View, settings: Settings) -> None:
        self._view, self._settings = view, settings
        self._known: dict[tuple[Key, str, str], Backend] = {}
        self.upstreams: dict[str, Upstream] = {}

    def of(self, namespace: str, backend: IngressBackend | None, pool: str = "") -> Backend:
        """A backend of an Ingress in `namespace`. `pool` tells apart how endpoints are spoken to: connections are kept for one way each."""
        service = backend.service if backend else None
        if service is None:
            what = (backend.resource or {}).get("kind", "?") if backend else "?"
            return Backend(Key(namespace, ""), lack=f"a backend of kind {what} cannot be served: give a Service")
        if not _OBJECT.fullmatch(service.name) or not _OBJECT.fullmatch(str(service.port)):
            return Backend(
                Key(namespace, ""),
                lack=f"{service.name[:80]!r} port {str(service.port)[:80]!r} can be no Service and its port",
            )
        return self.named(Key(namespace, service.name), str(service.port), pool)

    def named(self, service: Key, port: str, pool: str = "") -> Backend:
        """A Service's port, by name or number; "" is its only or first one."""
        known = self._known.get((service, port, pool))
        if known is None:
            known = self._known[service, port, pool] = self._find(service, port, pool)
        return known

    def _find(self, key: Key, port: str, pool: str) -> Backend:
        service: Service | None = self._view.get(kinds.SERVICE, key)
        if service is None:
            return Backend(key, port, lack=f"there is no Service {key}")
        external = service.spec.type == "ExternalName"
        found = _port(service, port)
        if found is None and external and port.isdigit():
            found = ServicePortSpec(port=int(port))  # a name elsewhere: the ports are that one's
        if found is None:
            there = ", ".join(f"{each.name or each.port} ({each.port})" for each in service.spec.ports) or "none"
            return Backend(key, port, lack=f"Service {key} has no TCP port {port!r}; it has: {there}")
        name = f"{key.namespace}_{key.name}_{found.port}" + (f"_{pool}" if pool else "")
        if external:
            return self._external(key, port, service, found, name)
        if name not in self.upstreams:
            endpoints = _endpoints(service, found, self._view.slices_of(key))
            self.upstreams[name] = Upstream(name, key, found.port, endpoints, app_protocol=found.app_protocol or "")
        lack = "" if self.upstreams[name].endpoints else f"Service {key} has no endpoint that is ready"
        return Backend(key, port, name, lack)

    def _external(self, key: Key, port: str, service: Service, found: ServicePortSpec, name: str) -> Backend:
        target = service.spec.external_name.rstrip(".")
        if not _NAME.fullmatch(target) or canonical(target) or len(target) > 253:
            return Backend(key, port, lack=f"externalName {target!r} of Service {key} is no DNS name")
        if target.lower() == "localhost":
            return Backend(key, port, lack=f"externalName of Service {key} is the controller itself")
        if not self._settings.resolvers:
            return Backend(key, port, lack=f"Service {key} is of type ExternalName, and no resolver is given to look up {target}")  # fmt: skip
        self.upstreams[name] = Upstream(name, key, found.port, (), target, found.app_protocol or "")
        return Backend(key, port, name)


def _port(service: Service, port: str) -> ServicePortSpec | None:
    ports = [each for each in service.spec.ports if each.protocol == "TCP"]
    if not port:
        return ports[0] if ports else None
    if port.isdigit():
        return next((each for each in ports if each.port == int(port)), None)
    return next((each for each in ports if each.name == port), None)


def _endpoints(service: Service, port: ServicePortSpec, slices: Iterable[EndpointSlice]) -> tuple[Endpoint, ...]:
    """Those of the Service's first family that has any: a pod of a dual-stack Service counts once."""
    found: dict[str, list[tuple[Endpoint, SliceEndpoint]]] = {}
    for piece in slices:
        numbers = [each.port for each in piece.ports or () if (each.name or "") == port.name and each.port and (each.protocol or "TCP") == "TCP"]  # fmt: skip
        for number in numbers[:1]:
            found.setdefault(piece.address_type, []).extend(_listed(piece, number))
    first = service.spec.ip_families[:1] or ("IPv4",)
    for family in dict.fromkeys((*first, "IPv4", "IPv6")):
        if chosen := _chosen(found.get(family, [])):
            return chosen
    return ()


def _listed(piece: EndpointSlice, port: int) -> Iterable[tuple[Endpoint, SliceEndpoint]]:
    for state in piece.endpoints:
        address = canonical(state.addresses[0]) if state.addresses else ""
        if address and (":" in address) == (piece.address_type == "IPv6"):
            pod = state.target_ref.name if state.target_ref and state.target_ref.kind == "Pod" else ""
            yield Endpoint(address, port, pod, state.node_name), state


def _chosen(listed: list[tuple[Endpoint, SliceEndpoint]]) -> tuple[Endpoint, ...]:
    """The ready ones that do not shut down; without any, those that serve while they do."""
    ready = [endpoint for endpoint, state in listed if state.conditions.ready is not False and state.conditions.terminating is not True]  # fmt: skip
    if not ready:
        ready = [endpoint for endpoint, state in listed if state.conditions.terminating is True and state.conditions.serving is not False]  # fmt: skip
    once = {(each.address, each.port): each for each in sorted(ready)}
    return tuple(once.values())
