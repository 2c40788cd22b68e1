"""Building a topology out of namespaces, and taking it down."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import glassnet
from glassnet.kernel.machine import LabMachine, MachineFactory, remember_proc
from glassnet.kernel.mounts import place_in_pods
from glassnet.kernel.spawn import Spawner
from glassnet.lab.topology import VPC_BRIDGE, Cable, MachineSpec, Topology
from glassnet.netstack.ops import AddVeth, SetLink

OWN_COMMAND = "/usr/local/bin/glassnet"


class Lab:
    """The machines of a topology, running."""

    def __init__(self, topology: Topology, spawner: Spawner) -> None:
        self.topology, self.spawner = topology, spawner
        self.machines: dict[str, LabMachine] = {}

    async def close(self) -> None:
        """End every machine."""
        await asyncio.gather(*(machine.close() for machine in self.machines.values()))
        self.spawner.close()


async def build(topology: Topology, place: Path, rootless: bool, report: Callable[[str], None] = lambda _: None) -> Lab:
    """Make every machine, cable and rule of a topology. `place` is a directory on a tmpfs of the lab's own.

    Raises KernelError or PreflightError naming the machine's part that could not be made.
    """
    remember_proc()
    lab = Lab(topology, Spawner())
    nodes = {spec.name for spec in topology.of_role("controller", "worker")}
    factory = MachineFactory(lab.spawner, place, rootless)
    for spec in topology.machines:
        files = {**spec.files, OWN_COMMAND: own_command()} if spec.name in nodes else spec.files
        lab.machines[spec.name] = await factory.machine(spec.name, files)
        report(spec.name)
    switches = {spec.name for spec in topology.of_role("fabric")}
    for spec in topology.of_role("fabric"):
        _set_up(lab, spec)
    for cable in topology.cables:
        _plug(lab, cable, switches)
    for spec in topology.machines:
        if spec.name not in switches:
            _set_up(lab, spec)
    await asyncio.gather(*(_rules(lab.machines[spec.name], spec) for spec in topology.machines))
    return lab


def own_command() -> str:
    """The program `glassnet` of a node: this one, by the Python that runs it here."""
    place = Path(glassnet.__file__).resolve().parent.parent
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from glassnet.cli.main import main; main()"
    python, package = (shlex.quote(place_in_pods(path)) for path in (sys.executable, str(place)))
    return f"#!/bin/sh\nexec {python} -P -c '{start}' {package} \"$@\"\n"


def _set_up(lab: Lab, spec: MachineSpec) -> None:
    machine = lab.machines[spec.name]
    machine.sysctl(spec.sysctls)
    machine.netns.apply(spec.setup)


async def _rules(machine: LabMachine, spec: MachineSpec) -> None:
    if spec.rules:
        await machine.run(["nft", "-f", "-"], spec.rules.encode())
    for family, text in spec.iptables.items():
        await machine.run([f"ip{'6' if family == 6 else ''}tables-restore", "--noflush"], text.encode())


def _plug(lab: Lab, cable: Cable, switches: set[str]) -> None:
    left, right = lab.machines[cable.left].netns, lab.machines[cable.right].netns
    veth = AddVeth(
        cable.right_name, cable.left_name, peer_netns=left.fd, peer_hardware=cable.left_hardware, mtu=cable.mtu
    )
    right.apply([veth])
    if cable.right in switches:
        right.apply([SetLink(cable.right_name, up=True, master=VPC_BRIDGE)])
    if cable.isolated:
        right.apply([SetLink(cable.right_name, isolated=True)])
