"""Settings of the kernel: forwarding, reverse path, bridges, conntrack, inotify."""

from __future__ import annotations

from collections.abc import Sequence

from glassnet.kernel.api import Host
from glassnet.kernel.network_state import list_links, list_routes
from glassnet.kernel.node_checks.places import OWN_LINK, vxlan_links
from glassnet.kernel.node_checks.result import Check, Result, error, net_sysctl, ok, text_of, warning

_TRACKED, _FULL = 131072, 0.8  # kube-proxy's least nf_conntrack_max; how full is worth a word
_INSTANCES, _WATCHES = 512, 65536
_OUTER = ("", "bond", "team", "vlan")  # kinds of links that lead to other machines; "" is a device of hardware
_KEEP = "into a file of /etc/sysctl.d, so that it stays"


async def ip_forward(host: Host) -> Sequence[Result]:
    """Packets between pods of different nodes are forwarded by the node."""
    found = []
    for name, family in (("net.ipv4.ip_forward", "IPv4"), ("net.ipv6.conf.all.forwarding", "IPv6")):
        value = net_sysctl(host, name)
        if value == "1":
            found.append(ok(f"forwarding {family}", f"{name} = 1"))
        elif value is not None:
            found.append(warning(f"forwarding {family}", f"{name} = {value}: the CNI plugins set it with the first {family} pod; who sets it back then cuts pods off", f"{name} = 1, {_KEEP}"))  # fmt: skip
    return found


async def rp_filter(host: Host) -> Sequence[Result]:
    """The kernel takes the stricter of `all` and the device's own (ip-sysctl: the maximum of both)."""
    general = net_sysctl(host, "net.ipv4.conf.all.rp_filter")
    if general == "1":
        return [warning("reverse path filter", "net.ipv4.conf.all.rp_filter = 1 (strict): answers that take another way than their questions are dropped without a word", f"net.ipv4.conf.all.rp_filter = 2 (loose) or 0, {_KEEP}")]  # fmt: skip
    strict = [name for name in _node_links(host) if net_sysctl(host, f"net.ipv4.conf.{name.replace('.', '/')}.rp_filter") == "1"]  # fmt: skip
    if strict and general != "2" and any(name == OWN_LINK for name, _, _ in vxlan_links(host)):
        return [warning("reverse path filter", f"strict on {', '.join(strict)}, and there are tunnels: what comes by a link and would be answered by the tunnel is dropped without a word", f"net.ipv4.conf.all.rp_filter = 2 (loose), {_KEEP}")]  # fmt: skip
    return [ok("reverse path filter", f"net.ipv4.conf.all.rp_filter = {general}")]


def _node_links(host: Host) -> list[str]:
    """Links to other machines: where default routes lead, and those that are neither pods' nor virtual."""
    away = {hop.dev for route in list_routes(host.netns) if not route.length for hop in route.hops}
    return sorted(link.name for link in list_links(host.netns) if link.name in away or (link.kind in _OUTER and link.name != "lo"))  # fmt: skip


async def bridge_calls(host: Host) -> Sequence[Result]:
    """Without it, answers between pods on one bridge pass netfilter by, and Services fail on their own node."""
    found = []
    for name in ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"):
        value = net_sysctl(host, name)
        if value is None:
            return [warning("bridge-nf-call", "br_netfilter is not loaded: pods of one node on one bridge do not reach each other's Services", "modprobe br_netfilter; a network without a bridge does without it")]  # fmt: skip
        if value != "1":
            found.append(warning("bridge-nf-call", f"{name} = {value}: pods of one node on one bridge do not reach each other's Services", f"{name} = 1, {_KEEP}"))  # fmt: skip
    return found or [ok("bridge-nf-call", "iptables and ip6tables see bridged packets")]


def judge_conntrack(most: int, used: int) -> Result:
    """nf_conntrack_max and nf_conntrack_count."""
    name, remedy = "connection tracking", f"net.netfilter.nf_conntrack_max = {max(_TRACKED, 2 * most)}, {_KEEP}"
    if used >= most * _FULL:
        return error(name, f"{used} of {most} entries are in use: soon new connections are dropped", remedy)
    if most < _TRACKED:
        return warning(name, f"nf_conntrack_max = {most}; kube-proxy's least is {_TRACKED}", remedy)
    return ok(name, f"{used} of {most} entries are in use")


async def conntrack(host: Host) -> Sequence[Result]:
    """How many connections the kernel remembers."""
    most, used = (net_sysctl(host, f"net.netfilter.nf_conntrack_{name}") for name in ("max", "count"))
    if most is None or used is None:
        return [warning("connection tracking", "nf_conntrack is not loaded", "modprobe nf_conntrack")]
    return [judge_conntrack(int(most), int(used))]


def judge_inotify(instances: int, watches: int) -> Result:
    """fs.inotify.max_user_instances and max_user_watches."""
    name = "inotify"
    if instances < _INSTANCES or watches < _WATCHES:
        return warning(name, f"max_user_instances = {instances}, max_user_watches = {watches}: many pods on a node run out of them", f"fs.inotify.max_user_instances = {max(instances, _INSTANCES)} and fs.inotify.max_user_watches = {max(watches, _WATCHES)} or more, {_KEEP}")  # fmt: skip
    return ok(name, f"{instances} instances, {watches} watches a user")


async def inotify(host: Host) -> Sequence[Result]:
    """What kubelet, runtimes and pods watch files with."""
    place = host.root / "proc/sys/fs/inotify"
    numbers = [text_of(place / f"max_user_{name}") for name in ("instances", "watches")]
    return [judge_inotify(*map(int, numbers))] if all(numbers) else []


CHECKS: tuple[Check, ...] = (ip_forward, rp_filter, bridge_calls, conntrack, inotify)
