"""The bridge plugin: what joins a pod to a node's bridge, as operations, rules and a result.

Source: CNI SPEC.md; behaviour, names and rules of the reference plugin (containernetworking/plugins, bridge; pkg/utils, chain names).
Hardware addresses follow from IP addresses (0a:58 and the address), as the reference plugin made them up to 0.7: pods are easy to tell
in captures, and both ends of a pair can be told each other's.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, ip_interface
from typing import Any, NamedTuple

from glassnet.cni import host_local
from glassnet.cni.config import NetConf
from glassnet.cni.host_local import Lease
from glassnet.net.errors import GlassnetError
from glassnet.netstack.ops import (
    PROTO_BOOT,
    AddAddress,
    AddBridge,
    AddRoute,
    AddVeth,
    DelAddress,
    DelLink,
    DelNeighbour,
    Operation,
    SetBridgePort,
    SetLink,
    SetNeighbour,
)


class BridgeState(NamedTuple):
    """A bridge as it is: its first IPv4 address with prefix length, "" when it has none, and its MAC."""

    address: str
    mac: str


class Plan(NamedTuple):
    """Operations on the node, then in the pod; iptables-restore lines for the nat table; the CNI result."""

    node: tuple[Operation, ...]
    pod: tuple[Operation, ...]
    rules: str
    result: dict[str, Any]


def hardware(address: str) -> str:
    """The MAC of a pod's interface or a bridge: 0a:58 and the four bytes of its address."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def host_hardware(random: bytes) -> str:
    """The MAC of a pair's end on the node, out of six random bytes: locally administered, no group address (IEEE 802)."""
    return ":".join(f"{byte:02x}" for byte in (random[0] & 0xFE | 0x02, *random[1:6]))


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
    present: BridgeState | None,
    host_mac: str = "",
    sandbox: str = "",
    permanent_neighbours: bool = False,
) -> Plan:
    """ADD: `host_name` is the veth's name on the node, `pod_netns` a descriptor of the pod's namespace, `sandbox` its path.

    `present` is the bridge as it is, None when there is none yet.
    With `permanent_neighbours` both ends know each other's MAC for good: such entries do not count against gc_thresh3.
    Raises GlassnetError when the bridge belongs to another network.
    """
    node = ensure_bridge(conf, lease, present)
    node += [
        AddVeth(
            host_name,
            ifname,
            peer_netns=pod_netns,
            hardware=host_mac,
            peer_hardware=hardware(lease.ip),
            mtu=conf.mtu,
        ),
        SetLink(host_name, up=True, master=conf.bridge),
    ]
    if conf.hairpin:
        node.append(SetBridgePort(host_name, hairpin=True))
    pod: list[Operation] = [SetLink(ifname, up=True), AddAddress(lease.address, ifname), *_routes(conf, lease, ifname)]
    if permanent_neighbours and conf.is_gateway:
        pod.append(SetNeighbour(lease.gateway, hardware(lease.gateway), ifname))
        node.append(SetNeighbour(lease.ip, hardware(lease.ip), conf.bridge))
    rules = masquerade_rules(conf, lease, container_id) if conf.ip_masq else ""
    return Plan(tuple(node), tuple(pod), rules, _result(conf, lease, ifname, host_name, host_mac, sandbox))


def _routes(conf: NetConf, lease: Lease, ifname: str) -> list[Operation]:
    wanted = list(conf.ipam.routes)
    if conf.default_route and not any(destination == "0.0.0.0/0" for destination, _ in wanted):
        wanted.append(("0.0.0.0/0", lease.gateway))
    return [
        AddRoute(
            "default" if destination == "0.0.0.0/0" else destination,
            gateway=gateway or lease.gateway,
            dev=ifname,
            protocol=PROTO_BOOT,
        )
        for destination, gateway in wanted
    ]


def ensure_bridge(conf: NetConf, lease: Lease, present: BridgeState | None) -> list[Operation]:
    """What the bridge lacks: itself, its MAC, the gateway's address when the network has one.

    The MAC is set, as a bridge without one of its own takes over that of a port and changes it with its ports.
    """
    gateway = f"{lease.gateway}/{ip_interface(lease.address).network.prefixlen}"
    mac = hardware(lease.gateway) if conf.is_gateway else ""
    out: list[Operation] = []
    if present is None:
        # the link goes up before the address comes: the address is then added to the link made here, whatever had its name before
        out += [AddBridge(conf.bridge, mac, conf.mtu)]
        out += [SetLink(conf.bridge, up=True, promisc=True if conf.promisc else None)]
        return [*out, AddAddress(gateway, conf.bridge, exist_ok=True)] if conf.is_gateway else out
    if not conf.is_gateway:
        return out
    if present.mac != mac:
        out.append(SetLink(conf.bridge, hardware=mac, up=True))
    if present.address == gateway:
        return out
    if present.address and ip_interface(present.address).network.overlaps(ip_interface(gateway).network):
        if not conf.force_address:
            raise GlassnetError(
                f'"{conf.bridge}" already has an IP address different from {gateway}: {present.address}; '
                f'take it away, or set "forceAddress" in network "{conf.name}"'
            )
        out.append(DelAddress(present.address, conf.bridge))
    return [*out, AddAddress(gateway, conf.bridge, exist_ok=True)]


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


def masquerade_removal(network: str, address: str, container_id: str) -> str:
    """Lines that take those rules away again."""
    chain, note = chain_name(network, container_id), comment(network, container_id)
    return f":{chain} - [0:0]\n-D POSTROUTING -s {address}/32 -m comment --comment {note} -j {chain}\n-X {chain}\n"


def chain_removal(network: str, container_id: str) -> str:
    """Lines that take the chain away when no rule leads to it (any more): for a nat table somebody has flushed."""
    chain = chain_name(network, container_id)
    return f":{chain} - [0:0]\n-X {chain}\n"


def delete(name: str) -> tuple[Operation, ...]:
    """DEL: with one end of the pair the other goes."""
    return (DelLink(name, missing_ok=True),)


def forget(address: str, bridge: str) -> tuple[Operation, ...]:
    """DEL's other part: what the bridge knows of the pod's MAC, when it was told for good."""
    return (DelNeighbour(address, bridge, missing_ok=True),) if bridge else ()


def _result(conf: NetConf, lease: Lease, ifname: str, host_name: str, host_mac: str, sandbox: str) -> dict[str, Any]:
    """The result in the configuration's version."""
    bridge_mac = {"mac": hardware(lease.gateway)} if conf.is_gateway else {}
    return {
        "cniVersion": conf.version,
        "interfaces": [
            {"name": conf.bridge, **bridge_mac},
            {"name": host_name, **({"mac": host_mac} if host_mac else {})},
            {"name": ifname, "mac": hardware(lease.ip), **({"sandbox": sandbox} if sandbox else {})},
        ],
        "ips": [{**host_local.ip_result(conf.version, lease), "interface": 2}],
        "routes": host_local.routes_result(conf.ipam),
        "dns": {},
    }
