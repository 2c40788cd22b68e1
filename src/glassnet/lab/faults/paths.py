"""Faults of a node's own network: reverse path filter and routes, bridge and netfilter, the bridge's address."""

from __future__ import annotations

import json

from glassnet.lab.faults.scene import Fault, Scene
from glassnet.lab.topology import INTERNET
from glassnet.net.errors import LabError
from glassnet.netstack.ops import AddAddress, AddRoute, AddVeth, SetLink

SECOND, NODE_END, ROUTER_END = "eth1", "169.254.77.2", "169.254.77.1"
STRANGER = "172.29.77.1/24"


async def rp_filter(scene: Scene) -> list[str]:
    """A second interface to the router with the route back to the clients, who come in by the first; and the strict filter."""
    node, router = scene.machine, scene.ground.machines[scene.ground.topology.router]
    far = f"to-{scene.spec.name}"[:15]
    if any(link["ifname"] == SECOND for link in json.loads(await scene.run("ip", "-j", "link"))):
        raise LabError(f"{scene.spec.name} has an interface {SECOND} already")
    scene.note("link", machine=node.name, name=SECOND)
    node.netns.apply([AddVeth(SECOND, far, peer_netns=router.netns.fd)])
    router.netns.apply([AddAddress(f"{ROUTER_END}/30", far), SetLink(far, up=True)])
    node.netns.apply(
        [
            AddAddress(f"{NODE_END}/30", SECOND),
            SetLink(SECOND, up=True),
            AddRoute(str(INTERNET), gateway=ROUTER_END, dev=SECOND, source=scene.spec.address),
        ]
    )
    scene.sysctl("net.ipv4.conf.all.rp_filter", 1)
    return [
        f"{scene.spec.name} has rp_filter=1 and its route to {INTERNET} by {SECOND}, while packets from there come in by eth0: they are dropped as martians",
        f"glassnet node {scene.spec.name} -- nstat -az TcpExtIPReversePathFilter",
    ]


async def bridge_nf(scene: Scene) -> list[str]:
    """Bridged packets pass netfilter by: a reply between two pods of the node is not translated back."""
    scene.sysctl("net.bridge.bridge-nf-call-iptables", 0)
    bridge = scene.bridge()
    for link in json.loads(await scene.try_run("ip", "-j", "-d", "link", "show", "type", "bridge") or "[]"):
        if link["ifname"] == bridge and link["linkinfo"]["info_data"].get("nf_call_iptables"):
            words = ["ip", "link", "set", "dev", bridge, "type", "bridge", "nf_call_iptables"]
            await scene.change([*words, "0"], [*words, "1"])
    return [
        f"bridge-nf-call-iptables=0 on {scene.spec.name}: a pod that asks a Service is answered by a pod of its own node under another address",
        f"glassnet node {scene.spec.name} -- sysctl net.bridge.bridge-nf-call-iptables",
    ]


async def bridge_address(scene: Scene) -> list[str]:
    """The bridge has an address of another cluster, not the gateway's of its pods."""
    await scene.pod(scene.spec.name)
    bridge = scene.bridge()
    (link,) = json.loads(await scene.run("ip", "-j", "-4", "addr", "show", "dev", bridge))
    addresses = [entry for entry in link["addr_info"] if entry["family"] == "inet"]
    if not addresses:
        raise LabError(f"{bridge} of {scene.spec.name} has no address to lose")
    for entry in reversed(addresses):
        local = f"{entry['local']}/{entry['prefixlen']}"
        more = ["broadcast", entry["broadcast"]] if "broadcast" in entry else []
        words = ["ip", "addr", "replace", local, *more, "scope", entry["scope"], "dev", bridge]
        scene.note("run", machine=scene.spec.name, argv=words)
    scene.note("run", machine=scene.spec.name, argv=["ip", "addr", "del", STRANGER, "dev", bridge])
    await scene.run("ip", "addr", "add", STRANGER, "dev", bridge)
    for entry in addresses:
        await scene.run("ip", "addr", "del", f"{entry['local']}/{entry['prefixlen']}", "dev", bridge)
    had = ", ".join(entry["local"] for entry in addresses)
    return [
        f"{bridge} of {scene.spec.name} has {STRANGER} in place of {had}: the node has no route to its pods",
        f"glassnet node {scene.spec.name} -- ip -br addr show dev {bridge}",
    ]


FAULTS = (
    Fault("rp-filter", 13, "rp_filter=1, and packets that come in where no reply would go out", rp_filter),
    Fault("bridge-nf", 21, "bridge-nf-call-iptables=0: replies between pods of a node bypass NAT", bridge_nf),
    Fault("bridge-address", 25, "the bridge has another network's address", bridge_address),
)
