"""EndpointSlices of Endpoints that somebody wrote by hand for a Service without a selector.

Sources: Kubernetes documentation, "EndpointSlices", "Mirroring"; "Services without selectors".
"""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from typing import Any

import msgspec

from glassnet.controllers.endpointslice import MANAGED_BY
from glassnet.controllers.result import NOTHING, Result, owner_reference
from glassnet.kube import kinds
from glassnet.kube.change import Change, Create, Delete, Patch
from glassnet.kube.types import Endpoints, EndpointSlice, SliceEndpoint, SlicePort
from glassnet.kube.view import SERVICE_NAME_LABEL, Key, View

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP, LEADER = "endpointslice.kubernetes.io/skip-mirror", "control-plane.alpha.kubernetes.io/leader"
API_SERVER = Key("default", "kubernetes")  # it looks after its slices itself
MOST = 1000  # addresses of a subset that are mirrored

Shape = tuple[str, tuple[SlicePort, ...]]  # address type and ports: what all endpoints of a slice share


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """The mirrors of one Endpoints object."""
    mine = [s for s in view.slices_of(key) if s.metadata.labels.get(MANAGED_BY) == MANAGER]
    source = view.endpoints.get(key)
    if source is None or not _mirrored(view, key, source):
        return Result([_gone(found) for found in mine]) if mine else NOTHING
    wanted = _wanted(source)
    changes: list[Change] = []
    for found in sorted(mine, key=lambda s: s.metadata.name):
        endpoints = wanted.pop((found.address_type, tuple(found.ports or ())), None)
        if endpoints is None:
            changes.append(_gone(found))
        elif tuple(endpoints) != found.endpoints or not _labels(source).items() <= found.metadata.labels.items():
            body = {"metadata": {"labels": _labels(source)}, "endpoints": msgspec.to_builtins(endpoints)}
            changes.append(Patch(kinds.ENDPOINT_SLICE, key.namespace, found.metadata.name, body))
    return Result([*changes, *(_new(source, shape, endpoints) for shape, endpoints in wanted.items())])


def _mirrored(view: View, key: Key, source: Endpoints) -> bool:
    service = view.services.get(key)
    return (
        key != API_SERVER
        and service is not None
        and not service.spec.selector
        and service.metadata.deletion_timestamp is None
        and source.metadata.labels.get(SKIP) != "true"
        and LEADER not in source.metadata.annotations
    )


def _wanted(source: Endpoints) -> dict[Shape, list[SliceEndpoint]]:
    out: dict[Shape, list[SliceEndpoint]] = {}
    for subset in source.subsets:
        ports = tuple(msgspec.convert({"name": "", **port}, SlicePort) for port in subset.get("ports") or ())
        listed = [(a, True) for a in subset.get("addresses") or ()]
        listed += [(a, False) for a in subset.get("notReadyAddresses") or ()]
        for address, ready in listed[:MOST]:
            family = f"IPv{ip_address(address['ip']).version}"
            out.setdefault((family, ports), []).append(_endpoint(address, ready))
    return out


def _endpoint(address: dict[str, Any], ready: bool) -> SliceEndpoint:
    more = {name: address[name] for name in ("hostname", "nodeName", "targetRef") if address.get(name)}
    return msgspec.convert({"addresses": [address["ip"]], "conditions": {"ready": ready}, **more}, SliceEndpoint)


def _labels(source: Endpoints) -> dict[str, str]:
    return {**source.metadata.labels, SERVICE_NAME_LABEL: source.metadata.name, MANAGED_BY: MANAGER}


def _new(source: Endpoints, shape: Shape, endpoints: list[SliceEndpoint]) -> Create:
    family, ports = shape
    body = {
        "metadata": {
            "generateName": f"{source.metadata.name}-",
            "labels": _labels(source),
            "ownerReferences": [owner_reference(kinds.ENDPOINTS, source.metadata)],
        },
        "addressType": family,
        "endpoints": msgspec.to_builtins(endpoints),
        "ports": [{"protocol": "TCP", **msgspec.to_builtins(port)} for port in ports],
    }
    return Create(kinds.ENDPOINT_SLICE, source.metadata.namespace, body)


def _gone(found: EndpointSlice) -> Delete:
    return Delete(kinds.ENDPOINT_SLICE, found.metadata.namespace, found.metadata.name, found.metadata.uid)
