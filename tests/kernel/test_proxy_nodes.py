"""A proxy among real network stacks: two families, masquerading by each way to tell local pods, affinity, health checks, and what follows a node."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from proxy_wire import Wire
from test_proxy_loop import running, until

from glassnet.agent.proxy.observers import Observers
from glassnet.agent.proxy.servers import HealthCheckNodePorts
from glassnet.kernel import libc
from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import View
from glassnet.proxy.model import LocalDetector

pytestmark = pytest.mark.kernel
MODES = ("iptables", "nftables")
BOTH = ("IPv4", "IPv6")
VIRTUAL, OUTER = ("172.30.0.1", "fd00:30::1"), ("198.51.100.1", "2001:db8::1")
NODE_IPS = ("192.168.0.2", "fd00:168::2")


class Pod:
    """A pod's network namespace, held by a thread, with an echo server over TCP and UDP."""

    def __init__(self, wire: Wire, name: str, number: int) -> None:
        self.ips = (f"10.1.{number}.2", f"fd00:1:{number}::2")
        self._thread = ThreadPoolExecutor(1, name, libc.unshare, (libc.CLONE_NEWNET,))
        tid = self._thread.submit(threading.get_native_id).result()
        place = f"/proc/{threading.main_thread().native_id}/task/{tid}/ns/net"
        wire.call(_ip, f"link add {name} type veth peer name eth0 netns {place}", f"link set {name} up",
                  f"addr add 10.1.{number}.1/24 dev {name}", f"addr add fd00:1:{number}::1/64 dev {name} nodad")  # fmt: skip
        self.call(_ip, "link set lo up", f"addr add {self.ips[0]}/24 dev eth0", f"addr add {self.ips[1]}/64 dev eth0 nodad",
                  "link set eth0 up", f"route add default via 10.1.{number}.1", f"route add default via fd00:1:{number}::1")  # fmt: skip
        for family, ip in zip((socket.AF_INET, socket.AF_INET6), self.ips, strict=True):
            tcp = self.call(socket.socket, family, socket.SOCK_STREAM)
            tcp.bind((ip, 8080))
            tcp.listen()
            udp = self.call(socket.socket, family, socket.SOCK_DGRAM)
            udp.bind((ip, 8080))
            threading.Thread(target=self._serve, args=(tcp,), daemon=True).start()
            threading.Thread(target=self._echo, args=(udp,), daemon=True).start()

    def call(self, function: Any, *words: Any) -> Any:
        return self._thread.submit(function, *words).result(timeout=30)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            peer, address = listener.accept()
            with peer:
                peer.sendall(f"{listener.getsockname()[0]} {address[0]}".encode())

    def _echo(self, sock: socket.socket) -> None:
        while True:
            _, address = sock.recvfrom(100)
            sock.sendto(f"{sock.getsockname()[0]} {address[0]}".encode(), address)

    def ask(self, to: str, port: int = 80, protocol: str = "TCP") -> tuple[str, str]:
        return self.call(ask, to, port, protocol)  # type: ignore[no-any-return]


def _ip(*commands: str) -> None:
    for words in commands:
        subprocess.run(["ip", *words.split()], check=True)


def ask(to: str, port: int = 80, protocol: str = "TCP") -> tuple[str, str]:
    """(who answered, whom it saw), or the error's name."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        try:
            sock.connect((to, port))
            if protocol == "UDP":
                sock.send(b"?")
            who, saw = sock.recv(200).decode().split()
            return who, saw
        except TimeoutError:
            return "timeout", ""
        except OSError as error:
            return errno.errorcode[error.errno or 0], ""


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire(["192.168.0.2"])
    made.call(_ip, "addr add fd00:168::2/128 dev lo nodad", "-6 route add default dev outside")
    made.sysctl({"net.ipv6.conf.all.forwarding": 1, "net.ipv6.icmp.ratelimit": 0})
    yield made
    made.close()


def put_service(view: View, name: str = "web", age: str = "2026-01-01T00:00:00Z", **spec: Any) -> None:
    ports = [{"name": p.lower(), "port": 80, "protocol": p, "nodePort": 30080 if spec.get("type") else 0} for p in ("TCP", "UDP")]  # fmt: skip
    body = {
        "metadata": {"name": name, "namespace": "demo", "uid": name, "creationTimestamp": age},
        "spec": {"clusterIP": VIRTUAL[0], "clusterIPs": VIRTUAL, "ipFamilies": BOTH, "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": spec.pop("ingress", [])}},
    }
    view.apply(kinds.SERVICE, decode(kinds.SERVICE, json.dumps(body)))


def put_endpoints(view: View, *pods: Pod, name: str = "web", node: str = "node-a") -> None:
    for side, family in enumerate(BOTH):
        body = {
            "metadata": {"name": f"{name}-{family.lower()}", "namespace": "demo", "labels": {"kubernetes.io/service-name": name}},
            "addressType": family,
            "endpoints": [{"addresses": [pod.ips[side]], "nodeName": node} for pod in pods],
            "ports": [{"name": p.lower(), "port": 8080, "protocol": p} for p in ("TCP", "UDP")],
        }  # fmt: skip
        view.apply(kinds.ENDPOINT_SLICE, decode(kinds.ENDPOINT_SLICE, json.dumps(body)))


def put_node(view: View, *ips: str) -> None:
    body = {
        "metadata": {"name": "node-a"},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips or NODE_IPS]},
    }
    view.apply(kinds.NODE, decode(kinds.NODE, json.dumps(body)))


DETECTORS = {
    "source": {"IPv4": LocalDetector("source", "10.1.0.0/16"), "IPv6": LocalDetector("source", "fd00:1::/32")},
    "prefix": {family: LocalDetector("prefix", "pod") for family in BOTH},
    "interface": {family: LocalDetector("interface", "poda") for family in BOTH},
    "none": {},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", [0, 1], ids=BOTH)
async def test_both_families_and_every_entry(wire: Wire, mode: str, family: int) -> None:
    view, a, b = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2)
    put_node(view)
    put_service(view, type="LoadBalancer", externalIPs=OUTER)
    async with running(view, wire, mode, families=BOTH, detectors=DETECTORS["source"]):
        for protocol in ("TCP", "UDP"):
            assert a.ask(VIRTUAL[family], 80, protocol)[0] == "ECONNREFUSED"
        put_endpoints(view, b)
        await until(lambda: a.ask(VIRTUAL[family]) == (b.ips[family], a.ips[family]))
        assert a.ask(VIRTUAL[family], 80, "UDP") == (b.ips[family], a.ips[family])
        node = {"10.1.2.1"} if not family else {"fd00:1:1::1", "fd00:1:2::1", NODE_IPS[1]}
        masqueraded = [  # all that comes by an outer address is, and the node's own traffic, and a pod's to itself
            a.ask(OUTER[family]), a.ask(NODE_IPS[family], 30080), wire.call(ask, VIRTUAL[family]), b.ask(VIRTUAL[family]),
        ]  # fmt: skip
        assert {who for who, _ in masqueraded} == {b.ips[family]}
        assert {saw for _, saw in masqueraded} <= node
        put_service(view, type="LoadBalancer", externalIPs=OUTER, externalTrafficPolicy="Local")
        await until(lambda: a.ask(OUTER[family]) == (b.ips[family], a.ips[family]))  # pods keep their address


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("way", "everything"), [*((way, False) for way in DETECTORS), ("source", True)])
async def test_who_is_masqueraded_on_the_way_to_a_cluster_ip(wire: Wire, mode: str, way: str, everything: bool) -> None:
    view, a, b, c = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2), Pod(wire, "other", 3)
    put_service(view)
    put_endpoints(view, b)
    masqueraded = {"source": set(), "prefix": {c}, "interface": {c}, "none": set()}[way]
    async with running(view, wire, mode, detectors=DETECTORS[way], masquerade_all=everything, service_cidrs=("172.30.0.0/16",)):  # fmt: skip
        await until(lambda: a.ask(VIRTUAL[0])[0] == b.ips[0])
        for pod in (a, c):
            wanted = "10.1.2.1" if everything or pod in masqueraded else pod.ips[0]
            assert pod.ask(VIRTUAL[0]) == (b.ips[0], wanted)
        assert a.ask("172.30.0.99", 80)[0] in (
            ("timeout",) if mode == "nftables" else ("EHOSTUNREACH", "ENETUNREACH", "timeout")
        )


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_stays_with_its_endpoint_at_every_address_until_it_goes(wire: Wire, mode: str) -> None:
    view, a, b, c = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2), Pod(wire, "podc", 3)
    put_node(view)
    sticky = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    put_service(view, type="NodePort", **sticky)
    put_endpoints(view, b, c)
    async with running(view, wire, mode, families=BOTH, detectors=DETECTORS["source"]):
        for family in (0, 1):
            first = a.ask(VIRTUAL[family])[0]
            assert first in (b.ips[family], c.ips[family])
            addresses = itertools.cycle([(VIRTUAL[family], 80), (NODE_IPS[family], 30080)])
            assert {a.ask(*next(addresses))[0] for _ in range(10)} == {first}
        left, gone = (b, c) if first == c.ips[1] else (c, b)
        put_endpoints(view, left)
        await until(lambda: a.ask(VIRTUAL[1])[0] == left.ips[1])
        put_endpoints(view, left, gone)
        assert {a.ask(VIRTUAL[1])[0] for _ in range(6)} == {left.ips[1]}


@pytest.mark.parametrize("mode", MODES)
async def test_node_port_addresses_and_service_ranges_are_followed_at_once(wire: Wire, mode: str) -> None:
    view, a, b = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2)
    put_node(view)
    put_service(view, type="NodePort")
    put_endpoints(view, b)
    async with running(view, wire, mode, node_port_addresses=("203.0.113.0/24",)):
        assert a.ask("192.168.0.2", 30080)[0] == "ECONNREFUSED"
        wire.call(_ip, "addr add 203.0.113.7/32 dev lo")
        await until(lambda: a.ask("203.0.113.7", 30080)[0] == b.ips[0], 3)
        wire.call(_ip, "addr del 203.0.113.7/32 dev lo", "addr add 203.0.113.8/32 dev lo")
        await until(lambda: a.ask("203.0.113.8", 30080)[0] == b.ips[0], 3)
    if mode == "nftables":  # kube-proxy's iptables mode knows no ranges
        async with running(view, wire, mode):
            body = {"metadata": {"name": "more"}, "spec": {"cidrs": ["172.31.0.0/16", "fd00:31::/64"]}}
            view.apply(kinds.SERVICE_CIDR, decode(kinds.SERVICE_CIDR, json.dumps(body)))
            await until(
                lambda: "172.31.0.0/16" in wire.shell("nft", "list", "set", "ip", "glassnet", "service-cidrs"), 3
            )
            put_node(view, "192.0.2.2")  # primary: the Node's own address
            await until(lambda: "192.0.2.2" in wire.shell("nft", "list", "set", "ip", "glassnet", "node-port-ips"), 3)


@pytest.mark.parametrize("mode", MODES)
async def test_udp_flows_end_when_the_last_endpoint_goes_and_when_the_service_does(wire: Wire, mode: str) -> None:
    view, a, b = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2)
    put_service(view)
    put_endpoints(view, b)
    async with running(view, wire, mode, families=BOTH) as loop:
        for change in ("endpoints", "service"):
            await until(lambda: a.ask(VIRTUAL[0], 80, "UDP")[0] == b.ips[0])
            await until(lambda: a.ask(VIRTUAL[1], 80, "UDP")[0] == b.ips[1])
            listing = wire.shell("conntrack", "-L", "-p", "udp", "-d", VIRTUAL[0])
            assert "src=10.1.2.2" in listing
            before = loop.synced
            if change == "endpoints":
                put_endpoints(view)
            else:
                view.apply(kinds.SERVICE, view.services[("demo", "web")], deleted=True)  # type: ignore[index]
            await until(lambda before=before: loop.synced > before)  # which may have been of what came before
            for family, name in zip(VIRTUAL, ("ipv4", "ipv6"), strict=True):
                words = ("conntrack", "-L", "-f", name, "-p", "udp", "-d", family)
                await until(lambda words=words: wire.shell(*words) == "")
            put_service(view)
            put_endpoints(view, b)


@pytest.mark.parametrize("mode", MODES)
async def test_of_two_services_with_one_address_the_older_has_it_and_the_other_is_told(wire: Wire, mode: str) -> None:
    view, a, b, c = View(), Pod(wire, "poda", 1), Pod(wire, "podb", 2), Pod(wire, "podc", 3)
    one, two = {"clusterIP": "172.30.0.5", "clusterIPs": ["172.30.0.5"]}, {"clusterIP": "172.30.0.6", "clusterIPs": ["172.30.0.6"]}  # fmt: skip
    put_service(view, "young", "2026-02-01T00:00:00Z", externalIPs=[OUTER[0]], ipFamilies=["IPv4"], **one)
    put_endpoints(view, b, name="young")
    told: list[Any] = []
    async with running(view, wire, mode, report=told.append):
        await until(lambda: a.ask(OUTER[0])[0] == b.ips[0])
        put_endpoints(view, c, name="old")
        put_service(view, "old", "2026-01-01T00:00:00Z", externalIPs=[OUTER[0]], ipFamilies=["IPv4"], **two)
        await until(lambda: a.ask(OUTER[0])[0] == c.ips[0])
        await until(lambda: told)
        assert {(each.reason, each.regarding["name"]) for each in told} == {("AddressConflict", "young")}
        assert "demo/old" in told[0].message
        assert a.ask("172.30.0.5")[0] == b.ips[0]
        view.apply(kinds.SERVICE, view.services[("demo", "old")], deleted=True)  # type: ignore[index]
        await until(lambda: a.ask(OUTER[0])[0] == b.ips[0])


async def test_health_check_node_ports_open_tell_and_close(wire: Wire) -> None:
    view, b = View(), Pod(wire, "podb", 2)
    put_node(view)
    checks = HealthCheckNodePorts(wire, ("0.0.0.0", "::"), lambda: True)  # type: ignore[arg-type]
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30199}
    put_service(view, **local)
    async with running(view, wire, "nftables", families=BOTH, observers=Observers(checks=checks, families=BOTH)):
        for node, status, count in (("node-b", "503", 0), ("node-a", "200", 2)):
            put_endpoints(view, b, node=node)
            text = ""
            for _ in range(100):
                text = await asyncio.to_thread(
                    wire.shell, "curl", "-si", "-m", "2", "http://192.168.0.2:30199/any/path"
                )
                if text.startswith(f"HTTP/1.1 {status}"):
                    break
                await asyncio.sleep(0.01)
            assert text.startswith(f"HTTP/1.1 {status}")
            assert f"X-Load-Balancing-Endpoint-Weight: {count}" in text
            assert text.endswith(f'\t"localEndpoints": {count},\n\t"serviceProxyHealthy": true\n}}')
        put_service(view, type="LoadBalancer")
        await until(lambda: "30199" not in wire.shell("ss", "-ltn"))
