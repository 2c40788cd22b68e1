"""The bridge plugin: what joins a pod to a node's bridge, as operations, rules and a result.

Source: CNI SPEC.md; behaviour, names and rules of the reference plugin (containernetworking/plugins, bridge; pkg/utils, chain names).
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, ip_interface
from typing import Any, NamedTuple

from glassnet.cni.config import NetConf
from glassnet.cni.host_local import Lease
from glassnet.netstack.ops import (
    PROTO_BOOT,
    AddAddress,
    AddBridge,
    AddRoute,
    AddVeth,
    DelLink,
    Operation,
    SetBridgePort,
    SetLink,
    SetNeighbour,
)


class Plan(NamedTuple):
    """Operations on the node, then in the pod, then on the node again; iptables-restore lines for the nat table; the CNI result."""

    node: tuple[Operation, ...]
    pod: tuple[Operation, ...]
    rules: str
    result: dict[str, Any]


def hardware(address: str) -> str:
    """The MAC of a pod's interface or a bridge: 0a:58 and the four bytes of its address."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def chain_name(network: str, container_id: str) -> str:
    """The container's chain in the nat table: CNI- and 24 hex digits."""
    return "CNI-" + hashlib.sha512((network + container_id).encode()).hexdigest()[:24]


def comment(network: str, container_id: str) -> str:
    """The comment that says whose a rule is, quoted for iptables-restore."""
    return f'"name: \\"{network}\\" id: \\"{container_id}\\""'


def add(
    conf: NetConf,
    lease: Lease,
    *,
    container_id: str,
    ifname: str,
    host_name: str,
    pod_netns: int,
    bridge_exists: bool,
    permanent_neighbours: bool = False,
) -> Plan:
    """ADD: `host_name` is the veth's name on the node, `pod_netns` a descriptor of the pod's namespace.

    With `permanent_neighbours` both ends know each other's MAC for good: such entries do not count against gc_thresh3.
    """
    prefix = ip_interface(lease.address).network.prefixlen
    node: list[Operation] = [] if bridge_exists else ensure_bridge(conf, lease)
    node += [
        AddVeth(host_name, ifname, peer_netns=pod_netns, peer_hardware=hardware(lease.ip), mtu=conf.mtu),
        SetLink(host_name, up=True, master=conf.bridge),
    ]
    if conf.hairpin:
        node.append(SetBridgePort(host_name, hairpin=True))
    pod: list[Operation] = [SetLink(ifname, up=True), AddAddress(f"{lease.ip}/{prefix}", ifname)]
    gateway = lease.gateway if conf.is_gateway else ""
    for destination, way in conf.ipam.routes or ((("0.0.0.0/0", ""),) if conf.default_route else ()):
        target = "default" if destination in ("0.0.0.0/0", "::/0") else destination
        if via := way or lease.gateway:
            pod.append(AddRoute(target, gateway=via, dev=ifname, protocol=PROTO_BOOT))
    if permanent_neighbours and gateway:
        pod.append(SetNeighbour(gateway, hardware(gateway), ifname))
        node.append(SetNeighbour(lease.ip, hardware(lease.ip), conf.bridge))
    rules = masquerade_rules(conf, lease, container_id) if conf.ip_masq else ""
    return Plan(tuple(node), tuple(pod), rules, _result(conf, lease, ifname, host_name))


def ensure_bridge(conf: NetConf, lease: Lease) -> list[Operation]:
    """The bridge itself, with the gateway's address when the network has one."""
    out: list[Operation] = [AddBridge(conf.bridge, hardware(lease.gateway) if conf.is_gateway else "", conf.mtu)]
    if conf.is_gateway:
        out.append(
            AddAddress(f"{lease.gateway}/{ip_interface(lease.address).network.prefixlen}", conf.bridge, exist_ok=True)
        )
    out.append(SetLink(conf.bridge, up=True, promisc=True if conf.promisc else None))
    return out


def masquerade_rules(conf: NetConf, lease: Lease, container_id: str) -> str:
    """Lines of the nat table: whatever leaves the pod's own range leaves with the node's address."""
    chain, note = chain_name(conf.name, container_id), comment(conf.name, container_id)
    network = ip_interface(lease.address).network
    return (
        f":{chain} - [0:0]\n"
        f"-A POSTROUTING -s {lease.ip}/32 -m comment --comment {note} -j {chain}\n"
        f"-A {chain} -d {network} -m comment --comment {note} -j ACCEPT\n"
        f"-A {chain} ! -d 224.0.0.0/4 -m comment --comment {note} -j MASQUERADE\n"
    )


def masquerade_removal(conf: NetConf, address: str, container_id: str) -> str:
    """Lines that take those rules away again."""
    chain, note = chain_name(conf.name, container_id), comment(conf.name, container_id)
    return f":{chain} - [0:0]\n-D POSTROUTING -s {address}/32 -m comment --comment {note} -j {chain}\n-X {chain}\n"


def delete(host_name: str) -> tuple[Operation, ...]:
    """DEL: with one end of the pair the other goes."""
    return (DelLink(host_name, missing_ok=True),)


def _result(conf: NetConf, lease: Lease, ifname: str, host_name: str) -> dict[str, Any]:
    """The result in the configuration's version: `version` in ips went away with 1.0.0."""
    old = conf.version.startswith("0.")
    ip = {**({"version": "4"} if old else {}), "interface": 2, "address": lease.address, "gateway": lease.gateway}
    return {
        "cniVersion": conf.version,
        "interfaces": [
            {"name": conf.bridge, "mac": hardware(lease.gateway)},
            {"name": host_name},
            {"name": ifname, "mac": hardware(lease.ip)},
        ],
        "ips": [ip],
        "routes": [{"dst": dst, **({"gw": gw} if gw else {})} for dst, gw in conf.ipam.routes],
        "dns": {},
    }
