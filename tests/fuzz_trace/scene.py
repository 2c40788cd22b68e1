"""A random node: addresses, routes, sysctls, Services with endpoints, and packets that are likely to meet them."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz_trace.node import Setup
from tests.fuzz_trace.probes import ACK, FIN, ICMP, ICMP6, RST, SCTP, SYN, TCP, UDP, Probe, number_of

NODE = "node"
BITS = {4: 32, 6: 128}
PODS = {4: "10.0.0.0/8", 6: "fd00:10::/32"}
INTERNAL = {4: "192.0.2.10", 6: "2001:db8:2::10"}
# addresses of the node by device; several on one, so that the choice among them shows
OWN = {
    4: {"outside": ["192.0.2.10/24", "192.0.2.11/24", "198.18.0.3/16"], "pods": ["10.1.0.1/24"], "other": ["172.20.0.1/30"]},
    6: {"outside": ["2001:db8:2::10/64", "2001:db8:3::1/64"], "pods": ["fd00:10:1::1/64"], "other": ["fd00:77::1/64"]},
}  # fmt: skip
CLIENTS = {
    4: ["203.0.113.5", "203.0.113.77", "198.51.100.9", "192.0.2.99", "198.18.9.9"],
    6: ["2001:db8:99::5", "2001:db8:99::77", "2001:db8:2::99", "2001:db8:98::9"],
}
OTHERS = {
    4: ["10.9.0.4", "10.200.3.3", "8.8.8.8", "198.51.100.200", "172.20.0.2", "172.31.0.1", "192.0.2.255"],
    6: ["fd00:10:9::4", "fd00:10:200::3", "2001:db8:aaaa::1", "fd00:77::2", "2001:db8:31::1"],
}
PORTS = (53, 80, 443, 8080, 9090, 30080, 30443)
FIRST_PORT = 40000  # of clients; rules translate to lower ones, so that no two connections of a run meet
NAMES = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}


def cluster(version: int, *parts: int) -> str:
    """An address of the range of ClusterIPs (0), external addresses (1), load balancers (2), pods (3)."""
    kind, number = parts
    if version == 4:
        return f"{('172.30.0', '203.0.113', '198.51.100', '10.2.0')[kind]}.{number}"
    return f"{('fd00:30', '2001:db8:99', '2001:db8:98', 'fd00:10:2')[kind]}::{number:x}"


@dataclass(slots=True)
class Scene:
    """One node of one seed."""

    seed: int
    random: Random
    setup: Setup
    services: list[dict[str, Any]] = field(default_factory=list)
    slices: list[dict[str, Any]] = field(default_factory=list)
    targets: dict[int, list[tuple[str, int, int]]] = field(default_factory=dict)  # address, protocol, port
    pods: dict[int, list[str]] = field(default_factory=dict)
    sent: int = 0


def make_scene(seed: int) -> Scene:
    """The scene of a seed."""
    random = Random(seed)
    scene = Scene(seed, random, _setup(random), targets={4: [], 6: []})
    scene.pods = {v: [cluster(v, 3, n) for n in range(1, 9)] for v in (4, 6)}
    for number in range(random.randint(2, 7)):
        _service(scene, number)
    return scene


def _setup(random: Random) -> Setup:
    commands: dict[str, list[str]] = {"-4": ["link set lo up"], "-6": []}
    commands["-4"] += [f"link set {name} up" for name in ("pods", "outside", "other")]
    own = ["127.0.0.1", "::1"]
    for version in (4, 6):
        lines = commands[f"-{version}"]
        for dev, texts in OWN[version].items():
            for text in texts:
                lines.append(f"addr add {text} dev {dev}")
                own.append(text.partition("/")[0])
        lines += [f"route add {PODS[version]} dev pods", "route add default dev outside"]
        other, gone = ("10.9.0.0/16", "172.31.0.0/24") if version == 4 else ("fd00:10:9::/48", "2001:db8:31::/64")
        lines.append(f"route add {other} dev other")
        if random.random() < 0.7:
            lines.append(f"route add {random.choice(('unreachable', 'blackhole', 'prohibit'))} {gone}")
        if random.random() < 0.5:
            lines.append("route add default dev other table 77")
            lines.append(f"rule add {random.choice(('', 'not '))}fwmark 0x100/0x100 lookup 77 pref 100")
        if random.random() < 0.3 and version == 4:
            lines.append("route add 198.51.100.128/25 nexthop dev outside nexthop dev other weight 2")
        if random.random() < 0.3:
            lines.append(f"rule add from {CLIENTS[version][0]} lookup 77 pref 90")
    sysctls: dict[str, object] = {
        "net.ipv4.ip_forward": 1,
        "net.ipv6.conf.all.forwarding": int(random.random() < 0.95),
        "net.ipv4.conf.all.route_localnet": random.choice((0, 1)),
        "net.ipv4.conf.all.rp_filter": random.choice((0, 0, 0, 1, 2)),
        "net.ipv4.conf.all.accept_local": random.choice((0, 1)),
        **{f"net.ipv4.conf.{name}.rp_filter": random.choice((0, 0, 2)) for name in ("pods", "outside", "other")},
    }
    return Setup(commands, sysctls, own)


def _service(scene: Scene, number: int) -> None:
    random = scene.random
    families = random.choice(((4,), (4,), (6,), (4, 6)))
    kind = random.choice(("ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"))
    protocols = random.sample(["TCP", "UDP", "SCTP"], random.randint(1, 3))
    ports = [
        {"name": f"p{i}", "protocol": protocol, "port": random.choice(PORTS[:5]), "targetPort": 8080 + i}
        for i, protocol in enumerate(protocols)
    ]
    name = f"svc-{number}"
    spec: dict[str, Any] = {
        "type": kind, "ports": ports, "ipFamilies": [f"IPv{v}" for v in families],
        "clusterIPs": [cluster(v, 0, number + 1) for v in families],
    }  # fmt: skip
    spec["clusterIP"] = spec["clusterIPs"][0]
    status: dict[str, Any] = {}
    if kind != "ClusterIP":
        for i, port in enumerate(ports):
            port["nodePort"] = 30000 + number * 10 + i
        spec["externalTrafficPolicy"] = random.choice(("Cluster", "Local"))
    if random.random() < 0.3:
        spec["internalTrafficPolicy"] = "Local"
    if random.random() < 0.3:
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    if random.random() < 0.4:
        spec["externalIPs"] = [cluster(v, 1, 100 + number) for v in families]
    if kind == "LoadBalancer":
        status = {"loadBalancer": {"ingress": [{"ip": cluster(v, 2, 100 + number), **random.choice(({}, {"ipMode": "Proxy"}, {"ipMode": "VIP"}))} for v in families]}}  # fmt: skip
        if random.random() < 0.5:
            ranges = ["203.0.113.0/26", "2001:db8:99::/112", "10.2.0.0/30", "192.0.2.10/32", "fd00:10:2::/126"]
            spec["loadBalancerSourceRanges"] = random.sample(ranges, random.randint(1, 4))
    scene.services.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "fuzz"}, "spec": spec, "status": status})  # fmt: skip
    for version in families:
        _slice(scene, name, version, ports)
        _targets(scene, number, version, spec, ports, kind)


def _slice(scene: Scene, name: str, version: int, ports: list[dict[str, Any]]) -> None:
    random = scene.random
    endpoints = []
    for ip in random.sample(scene.pods[version], random.choice((0, 1, 1, 2, 3, 5))):
        terminating = random.random() < 0.2
        ready = not terminating and random.random() < 0.9
        conditions = {"ready": ready, "serving": ready or random.random() < 0.7, "terminating": terminating}
        endpoints.append({"addresses": [ip], "conditions": conditions, "nodeName": random.choice((NODE, "far"))})
    if random.random() < 0.15:
        endpoints.append({"addresses": [INTERNAL[version]], "conditions": {"ready": True}, "nodeName": NODE})
    scene.slices.append({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-{version}", "namespace": "fuzz", "labels": {"kubernetes.io/service-name": name}},
        "addressType": f"IPv{version}", "endpoints": endpoints,
        "ports": [{"name": p["name"], "protocol": p["protocol"], "port": p["targetPort"]} for p in ports],
    })  # fmt: skip


def _targets(
    scene: Scene, number: int, version: int, spec: dict[str, Any], ports: list[dict[str, Any]], kind: str
) -> None:
    found = scene.targets[version]
    for port in ports:
        protocol = NAMES[port["protocol"]]
        found.append((cluster(version, 0, number + 1), protocol, port["port"]))
        if "externalIPs" in spec:
            found.append((cluster(version, 1, 100 + number), protocol, port["port"]))
        if kind == "LoadBalancer":
            found += [(cluster(version, 2, 100 + number), protocol, port["port"])] * 2
        if kind != "ClusterIP":
            found.append((INTERNAL[version], protocol, port["nodePort"]))
            own = scene.random.choice(["192.0.2.11", "127.0.0.1"] if version == 4 else ["2001:db8:3::1", "::1"])
            found.append((own, protocol, port["nodePort"]))


def make_probes(scene: Scene, count: int) -> list[Probe]:
    """Packets of every origin, most of them to what the Services have."""
    return [_probe(scene) for _ in range(count)]


def _probe(scene: Scene) -> Probe:
    random = scene.random
    scene.sent += 1
    version = random.choice((4, 4, 6))
    bits = BITS[version]
    origin = random.choice(("pods", "pods", "outside", "outside", "other", "", "", ""))
    dst, protocol, port = _destination(scene, version)
    if dst.endswith(".255") and not origin:
        dst = OTHERS[version][0]  # a broadcast is sent and received at once
    if origin == "":
        own = [text for text in scene.setup.own if (":" in text) == (version == 6)]
        src = random.choice(own)
    elif origin == "pods":
        src = random.choice((*scene.pods[version], OTHERS[version][1]))
    elif origin == "other":
        src = random.choice((OTHERS[version][0], OTHERS[version][4 if version == 4 else 3]))
    else:
        src = random.choice(CLIENTS[version])
    if origin and random.random() < 0.03:
        src = random.choice((INTERNAL[version], "127.0.0.1" if version == 4 else "::1", CLIENTS[version][0]))
    flags, kind, code = SYN, 8 if version == 4 else 128, 0
    if protocol == TCP and random.random() < 0.15:
        flags = random.choice((ACK, ACK, SYN | ACK, FIN | ACK, FIN, SYN | 8))
    if protocol in (ICMP, ICMP6) and random.random() < 0.3:
        kind, code = random.choice(((13, 0), (8, 1), (0, 0), (17, 0), (5, 0)) if version == 4 else ((129, 0), (128, 1), (139, 0), (4, 1)))  # fmt: skip
    ttl = random.choice((64, 64, 64, 64, 2, 1, 255))
    extra = random.choice((0, 0, 20, 100)) if protocol in (UDP, ICMP, ICMP6) else 0
    return Probe(
        scene.sent, origin, bits, protocol, number_of(src), number_of(dst), FIRST_PORT + scene.sent % 20000 if protocol in (TCP, UDP, SCTP) else 0,
        port, flags & ~RST, kind, code, ttl, random.choice((0, 0, 0, 1, 10, 46)), extra,
    )  # fmt: skip


def _destination(scene: Scene, version: int) -> tuple[str, int, int]:
    random = scene.random
    icmp = ICMP if version == 4 else ICMP6
    roll = random.random()
    if scene.targets[version] and roll < 0.6:
        ip, protocol, port = random.choice(scene.targets[version])
        roll = random.random()
        if roll < 0.08:
            return ip, random.choice((TCP, UDP, SCTP)), random.choice(PORTS)
        return (ip, icmp, 0) if roll < 0.14 else (ip, protocol, port)
    own = [text for text in scene.setup.own if (":" in text) == (version == 6)]
    pool = random.choice((scene.pods[version], OTHERS[version], CLIENTS[version], own))
    protocol = random.choice((TCP, UDP, SCTP, icmp))
    return random.choice(pool), protocol, random.choice(PORTS) if protocol != icmp else 0
