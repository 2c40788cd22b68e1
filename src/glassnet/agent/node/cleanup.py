"""Taking everything of glassnet's off a node: rules, routes, links, files, programs; and saying what it was.

What is taken away is what carries our mark. To tell it, the node is looked at before and after: what is there no more is what was removed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from glassnet.agent.cni import programs
from glassnet.agent.cni.inventory import NodeInventory
from glassnet.agent.loadbalancer import bird, handover
from glassnet.agent.node import configuration
from glassnet.agent.node.cni import FILE
from glassnet.agent.node.configuration import AgentConfig
from glassnet.agent.node.lock import RUN, NodeLock
from glassnet.agent.proxy.settings import cleanup as sweep_proxy
from glassnet.agent.routes.loop import NodeRoutes
from glassnet.cni import host_local, kept, runtime
from glassnet.cni.node import NODE_FILE
from glassnet.cni.runtime import Network
from glassnet.kernel.api import Host
from glassnet.kernel.host import HostMachine
from glassnet.kernel.iptables import legacy_tables
from glassnet.kernel.network_state import list_links
from glassnet.kernel.node_checks.result import running
from glassnet.kube.view import View
from glassnet.net.errors import CommandError, GlassnetError, UsageError
from glassnet.netstack.model import Link
from glassnet.netstack.ops import DelLink
from glassnet.proxy import config as configs
from glassnet.routes.model import RoutesSettings

_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


class Cleaned(NamedTuple):
    """What was removed, what stays and why, what could not be removed: in words."""

    removed: list[str]
    left: list[str]
    faults: list[str]


async def cleanup(config: AgentConfig, keep_pods: bool = False) -> Cleaned:
    """Remove what is ours.

    Where kube-proxy runs the chains that both use are its own by now, and stay; addresses that pods of another plugin have in our network, too.

    Raises UsageError when an agent runs, or pods have links of ours and `keep_pods` is not said; nothing is removed then.
    """
    lock, machine = NodeLock(), HostMachine()
    lock.take("glassnet agent --cleanup")
    whole = False
    try:
        pods = pod_links(machine)
        if pods and not keep_pods:
            names = ", ".join(link.name for link in pods[:5]) + (", …" if len(pods) > 5 else "")
            raise UsageError(
                f"{len(pods)} containers have links of ours ({names}); nothing is removed. Their runtime needs the plugins to end them: "
                "drain the node first (kubectl drain NODE --ignore-daemonsets), or give --keep-pods to leave all that is CNI's"
            )
        before = await found(machine, config)
        others = running(machine, "kube-proxy")
        left = [f"iptables chains KUBE-…: {', '.join(others)} runs here, they are its own now"] if others else []
        faults = await sweep_proxy([mode for mode in configs.MODES if mode != "iptables" or not others])
        faults += await _sweep_routes(machine, config)
        await handover.sweep(machine)
        bird.sweep(machine)
        if pods:
            left.append(f"all that is CNI's: {len(pods)} containers have links of ours")
        else:
            whole = True
            faults += _sweep_cni(machine, config, left)
        after = await found(machine, config)
    finally:
        machine.close()
        lock.release(remove=whole)
        if whole:
            with contextlib.suppress(OSError):
                os.rmdir(RUN)
    return Cleaned([each for each in before if each not in set(after)], left, faults)


def pod_links(machine: Host) -> list[Link]:
    """The node's ends of containers' links."""
    return [link for link in list_links(machine.netns) if link.kind == "veth" and link.alias.startswith("cni ")]


async def _sweep_routes(machine: Host, config: AgentConfig) -> list[str]:
    part = config.routes
    settings = RoutesSettings(part.mode, config.cluster_cidrs, part.mtu, part.vxlan_id, part.vxlan_port)  # type: ignore[arg-type]
    try:
        await NodeRoutes(View(), machine.netns, config.node_name, settings).sweep()
    except GlassnetError as error:
        return [str(error)]
    return []


# -- CNI


def _sweep_cni(machine: HostMachine, config: AgentConfig, left: list[str]) -> list[str]:
    """The network of pods that are no more: leases, rules, bridge, files, programs. Says in `left` what pods of others still need."""
    faults: list[str] = []
    try:
        network, inventory = _network(config), NodeInventory(machine, time.time)
        used = inventory.in_use(network.name)
        if used:
            left.append(
                f"{len(used)} addresses of network {network.name}, and its bridge: pods of another plugin have them"
            )
            inventory.take_rules(network.name)
        else:
            faults += inventory.collect(network, ())
            _remove_bridges(machine, network.name)
            _remove_leases(network.name)
    except GlassnetError as error:
        faults.append(str(error))
    try:
        programs.uninstall(Path(config.cni.bin_dir))
    except GlassnetError as error:
        faults.append(str(error))
    for path in _our_files(config):
        try:
            path.unlink()
        except OSError as error:
            faults.append(f"{path}: {error.strerror}")
    for remove, place in (
        (os.rmdir, kept.PLACE),
        (os.unlink, f"{kept.PLACE}.lock"),
        (os.rmdir, os.path.dirname(kept.PLACE)),
    ):
        with contextlib.suppress(OSError):
            remove(place)
    return faults


def _remove_bridges(machine: Host, network: str) -> None:
    links = [link for link in list_links(machine.netns) if link.kind == "bridge" and link.alias == f"cni {network}"]
    machine.netns.apply([DelLink(link.name) for link in links])


def _network(config: AgentConfig) -> Network:
    """The network as the file of ours has it, else as the configuration has it now."""
    path = Path(config.cni.conf_dir) / FILE
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text()
        if configuration.is_our_network(text):
            return runtime.parse_network(text, str(path))
    return runtime.parse_network(configuration.network_file(config.cni, ("192.0.2.0/24",)), "the agent's configuration")


def _remove_leases(network: str) -> None:
    """The directory of a network's leases, when it has none any more."""
    place = Path(host_local.DATA) / network
    names = os.listdir(place) if place.is_dir() else []
    if any(host_local.is_lease(name) for name in names):
        return
    for name in names:
        if name == host_local.LOCK or name.startswith(host_local.LAST):
            (place / name).unlink()
    with contextlib.suppress(OSError):
        place.rmdir()


def _our_files(config: AgentConfig) -> Iterator[Path]:
    conf = Path(config.cni.conf_dir) / FILE
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if config.cni.conf_dir and configuration.is_our_network(conf.read_text()):
            yield conf
    for path in (NODE_FILE, config.cni.socket):
        if os.path.lexists(path):
            yield Path(path)


# -- what is there


async def found(machine: Host, config: AgentConfig) -> list[str]:
    """What a node has of the kinds of things that we make, in words."""
    out = [f"link {link.name}" for link in list_links(machine.netns)]
    out += await _routes(machine)
    out += [line async for line in _chains(machine)]
    with contextlib.suppress(CommandError):
        tables = (await machine.run(["nft", "list", "tables"])).decode().splitlines()
        out += [f"nftables {line}" for line in tables if line.split()[-1] in ("glassnet", handover.TABLE)]
    places = (config.cni.bin_dir, config.cni.conf_dir, RUN, bird.PLACE, kept.PLACE, host_local.DATA)
    out += [f"file {path}" for place in places if place for path in _files(Path(place))]
    return out


async def _routes(machine: Host) -> list[str]:
    out = []
    for family in ("-4", "-6"):
        with contextlib.suppress(CommandError):
            text = (await machine.run(["ip", family, "route", "show", "table", "main"])).decode()
            out += [f"route {' '.join(line.split())}" for line in text.splitlines()]
    return out


async def _chains(machine: Host) -> AsyncIterator[str]:
    legacy = any(legacy_tables(machine.netns, family) for family in ("IPv4", "IPv6"))
    for tool in ("iptables", "ip6tables"):
        for kind in ("nft", *(["legacy"] if legacy else [])):
            with contextlib.suppress(CommandError):
                for line in _own_chains((await machine.run([f"{tool}-{kind}-save"])).decode().splitlines()):
                    yield f"{tool} ({kind}) {line}"


def _own_chains(lines: Iterable[str]) -> Iterator[str]:
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":") and line[1:].split()[0] not in _BUILT_IN:
            yield f"table {table} chain {line[1:].split()[0]}"


def _files(place: Path) -> list[str]:
    try:
        return sorted(str(path) for path in place.iterdir())
    except OSError:
        return []
