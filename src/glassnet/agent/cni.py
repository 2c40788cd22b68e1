"""CNI on a machine: plans carried out, leases and results on the node's disk, many pods with one run of iptables-restore."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from glassnet.cni import bridge, config, host_local
from glassnet.cni.config import NetConf
from glassnet.kernel.api import Machine, NetNs
from glassnet.net.errors import GlassnetError, KernelError

CONFIG, NETWORKS, RESULTS = "etc/cni/net.d", "var/lib/cni/networks", "var/lib/cni/results"


class Attachment(NamedTuple):
    """One pod's interface."""

    address: str
    host_name: str
    network: str


class CniAgent:
    """Joins pods to the network of one machine. `random` gives bytes for interface names."""

    def __init__(self, machine: Machine, random: Callable[[int], bytes], permanent_neighbours: bool = False) -> None:
        self._machine, self._random, self._permanent = machine, random, permanent_neighbours
        self._bridges: set[str] = set()
        self._taken: dict[str, set[str]] = {}
        self._rules: list[str] = []
        self._flush: asyncio.Task[None] | None = None

    def configuration(self) -> NetConf:
        """The network in use: read anew each time, as a runtime does. Raises GlassnetError when there is none, ParseError for a bad one."""
        directory = self._machine.root / CONFIG
        try:
            name = config.choose_file(os.listdir(directory))
        except OSError as error:
            raise GlassnetError(f"{self._machine.name}: /{CONFIG}: {error.strerror}") from None
        if name is None:
            raise GlassnetError(
                f"{self._machine.name}: cni plugin not initialized: no network config found in /{CONFIG}"
            )
        return config.parse((directory / name).read_text(), f"{self._machine.name}:/{CONFIG}/{name}")

    async def add(self, netns: NetNs, container_id: str, ifname: str = "eth0") -> Attachment:
        """ADD. Raises GlassnetError naming what failed; nothing is left then."""
        conf = self.configuration()
        lease = self._reserve(conf, container_id, ifname)
        host_name = f"veth{self._random(4).hex()}"
        try:
            plan = bridge.add(
                conf,
                lease,
                container_id=container_id,
                ifname=ifname,
                host_name=host_name,
                pod_netns=netns.fd,
                bridge_exists=conf.bridge in self._bridges,
                permanent_neighbours=self._permanent,
            )
            self._apply_on_node(conf, lease, plan)
            netns.apply(plan.pod)
            if plan.rules:
                await self._nat(plan.rules)
        except GlassnetError:
            await self.delete(conf.name, container_id, host_name, ifname)
            raise
        self._write(
            RESULTS, f"{conf.name}-{container_id}-{ifname}", self._cached(conf, plan, container_id, ifname, netns.name)
        )
        return Attachment(lease.ip, host_name, conf.name)

    def _apply_on_node(self, conf: NetConf, lease: host_local.Lease, plan: bridge.Plan) -> None:
        try:
            self._machine.netns.apply(plan.node)
        except KernelError as error:
            if error.number != 17 or conf.bridge in self._bridges:
                raise
            # the bridge was there before us: a restart, or a hand that made it
            self._machine.netns.apply([op for op in plan.node if type(op).__name__ != "AddBridge"])
        self._bridges.add(conf.bridge)

    async def delete(self, network: str, container_id: str, host_name: str, ifname: str = "eth0") -> None:
        """DEL: idempotent, best effort, in the order of ADD backwards."""
        self._machine.netns.apply(bridge.delete(host_name))
        place = self._machine.root / NETWORKS / network
        mine = host_local.owned(_read_all(place), container_id, ifname)
        cached = self._machine.root / RESULTS / f"{network}-{container_id}-{ifname}"
        masqueraded = cached.exists() and '"ipMasq": true' in cached.read_text()
        for address in mine:
            if masqueraded:
                conf = config.NetConf("", network, "", "", False, True, False, False, 0, False, config.Ipam((), ()))
                await self._nat(bridge.masquerade_removal(conf, address, container_id))
            (place / address).unlink(missing_ok=True)
            self._taken.get(network, set()).discard(address)
        cached.unlink(missing_ok=True)

    # -- host-local's files

    def _reserve(self, conf: NetConf, container_id: str, ifname: str) -> host_local.Lease:
        place = self._machine.root / NETWORKS / conf.name
        place.mkdir(parents=True, exist_ok=True)
        if conf.name not in self._taken:
            self._taken[conf.name] = {name for name in _read_all(place) if name[0].isdigit()}
        taken = self._taken[conf.name]
        last = place / host_local.LAST
        lease = host_local.choose(conf.ipam, taken, last.read_text() if last.exists() else "")
        self._write(f"{NETWORKS}/{conf.name}", lease.ip, host_local.lease_text(container_id, ifname))
        last.write_text(lease.ip)
        taken.add(lease.ip)
        return lease

    def _cached(self, conf: NetConf, plan: bridge.Plan, container_id: str, ifname: str, netns: str) -> str:
        """What libcni keeps of an ADD, so that DEL can be told of it."""
        cached = {
            "kind": "cniCacheV1",
            "containerId": container_id,
            "ifName": ifname,
            "networkName": conf.name,
            "netns": f"/run/netns/{netns}",
            "ipMasq": conf.ip_masq,
            "result": plan.result,
        }
        return json.dumps(cached)

    def _write(self, directory: str, name: str, text: str) -> None:
        place = self._machine.root / directory
        try:
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        except OSError as error:
            raise GlassnetError(f"{self._machine.name}: /{directory}/{name}: {error.strerror}") from None

    # -- rules

    async def _nat(self, lines: str) -> None:
        """Have lines carried out in the nat table; those of many pods go together."""
        self._rules.append(lines)
        if self._flush is None:
            self._flush = asyncio.create_task(self._restore())
        await asyncio.shield(self._flush)

    async def _restore(self) -> None:
        await asyncio.sleep(0.002)
        batch, self._rules, self._flush = self._rules, [], None
        await self._machine.run(
            ["iptables-restore", "-w", "5", "--noflush"], f"*nat\n{''.join(batch)}COMMIT\n".encode()
        )


def _read_all(place: Path) -> dict[str, str]:
    """Lease files of a network."""
    try:
        return {name: (place / name).read_bytes().decode() for name in os.listdir(place) if name[0].isdigit()}
    except FileNotFoundError:
        return {}
