"""Three nodes out of namespaces: a and b share a link, c is behind a router on another; a host outside is behind the same router."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from pods_machine import until

from glassnet.agent.cni.runtime import CniAgent
from glassnet.agent.routes.loop import NodeRoutes
from glassnet.kernel.api import Sandbox
from glassnet.kernel.machine import LabMachine, MachineFactory, remember_proc
from glassnet.kernel.spawn import Spawner
from glassnet.kube import kinds
from glassnet.kube.change import Record
from glassnet.kube.types import Node, decode
from glassnet.kube.view import View
from glassnet.netstack.ops import AddAddress, AddBridge, AddRoute, AddVeth, SetLink
from glassnet.routes.model import RoutesSettings

CLUSTER = ("10.200.0.0/16", "fd00:200::/48")
ADDRESSES = {"node-a": ("10.240.0.11", "fd40::11"), "node-b": ("10.240.0.12", "fd40::12"), "node-c": ("10.240.1.13", "fd41::13")}  # fmt: skip
CIDRS = {name: (f"10.200.{at}.0/24", f"fd00:200:0:{at}::/64") for at, name in enumerate(ADDRESSES, 1)}
OUTSIDE = ("192.0.2.9", "2001:db8::9")


def node(
    name: str, cidrs: Sequence[str] = (), addresses: Sequence[str] = (), born: str = "2026-01-01T00:00:00Z"
) -> Node:
    """A Node object."""
    body: dict[str, Any] = {
        "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": born},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {},
        "status": {"addresses": [{"type": "InternalIP", "address": one} for one in addresses]},
    }
    made: Node = decode(kinds.NODE, json.dumps(body))
    return made


class Member:
    """One node: its machine, its routes' task, its pods."""

    def __init__(self, site: Site, machine: LabMachine) -> None:
        self.site, self.machine, self.name = site, machine, machine.name
        self.pods: list[Sandbox] = []
        self.cni = CniAgent(machine, os.urandom, permanent_neighbours=True)
        self.routes: NodeRoutes | None = None
        self._task: asyncio.Task[None] | None = None
        self.records: list[Record] = []

    async def start(self, settings: RoutesSettings) -> NodeRoutes:
        """Run the routes of this node; returns after the first sync."""
        self.routes = NodeRoutes(
            self.site.view, self.machine.netns, self.name, settings, report=self.records.append
        )  # fmt: skip
        self._task = asyncio.create_task(self.routes.run())
        waiting = asyncio.create_task(self.routes.first_sync.wait())
        await asyncio.wait({waiting, self._task}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            self._task.result()
        assert self.routes.first_sync.is_set()
        return self.routes

    async def stop(self) -> None:
        """End the routes' task; what it has made stays."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def run(self, *argv: str, timeout: float = 20) -> str:
        """Run a program on the node; what it printed."""
        return (await self.machine.run(list(argv), timeout=timeout)).decode()

    async def pod(self) -> Sandbox:
        """A pod, joined by the plugin glassnet with the MTU that the routes tell."""
        assert self.routes is not None
        conf = {
            "cniVersion": "1.1.0", "name": "pods", "type": "glassnet", "mtu": self.routes.pod_mtu,
            "podCIDRs": CIDRS[self.name], "nonMasqueradeCIDRs": CLUSTER,
        }  # fmt: skip
        (self.machine.root / "etc/cni/net.d/10-pods.conf").write_text(json.dumps(conf))
        made = await self.machine.sandbox(f"cni-{len(self.pods)}", f"pod-{len(self.pods)}", {})
        self.pods.append(made)
        await self.cni.add(made.netns, f"{self.name}-{len(self.pods)}")
        return made

    async def inside(self, pod: Sandbox, *argv: str, timeout: float = 20) -> str:
        """Run a program in a pod's network namespace."""
        return await self.run("nsenter", f"--net=/run/netns/{pod.netns.name}", *argv, timeout=timeout)

    async def ours(self) -> list[str]:
        """Our routes, as ip shows them."""
        texts = [await self.run("ip", f"-{family}", "route", "show", "proto", "114") for family in (4, 6)]
        return [" ".join(line.split()) for text in texts for line in text.splitlines()]


class Site:
    """The machines, and the Nodes that the API would show."""

    def __init__(self) -> None:
        self.view = View()
        self.members: dict[str, Member] = {}
        self.router: LabMachine
        self.outside: LabMachine

    @property
    def a(self) -> Member:
        return self.members["node-a"]

    @property
    def b(self) -> Member:
        return self.members["node-b"]

    @property
    def c(self) -> Member:
        return self.members["node-c"]

    def put(self, *nodes: Node) -> None:
        """What the API now says of Nodes."""
        for each in nodes:
            self.view.apply(kinds.NODE, each)

    def take(self, name: str) -> None:
        """A Node goes from the API."""
        self.view.apply(kinds.NODE, node(name), deleted=True)

    async def start(self, settings: RoutesSettings, *names: str) -> None:
        """Run the routes of these nodes (all when none is named)."""
        for name in names or self.members:
            await self.members[name].start(settings)


def _wire(site: Site) -> None:
    router = site.router.netns
    router.apply([AddBridge("br0"), SetLink("br0", up=True), AddAddress("10.240.0.1/24", "br0"), AddAddress("fd40::1/64", "br0")])  # fmt: skip
    ends = {"node-a": ("10.240.0.11/24", "fd40::11/64"), "node-b": ("10.240.0.12/24", "fd40::12/64"),
            "node-c": ("10.240.1.13/24", "fd41::13/64"), "outside": ("192.0.2.9/24", "2001:db8::9/64")}  # fmt: skip
    gateways = {"node-c": ("10.240.1.1", "fd41::1"), "outside": ("192.0.2.1", "2001:db8::1")}
    for name, own in ends.items():
        machine = site.outside if name == "outside" else site.members[name].machine
        far = name.replace("node", "to")
        on_bridge = name not in gateways
        router.apply([AddVeth(far, "eth0", peer_netns=machine.netns.fd, master="br0" if on_bridge else ""), SetLink(far, up=True)])  # fmt: skip
        via = gateways.get(name, ("10.240.0.1", "fd40::1"))
        if not on_bridge:
            router.apply([AddAddress(f"{via[0]}/24", far), AddAddress(f"{via[1]}/64", far)])
        machine.netns.apply(
            [
                SetLink("lo", up=True),
                *(AddAddress(address, "eth0") for address in own),
                SetLink("eth0", up=True),
                AddRoute("default", gateway=via[0]),
                AddRoute("default", gateway=via[1], dev="eth0"),
            ]
        )
    site.router.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})


@contextlib.asynccontextmanager
async def three_nodes() -> AsyncIterator[Site]:
    """The site; nothing is left of it."""
    remember_proc()
    place = Path(tempfile.mkdtemp(prefix="glassnet-test-", dir="/dev/shm"))
    spawner, site, machines = Spawner(), Site(), []
    try:
        factory = MachineFactory(spawner, place, rootless=False)
        for name in (*ADDRESSES, "router", "outside"):
            made = await factory.machine(name, {"/etc/hostname": f"{name}\n"})
            machines.append(made)
        *nodes, site.router, site.outside = machines
        site.members = {machine.name: Member(site, machine) for machine in nodes}
        for machine in machines:  # no waiting for addresses to be known as nobody else's
            machine.sysctl({"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0})
        _wire(site)
        site.put(*(node(name, CIDRS[name], ADDRESSES[name]) for name in ADDRESSES))
        yield site
    finally:
        for member in site.members.values():
            await member.stop()
            await member.cni.close()
            for pod in member.pods:
                await pod.remove()
        for machine in machines:
            await machine.close()
        spawner.close()
        shutil.rmtree(place)


__all__ = ["ADDRESSES", "CIDRS", "CLUSTER", "OUTSIDE", "Member", "Site", "node", "three_nodes", "until"]
