"""EndpointSlices of a Service: its pods' addresses and what may be said of them.

Sources: Kubernetes documentation, "EndpointSlices"; KEP-752; KEP-1672 (serving, terminating).
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any

from glassnet.controllers.result import NOTHING, Result, owner_reference
from glassnet.kube import kinds, selectors
from glassnet.kube.change import Change, Create, Delete, Patch
from glassnet.kube.types import EndpointSlice, Pod, Service, ServicePortSpec
from glassnet.kube.view import SERVICE_NAME_LABEL, Key, View
from glassnet.net import address

MANAGED_BY, MANAGER = "endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
MOST = 100

# (name, number, protocol, appProtocol), as resolved for a pod; in order, for slices that others wrote in another one are the same
Ports = tuple[tuple[str, int, str, str | None], ...]


def reconcile(view: View, key: Key, now: datetime) -> Result:
    """The slices of one Service; other controllers' slices are left alone."""
    service = view.services.get(key)
    mine = [s for s in view.slices_of(key) if s.metadata.labels.get(MANAGED_BY) == MANAGER]
    if service is None or service.metadata.deletion_timestamp:
        return Result([Delete(kinds.ENDPOINT_SLICE, key.namespace, s.metadata.name, s.metadata.uid) for s in mine])
    if not service.spec.selector or service.spec.type == "ExternalName":
        return NOTHING
    families = service.spec.ip_families or (address.IPV4,)
    changes: list[Change] = [
        Delete(kinds.ENDPOINT_SLICE, key.namespace, s.metadata.name, s.metadata.uid)
        for s in mine
        if s.address_type not in families
    ]
    pods = selected_pods(view, service)
    for family in families:
        wanted: dict[Ports, dict[str, dict[str, Any]]] = defaultdict(dict)
        for pod in pods:
            if ip := _ip_of(pod, family):
                wanted[resolved_ports(service, pod)][pod.metadata.uid] = _endpoint(view, service, pod, ip)
        there = [s for s in mine if s.address_type == family]
        changes += _fit(service, family, there, dict(wanted), now)
    return Result(changes)


def _ip_of(pod: Pod, family: str) -> str:
    """The pod's address of a family, "" when it has none."""
    addresses = [one.ip for one in pod.status.pod_ips] or [pod.status.pod_ip]
    return next((ip for ip in addresses if address.family(ip) == family), "")


def selected_pods(view: View, service: Service) -> list[Pod]:
    """Pods behind a Service that have an address and are not finished, by name."""
    selector = selectors.of(service.spec.selector)
    found = view.pods_matching(service.metadata.namespace, selector)
    return sorted((pod for pod in found if pod.status.pod_ip and not pod.finished()), key=lambda pod: pod.metadata.name)


def target_port(port: ServicePortSpec, pod: Pod) -> int:
    """The number a Service port leads to in a pod; 0 when the pod has no port of that name."""
    target = port.target_port
    if isinstance(target, int):
        return target or port.port
    if not target:
        return port.port
    if target.isdigit():
        return int(target)
    every = (c for c in (*pod.spec.containers, *(i for i in pod.spec.init_containers if i.restart_policy == "Always")))
    return next(
        (p.container_port for c in every for p in c.ports if p.name == target and p.protocol == port.protocol), 0
    )


def resolved_ports(service: Service, pod: Pod) -> Ports:
    """The Service's ports as numbers of this pod's; those that name a port it does not have are left out."""
    found = [
        (p.name, number, p.protocol, p.app_protocol) for p in service.spec.ports if (number := target_port(p, pod))
    ]
    return _sorted(found)


def _sorted(ports: list[tuple[str, int, str, str | None]]) -> Ports:
    return tuple(sorted(ports, key=lambda port: (port[0], port[1], port[2], port[3] or "")))


def _endpoint(view: View, service: Service, pod: Pod, ip: str) -> dict[str, Any]:
    terminating = pod.metadata.deletion_timestamp is not None
    serving = pod.ready()
    ready = service.spec.publish_not_ready_addresses or (serving and not terminating)
    out: dict[str, Any] = {
        "addresses": [ip],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod",
            "namespace": pod.metadata.namespace,
            "name": pod.metadata.name,
            "uid": pod.metadata.uid,
        },
    }
    if pod.spec.node_name:
        out["nodeName"] = pod.spec.node_name
        node = view.nodes.get(Key("", pod.spec.node_name))
        if node and (zone := node.metadata.labels.get("topology.kubernetes.io/zone")):
            out["zone"] = zone
    if pod.spec.hostname and pod.spec.subdomain == service.metadata.name:
        out["hostname"] = pod.spec.hostname
    return out


def _fit(
    service: Service,
    family: str,
    mine: list[EndpointSlice],
    wanted: dict[Ports, dict[str, dict[str, Any]]],
    now: datetime,
) -> list[Change]:
    """Fit endpoints of one family into the slices there are, with few writes; make or delete slices where that does not do."""
    changes: list[Change] = []
    labels = _labels(service)
    by_ports: dict[Ports, list[EndpointSlice]] = defaultdict(list)
    for found in sorted(mine, key=lambda s: s.metadata.name):
        by_ports[_ports_of(found)].append(found)
    if not wanted and mine:
        wanted = {_ports_of(mine[0]): {}}  # one empty slice stays, so that watchers need not see it go and come
    elif not wanted:
        wanted = {(): {}}
    for ports, endpoints in wanted.items():
        changes += _fit_one(service, family, by_ports.pop(ports, []), ports, dict(endpoints), labels, now)
    for rest in by_ports.values():
        changes += [
            Delete(kinds.ENDPOINT_SLICE, service.metadata.namespace, s.metadata.name, s.metadata.uid) for s in rest
        ]
    return changes


def _fit_one(
    service: Service,
    family: str,
    slices: list[EndpointSlice],
    ports: Ports,
    endpoints: dict[str, dict[str, Any]],
    labels: dict[str, str],
    now: datetime,
) -> list[Change]:
    left = dict(endpoints)
    contents: list[tuple[EndpointSlice, list[dict[str, Any]]]] = []
    for found in slices:
        kept = [left.pop(uid) for e in found.endpoints if e.target_ref and (uid := e.target_ref.uid) in left]
        contents.append((found, kept))
    for _, kept in contents:
        while left and len(kept) < MOST:
            kept.append(left.pop(next(iter(left))))
    changes: list[Change] = []
    for index, (found, kept) in enumerate(contents):
        if not kept and (index or endpoints):
            changes.append(
                Delete(kinds.ENDPOINT_SLICE, service.metadata.namespace, found.metadata.name, found.metadata.uid)
            )
        elif kept != [_shown(e) for e in found.endpoints] or any(
            found.metadata.labels.get(k) != v for k, v in labels.items()
        ):
            notes = {TRIGGER: now.strftime("%Y-%m-%dT%H:%M:%SZ")}
            body = {"metadata": {"labels": labels, "annotations": notes}, "endpoints": kept}
            changes.append(Patch(kinds.ENDPOINT_SLICE, service.metadata.namespace, found.metadata.name, body))
    rest = list(left.values())
    parts = [rest[start : start + MOST] for start in range(0, len(rest), MOST)] or ([[]] if not contents else [])
    return [*changes, *(_new(service, family, ports, part, labels, now) for part in parts)]


def _labels(service: Service) -> dict[str, str]:
    own = {k: v for k, v in service.metadata.labels.items() if k not in (MANAGED_BY, SERVICE_NAME_LABEL, HEADLESS)}
    out = {**own, SERVICE_NAME_LABEL: service.metadata.name, MANAGED_BY: MANAGER}
    if service.spec.cluster_ip == "None":
        out[HEADLESS] = ""
    return out


def _new(
    service: Service,
    family: str,
    ports: Ports,
    endpoints: list[dict[str, Any]],
    labels: dict[str, str],
    now: datetime,
) -> Create:
    shown = [
        {"name": n, "port": number, "protocol": p, **({"appProtocol": app} if app else {})}
        for n, number, p, app in ports
    ]
    body = {
        "metadata": {
            "generateName": f"{service.metadata.name}-",
            "labels": labels,
            "annotations": {TRIGGER: now.strftime("%Y-%m-%dT%H:%M:%SZ")},
            "ownerReferences": [owner_reference(kinds.SERVICE, service.metadata)],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": shown,
    }
    return Create(kinds.ENDPOINT_SLICE, service.metadata.namespace, body)


def _ports_of(found: EndpointSlice) -> Ports:
    return _sorted([(p.name or "", p.port or 0, p.protocol or "TCP", p.app_protocol) for p in found.ports or ()])


def _shown(endpoint: Any) -> dict[str, Any]:
    """A stored endpoint in the form `_endpoint` makes."""
    conditions = endpoint.conditions
    out: dict[str, Any] = {
        "addresses": list(endpoint.addresses),
        "conditions": {"ready": conditions.ready, "serving": conditions.serving, "terminating": conditions.terminating},
    }
    if ref := endpoint.target_ref:
        out["targetRef"] = {"kind": ref.kind, "namespace": ref.namespace, "name": ref.name, "uid": ref.uid}
    more = (("nodeName", endpoint.node_name), ("zone", endpoint.zone), ("hostname", endpoint.hostname))
    return {**out, **{name: value for name, value in more if value}}
