"""What a KubeProxyConfiguration comes to on this machine: families, detectors of local traffic, the kernel's settings, where checks listen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from glassnet.agent.proxy.loop import ProxyLoop, ProxySettings, cluster_cidr_detectors
from glassnet.kernel.addresses import Addresses
from glassnet.kernel.api import Host
from glassnet.kernel.host import HostMachine
from glassnet.kube import kinds
from glassnet.kube.view import Event, Key, View
from glassnet.net import address
from glassnet.net.errors import GlassnetError, KernelError, UsageError
from glassnet.proxy import nodeports
from glassnet.proxy.config import ProxyConfig, seconds
from glassnet.proxy.model import LocalDetector

log = logging.getLogger(__name__)
POD_CIDR_WAIT = 300.0
_CONNTRACK_LIMIT = 1 << 20


def families() -> tuple[str, ...]:
    """IPv4, and IPv6 where the machine has it."""
    disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    with contextlib.suppress(OSError):
        if os.path.exists("/proc/net/if_inet6") and disabled.read_text().strip() == "0":
            return (address.IPV4, address.IPV6)
    return (address.IPV4,)


def own_settings(config: ProxyConfig, machine: Host) -> None:
    """What kube-proxy sets on a node: conntrack's limits and times, and its own standing with the out-of-memory killer. Failures are warnings."""
    track = config.conntrack
    wanted: dict[str, Any] = {}
    if track.max_per_core:
        wanted["net.netfilter.nf_conntrack_max"] = min(_CONNTRACK_LIMIT, max(track.min, track.max_per_core * (os.cpu_count() or 1)))  # fmt: skip
    for name, text in (
        ("tcp_timeout_established", track.tcp_established_timeout),
        ("tcp_timeout_close_wait", track.tcp_close_wait_timeout),
        ("udp_timeout", track.udp_timeout),
        ("udp_timeout_stream", track.udp_stream_timeout),
    ):
        if value := int(seconds(text)):
            wanted[f"net.netfilter.nf_conntrack_{name}"] = value
    if track.tcp_be_liberal:
        wanted["net.netfilter.nf_conntrack_tcp_be_liberal"] = 1
    for name, value in wanted.items():
        try:
            machine.sysctl({name: value})
        except KernelError as error:
            log.warning("%s", error)
    if config.oom_score_adj is not None:
        try:
            Path("/proc/self/oom_score_adj").write_text(str(config.oom_score_adj))
        except PermissionError:  # usual in a container; whoever started us may have set it
            log.info("oomScoreAdj %d needs CAP_SYS_RESOURCE; it stays as it is", config.oom_score_adj)
        except OSError as error:
            log.warning("oomScoreAdj %d: %s", config.oom_score_adj, error.strerror)


class NodeRanges:
    """The pod CIDRs of the own Node, waited for; `moved` hears of a later change, in words."""

    def __init__(self, view: View, node: str, moved: Callable[[str], None], wait: float = POD_CIDR_WAIT) -> None:
        self._view, self._key, self._moved, self._wait = view, Key("", node), moved, wait

    async def get(self) -> tuple[str, ...]:
        """The ranges, once the Node has them. Raises UsageError when it has none in time."""
        changed = asyncio.Event()

        def heard(event: Event) -> None:
            if event.kind is kinds.NODE and event.key == self._key:
                changed.set()

        unsubscribe = self._view.subscribe(heard, replay=False)
        deadline = time.monotonic() + self._wait
        while not (ranges := ranges_of(self._view, self._key)):
            changed.clear()
            try:
                await asyncio.wait_for(changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                raise UsageError(
                    f"detectLocalMode NodeCIDR: Node {self._key.name!r} got no spec.podCIDRs in {self._wait:.0f} seconds"
                ) from None
            finally:
                if time.monotonic() >= deadline:
                    unsubscribe()
        unsubscribe()
        self._follow(ranges)
        return ranges

    def _follow(self, ranges: tuple[str, ...]) -> None:
        def heard(event: Event) -> None:
            if event.kind is kinds.NODE and event.key == self._key:
                now = ranges_of(self._view, self._key)
                if now and now != ranges:
                    self._moved(f"the node's pod CIDRs changed from {', '.join(ranges)} to {', '.join(now)}")

        self._view.subscribe(heard, replay=False)


async def proxy_settings(config: ProxyConfig, view: View, ranges: NodeRanges, tool: str = "") -> ProxySettings:
    """The proxy's settings; `tool` is which of the two iptables. With detectLocalMode NodeCIDR the Node's ranges are waited for."""
    backend = config.backend
    cidrs = {cidr for each in view.all(kinds.SERVICE_CIDR) for cidr in each.spec.cidrs}
    return ProxySettings(
        mode=config.mode or "iptables",
        families=families(),
        detectors=await _detectors(config, ranges),
        masquerade_all=backend.masquerade_all,
        mark=1 << backend.masquerade_bit,
        node_port_addresses=config.node_port_addresses,
        localhost_node_ports=config.iptables.localhost_node_ports,
        service_cidrs=tuple(sorted(cidrs)),
        drop_invalid=not config.conntrack.tcp_be_liberal and not _liberal(),
        min_period=max(0.001, seconds(backend.min_sync_period)),
        sync_period=seconds(backend.sync_period),
        iptables_tool=tool,
    )


async def _detectors(config: ProxyConfig, ranges: NodeRanges) -> dict[str, LocalDetector]:
    both = (address.IPV4, address.IPV6)
    match config.detect_local_mode or "ClusterCIDR":
        case "BridgeInterface":
            return {family: LocalDetector("interface", config.detect_local.bridge_interface) for family in both}
        case "InterfaceNamePrefix":
            prefix = config.detect_local.interface_name_prefix
            return {family: LocalDetector("prefix", prefix) for family in both}
        case "NodeCIDR":
            return cluster_cidr_detectors(await ranges.get())
    if not config.cluster_cidrs:
        log.warning("no clusterCIDR: local pods cannot be told from others, ClusterIPs are not masqueraded")
    return cluster_cidr_detectors(config.cluster_cidrs)


def check_addresses(config: ProxyConfig, machine: Host) -> tuple[str, ...]:
    """Where health check node ports are served."""
    words = config.node_port_addresses
    if not words or words == (nodeports.PRIMARY,):
        return ("0.0.0.0", *(["::"] if address.IPV6 in families() else []))
    addresses = Addresses(machine.netns)
    local = addresses.all()
    addresses.close()
    found: list[str] = []
    for family in families():
        mine = nodeports.resolve(words, family, (), local)
        found += mine if mine is not None else ["0.0.0.0" if family == address.IPV4 else "::"]
    return tuple(found)


async def cleanup(modes: Iterable[str], families_: Iterable[str] = (address.IPV4, address.IPV6)) -> list[str]:
    """Remove all rules of some modes from this machine; what could not be removed, in words."""
    machine, faults = HostMachine(), []
    for mode in modes:
        for family in families_:
            proxy = ProxyLoop(View(), machine, "", ProxySettings(mode=mode, families=(family,)))
            try:
                await proxy.sweep()
            except GlassnetError as error:
                faults.append(str(error))
    machine.close()
    return faults


def ranges_of(view: View, key: Key) -> tuple[str, ...]:
    """The pod CIDRs of a Node of the View; none while it has none."""
    node = view.nodes.get(key)
    if node is None:
        return ()
    return tuple(node.spec.pod_cidrs) or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


def _liberal() -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").read_text().strip() != "0"
    return False
