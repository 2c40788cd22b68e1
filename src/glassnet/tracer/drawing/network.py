"""A world as what a map of it shows: networks and who is on them, nodes with their bridges and pods, routes, addresses of Services.

What is what follows from the dump alone: a network is a range that machines have addresses in on links that lead to no pod; the one most nodes
are on is the nodes'; who is on two of them is a router.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace

from glassnet.net import address
from glassnet.netstack.model import Address, Link
from glassnet.tracer.machine import HOST, NODE, POD, Machine
from glassnet.tracer.objects import Objects, Port, service_addresses
from glassnet.tracer.world import World

_VIRTUAL = ("bridge", "vxlan", "dummy", "tun", "wireguard", "ipip", "sit", "loopback")
_OUTER = ("LoadBalancer", "external IP")


@dataclass(frozen=True, slots=True)
class Seat:
    """A machine on a network: by which device, with which address (text without a length)."""

    machine: str
    dev: str
    address: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A network: its range, who is on it, and the bridge (`name on machine`) that joins them where there is one to see."""

    range: str
    seats: tuple[Seat, ...]
    bridge: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod on its node: `port` is the node's end of its link."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    port: str


@dataclass(frozen=True, slots=True)
class Bridge:
    """What joins pods on a node: a bridge, or ("") nothing, when every pod has a link and a route of its own."""

    name: str
    addresses: tuple[str, ...]
    pods: tuple[Pod, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A machine. `routes` are those that lead somewhere else, (range, via); `public` what clients outside call it by."""

    name: str
    addresses: tuple[str, ...]
    routes: tuple[tuple[str, str], ...] = ()
    public: tuple[str, ...] = ()
    zone: str = ""
    ranges: tuple[str, ...] = ()
    bridges: tuple[Bridge, ...] = ()
    host_pods: int = 0

    @property
    def pods(self) -> tuple[Pod, ...]:
        return tuple(pod for bridge in self.bridges for pod in bridge.pods)


@dataclass(frozen=True, slots=True)
class Entry:
    """An address of a Service: `kind` ClusterIP, LoadBalancer, external IP; `endpoints` ready ones, of `total`."""

    service: str
    kind: str
    address: str
    port: int
    protocol: str
    node_port: int
    endpoints: int
    total: int
    local: bool = False

    @property
    def text(self) -> str:
        """`address:port/protocol`."""
        return f"{address.with_port(self.address, self.port)}/{self.protocol}"


@dataclass(slots=True)
class Network:
    """The whole. `own` is the nodes' network (None: there is no node), `others` the rest of them."""

    own: Segment | None = None
    others: list[Segment] = field(default_factory=list)
    routers: list[Box] = field(default_factory=list)
    outside: list[Box] = field(default_factory=list)
    hosts: list[Box] = field(default_factory=list)
    nodes: list[Box] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    @property
    def virtual(self) -> list[Entry]:
        """The entries that clients outside may call."""
        return [each for each in self.entries if each.kind in _OUTER]


def network_of(world: World) -> Network:
    """What a map of a world shows."""
    return _Reading(world).network()


class _Reading:
    def __init__(self, world: World) -> None:
        self.world, self.objects = world, Objects(world.objects)
        self.pods: dict[str, list[Machine]] = {}
        for pod in world.of_kind(POD):
            self.pods.setdefault(pod.node, []).append(pod)
        self.machines = [*world.of_kind(NODE), *world.of_kind(HOST)]
        self.names = {a.text: m.name for m in self.machines for a in _own(m)}

    def network(self) -> Network:
        """Put it together."""
        segments = self._segments()
        nodes = {machine.name for machine in self.world.of_kind(NODE)}
        own = max(segments, key=lambda s: (sum(seat.machine in nodes for seat in s.seats), -segments.index(s)), default=None)  # fmt: skip
        seats = Counter(name for each in segments for name in {seat.machine for seat in each.seats})
        on_own = {seat.machine for seat in own.seats} if own else set()
        found = Network(own=own, others=[each for each in segments if each is not own], entries=self._entries())
        for machine in sorted(self.machines, key=lambda each: _natural(each.name)):
            if machine.kind == NODE:
                found.nodes.append(self._node(machine))
            elif seats[machine.name] > 1:
                found.routers.append(self._box(machine))
            elif machine.name in on_own:
                found.hosts.append(self._box(machine))
            elif seats[machine.name]:
                found.outside.append(self._box(machine))
        return found

    def _segments(self) -> list[Segment]:
        seats: dict[str, list[Seat]] = {}
        for machine in self.machines:
            leading = {self.world.port_of(pod) for pod in self.pods.get(machine.name, ())}
            for item in _own(machine):
                link = machine.stack.links.get(item.dev)
                if item.length == item.bits or item.dev in leading or (link is not None and link.kind in _VIRTUAL):
                    continue
                seats.setdefault(_range(item), []).append(Seat(machine.name, item.dev, item.text))
        return [Segment(key, tuple(each), self._joining(each)) for key, each in seats.items()]

    def _joining(self, seats: list[Seat]) -> str:
        """The bridge of a machine without addresses whose ports are named after those it joins."""
        names = {seat.machine for seat in seats}
        for machine in self.world.of_kind(HOST):
            for link in machine.stack.links.values():
                ports = {each.name for each in machine.stack.links.values() if each.master == link.name}
                if link.kind == "bridge" and len(ports & names) > 1:
                    return f"{link.name} on {machine.name}"
        return ""

    def _box(self, machine: Machine) -> Box:
        return Box(
            machine.name,
            tuple(f"{item.text} {item.dev}" for item in _own(machine)),
            self._routes(machine),
            self._public(machine.name),
        )

    def _public(self, name: str) -> tuple[str, ...]:
        items = self.objects.nodes.get(name, {}).get("status", {}).get("addresses", ())
        return tuple(item["address"] for item in items if item.get("type") == "ExternalIP")

    def _routes(self, machine: Machine) -> tuple[tuple[str, str], ...]:
        """Routes by a gateway, the default one first: where to, and the next hop with its name where that is known."""
        found = []
        for route in machine.stack.routes:
            hops = [hop for hop in route.hops if hop.gateway is not None]
            if route.table != "main" or route.type != "unicast" or not hops:
                continue
            gateways = [address.text_of(hop.gateway or 0, hop.gateway_bits or route.bits) for hop in hops]
            via = ", ".join(f"{text} ({self.names[text]})" if text in self.names else text for text in gateways)
            where = f"{address.text_of(route.network, route.bits)}/{route.length}" if route.length else "default"
            found.append((where, via))
        return tuple(sorted(found, key=lambda each: each[0] != "default"))

    # -- nodes

    def _node(self, machine: Machine) -> Box:
        node = self.objects.nodes.get(machine.name, {})
        spec = node.get("spec", {})
        on_host = [pod for pod in self.objects.of("pods") if pod.get("spec", {}).get("hostNetwork")]
        base = self._box(machine)
        bridges = self._bridges(machine)
        inner = {bridge.name for bridge in bridges}
        return replace(
            base,
            addresses=tuple(text for text in base.addresses if text.rpartition(" ")[2] not in inner),
            zone=node.get("metadata", {}).get("labels", {}).get("topology.kubernetes.io/zone", ""),
            ranges=tuple(spec.get("podCIDRs") or filter(None, [spec.get("podCIDR", "")])),
            bridges=bridges,
            host_pods=sum(pod["spec"].get("nodeName") == machine.name for pod in on_host),
        )

    def _bridges(self, machine: Machine) -> tuple[Bridge, ...]:
        behind: dict[str, list[Pod]] = {}
        for pod in self.pods.get(machine.name, ()):
            port = self.world.port_of(pod)
            namespace, _, name = pod.name.partition("/")
            texts = tuple(item.text for item in _own(pod))
            behind.setdefault(machine.bridge_of(port), []).append(Pod(namespace, name, texts, port))
        names = [link.name for link in machine.stack.links.values() if link.kind == "bridge"]
        found = [
            Bridge(name, self._of(machine, machine.stack.links[name]), _sorted(behind.get(name, ()))) for name in names
        ]
        return (*found, *([Bridge("", (), _sorted(behind[""]))] if "" in behind else []))

    def _of(self, machine: Machine, link: Link) -> tuple[str, ...]:
        return tuple(f"{item.text}/{item.length}" for item in _own(machine) if item.dev == link.name)

    # -- Services

    def _entries(self) -> list[Entry]:
        found = []
        for port in self.objects.ports:
            for text, where in service_addresses(port.service):
                found.append(self._entry(port, text, where))
        return sorted(found, key=lambda each: (each.kind not in _OUTER, each.service, each.address, each.port))

    def _entry(self, port: Port, text: str, where: str) -> Entry:
        all_ = self.objects.endpoints.get((port.namespace, port.name), ())
        behind = [each for each in all_ if each.port_name == port.port_name]
        kind = "LoadBalancer" if "loadBalancer" in where else "external IP" if "external" in where else "ClusterIP"
        local = port.service.get("spec", {}).get("externalTrafficPolicy") == "Local" and kind in _OUTER
        ready = sum(each.ready for each in behind)
        return Entry(port.text, kind, text, port.port, port.protocol, port.node_port, ready, len(behind), local)


def _own(machine: Machine) -> list[Address]:
    """Addresses that others may know."""
    return [item for item in machine.stack.addresses if item.scope not in ("host", "link") and item.dev != "lo"]


def _range(item: Address) -> str:
    shift = item.bits - item.length
    return f"{address.text_of(item.value >> shift << shift, item.bits)}/{item.length}"


def _sorted(pods: list[Pod] | tuple[()]) -> tuple[Pod, ...]:
    def key(pod: Pod) -> tuple[int, int]:
        text = pod.addresses[0] if pod.addresses else ""
        return (len(text) and ":" in text, address.number(text) if text else 0)

    return tuple(sorted(pods, key=key))


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """worker-9 goes before worker-10."""
    return tuple((text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name))
