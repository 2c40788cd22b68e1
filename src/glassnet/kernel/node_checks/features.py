"""What the kernel and the node's tools can do, tried out in namespaces that are gone right after."""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections.abc import Callable, Sequence

from glassnet.kernel import nft_features
from glassnet.kernel.api import Host
from glassnet.kernel.netlink import RtNetlink
from glassnet.kernel.netns import KernelNetNs
from glassnet.kernel.node_checks.result import Check, Result, error, ok, warning
from glassnet.kernel.preflight import in_a_child, run_quietly
from glassnet.net.errors import KernelError
from glassnet.netstack.ops import AddBridge, AddTbf, AddVeth, AddVxlan

LEAST, WELL = (
    (5, 6),
    (5, 13),
)  # maps to address and port came with 5.6; the kernel kube-proxy's nftables mode asks for is 5.13
Probe = Callable[[], None]


def judge_kernel(release: str) -> Result:
    """A release such as 6.1.0-9-amd64."""
    name, found = "kernel version", re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < LEAST:
        return error(name, f"{release} is older than {LEAST[0]}.{LEAST[1]}", "a newer kernel, or proxy mode iptables (proxy.config.mode)")  # fmt: skip
    if version < WELL:
        return warning(name, f"{release}; {WELL[0]}.{WELL[1]} is the oldest that mode nftables is used with elsewhere", "proxy mode iptables, or a newer kernel")  # fmt: skip
    return ok(name, release)


async def kernel_version(host: Host) -> Sequence[Result]:
    """Which kernel runs."""
    return [judge_kernel(platform.release())]


async def rights(host: Host) -> Sequence[Result]:
    """Whether this process may look and probe."""
    if os.geteuid():
        return [
            warning("rights", f"runs as user {os.geteuid()}: what needs root is not seen or tried", "run it as root")
        ]
    return [ok("rights", "runs as root")]


def probe_result(name: str, probe: Probe, remedy: str) -> Result:
    """Try something in a child with namespaces of its own."""
    why = in_a_child(probe)
    return error(name, why, remedy) if why else ok(name, "works")


def links_of_pods() -> None:
    """A bridge, a veth pair."""
    RtNetlink().apply([AddBridge("br0"), AddVeth("v0", "v1")])


def vxlan() -> None:
    """A VXLAN link that learns nothing by itself."""
    RtNetlink().apply([AddVxlan("vx0", 1, 8472, "127.0.0.1")])


def bandwidth() -> None:
    """A token bucket, as the plugin bandwidth makes."""
    RtNetlink().apply([AddVeth("v0", "v1"), AddTbf("v0", 1_000_000, 10_000, 25_000)])


def nf_tables() -> None:
    """All that the proxy's nftables mode is made of, and the tool's own way to the kernel."""
    netns = KernelNetNs("probe", os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    if lacking := nft_features.missing(netns):
        raise KernelError("nftables", 0, ", ".join(lacking))
    run_quietly("nft", "add table ip p; add chain ip p c; add rule ip p c fib daddr type local ct state new accept")


def iptables_rule(*words: str) -> Probe:
    """A rule of the node's own iptables."""

    def probe() -> None:
        run_quietly("iptables", *words)

    return probe


_MATCHES = (
    ("-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW,RELATED", "-m", "comment", "--comment", "probe", "-j", "ACCEPT"),
    ("-t", "nat", "-A", "PREROUTING", "-m", "statistic", "--mode", "random", "--probability", "0.5", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "RETURN"),
    ("-t", "nat", "-A", "POSTROUTING", "-m", "mark", "--mark", "0x4000/0x4000", "-j", "MASQUERADE", "--random-fully"),
    ("-t", "nat", "-A", "OUTPUT", "-m", "recent", "--name", "probe", "--rcheck", "--seconds", "5", "--reap", "-j", "RETURN"),
)  # fmt: skip


def bridge_netfilter() -> None:
    """Packets between ports of a bridge pass netfilter."""
    with open("/proc/sys/net/bridge/bridge-nf-call-iptables", "w") as file:
        file.write("1")


async def kernel_features(host: Host) -> Sequence[Result]:
    """Links, qdiscs, nftables, iptables."""
    found = [
        probe_result("bridge and veth", links_of_pods, "modprobe -a bridge veth; keep it in /etc/modules-load.d"),
        probe_result("vxlan", vxlan, "modprobe vxlan; or routes.mode direct, where nodes share a link"),
        probe_result("token bucket (bandwidth)", bandwidth, "modprobe sch_tbf; only pods with bandwidth annotations need it"),
        probe_result("nftables", nf_tables, "a kernel with these options, apt-get install nftables; or proxy mode iptables"),
    ]  # fmt: skip
    for words in _MATCHES:
        match = ", ".join(word for before, word in itertools.pairwise(words) if before in ("-m", "-j"))
        found.append(probe_result(f"iptables ({match})", iptables_rule(*words), "apt-get install iptables; modprobe -a nf_conntrack xt_conntrack xt_statistic xt_addrtype xt_MASQUERADE xt_recent xt_comment xt_mark"))  # fmt: skip
    why = in_a_child(bridge_netfilter)
    remedy = "modprobe br_netfilter, and the name into a file of /etc/modules-load.d; networks without a bridge do without it"
    found.append(warning("br_netfilter", why, remedy) if why else ok("br_netfilter", "works"))
    return found


CHECKS: tuple[Check, ...] = (kernel_version, rights, kernel_features)
