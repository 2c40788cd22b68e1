"""The nodes of a lab: their addresses and routes, files, rules. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_interface, ip_network

from glassnet.cni import ready
from glassnet.lab.profiles import node_rules
from glassnet.lab.profiles.model import Profile
from glassnet.lab.profiles.names import name_of
from glassnet.lab.profiles.ranges import HOST, Place, Ranges, controller_place, internet_address, worker_place
from glassnet.lab.settings import Settings
from glassnet.lab.topology import MAIN_TABLE, MachineSpec, Role, hardware
from glassnet.net.errors import UsageError
from glassnet.netstack.ops import PROTO_DHCP, AddAddress, AddBridge, AddRoute, AddRule, Operation, SetLink, SetNeighbour

AWS_PRIORITY = 1024  # of the rule for answers to what came in by the first interface
METRIC = 100  # of routes that DHCP gives, as systemd-networkd sets it
SYSCTLS: dict[str, object] = {
    "net.ipv4.ip_forward": 1,
    "net.bridge.bridge-nf-call-iptables": 1,
    "net.bridge.bridge-nf-call-ip6tables": 1,
    "net.ipv6.conf.all.forwarding": 1,
}


def nodes(settings: Settings, profile: Profile, found: Ranges) -> list[MachineSpec]:
    """Controllers, then workers. Raises UsageError when two come to the same name."""
    specs, places = [], []
    for number in range(profile.controllers.count):
        places.append(controller_place(number, profile, found))
        name = name_of(profile.controllers.name, number, places[-1].address)
        specs.append(_node(name, "controller", places[-1], profile, found))
    for number in range(settings.workers):
        places.append(worker_place(number, profile, found))
        name = name_of(profile.workers.name, number, places[-1].address)
        zones = profile.workers.zones
        zone = zones[min(number, len(zones) - 1)] if zones else ""
        labels = {**({"topology.kubernetes.io/zone": zone} if zone else {}), "topology.kubernetes.io/region": profile.workers.region, **profile.workers.labels}  # fmt: skip
        specs.append(replace(_node(name, "worker", places[-1], profile, found), zone=zone, labels=labels))
    _check_names(specs, profile)
    known = "".join(f"{spec.address} {spec.name}\n" for spec in specs)
    return [
        replace(spec, files=_files(spec, place, known, settings, profile))
        for spec, place in zip(specs, places, strict=True)
    ]


def _check_names(specs: Sequence[MachineSpec], profile: Profile) -> None:
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise UsageError(
                f"profile {profile.name}: two machines are called {spec.name}; put {{number}} into workers.name"
            )
        seen.add(spec.name)
    workers = {spec.name for spec in specs if spec.role == "worker"}
    for name in profile.cni.nodes:
        if name not in workers:
            raise UsageError(
                f"profile {profile.name}: cni.nodes has {name}, but the nodes are {', '.join(sorted(workers))}"
            )


def _node(name: str, role: Role, place: Place, profile: Profile, found: Ranges) -> MachineSpec:
    parts = profile.node
    worker = role == "worker"
    setup = [*_network(place, profile, found)]
    if worker and parts.masquerade.agent == "aws-snat":
        families = (4, 6) if place.address6 else (4,)
        setup += [
            AddRule(MAIN_TABLE, family, AWS_PRIORITY, mark=node_rules.AWS_MARK, mask=node_rules.AWS_MARK)
            for family in families
        ]
    if worker and parts.docker.bridge:
        setup += _docker(parts.docker.bridge, parts.docker.network)
    return MachineSpec(
        name,
        role,
        str(place.address),
        place.public,
        place.pod_cidr,
        sysctls={**SYSCTLS, **(parts.sysctls if worker else {})},
        setup=tuple(setup),
        address6=place.address6,
        pod_cidr6=place.pod_cidr6,
        iptables=node_rules.tables(parts, str(place.address), place.address6) if worker else {},
    )


def _network(place: Place, profile: Profile, found: Ranges) -> Iterable[Operation]:
    """The interface as DHCP would set it up, and neighbour entries for the gateway that never age."""
    address, gateway = str(place.address), found.gateway
    mac = profile.vpc.gateway_hardware or hardware(gateway, profile.vpc.hardware_prefix)
    length = 32 if profile.vpc.link == "host" else found.nodes.prefixlen
    yield AddAddress(f"{address}/{length}", "eth0")
    yield SetLink("eth0", up=True)
    yield AddRoute(gateway + "/32", dev="eth0", source=address, metric=METRIC, protocol=PROTO_DHCP)
    yield AddRoute("default", gateway=gateway, dev="eth0", source=address, metric=METRIC, protocol=PROTO_DHCP)
    for text in profile.node.routes:
        yield AddRoute(
            str(ip_network(text)), gateway=gateway, dev="eth0", source=address, metric=METRIC, protocol=PROTO_DHCP
        )
    yield SetNeighbour(gateway, mac, "eth0")
    if place.address6 and found.nodes6 is not None:
        gateway6 = found.gateway6
        if profile.vpc.link == "shared":
            yield AddAddress(f"{place.address6}/{found.nodes6.prefixlen}", "eth0")
        else:
            yield AddAddress(f"{place.address6}/128", "eth0")
            yield AddRoute(gateway6 + "/128", dev="eth0", metric=METRIC, protocol=PROTO_DHCP)
        yield AddRoute("default", gateway=gateway6, dev="eth0", metric=METRIC, protocol=PROTO_DHCP)
        yield SetNeighbour(gateway6, mac, "eth0")


def _docker(bridge: str, network: str) -> list[Operation]:
    """docker's bridge, with the MAC that docker makes of its address: 02:42 and its bytes."""
    return [
        AddBridge(bridge, hardware(str(ip_interface(network).ip), "02:42")),
        AddAddress(network, bridge),
        SetLink(bridge, up=True),
    ]


# -- files


def hosts(name: str, known: str) -> str:
    """/etc/hosts of a machine."""
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {name}\n{known}"


def resolver(settings: Settings) -> str:
    """/etc/resolv.conf of a machine."""
    return f"nameserver {internet_address(HOST, False)[0]}\n" if settings.dns != "none" else ""


def _files(spec: MachineSpec, place: Place, known: str, settings: Settings, profile: Profile) -> dict[str, str]:
    files = {"/etc/hosts": hosts(spec.name, known), "/etc/resolv.conf": resolver(settings)}
    if spec.role == "worker" and settings.cni != "none":
        files |= _cni_files(spec, place, settings, profile)
    files["/etc/hostname"] = spec.name + "\n"
    return files


def _cni_files(spec: MachineSpec, place: Place, settings: Settings, profile: Profile) -> dict[str, str]:
    part = profile.cni
    kind = part.nodes.get(spec.name, settings.cni)
    wish = ready.Wish(
        pod_cidrs=spec.pod_cidrs,
        mtu=part.mtu,
        non_masquerade=part.non_masquerade,
        blocks=(place.block,) if place.block else (),
    )
    return {f"/etc/cni/net.d/{name}": text for name, text in ready.files(kind, wish).items()}
