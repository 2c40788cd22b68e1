"""Checks of Services with externalTrafficPolicy Local: packets that come to a node without an endpoint of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from glassnet.net import address
from glassnet.tracer import path
from glassnet.tracer.doctor.blame import culprit
from glassnet.tracer.doctor.case import Case
from glassnet.tracer.doctor.finding import CRITICAL, WARNING, Finding, some
from glassnet.tracer.machine import HOST, NODE
from glassnet.tracer.objects import Port
from glassnet.tracer.trace import Way

_HOSTS = 20  # of the snapshot, from which load balancer addresses are tried


class _Lost(NamedTuple):
    """A host whose packets end at the wrong node, the route that leads there, and what drops them."""

    host: str
    route: str
    evidence: tuple[str, ...]


def local_policy(case: Case) -> Iterator[Finding]:
    """Nodes without endpoints drop such packets, as they should: it hurts only where packets are sent there all the same."""
    services: dict[tuple[str, str], list[Port]] = {}
    for port in case.ports:
        spec = port.service.get("spec", {})
        if spec.get("externalTrafficPolicy") == "Local" and spec.get("type") in ("NodePort", "LoadBalancer"):
            services.setdefault((port.namespace, port.name), []).append(port)
    for ports in services.values():
        vacant = [port for port in ports if not case.ready(port)]
        if case.objects.of("endpointslices") and vacant:
            yield _vacant(case, vacant)
            continue
        yield from _health(case, ports)
        yield from _routed(case, ports)


def _vacant(case: Case, ports: list[Port]) -> Finding:
    port = ports[0]
    listed = [e for each in ports for e in case.explainer.endpoints(each)]
    return Finding(
        "local-policy",
        CRITICAL,
        f"Service {port.namespace}/{port.name}",
        f"no node has a ready endpoint of {port.namespace}/{port.name}: with policy Local every node drops packets from outside",
        (
            port.refer("spec.externalTrafficPolicy", "Local").text,
            f"ports: {some([each.text + ' ' + str(each.node_port) for each in ports])}",
            *(dict.fromkeys(e.reference.text for e in listed[:5])),
            *(() if listed else ("its EndpointSlices hold no endpoint",)),
        ),
        (
            "start pods that the selector matches, or see why they are not Ready: kubectl get endpointslices,pods -o wide",
        ),
    )


def _health(case: Case, ports: list[Port]) -> Iterator[Finding]:
    """Nodes where nothing answers the load balancer's health check: it cannot tell which nodes have endpoints."""
    port = ports[0]
    number = port.service.get("spec", {}).get("healthCheckNodePort")
    if not number:
        return
    for node in case.nodes:
        listeners = node.stack.listeners
        if listeners is None or any(each.protocol == "tcp" and each.port == number for each in listeners):
            continue
        yield Finding(
            "local-policy",
            WARNING,
            f"Service {port.namespace}/{port.name}",
            f"the health check port {number} of {port.namespace}/{port.name} is not served on {node.name}",
            (
                port.refer("spec.healthCheckNodePort", str(number)).text,
                f"ss -lnt on {node.name}: nothing listens on port {number}",
            ),
            (f"start kube-proxy on {node.name}, or see in its log why it does not serve the port",),
            node.name,
        )


def _routed(case: Case, ports: list[Port]) -> Iterator[Finding]:
    """Load balancer addresses that a host's route leads to a node without an endpoint."""
    hosts = [host for host in case.world.of_kind(HOST) if case.addresses(host)][:_HOSTS]
    port = ports[0]
    homes = {e.node for e in case.ready(port)}
    for item in port.service.get("status", {}).get("loadBalancer", {}).get("ingress") or ():
        text = address.canonical(item.get("ip") or "")
        if not text or item.get("ipMode") == "Proxy":
            continue
        found: dict[str, list[_Lost]] = {}
        for host in hosts:
            if not any((":" in own) == (":" in text) for own in case.addresses(host)):
                continue
            for way in case.trace(host, text, port.port, port.protocol.lower()).ways:
                end = case.world.machines.get(way.machine)
                if (
                    way.kind not in (path.DROPPED, path.REJECTED)
                    or end is None
                    or end.kind != NODE
                    or way.machine in homes
                ):
                    continue
                guilty = culprit(way, case.world)
                if guilty is not None and guilty.hook:
                    because = [each.text for each in case.explainer.because(way.steps[-1])] if way.steps else []
                    found.setdefault(way.machine, []).append(_Lost(host.name, _led_by(way), (guilty.text, *because)))
        for node, lost in found.items():
            yield _routed_finding(case, port, text, node, lost, homes)


def _led_by(way: Way) -> str:
    """The last route of a host before the packet came to the node that dropped it."""
    routes = [step for step in way.steps if step.kind == "route" and step.machine != way.machine and step.chain]
    return f"ip route on {routes[-1].machine}: {routes[-1].chain}" if routes else ""


def _routed_finding(case: Case, port: Port, text: str, node: str, lost: list[_Lost], homes: set[str]) -> Finding:
    names = list(dict.fromkeys(each.host for each in lost))
    routes = [each.route for each in lost if each.route]
    good = sorted(home for home in homes if home in case.world.machines)
    hops = [case.node_address(case.world.machines[home]) for home in good]
    return Finding(
        "local-policy",
        WARNING,
        f"Service {port.namespace}/{port.name}",
        f"packets of {some(names)} to {text} go to {node}, which has no endpoint of {port.namespace}/{port.name} and drops them",
        (
            port.refer("spec.externalTrafficPolicy", "Local").text,
            *dict.fromkeys(routes),
            *dict.fromkeys(lost[0].evidence),
            f"nodes with endpoints: {some(good)}",
        ),
        (
            *(f"ip route replace {text} via {hop}" for hop in hops[:1] if hop),
            "or let the load balancer choose nodes by spec.healthCheckNodePort, or set spec.externalTrafficPolicy: Cluster (hides client addresses)",
        ),
        node,
    )
