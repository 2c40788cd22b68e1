"""From what a user writes (`probe`, `svc/web:http`, `worker-0:30080`, `internet`) to machines, addresses and ports."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from glassnet.net import address
from glassnet.net.errors import UsageError
from glassnet.tracer.machine import HOST, NODE, POD, Machine
from glassnet.tracer.objects import Objects, Port, service_addresses
from glassnet.tracer.packet import PROTOCOLS
from glassnet.tracer.trace import Request
from glassnet.tracer.world import World


@dataclass(frozen=True, slots=True)
class Target:
    """Where a packet is to go: address, port, protocol (0: not told), and what it is, in words."""

    address: str
    port: int
    protocol: int
    text: str


class Names:
    """Resolves names in one world. `namespace` is for names without one."""

    def __init__(self, world: World, objects: Objects, namespace: str = "default") -> None:
        self.world, self.objects, self.namespace = world, objects, namespace

    # -- sources

    def source(self, text: str) -> Machine | str:
        """The machine of a name, or an address that is no machine's. Raises UsageError, with candidates."""
        kind, _, rest = text.partition("/")
        if kind in ("pod", "pods", "po") and rest:
            return self._one(text, self._pods(rest))
        if kind in ("node", "nodes", "no") and rest:
            return self._one(text, [m for m in self.world.of_kind(NODE) if m.name == rest])
        if kind == "host" and rest:
            return self._one(text, [m for m in self.world.of_kind(HOST) if m.name == rest])
        if kind in ("deploy", "deployment", "sts", "statefulset", "ds", "daemonset") and rest:
            return self._workload(text, rest)
        plain = address.canonical(text)
        if plain:
            owners = [m for m, _ in self.world.owners.get((address.number(plain), 128 if ":" in plain else 32), ())]
            return owners[0] if owners else plain
        if text == "internet" and text not in self.world.machines:
            return self._internet()
        exact = [m for m in self.world.machines.values() if m.name == text]
        return self._one(text, exact or self._pods(text))

    def _internet(self) -> Machine | str:
        """A host outside: one of the snapshot's that is neither router nor node, else an address of the documentation range."""
        hosts = [m for m in self.world.of_kind(HOST) if m.name in ("client", "internet")] or [
            m
            for m in self.world.of_kind(HOST)
            if len([a for a in m.stack.addresses if a.scope == "global"]) == 1 and "route" not in m.name
        ]
        return hosts[0] if hosts else "192.0.2.1"

    def _pods(self, text: str) -> list[Machine]:
        pods = self.world.of_kind(POD)
        wanted = text if "/" in text else f"{self.namespace}/{text}"
        exact = [m for m in pods if m.name == wanted] or [m for m in pods if m.name.partition("/")[2] == text]
        return exact or self._host_pod(wanted)

    def _host_pod(self, wanted: str) -> list[Machine]:
        """A pod on the host's network is its node."""
        namespace, _, name = wanted.partition("/")
        pod = self.objects.pods.get((namespace, name))
        node = (
            pod.get("spec", {}).get("nodeName", "")
            if pod is not None and pod.get("spec", {}).get("hostNetwork")
            else ""
        )
        return [self.world.machines[node]] if node in self.world.machines else []

    def _workload(self, text: str, name: str) -> Machine:
        pods = [
            m for m in self.world.of_kind(POD) if m.name.partition("/")[2].startswith(name.rpartition("/")[2] + "-")
        ]
        if not pods:
            raise UsageError(f"{text}: no pod of it is in the snapshot")
        return pods[0]

    def _one(self, text: str, found: list[Machine]) -> Machine:
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"{text} is ambiguous: {', '.join(sorted(m.name for m in found))}; write one of them whole"
            )
        names = [*self.world.machines, *(name.partition("/")[2] for name in self.world.machines if "/" in name)]
        base = text.rpartition("/")[2]
        near = difflib.get_close_matches(base, names, 4, 0.5) or [n for n in names if n.startswith(base)][:4]
        hint = (
            f"; close to it: {', '.join(dict.fromkeys(near))}"
            if near
            else f"; there are: {', '.join(list(self.world.machines)[:12])}"
        )
        raise UsageError(f"nothing in the snapshot is named {text!r}{hint}")

    # -- targets

    def target(self, text: str, outside: bool = False) -> Target:
        """Where `text` is. `outside` asks for an address of a Service that is meant for clients outside. Raises UsageError."""
        kind, _, rest = text.partition("/")
        if kind in ("svc", "service", "services") and rest:
            return self._service(rest, outside)
        name, port = _split(text)
        plain = address.canonical(name.strip("[]"))
        if plain:
            return Target(plain, port, 0, self._whose(plain))
        machine = self.source(name)
        if isinstance(machine, str):
            return Target(machine, port, 0, name)
        ip = self._address(machine)
        if not port and machine.kind == POD:
            port = self._pod_port(machine)
        return Target(ip, port, 0, f"{machine.kind} {machine.name}")

    def _whose(self, plain: str) -> str:
        found = self.objects.find_address(plain)
        return (
            f"{found[0].kind} {found[0].namespace + '/' if found[0].namespace else ''}{found[0].name}" if found else ""
        )

    def _address(self, machine: Machine) -> str:
        own = [a for a in machine.stack.addresses if a.scope == "global"]
        texts = [a.text for a in own]
        known = [text for text, name in self.objects.nodes_by_address.items() if name == machine.name and text in texts]
        if not own:
            raise UsageError(f"no address of {machine.name} is in the snapshot")
        bridges = {link.name for link in machine.stack.links.values() if link.kind == "bridge"}
        ordered = [a.text for a in own if a.dev != "lo" and a.dev not in bridges]
        return (known or ordered or texts)[0]

    def _public(self, machine: Machine) -> str:
        """The address of a node that clients outside use: its ExternalIP where it has one."""
        for item in self.objects.nodes.get(machine.name, {}).get("status", {}).get("addresses", ()):
            if item.get("type") == "ExternalIP" and address.canonical(item.get("address", "")):
                return address.canonical(item["address"])
        return self._address(machine)

    def _pod_port(self, machine: Machine) -> int:
        namespace, _, name = machine.name.partition("/")
        pod = self.objects.pods.get((namespace, name), {})
        ports = [p["containerPort"] for c in pod.get("spec", {}).get("containers", ()) for p in c.get("ports") or ()]
        return int(ports[0]) if ports else 0

    def _service(self, text: str, outside: bool) -> Target:
        name, _, port_text = text.partition(":")
        namespace, _, base = name.rpartition("/")
        found = [(ns, n) for ns, n in self.objects.services if n == base and ns == (namespace or self.namespace)]
        found = found or ([(ns, n) for ns, n in self.objects.services if n == base] if not namespace else [])
        if not found:
            near = difflib.get_close_matches(base, [n for _, n in self.objects.services], 4, 0.5)
            hint = f"; close to it: {', '.join(near)}" if near else ""
            if not self.objects.services:
                hint = "; the snapshot holds no API objects, so name the address: ADDRESS:PORT"
            raise UsageError(f"no Service {name!r}{hint}")
        if len(found) > 1:
            raise UsageError(f"svc/{base} is ambiguous: {', '.join(f'svc/{ns}/{n}' for ns, n in sorted(found))}")
        ports = [p for p in self.objects.ports if (p.namespace, p.name) == found[0]]
        return self._address_of(self._port(ports, port_text, "/".join(found[0])), outside)

    def _port(self, ports: list[Port], text: str, name: str) -> Port:
        if not ports:
            raise UsageError(f"Service {name} has no ports")
        fitting = [p for p in ports if text in (p.port_name, str(p.port))] if text else ports
        listed = ", ".join(f"{p.port_name or p.port} ({p.protocol} {p.port})" for p in ports)
        if not fitting:
            raise UsageError(f"Service {name} has no port {text!r}; it has: {listed}")
        if len(fitting) > 1 and not text:
            raise UsageError(f"Service {name} has several ports: {listed}; write svc/{name}:PORT")
        return fitting[0]

    def _address_of(self, port: Port, outside: bool) -> Target:
        protocol = PROTOCOLS[port.protocol.lower()]
        places = list(service_addresses(port.service))
        outer = [text for text, where in places if where != "spec.clusterIP"]
        inner = [text for text, where in places if where == "spec.clusterIP"]
        if outside and outer:
            return Target(outer[0], port.port, protocol, f"Service {port.text}")
        if outside and port.node_port:
            nodes = self.world.of_kind(NODE)
            if nodes:
                return Target(self._public(nodes[0]), port.node_port, protocol, f"node port of Service {port.text}")
        if inner:
            return Target(inner[0], port.port, protocol, f"Service {port.text}")
        endpoints = [
            e for e in self.objects.endpoints.get((port.namespace, port.name), ()) if e.port_name == port.port_name
        ]
        if endpoints:
            return Target(endpoints[0].ip, endpoints[0].port, protocol, f"an endpoint of headless Service {port.text}")
        raise UsageError(f"Service {port.text} has no address and no endpoint")

    # -- requests

    def request(
        self, source: str, target: str, protocol: str = "", via: str = "", sport: int = 40000, length: int = 60
    ) -> Request:
        """The request for `FROM TO`. Raises UsageError."""
        machine = self.source(source)
        outside = isinstance(machine, str) or machine.kind == HOST
        aim = self.target(target, outside)
        number = PROTOCOLS[protocol] if protocol else aim.protocol or 6
        bits = 128 if ":" in aim.address else 32
        if number == 1 and bits == 128:
            number = 58
        if number in (6, 17, 132) and not aim.port:
            raise UsageError(f"{target}: which port? Write {target}:PORT, or use --proto icmp")
        title = f"{source} > {target}"
        if isinstance(machine, Machine):
            if via:
                raise UsageError(
                    f"--via says where a packet enters that comes from outside what is known; {machine.name} is known, and its own routes decide"
                )
            return Request(
                machine.name, bits, number, address.number(aim.address), aim.port, 0, sport, "", length, title=title
            )
        node, dev = self._entry(machine, aim.address, via)
        return Request(
            node.name,
            bits,
            number,
            address.number(aim.address),
            aim.port,
            address.number(machine),
            sport,
            dev,
            length,
            title=title,
        )

    def _entry(self, source: str, target: str, via: str) -> tuple[Machine, str]:
        """Where a packet from an address that is nobody's comes in: the node that has the target's address, or `via`."""
        value, bits = address.number(target), 128 if ":" in target else 32
        nodes = self.world.of_kind(NODE)
        if via:
            machine = self.source(via)
            if isinstance(machine, str):
                raise UsageError(f"--via {via}: not a node of the snapshot")
        else:
            owners = [m for m, _ in self.world.owners.get((value, bits), ()) if m.kind == NODE]
            if not owners and not nodes:
                raise UsageError("the snapshot has no node a packet could enter")
            machine = owners[0] if owners else nodes[0]
        from glassnet.tracer.fib import Question

        decision = machine.fib.lookup(Question(bits, address.number(address.canonical(source))))[0]
        if decision.type != "unicast" or not decision.dev:
            raise UsageError(f"{machine.name} has no route to {source}: say with --via which node the packet enters")
        return machine, decision.dev


def _split(text: str) -> tuple[str, int]:
    """NAME:PORT, [ADDRESS]:PORT, or a name alone. Raises UsageError."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, 0
    name, colon, port = text.rpartition(":")
    if not colon:
        return text, 0
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{text}: {port!r} is no port (1 to 65535)")
    return name, int(port)
