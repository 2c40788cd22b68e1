"""Three nodes, a client and a router on one switch, all of namespaces: each node has a proxy, a load balancer's part and an endpoint of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from pods_machine import until

from glassnet.agent.loadbalancer.part import LoadBalancerPart
from glassnet.agent.proxy.loop import ProxyLoop, ProxySettings
from glassnet.kernel.machine import LabMachine, MachineFactory, remember_proc
from glassnet.kernel.network_state import find_link
from glassnet.kernel.spawn import Spawner
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.types import decode
from glassnet.kube.view import Key, View
from glassnet.loadbalancer import neighbour, request
from glassnet.loadbalancer.heartbeat import LoadBalancerSettings
from glassnet.netstack.ops import AddAddress, AddBridge, AddRoute, AddVeth, SetLink

NODES = {"node-a": ("10.240.0.11", "fd40::11"), "node-b": ("10.240.0.12", "fd40::12"), "node-c": ("10.240.0.13", "fd40::13")}  # fmt: skip
CLIENT, ROUTER = ("10.240.0.9", "fd40::9"), ("10.240.0.1", "fd40::1")
VIP, VIP6 = "10.240.0.100", "fd40::100"
POOLS = "pools: [{name: public, addresses: [10.240.0.100-10.240.0.120, fd40::100-fd40::120]}]"


class Balanced:
    """One node: its machine, its proxy, its load balancer."""

    def __init__(self, site: Site, machine: LabMachine) -> None:
        self.site, self.machine, self.name = site, machine, machine.name
        self.records: list[Record] = []
        self.part: LoadBalancerPart | None = None
        self.proxy: ProxyLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.server: asyncio.Server | None = None

    async def begin(self) -> None:
        """Its proxy, and its endpoint."""
        settings = ProxySettings(mode="nftables", families=("IPv4", "IPv6"), min_period=0.005, drop_invalid=False)
        self.proxy = ProxyLoop(self.site.view, self.machine, self.name, settings)
        self._proxying = asyncio.create_task(self.proxy.run())
        sock = self.machine.netns.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 8080))
        self.server = await asyncio.start_server(self._answer, sock=sock)
        await until(lambda: self.proxy is not None and self.proxy.synced)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            who = writer.get_extra_info("peername")[0].removeprefix("::ffff:")
            writer.write(f"{self.name} {who}\n".encode())
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    async def start(self, **more: Any) -> None:
        """Its load balancer."""
        settings = LoadBalancerSettings(file=str(self.site.pools), **more)
        self.part = LoadBalancerPart(self.site.view, self.machine, self.name, settings, self.records.append)
        self._task = asyncio.create_task(self.part.run())
        await until(lambda: self.part is not None and self.part.first_sync.is_set())

    async def stop(self, drain: bool = True) -> None:
        """As at SIGTERM; without `drain` as at SIGKILL."""
        if self._task is None or self.part is None:
            return
        if drain:
            await self.part.drain()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = self.part = None

    async def die(self) -> None:
        """The power goes."""
        self.machine.netns.apply([SetLink("eth0", up=False)])
        await self.stop(drain=False)

    async def end(self) -> None:
        await self.stop(drain=False)
        if self.proxy is not None:
            await self.proxy.stop(sweep=False)
        if self.server is not None:
            self.server.close()

    def holds(self, ip: str) -> bool:
        """Whether it answers for an address."""
        return self.part is not None and self.part.speaker._running and ip in self.part.speaker.held()

    def told(self, reason: str) -> list[str]:
        """Messages of its Events."""
        return [record.message for record in self.records if record.reason == reason]

    async def run(self, *argv: str) -> str:
        """Run a program on it."""
        return (await self.machine.run(list(argv), timeout=10)).decode()


class Site:
    """All machines, and what the API would show."""

    def __init__(self, place: Path) -> None:
        self.view, self.pools = View(), place / "pools.yaml"
        self.pools.write_text(POOLS)
        self.nodes: dict[str, Balanced] = {}
        self.client: LabMachine
        self.router: LabMachine
        self.switch: LabMachine

    def node(self, name: str, *, ready: str = "True", labels: dict[str, str] | None = None) -> None:
        """What the API now says of a Node."""
        body = {
            "metadata": {"name": name, "uid": name, "labels": labels or {}},
            "status": {
                "addresses": [{"type": "InternalIP", "address": ip} for ip in NODES[name]],
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }
        self.view.apply(kinds.NODE, decode(kinds.NODE, json.dumps(body)))

    def service(self, name: str = "web", ips: tuple[str, ...] = (VIP,), **spec: Any) -> None:
        """A Service that has been given addresses."""
        v6 = any(":" in ip for ip in ips)
        number = 10 + len(self.view.services)
        virtual = (f"172.30.0.{number}", f"fd00:30::{number}")[: 1 + v6]
        condition = {"type": request.CONDITION, "status": "True", "reason": "Assigned", "message": request.message(ips, ("public",))}  # fmt: skip
        body = {
            "metadata": {"name": name, "namespace": "demo", "uid": name},
            "spec": {"type": "LoadBalancer", "clusterIP": virtual[0], "clusterIPs": virtual, "ipFamilies": ["IPv4", "IPv6"][: 1 + v6],
                     "ports": [{"name": "http", "port": 80, "protocol": "TCP"}], **spec},
            "status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in ips]}, "conditions": [condition]},
        }  # fmt: skip
        self.view.apply(kinds.SERVICE, decode(kinds.SERVICE, json.dumps(body)))

    def endpoints(self, *nodes: str, name: str = "web") -> None:
        """Ready endpoints of a Service, on these nodes, of both families."""
        for at, family in enumerate(("IPv4", "IPv6")):
            body = {
                "metadata": {"name": f"{name}-{family.lower()}", "namespace": "demo", "labels": {"kubernetes.io/service-name": name}},
                "addressType": family,
                "endpoints": [{"addresses": [NODES[each][at]], "nodeName": each, "conditions": {"ready": True}} for each in nodes],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            }  # fmt: skip
            self.view.apply(kinds.ENDPOINT_SLICE, decode(kinds.ENDPOINT_SLICE, json.dumps(body)))

    def forget(self, name: str) -> None:
        """A Service goes."""
        self.view.apply(kinds.SERVICE, self.view.services[Key("demo", name)], deleted=True)

    async def start(self, *names: str, hear: bool = True, **more: Any) -> None:
        """Load balancers of these nodes, of all when none is named; with `hear` they know of each other when this returns."""
        for name in names or self.nodes:
            await self.nodes[name].start(**more)
        if hear:
            await self.heard()

    async def heard(self) -> None:
        """Wait until all that run hear each other."""
        parts = [node.part for node in self.nodes.values() if node.part is not None]
        await until(lambda: all(len(part.speaker.members.alive()) >= len(parts) - 1 for part in parts), 10)

    def owners(self, ip: str = VIP) -> list[str]:
        """Who answers for an address."""
        return [name for name, node in self.nodes.items() if node.holds(ip)]

    async def owner(self, ip: str = VIP, without: str = "") -> str:
        """The one that does, once it is the only one."""
        await until(lambda: len(found := self.owners(ip)) == 1 and without not in found, 10)
        return self.owners(ip)[0]

    async def connect(self, ip: str = VIP, port: int = 80) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """A connection of the client's, and the first line it hears."""
        sock = self.client.netns.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(2):
                await asyncio.get_running_loop().sock_connect(sock, (ip, port))
                reader, writer = await asyncio.open_connection(sock=sock)
                return reader, writer, (await reader.readline()).decode().strip()
        except BaseException:
            sock.close()
            raise

    async def ask(self, ip: str = VIP) -> str:
        """Who answered the client, and whom it saw; "" for nobody."""
        try:
            _, writer, line = await self.connect(ip)
        except (OSError, TimeoutError):
            return ""
        writer.close()
        return line

    async def reached(self, ip: str = VIP, seconds: float = 10) -> str:
        """The same, once there is an answer."""
        deadline = time.monotonic() + seconds
        while not (line := await self.ask(ip)):
            assert time.monotonic() < deadline, "nobody answers"
        return line

    async def neighbours(self, ip: str = VIP) -> set[str]:
        """The hardware addresses that the client gets when it asks who has an address; it hears for half a second."""
        found: set[str] = set()
        loop, own = asyncio.get_running_loop(), find_link(self.client.netns, "eth0")
        assert own is not None
        with self.client.netns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
            with self.client.netns.entered():
                sock.bind(("eth0", 3))
            await loop.sock_sendall(sock, neighbour.probe(ip, bytes.fromhex(own.hardware.replace(":", ""))))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while True:
                        heard = neighbour.read(await loop.sock_recv(sock, 2048))
                        if heard is not None and not heard.asks and heard.ip == ip:
                            found.add(neighbour.mac_text(heard.mac))
        return found

    def mac(self, name: str) -> str:
        """A node's hardware address."""
        part = self.nodes[name].part
        assert part is not None
        return ":".join(f"{byte:02x}" for link in part.speaker._links.values() for byte in link.sockets.mac)


def _wire(site: Site, machines: dict[str, LabMachine]) -> None:
    switch = site.switch.netns
    switch.apply([SetLink("lo", up=True), AddBridge("br0"), SetLink("br0", up=True)])
    for name, (v4, v6) in {**NODES, "client": CLIENT, "router": ROUTER}.items():
        machine = machines[name]
        switch.apply([AddVeth(f"to-{name}", "eth0", peer_netns=machine.netns.fd, master="br0"), SetLink(f"to-{name}", up=True)])  # fmt: skip
        machine.netns.apply([SetLink("lo", up=True), AddAddress(f"{v4}/24", "eth0"), AddAddress(f"{v6}/64", "eth0"), SetLink("eth0", up=True)])  # fmt: skip
        if name not in ("router", "client"):
            machine.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.eth0.send_redirects": 0})  # fmt: skip
            machine.netns.apply([AddRoute("default", gateway=ROUTER[0], dev="eth0"), AddRoute("default", gateway=ROUTER[1], dev="eth0")])  # fmt: skip


@contextlib.asynccontextmanager
async def balanced_site(tell: Callable[[Site], None] = lambda site: None) -> AsyncIterator[Site]:
    """The site, its proxies up, no load balancer started; nothing is left of it."""
    remember_proc()
    place = Path(tempfile.mkdtemp(prefix="glassnet-test-", dir="/dev/shm"))
    spawner, site = Spawner(), Site(place)
    machines: dict[str, LabMachine] = {}
    try:
        factory = MachineFactory(spawner, place, rootless=False)
        for name in ("switch", *NODES, "client", "router"):
            machines[name] = await factory.machine(name, {"/etc/hostname": f"{name}\n"})
            machines[name].sysctl({"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0})
        site.switch, site.client, site.router = machines["switch"], machines["client"], machines["router"]
        _wire(site, machines)
        site.nodes = {name: Balanced(site, machines[name]) for name in NODES}
        for name in NODES:
            site.node(name)
        tell(site)
        for node in site.nodes.values():
            await node.begin()
        yield site
    finally:
        for node in site.nodes.values():
            await node.end()
        for machine in machines.values():
            await machine.close()
        spawner.close()
        shutil.rmtree(place)


__all__ = ["CLIENT", "NODES", "ROUTER", "VIP", "VIP6", "Balanced", "Site", "balanced_site", "until"]
