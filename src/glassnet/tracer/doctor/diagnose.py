"""All checks, in one list, and the run over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from glassnet.tracer.doctor import (
    addresses,
    balancers,
    bridges,
    connections,
    forwarding,
    marks,
    node_ports,
    services,
    tables,
)
from glassnet.tracer.doctor.case import Case
from glassnet.tracer.doctor.finding import SEVERITIES, Finding
from glassnet.tracer.world import World

Check = Callable[[Case], Iterator[Finding]]

CHECKS: Mapping[str, Check] = {
    "stale-conntrack": connections.stale,
    "conntrack-before-rules": connections.before_rules,
    "local-policy": services.local_policy,
    "hairpin": bridges.hairpin,
    "mixed-iptables": tables.mixed_iptables,
    "mark-clash": marks.mark_clash,
    "rp-filter": forwarding.rp_filter,
    "conntrack-full": connections.full,
    "nodeport-one-node": node_ports.one_node,
    "forward-drop": forwarding.forward_drop,
    "bridge-nf": bridges.bridge_nf,
    "leaked-ips": addresses.leaked,
    "bridge-address": bridges.bridge_address,
    "no-pod-cidr": addresses.pod_ranges,
    "pod-outside-cidr": addresses.outside_range,
    "port-clash": connections.port_clash,
    "load-balancer": balancers.load_balancers,
}


def diagnose(world: World) -> list[Finding]:
    """What is wrong in a world, the worst first. A check that lacks a dump says nothing; `world.notes` tell what is missing."""
    case = Case(world)
    found = [finding for check in CHECKS.values() for finding in check(case)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
