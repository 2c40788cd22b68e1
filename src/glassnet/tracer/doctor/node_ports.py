"""Node ports that answer at some nodes and not at others: packets from outside to each node, simulated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from glassnet.net import address
from glassnet.tracer import path
from glassnet.tracer.doctor.blame import Culprit, culprit, endpoint_of, lost
from glassnet.tracer.doctor.case import Case
from glassnet.tracer.doctor.finding import CRITICAL, Finding, some
from glassnet.tracer.doctor.forwarding import killed
from glassnet.tracer.doctor.marks import mark_thieves
from glassnet.tracer.objects import Port
from glassnet.tracer.trace import Way
from glassnet.tracer.world import World


@dataclass(slots=True)
class _Fault:
    """What fails at one node for one reason."""

    node: str
    reason: str
    evidence: list[str]
    ports: dict[str, None] = field(default_factory=dict)
    endpoints: dict[str, None] = field(default_factory=dict)
    good: dict[str, None] = field(default_factory=dict)  # nodes where it works


def one_node(case: Case) -> Iterator[Finding]:
    """One finding for each node at which node ports fail that other nodes serve, and each reason.

    What `forward-drop`, `rp-filter` and `mark-clash` tell of is not told again.
    """
    told = set(killed(case, case.pod_probes))
    faults: dict[tuple[str, str], _Fault] = {}
    groups = {group[0]: group for group in case.node_port_groups.values()}
    for port in dict.fromkeys(port for port, _ in case.node_port_probes):
        ways = {
            node.name: case.node_port_probes[port, node.name].trace.ways
            for node in case.nodes
            if (port, node.name) in case.node_port_probes
        }
        _compare(case, groups[port], ways, told, faults)
    for fault in faults.values():
        yield _finding(case, fault)


def _compare(
    case: Case,
    ports: list[Port],
    ways: dict[str, list[Way]],
    told: set[tuple[str, str]],
    faults: dict[tuple[str, str], _Fault],
) -> None:
    """Put an endpoint's failures by one node, where it works by another, into `faults`."""
    good: dict[str, dict[str, None]] = {}
    for node, each in ways.items():
        for way in each:
            if way.result in ("ok", path.REFUSED) and not way.doubts:
                good.setdefault(endpoint_of(way, node), {})[node] = None
    anywhere = dict.fromkeys(node for nodes in good.values() for node in nodes)
    for node, each in ways.items():
        for way in each:
            if lost(way, case.world) is None:
                continue
            endpoint = endpoint_of(way, node)
            works = good.get(endpoint, {}) if endpoint else {n: None for n in anywhere if n != node}
            if not works:
                continue
            guilty = culprit(way, case.world)
            if guilty is None or guilty.key in told or "reverse path filter" in guilty.detail or mark_thieves(way):
                continue
            reason, evidence = _why(way, node, guilty, case.world)
            reason = _general(case, reason, endpoint)
            fault = faults.setdefault((node, reason), _Fault(node, reason, evidence))
            fault.ports |= {f"{port.text} {port.protocol} {port.node_port}": None for port in ports}
            fault.endpoints[endpoint] = None
            fault.good |= works


def _why(way: Way, node: str, guilty: Culprit, world: World) -> tuple[str, list[str]]:
    """(reason, evidence) of a way that fails."""
    if guilty.hook:
        reason = f"dropped at {guilty.hook} on {guilty.machine}"
        return reason, [guilty.text]
    made = way.connections.get(node, ())
    entry = next((c for c in made if c.translates_destination), None)
    if way.kind == path.DELIVERED and entry is not None and not entry.translates_source:
        return (
            f"{node} does not masquerade: the answer goes past it",
            [f"{node}: {entry.text}", guilty.detail],
        )
    if guilty.detail.endswith("is 0"):
        return guilty.detail, [guilty.detail]
    where = f"{guilty.machine}: " if guilty.machine not in guilty.detail else ""
    return f"{where}{guilty.detail}", [f"{where}{guilty.detail}", *_last_route(way, world)]


def _general(case: Case, reason: str, endpoint: str) -> str:
    """A reason that is the same for all pods of a node."""
    pod = case.objects.pods_by_address.get(endpoint)
    home = pod.get("spec", {}).get("nodeName", "") if pod is not None else ""
    return re.sub(rf"(?<![\d.:]){re.escape(endpoint)}(?![\d:])", f"pods of {home}", reason) if home else reason


def _last_route(way: Way, world: World) -> list[str]:
    """The routing decision before the end."""
    part = lost(way, world) or way
    routes = [step for step in part.steps if step.kind == "route"]
    if not routes:
        return []
    last = routes[-1]
    return [f"{last.machine}: {last.action}" + (f" (route: {last.chain})" if last.chain else "")]


def _finding(case: Case, fault: _Fault) -> Finding:
    good = [name for name in fault.good if name != fault.node]
    where = f"work at {some(good)}" if good else "reach only the node's own endpoints"
    title = (
        f"node ports {where}, but not at {fault.node}: {fault.reason}"
        if good
        else f"node ports at {fault.node} {where}: {fault.reason}"
    )
    endpoints = [text for text in fault.endpoints if text]
    evidence = [*fault.evidence, f"node ports: {some(list(fault.ports), 8)}"]
    if endpoints:
        evidence.append(f"endpoints not reached by {fault.node}: {some(endpoints, 8)}")
    return Finding(
        "nodeport-one-node", CRITICAL, fault.node, title, tuple(evidence), _remedy(case, fault, endpoints), fault.node
    )


def _remedy(case: Case, fault: _Fault, endpoints: list[str]) -> tuple[str, ...]:
    reason = fault.reason
    if "masquerade" in reason:
        return (
            f"restart kube-proxy on {fault.node}: its rules that masquerade marked packets (KUBE-POSTROUTING, masquerading) are missing",
        )
    if "dropped at" in reason:
        return (
            f"accept marked packets and their answers before that rule (kube-proxy's KUBE-FORWARD), or take the rule away: {fault.evidence[0]}",
        )
    if "forwarding is" in reason or "does not forward" in reason:
        return ("sysctl -w net.ipv4.ip_forward=1",)
    homes = {
        cidr: name
        for name, cidr in case.objects.pod_ranges()
        for text in endpoints
        if _inside(text, cidr) and name in case.world.machines and name != fault.node
    }
    routes = [
        f"ip route replace {cidr} via {case.node_address(case.world.machines[name])}   # on {fault.node}"
        for cidr, name in homes.items()
    ]
    return tuple(routes) or ("see `glassnet trace` for that packet",)


def _inside(text: str, cidr: str) -> bool:
    try:
        network, mask, bits = address.prefix(cidr)
    except ValueError:
        return False
    return bits == (128 if ":" in text else 32) and address.number(text) & mask == network
