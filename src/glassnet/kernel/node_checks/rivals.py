"""Others who do glassnet's work on the node: proxies, networks, configurations of CNI that come first."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from glassnet.kernel.api import Host
from glassnet.kernel.network_state import list_links
from glassnet.kernel.node_checks.firewalls import base_chains, saved_rules
from glassnet.kernel.node_checks.result import Check, Result, error, ok, running, warning

OURS = "10-glassnet.conflist"
_CONF_DIR = "etc/cni/net.d"
# links -> whose they are. cni0 is flannel's bridge, and the reference plugins' in many tutorials.
_LINKS = {
    "cilium_*": "Cilium", "lxc_health": "Cilium", "antrea-gw0": "Antrea", "antrea-tun0": "Antrea", "ovs-system": "Open vSwitch",
    "cali*": "Calico", "tunl0": "Calico (IPIP)", "vxlan.calico": "Calico", "vxlan-v6.calico": "Calico", "wireguard.cali": "Calico",
    "flannel.*": "flannel", "flannel-*": "flannel", "cni0": "flannel", "weave": "Weave Net", "vethwe-*": "Weave Net",
    "kube-bridge": "kube-router", "kube-dummy-if": "kube-router", "kube-ipvs0": "kube-proxy (ipvs)", "ovn-k8s-mp0": "OVN-Kubernetes",
}  # fmt: skip
_AGENTS = {
    "cilium-agent": "Cilium", "antrea-agent": "Antrea", "calico-node": "Calico", "felix": "Calico", "flanneld": "flannel",
    "kindnetd": "kindnet", "weaver": "Weave Net", "kube-router": "kube-router", "ovnkube": "OVN-Kubernetes",
}  # fmt: skip


async def kube_proxy(host: Host) -> Sequence[Result]:
    """Two proxies undo each other's rules; rules that one left behind go on sending packets where they went then."""
    name = "kube-proxy"
    if found := running(host, "kube-proxy"):
        return [error(name, f"{', '.join(found)} is running", "end it when glassnet's rules are in place (deploy/README.md, from kube-proxy): its DaemonSet with a nodeSelector that fits no node")]  # fmt: skip
    left = [
        f"chain KUBE-SERVICES of iptables-{tool}"
        for tool, text in (await saved_rules(host)).items()
        if any(line.startswith(":KUBE-SERVICES ") for line in text.splitlines())
    ]
    left += sorted({f"table {each.family} kube-proxy" for each in await base_chains(host) if each.table == "kube-proxy"})  # fmt: skip
    if left:
        return [warning(name, f"it does not run, but these are there: {', '.join(left)}", "glassnet's own where its mode is iptables; else kube-proxy left them: proxy mode iptables takes these chains over; otherwise kube-proxy --cleanup removes them")]  # fmt: skip
    return [ok(name, "neither runs nor left rules")]


async def other_networks(host: Host) -> Sequence[Result]:
    """Agents of other networks, and the links they left."""
    name = "other networks"
    if found := running(host, *_AGENTS):
        whose = sorted({_AGENTS[each.split()[0]] for each in found})
        return [error(name, f"{', '.join(found)} is running: {', '.join(whose)}", "delete its DaemonSet before glassnet is to give pods their network")]  # fmt: skip
    seen: dict[str, str] = {}
    for link in list_links(host.netns):
        for pattern, owner in _LINKS.items():
            # every namespace with the module ipip has a tunl0 that is down; a cni0 with our alias is ours
            if fnmatch.fnmatchcase(link.name, pattern) and (link.up or link.name != "tunl0") and not link.alias.startswith("cni "):  # fmt: skip
                seen.setdefault(owner, link.name)
    if seen:
        told = ", ".join(f"{link} ({owner})" for owner, link in sorted(seen.items()))
        return [warning(name, f"links are left: {told}", "when its pods are gone: ip link del NAME, or a reboot")]
    return [ok(name, "no agent runs, no link is left")]


async def cni_configurations(host: Host) -> Sequence[Result]:
    """A runtime takes the first file by name."""
    name, place = "CNI configurations", host.root / _CONF_DIR
    try:
        files = sorted(path.name for path in place.iterdir() if path.suffix in (".conf", ".conflist", ".json"))
    except OSError:
        files = []
    if before := [file for file in files if file < OURS]:
        return [error(name, f"/{_CONF_DIR}: {', '.join(before)} come before {OURS}: pods get their network from the first", "move them away once their network's agent is gone")]  # fmt: skip
    if after := [file for file in files if file > OURS]:
        return [warning(name, f"/{_CONF_DIR}: {', '.join(after)} would take over when {OURS} goes", "move them away")]
    return [ok(name, "no others")]


CHECKS: tuple[Check, ...] = (kube_proxy, other_networks, cni_configurations)
