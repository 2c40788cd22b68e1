"""What a fault works with: the lab's machines and API, and a journal of what takes it back, written before each change."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glassnet.apiserver.local import LocalApi
from glassnet.cni import host_local, runtime
from glassnet.cni.host_local import Range
from glassnet.kernel.api import Machine
from glassnet.kernel.netns import KernelNetNs
from glassnet.kernel.sysctl import path_of
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key, View
from glassnet.lab.topology import MachineSpec, Topology
from glassnet.net.errors import ApiError, CommandError, LabError

NAMESPACE = "glassnet-faults"
HTTP, UDP = 8080, 8081
CONFIG, RESULTS = "etc/cni/net.d", "var/lib/cni/results"
PATIENCE = 20.0  # seconds for a pod to run

Step = dict[str, Any]  # what takes one change back; see undo.py


@dataclass(frozen=True, slots=True)
class Ground:
    """The lab a fault happens in."""

    machines: Mapping[str, Machine]
    topology: Topology
    view: View
    api: LocalApi

    def workers(self) -> list[MachineSpec]:
        """The machines that run pods."""
        return self.topology.of_role("worker")


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of the library. `apply` makes the changes, noting for each how it is taken back, and returns what to tell the user."""

    name: str
    pain: int
    text: str
    apply: Callable[[Scene], Awaitable[list[str]]]


class Scene:
    """One fault being made on one node."""

    def __init__(self, ground: Ground, fault: str, node: MachineSpec, note: Callable[[Step], None]) -> None:
        self.ground, self.fault, self.spec, self._note = ground, fault, node, note

    @property
    def machine(self) -> Machine:
        """The node."""
        return self.ground.machines[self.spec.name]

    def others(self) -> list[MachineSpec]:
        """The other workers. Raises LabError when there are none."""
        found = [spec for spec in self.ground.workers() if spec.name != self.spec.name]
        if not found:
            raise LabError(f"{self.fault} takes two workers at least; bring the lab up with --nodes 2 or more")
        return found

    def note(self, do: str, **words: Any) -> None:
        """Write down what takes the next change back; the last one noted is taken back first."""
        self._note({"do": do, **words})

    # -- commands and settings

    async def run(self, *argv: str, on: str = "", stdin: str = "") -> str:
        """Run a command on a machine (the node); what it printed. Raises CommandError."""
        machine = self.ground.machines[on or self.spec.name]
        return (await machine.run(argv, stdin.encode())).decode()

    async def change(self, argv: Sequence[str], back: Sequence[str], on: str = "") -> None:
        """Run a command, having noted the one that takes it back."""
        self.note("run", machine=on or self.spec.name, argv=list(back))
        await self.run(*argv, on=on)

    def sysctl(self, name: str, value: int) -> None:
        """Set a kernel setting of the node. Raises LabError when this kernel has no such setting for a namespace."""
        machine = self.machine
        try:
            with machine.netns.entered(), open(path_of(name), encoding="ascii") as file:
                old = file.read().strip()
        except OSError as error:
            raise LabError(
                f"{self.fault}: this kernel has no {name} in a network namespace ({error.strerror})"
            ) from None
        self.note("sysctl", machine=machine.name, name=name, value=old)
        machine.sysctl({name: value})

    # -- files

    def cni(self) -> runtime.Network:
        """The node's network, as the runtime reads it."""
        directory = self.machine.root / CONFIG
        name = runtime.choose_file(os.listdir(directory))
        if name is None:
            raise LabError(f"{self.spec.name} has no network configuration")
        return runtime.parse_network((directory / name).read_text(), name)

    def bridge(self) -> str:
        """The bridge that joins the node's pods. Raises LabError where none does."""
        joins = self.cni().plugins[0]
        if joins.get("type") not in ("bridge", "glassnet"):
            raise LabError(
                f"{self.fault} is a fault of a bridge; pods of {self.spec.name} are joined by the plugin {joins.get('type')}"
            )
        return str(joins.get("bridge") or "cni0")

    def range(self) -> Range:
        """The addresses of the node's pods."""
        joins = self.cni().plugins[0]
        if not joins.get("ipam"):  # the plugin glassnet has the pod CIDRs alone
            joins = {"ipam": {"type": "host-local", "subnet": self.spec.pod_cidr}}
        return host_local.ranges_of(joins)[0][0]

    def write(self, path: str, text: str) -> None:
        """Write a file of the node (path without the first slash)."""
        place = self.machine.root / path
        old = place.read_text() if place.exists() else None
        self.note("file", machine=self.spec.name, path=path, text=old)
        place.write_text(text)

    def spare_address(self) -> str:
        """An address of the node's pod range that no pod has: the last free one."""
        place = self.machine.root / "var/lib/cni/networks" / self.cni().name
        taken = set(os.listdir(place)) if place.is_dir() else set()
        one = self.range()
        for value in range(int(one.end), int(one.start), -1):
            text = str(type(one.end)(value))
            if text not in taken and text != str(one.gateway):
                return text
        raise LabError(f"{self.spec.name} has no free pod address left")

    def pod_netns(self, ip: str) -> KernelNetNs:
        """The network namespace of the node's pod with an address; the caller closes it."""
        for path in (self.machine.root / RESULTS).iterdir():
            kept = json.loads(path.read_bytes())
            if any(each["address"].partition("/")[0] == ip for each in kept["result"]["ips"]):
                name = os.path.basename(kept["netns"])
                place = self.machine.root / "run/netns" / name
                return KernelNetNs(name, os.open(place, os.O_RDONLY | os.O_CLOEXEC))
        raise LabError(f"no pod of {self.spec.name} has the address {ip}")

    # -- API objects

    async def object(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """An object: the one there is, which mending leaves alone, or a new one."""
        name = body["metadata"]["name"]
        try:
            return await self.ground.api.get(kind, namespace, name)
        except ApiError as error:
            if error.status != 404:
                raise
        self.note("delete", kind=[kind.api_version, kind.name], namespace=namespace, name=name)
        await self.ground.api.create(kind, namespace, body)
        return await self.ground.api.get(kind, namespace, name)

    async def pod(self, node: str, name: str = "", labelled: bool = True) -> str:
        """A running netexec pod on a node; its address. Raises LabError when it does not come up."""
        await self.object(kinds.NAMESPACE, "", {"metadata": {"name": NAMESPACE}})
        name = name or self.fault
        arguments = ["netexec", f"--http-port={HTTP}", f"--udp-port={UDP}"]
        container = {"name": "netexec", "image": "agnhost", "args": arguments}
        labels = {"app": self.fault} if labelled else {}
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]},
        }
        await self.object(kinds.POD, NAMESPACE, body)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            pod = self.ground.view.pods.get(Key(NAMESPACE, name))
            if pod is not None and pod.ready() and pod.status.pod_ip:
                if pod.spec.node_name != node:
                    raise LabError(f"pod {NAMESPACE}/{name} is on {pod.spec.node_name}; break {self.fault} there")
                return pod.status.pod_ip
            await asyncio.sleep(0.02)
        raise LabError(f"pod {NAMESPACE}/{name} does not run on {node}; `glassnet kubectl describe` says why")

    async def service(self, **spec: Any) -> dict[str, Any]:
        """The Service in front of the fault's pods: TCP and UDP port 80. Raises LabError when one is there that is no such."""
        ports = [
            {"name": "http", "port": 80, "targetPort": HTTP},
            {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": UDP},
        ]
        body = {
            "metadata": {"name": self.fault},
            "spec": {"selector": {"app": self.fault}, "ports": ports, **spec},
        }
        await self.object(kinds.NAMESPACE, "", {"metadata": {"name": NAMESPACE}})
        made = await self.object(kinds.SERVICE, NAMESPACE, body)
        found: dict[str, Any] = made["spec"]
        if odd := [key for key, value in spec.items() if found.get(key) != value]:
            raise LabError(
                f"Service {NAMESPACE}/{self.fault} has another {', '.join(odd)}; delete it, then break again"
            )
        return found

    async def try_run(self, *argv: str) -> str:
        """Output of a command, "" when it fails."""
        try:
            return await self.run(*argv)
        except CommandError:
            return ""
