"""Follows a packet from machine to machine, and its answer back: every way it may take, with its probability.

A trace is exact as far as the snapshot goes. What is not known taints the branches that depend on it, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from glassnet.net import address
from glassnet.tracer import path
from glassnet.tracer.connections import load_connections
from glassnet.tracer.machine import NODE, POD, Machine
from glassnet.tracer.packet import ACK, DOUBTS, PORTED, RST, SYN, Branch, Connection, Packet, Step
from glassnet.tracer.path import Departure, End, Passage
from glassnet.tracer.world import World

_HOPS = 70  # more than any time to live lets through twice


@dataclass(frozen=True, slots=True)
class Request:
    """The first packet of a flow: where it starts and what it says. `source` 0: the sender's own choice.

    `machine` is where it is made; with `entry` set it comes from outside and enters that machine by its device. `existing` takes dumped
    connections into account.
    """

    machine: str
    bits: int
    protocol: int
    dst: int
    dport: int = 0
    source: int = 0
    sport: int = 40000
    entry: str = ""
    length: int = 60
    existing: bool = False
    title: str = ""


@dataclass(slots=True)
class Way:
    """One way the packet may take, to its end and back."""

    weight: float
    doubts: tuple[str, ...]
    steps: list[Step]
    machine: str
    kind: str
    detail: str
    packet: Packet
    connections: dict[str, tuple[Connection, ...]]
    at_source: bool = False
    reply: Way | None = None

    @property
    def answered(self) -> bool:
        """True when the packet is delivered and its answer comes home."""
        return self.kind == path.DELIVERED and self.reply is not None and self.reply.kind == path.DELIVERED

    @property
    def result(self) -> str:
        """One word for the sender: ok, refused, rejected, timeout, no-route, unreachable, unknown, …"""
        if self.kind in (path.DELIVERED, path.REFUSED) and self.reply is not None:
            if self.reply.kind == path.UNKNOWN:
                return "unknown"
            if self.reply.kind != path.DELIVERED:
                return "no-answer"
        return "ok" if self.kind == path.DELIVERED else self.kind


@dataclass(slots=True)
class Trace:
    """The answer to a request: all ways, the likeliest first within each result."""

    request: Request
    ways: list[Way] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def results(self) -> dict[str, float]:
        """Result -> share of the packets (of those whose shares are known)."""
        found: dict[str, float] = {}
        for way in self.ways:
            found[way.result] = found.get(way.result, 0.0) + way.weight
        return found

    @property
    def certain(self) -> bool:
        """False when something is not known that the result depends on."""
        if any(way.result == "unknown" or any(not _question(doubt) for doubt in way.doubts) for way in self.ways):
            return False
        return len(self.results) == 1 or not any(way.doubts for way in self.ways)


class Tracer:
    """Traces packets through a world; keeps what is compiled between traces."""

    def __init__(self, world: World, limit: int = 20_000) -> None:
        self.world, self.limit = world, limit
        self._passages: dict[str, Passage] = {}

    def passage(self, machine: Machine) -> Passage:
        """The machine's passage, made once."""
        found = self._passages.get(machine.name)
        if found is None:
            found = self._passages[machine.name] = Passage(machine, _finder(machine), self.limit, self._blocked)
        found.filter.left = self.limit
        return found

    def trace(self, request: Request, replies: bool = True, recorded: bool = True) -> Trace:
        """Follow a request's packet. Without `recorded` ways have no steps, only ends. Raises KeyError for a machine the world does not have."""
        packet = Packet(
            request.bits, request.protocol, request.source, request.dst, request.sport, request.dport,
            icmp_type=8 if request.protocol == 1 else 128 if request.protocol == 58 else 0,
            flags=SYN if request.protocol == 6 else 0, length=request.length,
        )  # fmt: skip
        if request.protocol not in PORTED:
            packet.sport = packet.dport = 0
        branch = Branch(packet, changes={"existing": request.existing}, recorded=recorded)
        machine = self.world.machines[request.machine]
        found = Trace(request)
        if request.entry:
            arrivals = self._arrive(branch, machine, request.entry, request.dst)
        else:
            arrivals = self._results(self.passage(machine).send(branch), machine)
        for end in arrivals:
            way = _way(end)
            found.ways.append(way)
            if replies and end.kind in (path.DELIVERED, path.REFUSED):
                self._reply(found, way, end, request)
        found.ways.sort(key=lambda way: -way.weight)
        return found

    # -- there

    def _results(self, results: Iterator[path.Result], machine: Machine) -> Iterator[End]:
        for result in results:
            if isinstance(result, End):
                yield result
            else:
                yield from self._travel(result, machine)

    def _arrive(self, branch: Branch, machine: Machine, dev: str, next_hop: int) -> Iterator[End]:
        packet = branch.packet
        key = (machine.name, dev, packet.src, packet.dst, packet.sport, packet.dport)
        seen: tuple[object, ...] = branch.changes.get("seen", ())
        if key in seen or len(seen) > _HOPS:
            names = [str(place[0]) for place in seen[seen.index(key) :]] if key in seen else []  # type: ignore[index]
            ring = " > ".join(dict.fromkeys(names))
            yield End(
                branch, machine.name, path.EXPIRED, f"it goes round between {ring} until its time to live is spent"
            )
            return
        branch.changes["seen"] = (*seen, key)
        packet.hook, packet.iif, packet.oif = "", dev, ""
        branch.add("receive", machine.name, f"arrives by {dev}")
        yield from self._results(self.passage(machine).receive(branch, dev, next_hop), machine)

    def _travel(self, departure: Departure, machine: Machine) -> Iterator[End]:
        """From one machine to the next."""
        branch, dev = departure.branch, departure.dev
        packet = branch.packet
        packet.hook = "postrouting"
        link = machine.link(dev)
        target = address.text_of(departure.next_hop, packet.bits)
        if link is not None and not link.up:
            yield End(branch, machine.name, path.DROPPED, f"{dev} of {machine.name} is down")
        elif link is not None and link.mtu and packet.length > link.mtu:
            yield End(
                branch,
                machine.name,
                path.DROPPED,
                f"{packet.length} bytes do not fit {dev} of {machine.name} (MTU {link.mtu})",
            )
        elif machine.kind == POD:
            yield from self._out_of_pod(departure, machine)
        else:
            found = self.world.neighbour(machine, dev, departure.next_hop, packet.bits)
            if found is None:
                yield self._nobody(departure, machine, target)
            elif found[0].kind == POD:
                yield from self._into_pod(departure, machine, *found)
            else:
                tunnel = (
                    f", in {link.kind}"
                    if link is not None and link.kind in ("vxlan", "ipip", "geneve", "wireguard", "gre")
                    else ""
                )
                branch.add("send", machine.name, f"leaves by {dev} to {found[0].name} ({target}){tunnel}")
                yield from self._arrive(branch, *found, departure.next_hop)

    def _out_of_pod(self, departure: Departure, pod: Machine) -> Iterator[End]:
        node, port = self.world.machines.get(pod.node), self.world.port_of(pod)
        branch = departure.branch
        if node is None:
            yield End(
                branch,
                pod.name,
                path.LEFT,
                f"node {pod.node or '(unknown)'} is not in the snapshot: what happens there is not known",
            )
        elif not port:
            yield End(branch, pod.name, path.UNKNOWN, f"which device of {node.name} leads to this pod is not known")
        else:
            branch.add("send", pod.name, f"leaves by {departure.dev} to {node.name}")
            yield from self._arrive(branch, node, port, departure.next_hop)

    def _into_pod(self, departure: Departure, node: Machine, pod: Machine, device: str) -> Iterator[End]:
        branch, port = departure.branch, self.world.port_of(pod)
        if departure.bridge and port:
            lost = _lost_at_port(node, departure.bridge, departure.ingress, port)
            if lost:
                branch.packet.hook = ""
                branch.add("bridge", node.name, lost)
                yield End(branch, node.name, path.DROPPED, lost)
                return
        branch.add(
            "send",
            node.name,
            f"leaves by {departure.dev}" + (f", port {port}," if departure.bridge and port else "") + f" to {pod.name}",
        )
        yield from self._arrive(branch, pod, device, departure.next_hop)

    def _blocked(self, node: Machine, bridge: str, ingress: str, packet: Packet) -> str:
        """Why a bridge does not switch a packet to the pod it is for, or ""."""
        found = self.world.neighbour(node, bridge, packet.next_hop, packet.bits)
        port = self.world.port_of(found[0]) if found is not None and found[0].kind == POD else ""
        return _lost_at_port(node, bridge, ingress, port) if port else ""

    def _nobody(self, departure: Departure, machine: Machine, target: str) -> End:
        branch, dev = departure.branch, departure.dev
        packet = branch.packet
        entry = machine.stack.neighbours.get((departure.next_hop, packet.bits, dev))
        link = machine.link(dev)
        if entry is not None and entry.state in ("FAILED", "INCOMPLETE"):
            branch.add("neighbour", machine.name, f"{target} does not answer on {dev} ({entry.state})")
            return End(branch, machine.name, path.NO_NEIGHBOUR, f"{target} does not answer on {dev} of {machine.name}")
        if (
            entry is None
            and link is not None
            and (link.kind == "bridge" or machine.bridge_of(dev))
            and machine.kind == NODE
        ):
            branch.add("neighbour", machine.name, f"nobody on {dev} has {target}")
            return End(branch, machine.name, path.NO_NEIGHBOUR, f"nobody on {dev} of {machine.name} has {target}")
        branch.add("send", machine.name, f"leaves by {dev} to {target}, which is not in the snapshot")
        return End(
            branch,
            machine.name,
            path.LEFT,
            f"it leaves {machine.name} by {dev} to {target}, which is not in the snapshot",
        )

    # -- and back

    def _reply(self, found: Trace, way: Way, end: End, request: Request) -> None:
        """Send the answer; a way with several replies becomes several ways."""
        there, machine = end.branch.packet, self.world.machines[end.machine]
        back = Packet(
            there.bits, there.protocol, there.dst, there.src, there.dport, there.sport,
            icmp_type=0 if there.protocol == 1 else 129 if there.protocol == 58 else 0,
            flags=(RST | ACK if end.kind == path.REFUSED else SYN | ACK) if there.protocol == 6 else 0,
        )  # fmt: skip
        changes = {name: value for name, value in end.branch.changes.items() if name not in ("seen", "routed")}
        branch = Branch(back, 1.0, (), None, changes | {"answer": True}, end.branch.recorded)
        replies = [
            self._judge(back_end, request) for back_end in self._results(self.passage(machine).send(branch), machine)
        ]
        if not replies:
            return
        way.reply = replies[0]
        for other in replies[1:]:
            copy = _way(end)
            copy.weight = way.weight * other.weight
            copy.reply = other
            found.ways.append(copy)
        way.weight *= replies[0].weight

    def _judge(self, end: End, request: Request) -> Way:
        """Whether the answer fits what the client asked."""
        packet, way = end.branch.packet, _way(end)
        client = request.source
        fits = (packet.src, packet.sport) == (request.dst, request.dport) and packet.dport == request.sport
        if request.protocol not in PORTED:
            fits = packet.src == request.dst
        home = end.kind == path.DELIVERED and end.machine == request.machine
        gone = end.kind == path.LEFT and (request.entry or packet.dst == client)
        if home and not fits:
            way.kind = path.DROPPED
            way.detail = f"the answer comes from {packet.source}, which the client never asked: it does not take it"
        elif gone and request.entry:
            way.kind = path.DELIVERED if fits else path.DROPPED
            way.detail = (
                "on its way to the client"
                if fits
                else f"the answer comes from {packet.source}, which the client never asked"
            )
        elif end.kind == path.DELIVERED and not home:
            way.kind = path.DROPPED
            way.detail = f"the answer goes to {end.machine}, which is not the client"
        return way


def _question(doubt: str) -> bool:
    """True for a doubt whose other answer is followed as well."""
    return doubt.startswith(tuple(start for pair in DOUBTS for start in pair))


def _lost_at_port(node: Machine, bridge: str, ingress: str, port: str) -> str:
    """Why a bridge does not send a packet out of a port (should_deliver of br_forward.c), or ""."""
    facts, link = node.stack.ports.get(port), node.link(port)
    if port == ingress and not (facts is not None and facts.hairpin):
        return f"bridge {bridge} does not send it back out of {port}, where it came in (hairpin mode is off)"
    if facts is not None and facts.state not in ("forwarding", ""):
        return f"port {port} of {bridge} is {facts.state}"
    if link is not None and not link.up:
        return f"{port} of {node.name} is down"
    if facts is not None and facts.isolated and _isolated(node, ingress):
        return f"ports {ingress} and {port} of {bridge} are isolated from each other"
    return ""


def _isolated(node: Machine, port: str) -> bool:
    facts = node.stack.ports.get(port)
    return facts is not None and facts.isolated


def _finder(machine: Machine) -> Callable[[Branch], tuple[Connection, bool] | None]:
    """Looks a packet up among the connections of this trace, then (when asked to) those of the dump."""

    def find(branch: Branch) -> tuple[Connection, bool] | None:
        p = branch.packet
        for c in branch.changes.get(machine.name, ()):
            if c.protocol != p.protocol:
                continue
            if (c.src, c.sport, c.dst, c.dport) == (p.src, p.sport, p.dst, p.dport):
                return c, False
            if (c.reply_src, c.reply_sport, c.reply_dst, c.reply_dport) == (p.src, p.sport, p.dst, p.dport):
                return c, True
        if branch.changes.get("existing"):
            if not machine.connections and machine.tables:
                machine.connections = load_connections(machine)
            return machine.connections.get((p.protocol, p.src, p.sport, p.dst, p.dport))
        return None

    return find


def _way(end: End) -> Way:
    branch = end.branch
    connections = {
        name: value
        for name, value in branch.changes.items()
        if isinstance(value, tuple) and value and isinstance(value[0], Connection)
    }
    steps = branch.trail.steps() if branch.trail is not None else []
    return Way(
        branch.weight,
        branch.doubts,
        steps,
        end.machine,
        end.kind,
        end.detail,
        branch.packet,
        connections,
        end.at_source,
    )
