"""All machines of a snapshot and how they are joined: who holds an address, which pod is behind which port."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from glassnet.net import address
from glassnet.netstack.model import Address, Link, NextHop, Route
from glassnet.netstack.namespace import NetStack
from glassnet.ruleset.model import Ruleset
from glassnet.tracer.machine import HOST, NODE, POD, Machine


@dataclass(slots=True)
class World:
    """`machines` by name; `objects` are API objects by plural kind, as JSON; `notes` say what is missing or unreadable, and what that leaves unknown."""

    machines: dict[str, Machine] = field(default_factory=dict)
    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    source: str = ""
    owners: dict[tuple[int, int], list[tuple[Machine, str]]] = field(default_factory=dict)
    _ports: dict[str, str] = field(default_factory=dict)

    def add(self, machine: Machine) -> None:
        """Take a machine in."""
        self.machines[machine.name] = machine
        for item in machine.stack.addresses:
            if item.scope not in ("host", "link"):
                self.owners.setdefault((item.value, item.bits), []).append((machine, item.dev))

    def of_kind(self, kind: str) -> list[Machine]:
        """Machines of one kind, in the snapshot's order."""
        return [machine for machine in self.machines.values() if machine.kind == kind]

    def port_of(self, pod: Machine) -> str:
        """The device on its node that leads to a pod, or ""."""
        if pod.name not in self._ports:
            self._ports[pod.name] = self._find_port(pod)
        return self._ports[pod.name]

    def _find_port(self, pod: Machine) -> str:
        node = self.machines.get(pod.node)
        if node is None:
            return ""
        for link in pod.stack.links.values():
            if link.kind != "veth" or not link.peer:
                continue
            for other in node.stack.links.values():
                if other.index == link.peer and other.kind == "veth" and other.peer in (0, link.index):
                    return other.name
        return self._port_by_address(node, pod)

    def _port_by_address(self, node: Machine, pod: Machine) -> str:
        """By the node's route to the pod, and its neighbour and forwarding tables."""
        from glassnet.tracer.fib import Question

        for item in pod.stack.addresses:
            if item.scope in ("host", "link"):
                continue
            decision = node.fib.lookup(Question(item.bits, item.value))[0]
            dev = decision.dev
            link = node.stack.links.get(dev)
            if decision.type != "unicast" or link is None:
                continue
            if link.kind != "bridge":
                return dev if decision.hop and decision.hop.gateway is None else ""
            neighbour = node.stack.neighbours.get((item.value, item.bits, dev))
            if neighbour is not None:
                return node.stack.fdb.get((dev, neighbour.hardware), "")
        return ""

    def neighbour(self, machine: Machine, dev: str, next_hop: int, bits: int) -> tuple[Machine, str] | None:
        """Who answers for `next_hop` on the link behind `dev`: the machine and its device; a router that answers for everybody where nobody
        else does, or where the neighbour table says so."""
        found = self._owner(machine, dev, next_hop, bits)
        if machine.kind == POD or bits != 32:
            return found
        entry = machine.stack.neighbours.get((next_hop, bits, dev))
        if found is not None and (entry is None or not entry.hardware):
            return found
        proxy = self._proxy(machine, dev)
        if proxy is None or (found is not None and entry and entry.hardware != proxy[0].stack.links[proxy[1]].hardware):
            return found
        return proxy

    def _proxy(self, machine: Machine, dev: str) -> tuple[Machine, str] | None:
        """Who answers ARP for every address on the link behind `dev` (proxy_arp_pvlan, ip-sysctl)."""
        mine = [item for item in machine.stack.addresses if item.dev == dev and item.bits == 32]
        for other in self.machines.values():
            for item in other.stack.addresses if other is not machine and other.kind != POD else ():
                if item.bits != 32 or other.stack.sysctl(f"net.ipv4.conf.{item.dev}.proxy_arp_pvlan") != "1":
                    continue
                if any(not (item.value ^ one.value) >> (32 - item.length) for one in mine):
                    return (other, item.dev) if item.dev in other.stack.links else None
        return None

    def _owner(self, machine: Machine, dev: str, next_hop: int, bits: int) -> tuple[Machine, str] | None:
        for other, device in self.owners.get((next_hop, bits), ()):
            if other is machine:
                continue
            if machine.kind == POD:
                if other.name == machine.node or (other.kind == POD and other.node == machine.node):
                    return other, device
            elif other.kind == POD:
                if other.node == machine.name:
                    return other, device
            elif self._outside(other, device):
                return other, device
        return None

    def _outside(self, machine: Machine, dev: str) -> bool:
        """False for a bridge that joins a node's own pods: it is no neighbour of other nodes."""
        link = machine.stack.links.get(dev)
        if link is None or link.kind != "bridge":
            return True
        ports = [each for each in machine.stack.links.values() if each.master == dev]
        return any(port.kind != "veth" for port in ports) or machine.kind == HOST

    def synthesize_pods(self) -> None:
        """Make a machine of every running pod of the API that nobody dumped: its address and a way to its node are known."""
        for pod in self.objects.get("pods", ()):
            spec, status, meta = pod.get("spec", {}), pod.get("status", {}), pod.get("metadata", {})
            name = f"{meta.get('namespace')}/{meta.get('name')}"
            if name in self.machines or spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
                continue
            texts = [item.get("ip", "") for item in status.get("podIPs", ())] or [status.get("podIP", "")]
            found = [text for text in map(address.canonical, texts) if text]
            if not found or spec.get("nodeName") not in self.machines:
                continue
            self.add(_synthetic(name, self.machines[spec["nodeName"]], found))


def _synthetic(name: str, node: Machine, texts: list[str]) -> Machine:
    stack = NetStack(missing={"addr", "listen"})
    stack.links = {"lo": Link(1, "lo", 65536, kind="loopback"), "eth0": Link(2, "eth0", 0, kind="veth")}
    for text in texts:
        bits = 128 if ":" in text else 32
        value = address.number(text)
        stack.addresses.append(Address(value, bits, bits, "eth0"))
        gateway = _gateway(node, value, bits)
        stack.routes.append(Route(0, 0, bits, hops=(NextHop("eth0", gateway),)))
    return Machine(name, POD, stack, Ruleset(), node.name)


def _gateway(node: Machine, value: int, bits: int) -> int:
    """The node's address on the pod's link: the one whose subnet holds the pod, else any of the node."""
    own = [a for a in node.stack.addresses if a.bits == bits and a.scope == "global"]
    for item in own:
        if not (item.value ^ value) >> (bits - item.length):
            return item.value
    return own[0].value if own else value


__all__ = ["HOST", "NODE", "POD", "World"]
