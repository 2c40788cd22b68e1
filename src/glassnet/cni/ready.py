"""Ready configurations: the networks people ask for by name, as files of /etc/cni/net.d.

Sources: kubenet as the kubelet made it up to 1.23 (bridge cbr0, one range a pod CIDR, hairpin, other nodes by routes, one masquerade rule a
node for what leaves --non-masquerade-cidr); *Kubernetes The Hard Way*, bootstrapping of the workers; docker's default bridge docker0;
containernetworking/plugins, the examples of bridge and ptp; GoogleCloudPlatform/netd (gke-pod-network); Azure/azure-container-networking, mode
transparent; aws/amazon-vpc-cni-k8s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Any, NamedTuple

from glassnet.cni.result import VERSIONS
from glassnet.net.errors import UsageError

NON_MASQUERADE = "10.0.0.0/8"  # the kubelet's default of --non-masquerade-cidr
DOCKER = "172.17.0.0/16"
DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}


class Block(NamedTuple):
    """Addresses of a subnet that one node gives to pods."""

    subnet: str
    first: str
    last: str


class Wish(NamedTuple):
    """What may be asked of a ready configuration; "" and 0 stand for its own default. With `blocks` pods' addresses are of those, and of the
    pod CIDRs of other address families."""

    name: str = ""
    pod_cidrs: tuple[str, ...] = ()
    bridge: str = ""
    mtu: int = 0
    non_masquerade: tuple[str, ...] = ()
    version: str = VERSIONS[-1]
    blocks: tuple[Block, ...] = ()


class Ready(NamedTuple):
    """A ready configuration: in a few words, whether it needs pod CIDRs, and what writes its files (name -> text)."""

    text: str
    needs_cidrs: bool
    files: Callable[[Wish], dict[str, str]]


def files(kind: str, wish: Wish) -> dict[str, str]:
    """The files of a ready configuration, the network's first. Raises UsageError for a wish that cannot be met."""
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is no ready configuration; want one of {', '.join(KINDS)}")
    cidrs = tuple(_network(text) for text in wish.pod_cidrs)
    if KINDS[kind].needs_cidrs and not cidrs and not wish.blocks:
        raise UsageError(
            f"{kind} needs the pod CIDR of this node: --pod-cidr 10.200.0.0/24 (again for the other family), or "
            "--kubeconfig FILE, and it is taken from the Node object"
        )
    if len(cidrs) > 2 or len({":" in one for one in cidrs}) < len(cidrs):
        raise UsageError(f"--pod-cidr {', '.join(cidrs)}: want one, or one of each address family")
    return KINDS[kind].files(wish._replace(pod_cidrs=cidrs))


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise UsageError(f"--pod-cidr {text}: {error}; want a network such as 10.200.0.0/24") from None


def _list(wish: Wish, default: str, number: str, *plugins: dict[str, Any]) -> dict[str, str]:
    """A list of plugins, in the file a runtime finds it by."""
    return _named_list(wish, default, f"{number}-{wish.name or default}.conflist", *plugins)


def _named_list(wish: Wish, default: str, file: str, *plugins: dict[str, Any]) -> dict[str, str]:
    """The same, in a file that a cloud calls otherwise."""
    return {file: _text({"cniVersion": wish.version, "name": wish.name or default, "plugins": list(plugins)})}


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, indent=2) + "\n"


def host_local(cidrs: Sequence[str], routes: bool) -> dict[str, Any]:
    """An address of each range, with default routes if `routes`."""
    out: dict[str, Any] = {"type": "host-local", "ranges": [[{"subnet": cidr}] for cidr in cidrs]}
    if routes:
        out["routes"] = [{"dst": DEFAULT_ROUTES[6 if ":" in cidr else 4]} for cidr in cidrs]
    return out


def _blocks(wish: Wish) -> dict[str, Any]:
    """An address of each block, and of each pod CIDR of a family that has none."""
    sets: list[list[dict[str, str]]] = [
        [{"subnet": one.subnet, "rangeStart": one.first, "rangeEnd": one.last}] for one in wish.blocks
    ]
    sets += [
        [{"subnet": cidr}]
        for cidr in wish.pod_cidrs
        if not any((":" in one.subnet) == (":" in cidr) for one in wish.blocks)
    ]
    return {"type": "host-local", "ranges": sets}


def _mtu(wish: Wish) -> dict[str, int]:
    return {"mtu": wish.mtu} if wish.mtu else {}


_PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
_BANDWIDTH = {"type": "bandwidth", "capabilities": {"bandwidth": True}}


def _kubenet(wish: Wish) -> dict[str, str]:
    outside = list(wish.non_masquerade or (NON_MASQUERADE,))
    for cidr in wish.pod_cidrs:  # the rule was of one family: the other kept its addresses
        if not any((":" in one) == (":" in cidr) for one in outside):
            outside.append(DEFAULT_ROUTES[6 if ":" in cidr else 4])
    plugin = {
        "type": "glassnet",
        "bridge": wish.bridge or "cbr0",
        **_mtu(wish),
        "podCIDRs": list(wish.pod_cidrs),
        "hairpinMode": True,
        "masquerade": True,
        "nonMasqueradeCIDRs": outside,
    }
    return _list(wish, "kubenet", "10", plugin, _PORTMAP, _BANDWIDTH)


def _bridge(wish: Wish) -> dict[str, str]:
    plugin = {
        "type": "bridge",
        "bridge": wish.bridge or "cni0",
        **_mtu(wish),
        "isDefaultGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": host_local(wish.pod_cidrs, routes=False),
    }
    return _list(wish, "bridge", "10", plugin, _PORTMAP)


def _ptp(wish: Wish) -> dict[str, str]:
    plugin = {"type": "ptp", **_mtu(wish), "ipMasq": True, "ipam": host_local(wish.pod_cidrs, routes=True)}
    return _list(wish, "ptp", "10", plugin, _PORTMAP)


def _gke(wish: Wish) -> dict[str, str]:
    plugin = {"type": "ptp", "mtu": wish.mtu or 1460, "ipam": host_local(wish.pod_cidrs, routes=True)}
    return _named_list(wish, "gke-pod-network", "10-gke-ptp.conflist", plugin, _PORTMAP)


def _azure(wish: Wish) -> dict[str, str]:
    plugin = {
        "type": "routed",
        "linkPrefix": "azv",
        **_mtu(wish),
        "proxyARP": True,
        "routeProtocol": 4,
        "ipam": _blocks(wish),
    }
    return _named_list(wish, "azure", "10-azure.conflist", plugin, _PORTMAP)


def _aws(wish: Wish) -> dict[str, str]:
    ways = {"hostAddress": True, "rulePriority": 512}
    plugin = {"type": "routed", "linkPrefix": "eni", "mtu": wish.mtu or 9001, **ways, "ipam": _blocks(wish)}
    return _named_list(wish, "aws-cni", "10-aws.conflist", plugin, {**_PORTMAP, "snat": True})


def _docker(wish: Wish) -> dict[str, str]:
    plugin = {
        "type": "bridge",
        "bridge": wish.bridge or "docker0",
        **_mtu(wish),
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": host_local(wish.pod_cidrs or (DOCKER,), routes=False),
    }
    return _list(wish, "docker", "10", plugin, _PORTMAP)


def _glassnet(wish: Wish) -> dict[str, str]:
    plugin: dict[str, Any] = {"type": "glassnet", **({"bridge": wish.bridge} if wish.bridge else {}), **_mtu(wish)}
    if wish.pod_cidrs:
        plugin["podCIDRs"] = list(wish.pod_cidrs)
    if wish.non_masquerade:
        plugin["nonMasqueradeCIDRs"] = list(wish.non_masquerade)
    return _list(wish, "glassnet", "10", plugin, _PORTMAP)


def _hardway(wish: Wish) -> dict[str, str]:
    """The two files of the guide, key for key."""
    bridge = {
        "cniVersion": "0.3.1",
        "name": wish.name or "bridge",
        "type": "bridge",
        "bridge": wish.bridge or "cnio0",
        **_mtu(wish),
        "isGateway": True,
        "ipMasq": True,
        "ipam": host_local(wish.pod_cidrs, routes=True),
    }
    loopback = {"cniVersion": "0.3.1", "name": "lo", "type": "loopback"}
    return {
        "10-bridge.conf": json.dumps(bridge, indent=4) + "\n",
        "99-loopback.conf": json.dumps(loopback, indent=4) + "\n",
    }


KINDS = {
    "glassnet": Ready("configures itself from the node: pod CIDRs, MTU, masquerade", False, _glassnet),
    "kubenet": Ready("kubenet: bridge cbr0, hairpin, other nodes by routes, masquerade once a node", True, _kubenet),
    "bridge": Ready("a bridge, masquerade a container, ports of the node", True, _bridge),
    "ptp": Ready("a veth pair a container and routes, no bridge; masquerade, ports of the node", True, _ptp),
    "hardway": Ready("the two files of Kubernetes The Hard Way", True, _hardway),
    "gke": Ready(
        "Google's: a veth pair a container and routes, ports of the node; masquerade is the node's", True, _gke
    ),
    "azure-cni": Ready("Azure CNI, transparent: veth pairs azv… and routes, the gateway 169.254.1.1", True, _azure),
    "aws-vpc-cni": Ready("AWS VPC CNI: veth pairs eni…, routes and rules, the gateway 169.254.1.1", True, _aws),
    "docker": Ready("docker's default network: bridge docker0, 172.17.0.0/16", False, _docker),
}
