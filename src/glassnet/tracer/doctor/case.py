"""What checks share: the cluster's machines and objects, who is an endpoint of what, the dumped connections, simulated flows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from glassnet.net import address
from glassnet.net.errors import GlassnetError, UsageError
from glassnet.netstack.parse_conntrack import parse_conntrack_lenient
from glassnet.tracer import path
from glassnet.tracer.cluster_facts import Facts, facts_from
from glassnet.tracer.conntrack_report import Classified, classify
from glassnet.tracer.explain import Explainer
from glassnet.tracer.machine import HOST, NODE, POD, Machine
from glassnet.tracer.names import Names
from glassnet.tracer.objects import EndpointRef, Object, Objects, Port, service_addresses
from glassnet.tracer.packet import PROTOCOLS
from glassnet.tracer.trace import Request, Trace, Tracer
from glassnet.tracer.world import World

MOST_PAIRS = 120  # of nodes, between which flows are simulated
MOST_SERVICES = 12  # whose node ports are simulated
BRANCHES = 3000  # of one packet on one machine: more of them come of rules that are not understood
OUTSIDE = "192.0.2.1"  # a client nobody knows (TEST-NET-1)
_PROXY_LABEL = "service.kubernetes.io/service-proxy-name"
_TOLD = (path.DELIVERED, path.REFUSED)
_UNSURE = (path.UNKNOWN, path.LEFT)


@dataclass(frozen=True, slots=True)
class Probe:
    """A simulated flow and what it is, in words."""

    title: str
    trace: Trace


class Case:
    """A world to be looked at. What is costly is made when first asked for, once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.objects = Objects(world.objects)
        self.explainer = Explainer(self.objects)
        self.tracer = Tracer(world, BRANCHES)
        self.names = Names(world, self.objects)
        self.nodes: list[Machine] = world.of_kind(NODE)
        self._tables: dict[str, list[Classified]] = {}

    # -- who is where

    @cached_property
    def pods_by_node(self) -> dict[str, list[Machine]]:
        """Pods with a network of their own, of each node."""
        found: dict[str, list[Machine]] = {}
        for pod in self.world.of_kind(POD):
            if self.addresses(pod):
                found.setdefault(pod.node, []).append(pod)
        return found

    def pods(self, node: Machine) -> list[Machine]:
        """Pods of a node."""
        return self.pods_by_node.get(node.name, [])

    def addresses(self, machine: Machine) -> list[str]:
        """A machine's addresses that others may use, IPv4 first."""
        own = [a for a in machine.stack.addresses if a.scope == "global"]
        return [a.text for a in sorted(own, key=lambda a: a.bits)]

    @cached_property
    def bridged(self) -> dict[tuple[str, str], list[Machine]]:
        """(node, bridge) -> pods behind it."""
        found: dict[tuple[str, str], list[Machine]] = {}
        for node in self.nodes:
            for pod in self.pods(node):
                bridge = node.bridge_of(self.world.port_of(pod))
                if bridge:
                    found.setdefault((node.name, bridge), []).append(pod)
        return found

    def node_address(self, node: Machine) -> str:
        """The address node ports answer on: the API's, else one of a device that is no bridge."""
        known = [text for text, name in self.objects.nodes_by_address.items() if name == node.name]
        own = self.addresses(node)
        bridges = {link.name for link in node.stack.links.values() if link.kind == "bridge"}
        outer = [a.text for a in node.stack.addresses if a.scope == "global" and a.dev not in bridges]
        return next((text for text in [*known, *outer] if text in own), "")

    # -- Services

    def proxied(self, port: Port) -> bool:
        """False for Services that kube-proxy leaves to another."""
        return _PROXY_LABEL not in (port.service["metadata"].get("labels") or {})

    @cached_property
    def ports(self) -> list[Port]:
        """Ports of Services that kube-proxy serves."""
        return [port for port in self.objects.ports if self.proxied(port)]

    def ready(self, port: Port) -> list[EndpointRef]:
        """Endpoints that get traffic: the ready ones, else those that terminate but still serve."""
        listed = self.explainer.endpoints(port)
        return [e for e in listed if e.ready] or [e for e in listed if e.serving and e.terminating]

    @cached_property
    def ports_by_endpoint(self) -> dict[str, list[Port]]:
        """Address of a ready endpoint -> ports of Services with a ClusterIP that lead there."""
        found: dict[str, dict[Port, None]] = {}
        for port in self.ports:
            if cluster_ip(port.service):
                for endpoint in self.ready(port):
                    found.setdefault(endpoint.ip, {})[port] = None
        return {ip: list(ports) for ip, ports in found.items()}

    @cached_property
    def endpoints_by_service(self) -> dict[str, set[str]]:
        """`namespace/name` -> addresses of its ready endpoints."""
        found: dict[str, set[str]] = {}
        for ip, ports in self.ports_by_endpoint.items():
            for port in ports:
                found.setdefault(f"{port.namespace}/{port.name}", set()).add(ip)
        return found

    # -- connections

    @cached_property
    def facts(self) -> Facts | None:
        """Who addresses are; None when an object is too broken to tell."""
        try:
            return facts_from(item for items in self.world.objects.values() for item in items)
        except GlassnetError:
            return None

    def dumped(self, node: Machine) -> bool:
        """Whether somebody dumped the node's connections."""
        return bool(node.tables)

    def table(self, node: Machine) -> list[Classified]:
        """The dumped connections of a node, each joined with the cluster."""
        found = self._tables.get(node.name)
        if found is None:
            entries = [
                entry
                for where, data in node.tables
                for entry in parse_conntrack_lenient(data.decode("utf-8", "replace"), where)[0]
            ]
            found = classify(entries, self.facts, node.name) if self.facts is not None else []
            self._tables[node.name] = found
        return found

    def table_file(self, node: Machine) -> str:
        """The file of a node's connections."""
        return node.tables[0][0] if node.tables else ""

    # -- simulated flows

    def trace(self, machine: Machine, to: str, port: int, protocol: str = "tcp") -> Trace:
        """A packet from a machine of the world."""
        bits = 128 if ":" in to else 32
        return self.tracer.trace(Request(machine.name, bits, PROTOCOLS[protocol], address.number(to), port))

    def from_outside(self, node: Machine, port: int, protocol: str = "tcp") -> Trace | None:
        """A packet from outside to a port of a node: from a host of the snapshot when its packets get there, else from a stranger."""
        to = self.node_address(node)
        if not to:
            return None
        try:
            request = self.names.request("internet", address.with_port(to, port), protocol)
            trace = self.tracer.trace(request)
            if any(step.machine == node.name for way in trace.ways for step in way.steps):
                return trace
            stranger = self.names.request(OUTSIDE, address.with_port(to, port), protocol, via=node.name)
            return self.tracer.trace(stranger)
        except UsageError:
            return None

    @cached_property
    def outside(self) -> str:
        """The address of a host that is no part of the cluster."""
        host = self.names.source("internet") if self.world.of_kind(HOST) else OUTSIDE
        texts = self.addresses(host) if isinstance(host, Machine) else []
        return texts[0] if texts else OUTSIDE

    @cached_property
    def pod_probes(self) -> list[Probe]:
        """From a pod of each node to a pod of every other, and to the outside; from each node to pods of others."""
        return list(self._pod_probes())

    def _pod_probes(self) -> Iterator[Probe]:
        pairs = 0
        for node in self.nodes:
            here = self.pods(node)[:1]
            for pod in here:
                yield Probe(f"{pod.name} > {self.outside}:443 (outside)", self.trace(pod, self.outside, 443))
            for other in self.nodes:
                there = self.pods(other)[:1]
                pairs += 1
                if other is node or not there or pairs > MOST_PAIRS:
                    continue
                to = self.addresses(there[0])[0]
                for source in (*here, node):
                    if source.kind == NODE or ":" in to or "." in self.addresses(source)[0]:
                        title = f"{source.name} > {there[0].name} on {other.name}"
                        yield Probe(title, self.trace(source, to, self._port(there[0])))

    def _port(self, pod: Machine) -> int:
        """A port the pod listens on, else 80."""
        for each in pod.stack.listeners or ():
            if each.protocol == "tcp" and not address.text_of(each.value, each.bits).startswith("127."):
                return each.port
        return 80

    @cached_property
    def node_port_probes(self) -> dict[tuple[Port, str], Probe]:
        """(Service port, node) -> a packet from outside to its node port there. Services with policy Cluster and ready endpoints."""
        found: dict[tuple[Port, str], Probe] = {}
        for port in self._node_ports():
            for node in self.nodes:
                trace = self.from_outside(node, port.node_port, port.protocol.lower())
                if trace is not None:
                    title = f"outside > {self.node_address(node)}:{port.node_port} ({port.text}) by {node.name}"
                    found[port, node.name] = Probe(title, trace)
        return found

    def _node_ports(self) -> list[Port]:
        """One of each group whose node ports lead to the same endpoints."""
        return [group[0] for group in self.node_port_groups.values()][:MOST_SERVICES]

    @cached_property
    def node_port_groups(self) -> dict[tuple[object, ...], list[Port]]:
        """Service ports with node ports (policy Cluster) that have the same protocol, endpoints and affinity."""
        found: dict[tuple[object, ...], list[Port]] = {}
        for port in self.ports:
            endpoints = tuple(sorted((e.ip, e.port) for e in self.ready(port)))
            local = port.service.get("spec", {}).get("externalTrafficPolicy") == "Local"
            if port.node_port and not local and endpoints and port.protocol.lower() in PROTOCOLS:
                sticky = port.service.get("spec", {}).get("sessionAffinity")
                found.setdefault((port.protocol, sticky, endpoints), []).append(port)
        return found


def cluster_ip(service: Object) -> str:
    """A Service's first ClusterIP, or ""."""
    return next((text for text, where in service_addresses(service) if where == "spec.clusterIP"), "")
