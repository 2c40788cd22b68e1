"""What a cloud writes into a Service, and the Events about it: those of Kubernetes' service controller.

Source: k8s.io/cloud-provider, controllers/service (reasons of Events).
"""

from __future__ import annotations

from glassnet.kube import kinds
from glassnet.kube.change import Patch, Record
from glassnet.kube.types import LoadBalancerIngress, Service
from glassnet.loadbalancer.assign import Verdict
from glassnet.loadbalancer.request import ASSIGNED

SOURCE = "service-controller"
ENSURING, ENSURED, FAILED = "EnsuringLoadBalancer", "EnsuredLoadBalancer", "SyncLoadBalancerFailed"
DELETING, DELETED, UPDATED, NO_NODES = (
    "DeletingLoadBalancer",
    "DeletedLoadBalancer",
    "UpdatedLoadBalancer",
    "UnAvailableLoadBalancer",
)


def record(service: Service, reason: str, text: str) -> Record:
    """An Event about a Service."""
    meta = service.metadata
    about = {"apiVersion": "v1", "kind": "Service", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid}
    kind = "Warning" if reason in (FAILED, NO_NODES) else "Normal"
    return Record(about, kind, reason, text[:1024], SOURCE)


def writes(service: Service, verdict: Verdict, fault: str, ip_mode: str, ours: tuple[str, ...]) -> list[Patch | Record]:
    """What is to be written now. `fault` is why the Service cannot be served, `ours` are addresses in its status that are the cloud's own."""
    present = service.status.load_balancer.ingress
    if fault or verdict.reason not in ("", ASSIGNED):
        if verdict.hands_off and not fault:
            return []
        why = fault or verdict.message
        said = record(service, FAILED, f"Error syncing load balancer: failed to ensure load balancer: {why}")
        return [said, *([_patch(service, (), "")] if ours else [])]
    if not verdict.reason:
        if not ours:
            return []
        return [
            record(service, DELETING, "Deleting load balancer"),
            _patch(service, (), ""),
            record(service, DELETED, "Deleted load balancer"),
        ]
    if present == tuple(LoadBalancerIngress(ip=ip, ip_mode=ip_mode) for ip in verdict.ips):
        return []
    return [
        record(service, ENSURING, "Ensuring load balancer"),
        _patch(service, verdict.ips, ip_mode),
        record(service, ENSURED, "Ensured load balancer"),
    ]


def _patch(service: Service, ips: tuple[str, ...], ip_mode: str) -> Patch:
    meta = service.metadata
    ingress = [{"ip": ip, "ipMode": ip_mode} for ip in ips] or None
    body = {"status": {"loadBalancer": {"ingress": ingress}}}
    return Patch(kinds.SERVICE, meta.namespace, meta.name, body, "status", meta.resource_version)
