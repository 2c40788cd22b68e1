"""Checks of Services of type LoadBalancer, by the condition that their controller leaves in the status: no address, and nobody who announces it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glassnet.loadbalancer.announce import EXCLUDED
from glassnet.loadbalancer.request import ASSIGNED, CONDITION
from glassnet.tracer.doctor.case import Case
from glassnet.tracer.doctor.finding import CRITICAL, WARNING, Finding, some

_REMEDIES = {
    "PoolExhausted": "add addresses to the pool (ConfigMap glassnet-loadbalancer), or delete Services that need none",
    "NoPool": "add a pool for it, or name one by the annotation glassnet.dev/loadbalancer-pool",
    "PoolNotAllowed": "ask for another pool, or widen the pool's namespaces and serviceSelector",
    "AddressTaken": "ask for another address, or share this one: annotation glassnet.dev/loadbalancer-sharing-key on both",
    "AddressOutsidePools": "ask for an address of a pool, or add this one to a pool",
    "UnknownClass": "delete the Service and make it anew with spec.loadBalancerClass glassnet.dev/loadbalancer",
    "OtherLoadBalancer": "let one load balancer have the Service: give it a spec.loadBalancerClass",
}


def load_balancers(case: Case) -> Iterator[Finding]:
    """Services that asked for an address and have none, or one that no node announces."""
    for service in case.objects.of("services"):
        condition = _condition(service)
        if service.get("spec", {}).get("type") != "LoadBalancer" or condition is None:
            continue
        name = f"{service['metadata'].get('namespace', '')}/{service['metadata']['name']}"
        reason, said = condition.get("reason", ""), condition.get("message", "")
        line = f"Service {name} status.conditions: {CONDITION} is {condition.get('status')}, {reason}: {said}"
        if reason != ASSIGNED:
            remedy = _REMEDIES.get(reason, f"kubectl describe service -n {name.replace('/', ' ')}")
            yield Finding("load-balancer", WARNING, f"Service {name}", f"{name} has no address of ours: {reason}", (line,), (remedy,))  # fmt: skip
        elif nodes := case.objects.of("nodes"):
            yield from _silent(name, line, nodes)


def _condition(service: dict[str, Any]) -> dict[str, Any] | None:
    found = service.get("status", {}).get("conditions") or ()
    return next((each for each in found if each.get("type") == CONDITION), None)


def _silent(name: str, line: str, nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    kept = [node["metadata"]["name"] for node in nodes if EXCLUDED in (node["metadata"].get("labels") or {})]
    if len(kept) == len(nodes):
        yield Finding(
            "load-balancer",
            CRITICAL,
            f"Service {name}",
            f"no node announces the address of {name}: all of them are kept from it by a label",
            (line, f"nodes with the label {EXCLUDED}: {some(kept)}"),
            (f"kubectl label node {kept[0]} {EXCLUDED}-",),
        )
