"""A Service's status and the Events about it, out of a verdict: status.loadBalancer.ingress, and the condition that marks it as ours.

Source: KEP-1860 (ipMode). The condition tells what we put there from what another load balancer did: nodes announce the first alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from glassnet.kube import kinds
from glassnet.kube.change import Change, Patch, Record
from glassnet.kube.types import Meta, Service
from glassnet.loadbalancer import request
from glassnet.loadbalancer.assign import Verdict
from glassnet.loadbalancer.request import ASSIGNED, CONDITION

SOURCE = "glassnet-loadbalancer"


def changes(service: Service, verdict: Verdict, now: datetime) -> list[Change]:
    """The patch and the Event that make a Service's status say what the verdict does; none when it does, or the Service is being deleted."""
    meta, old = service.metadata, request.condition(service)
    if meta.deletion_timestamp is not None:
        return []
    status: dict[str, Any] = {}
    shown, wrong = request.shown(service), False
    if not verdict.hands_off:
        wrong = (set(shown) != set(verdict.ips) or not _all_vip(service)) if verdict.reason else bool(set(shown) & set(request.recorded(service)))  # fmt: skip
    if wrong:
        kept = [] if verdict.reason else [_plain(each) for each in service.status.load_balancer.ingress if each.ip not in request.recorded(service)]  # fmt: skip
        ingress = [{"ip": ip, "ipMode": "VIP"} for ip in verdict.ips] or kept
        status["loadBalancer"] = {"ingress": ingress or None}
    said = "True" if verdict.reason == ASSIGNED else "False"
    if verdict.reason:
        if old is None or (old.status, old.reason, old.message) != (said, verdict.reason, verdict.message):
            since = old.last_transition_time if old is not None and old.status == said else None
            stamp = (since or now).strftime("%Y-%m-%dT%H:%M:%SZ")
            status["conditions"] = [{"type": CONDITION, "status": said, "reason": verdict.reason, "message": verdict.message, "lastTransitionTime": stamp}]  # fmt: skip
    elif old is not None:
        status["conditions"] = [{"type": CONDITION, "$patch": "delete"}]
    if not status:
        return []
    patch = Patch(kinds.SERVICE, meta.namespace, meta.name, {"status": status}, "status", meta.resource_version, True)
    return [patch, *_events(service, verdict, "conditions" in status)]


def _all_vip(service: Service) -> bool:
    return all(each.ip_mode == "VIP" for each in service.status.load_balancer.ingress)


def _plain(ingress: Any) -> dict[str, Any]:
    plain = {"ip": ingress.ip, "hostname": ingress.hostname, "ipMode": ingress.ip_mode}
    return {name: value for name, value in plain.items() if value}


def _events(service: Service, verdict: Verdict, said: bool) -> list[Record]:
    if not verdict.reason:
        lost = [ip for ip in request.shown(service) if ip in request.recorded(service)]
        return [record(service.metadata, "Normal", "Released", f"{' '.join(lost)} released")] if lost else []
    if not said:
        return []
    kind = "Normal" if verdict.reason == ASSIGNED else "Warning"
    return [record(service.metadata, kind, verdict.reason, verdict.message)]


def record(meta: Meta, kind: str, reason: str, text: str) -> Record:
    """An Event about a Service."""
    about = {"apiVersion": "v1", "kind": "Service", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid}
    return Record(about, kind, reason, text[:1024], SOURCE)
