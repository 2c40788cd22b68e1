"""CNI on a machine: plans carried out, leases and results on the node's disk, many pods with one run of iptables-restore."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, NamedTuple

from glassnet.agent.leases import Leases
from glassnet.agent.link_removal import LinkRemoval
from glassnet.agent.nat_rules import NatRules
from glassnet.cni import bridge, config
from glassnet.cni.config import NetConf
from glassnet.kernel.api import Machine, NetNs
from glassnet.kernel.links import read_link
from glassnet.net.errors import GlassnetError

CONFIG, RESULTS = "etc/cni/net.d", "var/lib/cni/results"


class Attachment(NamedTuple):
    """One pod's interface."""

    address: str
    host_name: str
    network: str


class Wire(NamedTuple):
    """What a pod is joined by: the attachment, and the plugin's result."""

    attachment: Attachment
    result: dict[str, Any]


class CniAgent:
    """Joins pods to the network of one machine. `random` gives bytes for interface names and MACs."""

    def __init__(self, machine: Machine, random: Callable[[int], bytes], permanent_neighbours: bool = False) -> None:
        self._machine, self._random, self._permanent = machine, random, permanent_neighbours
        self.leases = Leases(machine.root, machine.name)
        self._nat, self._links = NatRules(machine), LinkRemoval(machine.netns)

    def configuration(self) -> NetConf:
        """The network in use: read anew each time, as a runtime does. Raises GlassnetError when there is none, ParseError for a bad one."""
        directory = self._machine.root / CONFIG
        try:
            name = config.choose_file(os.listdir(directory))
            if name is None:
                raise GlassnetError(
                    f"{self._machine.name}: cni plugin not initialized: no network config found in /{CONFIG}"
                )
            text = (directory / name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise GlassnetError(f"{self._machine.name}: /{CONFIG}: {error}") from None
        return config.parse(text, f"{self._machine.name}:/{CONFIG}/{name}")

    async def add(self, netns: NetNs, container_id: str, ifname: str = "eth0") -> Attachment:
        """ADD with the machine's configuration, the result kept as libcni keeps it. Raises GlassnetError naming what failed;
        nothing is left then, nor when the caller is cancelled."""
        conf = self.configuration()
        wire = await self.join(conf, netns, f"/run/netns/{netns.name}", container_id, ifname)
        try:
            self._keep(conf, wire.result, container_id, ifname, netns.name)
        except GlassnetError:
            await self._undo(conf, container_id, wire.attachment)
            raise
        return wire.attachment

    async def join(self, conf: NetConf, netns: NetNs, sandbox: str, container_id: str, ifname: str) -> Wire:
        """ADD of the plugin alone. Raises GlassnetError; nothing is left then."""
        if read_link(netns, ifname) is not None:
            raise GlassnetError(f"container veth name provided ({ifname}) already exists")
        lease = self.leases.reserve(conf, container_id, ifname)
        host_name = f"veth{self._random(4).hex()}"
        attachment = Attachment(lease.ip, host_name, conf.name)
        try:
            present = read_link(self._machine.netns, conf.bridge)
            plan = bridge.add(
                conf,
                lease,
                container_id=container_id,
                ifname=ifname,
                host_name=host_name,
                pod_netns=netns.fd,
                present=None if present is None else bridge.BridgeState(*present),
                host_mac=bridge.host_hardware(self._random(6)),
                sandbox=sandbox,
                permanent_neighbours=self._permanent,
            )
            self._machine.netns.apply(plan.node)
            if present is None and conf.is_gateway:
                self._machine.sysctl({"net.ipv4.ip_forward": 1})
            netns.apply(plan.pod)
            if plan.rules:
                await self._nat.carry_out(plan.rules)
        except BaseException:
            await asyncio.shield(self._undo(conf, container_id, attachment))
            raise
        return Wire(attachment, plan.result)

    async def _undo(self, conf: NetConf, container_id: str, attachment: Attachment) -> None:
        await self.leave(conf.name, container_id, [attachment.address], attachment.host_name, conf.bridge, conf.ip_masq)

    async def delete(self, network: str, container_id: str, host_name: str = "", ifname: str = "eth0") -> None:
        """DEL: idempotent; what ADD kept says what there is to take down. Raises GlassnetError when the kernel refuses."""
        path = self._machine.root / RESULTS / f"{network}-{container_id}-{ifname}"
        kept = _read_result(path)
        mine = kept.addresses or self.leases.find(network, container_id, ifname)
        await self.leave(network, container_id, mine, host_name or kept.host_name, kept.bridge, kept.ip_masq)
        path.unlink(missing_ok=True)

    async def leave(
        self, network: str, container_id: str, addresses: list[str], host_name: str, bridge_name: str, ip_masq: bool
    ) -> None:
        """Take a container's link, neighbour entries, rules and leases away; what is gone already is fine."""
        if host_name:
            await self._links.remove(host_name)
        for address in addresses:
            self._machine.netns.apply(bridge.forget(address, bridge_name))
        for address in addresses:
            if ip_masq:
                await self._nat.carry_out(
                    bridge.masquerade_removal(network, address, container_id),
                    otherwise=bridge.chain_removal(network, container_id),
                )
            self.leases.release(network, address)

    async def sweep(self, keep: Container[str] = ()) -> None:
        """Take down what an agent before us joined, but for the containers in `keep`; found by the results it kept (CNI's GC)."""
        directory = self._machine.root / RESULTS
        names = sorted(os.listdir(directory)) if directory.is_dir() else []
        for name in names:
            kept = _read_result(directory / name)
            if kept.container_id and kept.container_id not in keep:
                await self.delete(kept.network, kept.container_id, ifname=kept.ifname)

    def _keep(self, conf: NetConf, result: dict[str, Any], container_id: str, ifname: str, netns: str) -> None:
        """What libcni keeps of an ADD, so that DEL can be told of it; `bridge` and `ipMasq` save DEL the configuration."""
        cached = {
            "kind": "cniCacheV1",
            "containerId": container_id,
            "ifName": ifname,
            "networkName": conf.name,
            "netns": f"/run/netns/{netns}",
            "bridge": conf.bridge,
            "ipMasq": conf.ip_masq,
            "result": result,
        }
        path = self._machine.root / RESULTS / f"{conf.name}-{container_id}-{ifname}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(cached))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise GlassnetError(f"{self._machine.name}: /{RESULTS}/{path.name}: {error.strerror}") from None


class _Kept(NamedTuple):
    """What a cached result says."""

    network: str = ""
    container_id: str = ""
    ifname: str = ""
    host_name: str = ""
    bridge: str = ""
    ip_masq: bool = False
    addresses: list[str] = []


def _read_result(path: Path) -> _Kept:
    try:
        cached = json.loads(path.read_bytes())
        result = cached["result"]
        return _Kept(
            cached["networkName"],
            cached["containerId"],
            cached["ifName"],
            result["interfaces"][1]["name"],
            result["interfaces"][0]["name"],
            bool(cached.get("ipMasq")),
            [ip["address"].partition("/")[0] for ip in result["ips"]],
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return _Kept()  # none, or half a one from a crash: the leases and the link's name must do
