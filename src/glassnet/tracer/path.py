"""The way of a packet through one machine: routing decisions, hooks, bridge ports, local delivery.

Source: net/ipv4/{ip_input,ip_forward,ip_output,route}.c, net/netfilter/core.c, net/bridge/{br_input,br_forward,br_netfilter_hooks}.c of
Linux; the sysctls are in Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from glassnet.net import address
from glassnet.tracer.evaluate import verdicts as v
from glassnet.tracer.evaluate.filter import Filter, routing_key
from glassnet.tracer.evaluate.verdicts import Verdict
from glassnet.tracer.fib import Decision, Question, hop_text
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import Branch, Connection, Packet

DELIVERED, REFUSED, REJECTED, DROPPED = "delivered", "refused", "rejected", "dropped"
NO_ROUTE, UNREACHABLE, NO_NEIGHBOUR, EXPIRED, LEFT, UNKNOWN = (
    "no-route",
    "unreachable",
    "no-neighbour",
    "expired",
    "left",
    "unknown",
)


@dataclass(slots=True)
class End:
    """Where a branch ends. `kind` is one of the names above, `detail` says why; `at_source` tells that the sender itself refused."""

    branch: Branch
    machine: str
    kind: str
    detail: str = ""
    at_source: bool = False


@dataclass(slots=True)
class Departure:
    """A packet leaving a machine: by which device (a bridge: the port is still to be found), to which next hop.

    `ingress` is the bridge port it came by when it never left the bridge.
    """

    branch: Branch
    dev: str
    next_hop: int
    bridge: str = ""
    ingress: str = ""


Result = End | Departure
Gate = Callable[[Branch, Callable[[], Iterator["Result"]]], Iterator["Result"]]


class Passage:
    """Moves packets through one machine. `find` looks up connections that this trace made here; `blocked` says why a bridge of the machine
    does not switch a packet that came by a port ("": it does)."""

    def __init__(
        self,
        machine: Machine,
        find: Callable[[Branch], tuple[Connection, bool] | None],
        limit: int = 20_000,
        blocked: Callable[[Machine, str, str, Packet], str] = lambda machine, bridge, port, packet: "",
    ) -> None:
        self.blocked = blocked
        self.machine = machine
        self.filter = Filter(machine, find, limit)
        self.name = machine.name
        self.gate: Gate | None = None  # asked behind prerouting; may go on, or answer from what it knows

    # -- locally made packets

    def send(self, branch: Branch) -> Iterator[Result]:
        """A packet made here: route, output, postrouting."""
        packet = branch.packet
        packet.iif = packet.physin = packet.physout = ""
        packet.bridged = False
        packet.connection, packet.state, packet.reply = None, "invalid", False
        for each, decision in self._decide(branch, Question.of(packet)):
            yield from self._leave(each, decision)

    def _leave(self, branch: Branch, decision: Decision) -> Iterator[Result]:
        lost = self._take(branch, decision, "output")
        if lost is not None:
            lost.at_source = True
            yield lost
            return
        packet = branch.packet
        if not packet.src:
            found = self.machine.fib.source_for(decision, packet.dst, packet.bits)
            if found is None:
                yield End(branch, self.name, UNKNOWN, f"no address of {self.name} to send from is known")
                return
            packet.src = found
        if self._strays(packet):
            yield End(
                branch,
                self.name,
                UNREACHABLE,
                f"a loopback source may not leave by {packet.oif} (route_localnet is 0)",
                True,
            )
            return
        for each, verdict in self.filter.run("output", branch, self._reroute):
            each.packet.oif = each.changes.pop("oif", each.packet.oif)
            others = each.changes.pop("others", ())
            if verdict.kind != v.ACCEPT:
                yield self._ended(each, verdict, "output")
                continue
            forks = [(each.fork(way.share), way) for way in others]
            if others:
                each.weight *= 1 - sum(way.share for way in others)
            yield from self._post(each)
            for fork, way in forks:
                self._take(fork, way, "output again, after the change")
                yield from self._post(fork)

    def _reroute(self, branch: Branch, kind: str) -> str:
        """ip_route_me_harder: a new decision after mangle or nat changed what the old one was made for.

        Rules that follow at this hook still see the old device: nf_hook_state is made once.
        """
        packet = branch.packet
        if kind == "route":
            if branch.changes.pop("before", None) == routing_key(packet):
                return ""
        elif kind != "nat" or not _redirected(packet):
            return ""
        (decision, *others), before = self.machine.fib.lookup(Question.of(packet)), packet.oif
        if others:  # the other next hops of a multipath route
            branch.changes["others"] = tuple(others)
        lost = self._take(branch, decision, "output again, after the change")
        astray = self._strays(packet)
        branch.changes["oif"], packet.oif = packet.oif, before
        if lost is None and astray:
            return f"{UNREACHABLE}:a loopback source may not leave by {branch.changes['oif']} (route_localnet is 0)"
        return f"{lost.kind}:{lost.detail}" if lost is not None else ""

    def _decide(self, branch: Branch, question: Question) -> Iterator[tuple[Branch, Decision]]:
        """Fork over the next hops of a multipath route."""
        decisions = self.machine.fib.lookup(question)
        for decision in decisions:
            yield (branch if len(decisions) == 1 else branch.fork(decision.share)), decision

    def _take(self, branch: Branch, decision: Decision, when: str) -> End | None:
        """Note a routing decision and set the outgoing device; an End where there is none."""
        packet = branch.packet
        where = address.text_of(packet.dst, packet.bits)
        if decision.unknown is not None:
            return End(branch, self.name, UNKNOWN, str(decision.unknown))
        if decision.type == "none":
            branch.add("route", self.name, f"no route to {where}")
            if self.machine.stack.missing & {"route"}:
                return End(branch, self.name, UNKNOWN, f"nobody dumped the routes of {self.name}")
            return End(branch, self.name, NO_ROUTE, f"{self.name} has no route to {where}")
        if decision.type in ("unreachable", "blackhole", "prohibit"):
            branch.add("route", self.name, f"{decision.type} {where}", fact=decision)
            return End(
                branch, self.name, UNREACHABLE, f"route: {decision.route.text if decision.route else decision.type}"
            )
        hop = decision.hop
        packet.oif = "lo" if decision.type == "local" else hop.dev if hop else ""
        packet.next_hop = hop.gateway if hop and hop.gateway is not None else packet.dst
        route = decision.route.text if decision.route else ""
        words = "local" if decision.type == "local" else hop_text(decision, packet.bits)
        share = f" (one of several next hops: {decision.share:.0%} of the flows)" if decision.share < 1 else ""
        branch.add("route", self.name, f"{when}: {words}{share}", chain=route, fact=decision)
        return None

    def _strays(self, packet: Packet) -> bool:
        """Whether a loopback source is about to leave where it may not (__mkroute_output; IPv6 leaves that to the receiver)."""
        return packet.bits == 32 and packet.oif != "lo" and _loopback(packet.src, 32) and not self._localnet(packet.oif)

    def _localnet(self, dev: str) -> bool:
        return self._conf("route_localnet", dev, 32) > 0

    def _conf(self, name: str, dev: str, bits: int) -> int:
        """The greater of the setting for all devices and for one."""
        family = "ipv4" if bits == 32 else "ipv6"
        values = [
            self.machine.stack.sysctl(f"net.{family}.conf.{which}.{name}") for which in ("all", dev.replace(".", "/"))
        ]
        return max(int(value) if value.lstrip("-").isdigit() else 0 for value in values)

    # -- packets from a device

    def receive(self, branch: Branch, dev: str, next_hop: int) -> Iterator[Result]:
        """A packet arrives by `dev`, addressed to whoever holds `next_hop` on that link."""
        packet = branch.packet
        packet.oif = packet.physin = packet.physout = ""
        packet.bridged = False
        if dev != "lo":
            packet.connection, packet.state, packet.reply, packet.mark = None, "invalid", False, 0
        link = self.machine.link(dev)
        if link is not None and not link.up:
            yield End(branch, self.name, DROPPED, f"{dev} of {self.name} is down")
            return
        if packet.bits == 128 and dev != "lo" and 1 in (packet.src, packet.dst):  # ip6_rcv_core: before any hook
            branch.add("route", self.name, f"martian: ::1 on {dev}")
            yield End(branch, self.name, DROPPED, f"{self.name}: a loopback address on {dev}")
            return
        bridge = self.machine.bridge_of(dev)
        if not bridge:
            packet.iif = dev
            yield from self._prerouting(branch, dev, "")
            return
        packet.iif = bridge
        filtered = self._bridge_filtered(packet.bits)
        own = self.machine.stack.has(next_hop, packet.bits) is not None
        packet.next_hop = next_hop
        if filtered:
            packet.physin = dev
        branch.add("bridge", self.name, f"enters {bridge} by port {dev}" + ("" if own else ", to be switched"))
        if own:
            yield from self._prerouting(branch, bridge, dev)
        elif not filtered:
            yield Departure(branch, bridge, next_hop, bridge, dev)
        else:
            packet.bridged = True
            yield from self._prerouting(branch, bridge, dev)

    def _bridge_filtered(self, bits: int) -> bool:
        """Whether bridged packets meet the hooks of IP: net.bridge.bridge-nf-call-iptables, absent without the br_netfilter module."""
        name = "iptables" if bits == 32 else "ip6tables"
        return self.machine.stack.sysctl(f"net.bridge.bridge-nf-call-{name}") == "1"

    def _prerouting(self, branch: Branch, dev: str, port: str) -> Iterator[Result]:
        packet = branch.packet
        before = packet.dst
        for each, verdict in self.filter.run("prerouting", branch):
            if self.gate is None:
                yield from self._onward(each, verdict, dev, port, before)
            else:
                yield from self.gate(each, functools.partial(self._onward, each, verdict, dev, port, before))

    def _onward(self, branch: Branch, verdict: Verdict, dev: str, port: str, before: int) -> Iterator[Result]:
        """Behind prerouting: switched, switched to where it was translated to, or handed to IP."""
        packet = branch.packet
        if verdict.kind != v.ACCEPT:
            yield self._ended(branch, verdict, "prerouting")
        elif port and packet.bridged and packet.dst == before:
            yield from self._switch(branch, dev, port)
        elif port and packet.physin and packet.dst != before:
            yield from self._bridged_translation(branch, dev, port)
        else:
            packet.bridged = False
            yield from self._input(branch, dev)

    def _bridged_translation(self, branch: Branch, bridge: str, port: str) -> Iterator[Result]:
        """br_nf_pre_routing_finish: a translated packet whose new destination is on the same bridge is switched, not routed."""
        packet = branch.packet
        decision = self.machine.fib.lookup(Question.of(packet, iif=bridge))[0]
        if decision.type == "unicast" and decision.dev == bridge:
            packet.bridged = True
            hop = decision.hop
            packet.next_hop = hop.gateway if hop and hop.gateway is not None else packet.dst
            route = decision.route.text if decision.route else ""
            branch.add(
                "route",
                self.name,
                f"the new destination is on {bridge} too: switched, not routed",
                chain=route,
                fact=decision,
            )
            yield from self._switch(branch, bridge, port)
            return
        packet.bridged = False
        yield from self._input(branch, bridge)

    def _switch(self, branch: Branch, bridge: str, port: str) -> Iterator[Result]:
        """From port to port of a bridge, through IP's hooks: the port is judged before them (__br_forward is behind should_deliver)."""
        packet = branch.packet
        lost = self.blocked(self.machine, bridge, port, packet)
        if lost:
            packet.hook = ""
            branch.add("bridge", self.name, lost)
            yield End(branch, self.name, DROPPED, lost)
            return
        packet.oif = bridge
        for each, verdict in self.filter.run("forward", branch):
            if verdict.kind != v.ACCEPT:
                yield self._ended(each, verdict, "forward")
                continue
            for later, last in self.filter.run("postrouting", each):
                if last.kind != v.ACCEPT:
                    yield self._ended(later, last, "postrouting")
                else:
                    self._confirm(later)
                    yield Departure(later, bridge, later.packet.next_hop, bridge, port)

    def _input(self, branch: Branch, dev: str) -> Iterator[Result]:
        packet = branch.packet
        decisions = list(self._decide(branch, Question.of(packet, iif=dev)))
        led = decisions[0][1].type in ("unicast", "local", "broadcast", "multicast")
        # ip_route_input_slow: where no route leads, the source is not looked at
        martian = self._martian(packet, dev) or (self._foreign(packet, dev) if led else "")
        if martian:
            branch.add("route", self.name, martian)
            yield End(branch, self.name, DROPPED, f"{self.name}: {martian}")
            return
        if packet.local_socket:
            yield from self._deliver(branch)
            return
        for each, decision in decisions:
            if decision.type in ("local", "broadcast"):
                route = decision.route.text if decision.route else ""
                each.add(
                    "route",
                    self.name,
                    f"{address.text_of(packet.dst, packet.bits)} is an address of {self.name}",
                    chain=route,
                    fact=decision,
                )
                yield from self._deliver(each)
            else:
                yield from self._forward(each, decision, dev)

    def _martian(self, packet: Packet, dev: str) -> str:
        """Why the packet's loopback addresses may not come by this device, or ""."""
        if dev == "lo" or packet.bits == 128 or self._localnet(dev):
            return ""
        for value, what in ((packet.src, "source"), (packet.dst, "destination")):
            if _loopback(value, 32):
                return f"martian {what} {address.text_of(value, 32)} on {dev} (route_localnet is 0)"
        return ""

    def _foreign(self, packet: Packet, dev: str) -> str:
        """Why the packet's source may not come by this device (fib_validate_source), or ""."""
        if dev == "lo" or packet.bits == 128:
            return ""
        source = address.text_of(packet.src, 32)
        if self.machine.stack.has(packet.src, 32) and not self._conf("accept_local", dev, 32):
            return f"martian source {source} on {dev}: it is this machine's own address"
        mode = self._conf("rp_filter", dev, 32)
        if mode:
            by_device, at_all = self.machine.fib.reverse_path(packet, dev, local=True)
            if not at_all or (mode == 1 and not by_device):
                how = "strict: the way back leads by another device" if at_all else "no way back"
                return f"reverse path filter ({how}): source {source} came by {dev}; net.ipv4.conf.{dev}.rp_filter is {mode}"
        return ""

    def _forward(self, branch: Branch, decision: Decision, dev: str) -> Iterator[Result]:
        packet = branch.packet
        # IPv6 answers for a route that refuses even where it does not forward
        if not self._forwards(dev, packet.bits) and (packet.bits == 32 or decision.type == "unicast"):
            branch.add("route", self.name, f"not for {self.name}, and forwarding is off")
            yield End(
                branch, self.name, DROPPED, f"{self.name} does not forward: {self._forward_name(dev, packet.bits)} is 0"
            )
            return
        lost = self._take(branch, decision, "forward")
        if lost is not None:
            yield lost
            return
        if packet.ttl <= 1:
            yield End(branch, self.name, EXPIRED, f"its time to live is spent at {self.name}")
            return
        packet.ttl -= 1
        for each, verdict in self.filter.run("forward", branch):
            if verdict.kind != v.ACCEPT:
                yield self._ended(each, verdict, "forward")
            else:
                yield from self._post(each)

    def _forward_name(self, dev: str, bits: int) -> str:
        return f"net.ipv4.conf.{dev}.forwarding" if bits == 32 else "net.ipv6.conf.all.forwarding"

    def _forwards(self, dev: str, bits: int) -> bool:
        stack = self.machine.stack
        general = "net.ipv4.ip_forward" if bits == 32 else "net.ipv6.conf.all.forwarding"
        default = stack.sysctl(general, "1" if not stack.sysctls else "0")
        if bits == 128:
            return default != "0"
        return stack.sysctl(f"net.ipv4.conf.{dev.replace('.', '/')}.forwarding", default) != "0"

    def _post(self, branch: Branch) -> Iterator[Result]:
        for each, verdict in self.filter.run("postrouting", branch):
            if verdict.kind != v.ACCEPT:
                yield self._ended(each, verdict, "postrouting")
                continue
            self._confirm(each)
            if each.packet.oif == "lo":
                each.packet.iif = "lo"
                yield from self._again(each)
            else:
                bridge = self.machine.link(each.packet.oif)
                name = each.packet.oif if bridge is not None and bridge.kind == "bridge" else ""
                yield Departure(each, each.packet.oif, each.packet.next_hop, name)

    def _again(self, branch: Branch) -> Iterator[Result]:
        """A packet to this machine itself comes back in by lo, with its connection."""
        branch.packet.oif = ""
        for each, verdict in self.filter.run("prerouting", branch):
            if verdict.kind != v.ACCEPT:
                yield self._ended(each, verdict, "prerouting")
            else:
                yield from self._input(each, "lo")

    def _deliver(self, branch: Branch) -> Iterator[Result]:
        packet = branch.packet
        packet.oif = ""
        for each, verdict in self.filter.run("input", branch):
            if verdict.kind != v.ACCEPT:
                yield self._ended(each, verdict, "input")
                continue
            self._confirm(each)
            yield self._socket(each)

    def _socket(self, branch: Branch) -> End:
        """Whether something listens; the answer of the kernel where nothing does."""
        packet, listeners = branch.packet, self.machine.stack.listeners
        if branch.changes.get("answer") or packet.reply or packet.protocol not in (6, 17, 132):
            return End(branch, self.name, DELIVERED, "")
        place = f"{packet.name} port {packet.dport}"
        if listeners is None:
            return End(branch, self.name, DELIVERED, f"whether something listens on {place} is not part of the dump")
        for found in listeners:
            same = found.bits == packet.bits or found.dual
            if found.protocol == packet.name and found.port == packet.dport and same and found.value in (0, packet.dst):
                return End(branch, self.name, DELIVERED, found.process)
        return End(branch, self.name, REFUSED, f"nothing listens on {place} of {self.name}")

    def _confirm(self, branch: Branch) -> None:
        """The connection enters the table (nf_conntrack_confirm)."""
        connection = branch.packet.connection
        if connection is None or branch.packet.state == "untracked":
            return
        connection.confirmed = True
        held = branch.changes.get(self.name, ())
        key = (connection.src, connection.sport, connection.dst, connection.dport, connection.protocol)
        others = tuple(c for c in held if (c.src, c.sport, c.dst, c.dport, c.protocol) != key)
        branch.changes[self.name] = (*others, connection.copy())

    def _ended(self, branch: Branch, verdict: Verdict, hook: str) -> End:
        own = hook == "output" or (hook == "postrouting" and not branch.packet.iif)
        if verdict.kind == "lost":
            kind, _, detail = verdict.detail.partition(":")
            return End(branch, self.name, kind, detail, own)
        last = branch.trail.step if branch.trail is not None else None
        where = f"in {last.chain}" if last is not None and last.chain else f"at {hook}"
        if verdict.kind == v.DROP:
            return End(branch, self.name, DROPPED, f"dropped {where} of {self.name}", own)
        if verdict.kind == v.REJECT:
            return End(branch, self.name, REJECTED, verdict.detail, own)
        if verdict.kind == v.QUEUE:
            return End(branch, self.name, UNKNOWN, f"handed to a program: {verdict.detail}", own)
        return End(branch, self.name, UNKNOWN, verdict.detail or verdict.kind, own)


def _redirected(packet: Packet) -> bool:
    """Whether the connection gave the packet another destination (nf_nat_ipv4_local_fn); a new mark alone does not count there."""
    connection = packet.connection
    if connection is None:
        return False
    if packet.reply:
        return connection.src != connection.reply_dst
    return connection.dst != connection.reply_src


def _loopback(value: int, bits: int) -> bool:
    return value >> 24 == 127 if bits == 32 else value == 1


__all__ = [
    "DELIVERED", "DROPPED", "EXPIRED", "LEFT", "NO_NEIGHBOUR", "NO_ROUTE", "REFUSED", "REJECTED", "UNKNOWN", "UNREACHABLE", "Departure",
    "End", "Passage", "Result",
]  # fmt: skip
