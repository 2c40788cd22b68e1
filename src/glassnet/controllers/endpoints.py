"""Endpoints: the older form of a Service's pods, one object each. Source: Kubernetes API reference, Endpoints v1."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from glassnet.controllers.endpointslice import Ports, resolved_ports, selected_pods
from glassnet.controllers.result import NOTHING, Result
from glassnet.kube import kinds
from glassnet.kube.change import Create, Delete, Patch
from glassnet.kube.types import Pod, Service
from glassnet.kube.view import Key, View

MANAGED_BY = "endpoints.kubernetes.io/managed-by"


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """The Endpoints object of one Service."""
    service, found = view.services.get(key), view.endpoints.get(key)
    if service is None or service.metadata.deletion_timestamp:
        if found and MANAGED_BY in found.metadata.labels:
            return Result([Delete(kinds.ENDPOINTS, key.namespace, key.name, found.metadata.uid)])
        return NOTHING
    if not service.spec.selector or service.spec.type == "ExternalName":
        return NOTHING
    subsets = _subsets(view, service)
    labels = {**service.metadata.labels, MANAGED_BY: "endpoint-controller"}
    if service.spec.cluster_ip == "None":
        labels["service.kubernetes.io/headless"] = ""
    if found is None:
        body = {"metadata": {"name": key.name, "labels": labels}, **({"subsets": subsets} if subsets else {})}
        return Result([Create(kinds.ENDPOINTS, key.namespace, body)])
    if _same(found.subsets, subsets) and labels.items() <= found.metadata.labels.items():
        return NOTHING
    return Result(
        [Patch(kinds.ENDPOINTS, key.namespace, key.name, {"metadata": {"labels": labels}, "subsets": subsets or None})]
    )


def _subsets(view: View, service: Service) -> list[dict[str, Any]]:
    """Addresses with the same ports together, ready ones apart from those that are not."""
    groups: dict[Ports, tuple[list[Any], list[Any]]] = defaultdict(lambda: ([], []))
    for pod in selected_pods(view, service):
        ports = resolved_ports(service, pod)
        if service.spec.ports and not ports:
            continue
        ready = service.spec.publish_not_ready_addresses or (pod.ready() and pod.metadata.deletion_timestamp is None)
        if ready or pod.metadata.deletion_timestamp is None:
            groups[ports][0 if ready else 1].append(_address(service, pod))
    out = []
    for ports, (ready_ones, others) in sorted(groups.items(), key=lambda item: str(item[0])):
        subset: dict[str, Any] = {}
        if ready_ones:
            subset["addresses"] = sorted(ready_ones, key=lambda a: a["ip"])
        if others:
            subset["notReadyAddresses"] = sorted(others, key=lambda a: a["ip"])
        if ports:
            subset["ports"] = [
                {**({"name": n} if n else {}), "port": number, "protocol": p, **({"appProtocol": app} if app else {})}
                for n, number, p, app in ports
            ]
        out.append(subset)
    return out


def _same(old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> bool:
    """True when two lists of subsets say the same in whatever order."""

    def canonical(subsets: Iterable[dict[str, Any]]) -> list[tuple[list[str], ...]]:
        fields = ("addresses", "notReadyAddresses", "ports")
        return sorted(
            tuple(sorted(json.dumps(entry, sort_keys=True) for entry in subset.get(field) or ()) for field in fields)
            for subset in subsets
        )

    return canonical(old) == canonical(new)


def _address(service: Service, pod: Pod) -> dict[str, Any]:
    meta = pod.metadata
    out: dict[str, Any] = {
        "ip": pod.status.pod_ip,
        "targetRef": {"kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
    }
    if pod.spec.node_name:
        out["nodeName"] = pod.spec.node_name
    if pod.spec.hostname and pod.spec.subdomain == service.metadata.name:
        out["hostname"] = pod.spec.hostname
    return out
