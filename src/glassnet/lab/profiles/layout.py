"""Settings and a profile -> Topology. Pure."""

from __future__ import annotations

from ipaddress import ip_address

from glassnet.lab.profiles import cloud, vpc
from glassnet.lab.profiles.model import Profile
from glassnet.lab.profiles.nodes import nodes
from glassnet.lab.profiles.ranges import Ranges, ranges, settle
from glassnet.lab.settings import Settings
from glassnet.lab.topology import MachineSpec, Topology

DNS_HOST = 10  # kubeadm, and everybody after it


def topology(settings: Settings, profile: Profile) -> Topology:
    """The lab these settings ask for. Raises UsageError that names the setting and a value that would do."""
    settings = settle(settings, profile)
    found = ranges(settings, profile)
    machines = nodes(settings, profile, found)
    around: tuple[MachineSpec, ...] = (
        vpc.fabric(),
        vpc.router(machines, settings, profile, found),
        vpc.internet(settings, found),
    )
    joints = vpc.cables(machines, profile, found)
    balancer = cloud.balancer(settings, profile.load_balancer.addresses, found)
    if balancer.kind != "none":
        mac, mtu = profile.vpc.hardware_prefix, profile.vpc.mtu
        edge = cloud.machine(machines, balancer, mac, found)
        around, joints = (
            (around[0], cloud.joined(around[1], balancer, found), around[2], edge),
            (*joints, *cloud.cables(edge, mac, mtu)),
        )
    return Topology(
        (*around, *machines),
        joints,
        str(found.pods or ""),
        str(found.services),
        str(found.services[1]),
        _dns(settings, profile, found),
        vpc.ROUTER_NAME,
        cluster_cidr6=str(found.pods6 or ""),
        service_cidr6=str(found.services6 or ""),
        local_cidrs=_local(profile, found),
        node_mask=profile.networks.node_prefix,
        route_table=vpc.table_of(profile),
        balancer=balancer,
    )


def _dns(settings: Settings, profile: Profile, found: Ranges) -> str:
    """The address of kube-dns: the profile's, or host number 10 where --service-cidr has another range."""
    if settings.dns == "none":
        return ""
    wanted = profile.networks.dns
    if wanted and ip_address(wanted) in found.services:
        return wanted
    return str(found.services[DNS_HOST])


def _local(profile: Profile, found: Ranges) -> tuple[str, ...]:
    word = profile.proxy.detect_local
    networks = {"pods": (found.pods or found.nodes, found.pods6), "nodes": (found.nodes, found.pods6), "none": ()}[word]
    return tuple(str(one) for one in networks if one is not None)
