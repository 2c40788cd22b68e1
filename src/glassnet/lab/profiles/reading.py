"""A profile's text -> Profile, or every fault of it with its line. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Network, ip_address, ip_network
from itertools import combinations
from typing import Any

from glassnet.cni import ready
from glassnet.kube import manifest, sections
from glassnet.kube.sections import Fault
from glassnet.lab.profiles import names
from glassnet.lab.profiles.model import BOUNDS, WORDS, Profile
from glassnet.lab.topology import INTERNET
from glassnet.net.errors import ParseError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_BYTES = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){1,2}")
_HARDWARE = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LINK = re.compile(r"[a-zA-Z0-9_.-]{1,15}")
_TABLE = re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]*")
_LABEL = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
ON_NODES_NETWORK = ("azure-cni", "aws-vpc-cni")  # ready configurations that give addresses of a block
_LEAST_MTU = 1280  # RFC 8200, section 5


def read(text: str, source: str) -> Profile:
    """The profile of a text; `source` names it in errors. Raises ParseError with every fault and its line."""
    item = manifest.document(text, source)
    body: dict[str, Any] = dict(item.body)
    if not body:
        raise ParseError("there is no profile in it; `glassnet profiles show hardway` prints one to begin with", source)
    faults = sections.unknown(Profile, body)
    profile, wrong = sections.convert(sections.prune(Profile, body), Profile)
    faults += wrong
    known = {path.split("[")[0] for path, _ in faults}
    faults += [fault for fault in find_faults(profile) if not _follows(fault[0], known)]
    sections.refuse(faults, source, item)
    return profile


def _follows(path: str, known: set[str]) -> bool:
    """Whether a fault is of a field, or of a part of one, that is known to be off."""
    steps = path.split("[")[0].split(".")
    return any(".".join(steps[:length]) in known for length in range(1, len(steps) + 1))


def find_faults(profile: Profile) -> Iterator[Fault]:
    """(path, message) of each value that cannot be."""
    yield from _word_faults(profile)
    yield from _network_faults(profile)
    yield from _cni_faults(profile)
    yield from names.find_faults(profile)
    yield from _vpc_faults(profile)
    yield from _node_faults(profile)


def _word_faults(profile: Profile) -> Iterator[Fault]:
    if not _NAME.fullmatch(profile.name):
        yield "name", f"name: {profile.name!r}: want 1 to 40 lower-case letters, digits and hyphens"
    if not profile.text:
        yield "text", "text: say in one line what cluster this is"
    values = {
        "networks.ipFamily": profile.networks.ip_family,
        "vpc.link": profile.vpc.link,
        "vpc.routes": profile.vpc.routes,
        "node.masquerade.agent": profile.node.masquerade.agent,
        "proxy.mode": profile.proxy.mode,
        "proxy.iptablesLayout": profile.proxy.iptables_layout,
        "proxy.detectLocal": profile.proxy.detect_local,
        "loadBalancer.kind": profile.load_balancer.kind,
    }
    for path, value in values.items():
        if value not in WORDS[path]:
            yield path, f"{path}: {value!r} is not among {', '.join(filter(None, WORDS[path]))}"
    for path, (low, high) in BOUNDS.items():
        if not low <= (found := _number(profile, path)) <= high:
            yield path, f"{path}: {found} is not between {low} and {high}"


def _number(profile: Profile, path: str) -> int:
    found: Any = profile
    for step in path.split("."):
        found = getattr(found, re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), step))
    return int(found)


# -- networks


def _network_faults(profile: Profile) -> Iterator[Fault]:
    part = profile.networks
    four = {"networks.nodes": part.nodes, "networks.pods": part.pods, "networks.services": part.services, "networks.public": part.public}  # fmt: skip
    six = {"networks.ipv6.nodes": part.ipv6.nodes, "networks.ipv6.pods": part.ipv6.pods, "networks.ipv6.services": part.ipv6.services}  # fmt: skip
    found: dict[str, IPv4Network | IPv6Network] = {"the network of the host `internet`": INTERNET}
    balancers = profile.load_balancer.addresses
    for path, text in {
        **four,
        **six,
        **{f"loadBalancer.addresses[{n}]": one for n, one in enumerate(balancers)},
    }.items():
        if path == "networks.pods" and not text:
            continue
        version = 4 if path in four else 6 if path in six else 0
        try:
            found[path] = ip_network(text)
        except ValueError as error:
            yield (
                path,
                f"{path}: {error}; want a network such as {'10.240.0.0/24' if version != 6 else 'fd00:10:240::/64'}",
            )
            continue
        if version and found[path].version != version:
            yield path, f"{path}: {text} is not of IPv{version}"
    for (path, one), (other, two) in combinations(found.items(), 2):
        if one.version == two.version and one.overlaps(two):
            yield (other, f"{other}: {two} overlaps {path}{f', {one}' if '.' in path else f', {INTERNET}'}")
    yield from _size_faults(profile, found)


def _size_faults(profile: Profile, found: dict[str, Any]) -> Iterator[Fault]:
    part = profile.networks
    services, services6 = found.get("networks.services"), found.get("networks.ipv6.services")
    if services is not None and services.num_addresses < 16:
        yield "networks.services", f"networks.services: {services} is too small: at least a /28"
    if services6 is not None and services6.prefixlen < 108:
        yield (
            "networks.ipv6.services",
            f"networks.ipv6.services: {services6} is wider than a /108, which is as wide as an API server takes",
        )
    if part.dns:
        try:
            inside = services is None or ip_address(part.dns) in services
        except ValueError as error:
            yield "networks.dns", f"networks.dns: {error}"
        else:
            if not inside or (services is not None and part.dns == str(services[1])):
                yield (
                    "networks.dns",
                    f"networks.dns: {part.dns} is not among the Services' addresses {services}, of which the first is the API's",
                )
    for path, length in (("networks.pods", part.node_prefix), ("networks.ipv6.pods", part.ipv6.node_prefix)):
        pods = found.get(path)
        if pods is not None and pods.prefixlen > length:
            field = path.replace("pods", "nodePrefix")
            yield field, f"{field}: {pods} has no range of length /{length} for each node"


def _cni_faults(profile: Profile) -> Iterator[Fault]:
    cni = profile.cni
    for path, word in {"cni.conf": cni.conf, **{f"cni.nodes.{name}": word for name, word in cni.nodes.items()}}.items():
        if word not in ready.KINDS:
            yield path, f"{path}: {word!r} is not among {', '.join(ready.KINDS)}"
        elif profile.on_nodes_network() != (word in ON_NODES_NETWORK):
            way = "goes without networks.pods" if word in ON_NODES_NETWORK else "needs networks.pods"
            yield path, f"{path}: {word} {way}; pods on the nodes' network have {', '.join(ON_NODES_NETWORK)}"
    if profile.on_nodes_network() and profile.workers.step < 2:
        yield (
            "workers.step",
            "workers.step: pods on the nodes' network have the addresses between two nodes: want 2 or more",
        )
    if cni.mtu and not _LEAST_MTU <= cni.mtu <= 65535:
        yield "cni.mtu", f"cni.mtu: {cni.mtu} is neither 0 nor between {_LEAST_MTU} and 65535"
    yield from _networks_in("cni.nonMasquerade", cni.non_masquerade)


def _networks_in(path: str, texts: tuple[str, ...]) -> Iterator[Fault]:
    for number, text in enumerate(texts):
        try:
            ip_network(text)
        except ValueError as error:
            yield f"{path}[{number}]", f"{path}[{number}]: {error}; want a network such as 10.0.0.0/8"


# -- the VPC and what else a node has


def _vpc_faults(profile: Profile) -> Iterator[Fault]:
    vpc = profile.vpc
    if not _BYTES.fullmatch(vpc.hardware_prefix) or int(vpc.hardware_prefix[1], 16) & 1:
        yield "vpc.hardwarePrefix", f"vpc.hardwarePrefix: {vpc.hardware_prefix!r}: want two or three bytes of a MAC such as 0a:58, no group address"  # fmt: skip
    if vpc.mtu and not _LEAST_MTU <= vpc.mtu <= 65535:
        yield "vpc.mtu", f"vpc.mtu: {vpc.mtu} is neither 0 nor between {_LEAST_MTU} and 65535"
    if vpc.gateway_hardware and not _HARDWARE.fullmatch(vpc.gateway_hardware):
        yield (
            "vpc.gatewayHardware",
            f"vpc.gatewayHardware: {vpc.gateway_hardware!r}: want six bytes such as 12:34:56:78:9a:bc",
        )
    if vpc.route_table.name and not _TABLE.fullmatch(vpc.route_table.name):
        yield "vpc.routeTable.name", f"vpc.routeTable.name: {vpc.route_table.name!r} is no name of a table (rt_tables)"
    if profile.on_nodes_network() and vpc.link == "shared":
        yield (
            "vpc.link",
            "vpc.link: shared: nobody would answer ARP for pods on the nodes' network; want routed or host",
        )


def _node_faults(profile: Profile) -> Iterator[Fault]:
    node, docker = profile.node, profile.node.docker
    if docker.bridge:
        if not _LINK.fullmatch(docker.bridge) or docker.bridge in ("eth0", "lo"):
            yield "node.docker.bridge", f"node.docker.bridge: {docker.bridge!r} is no name for a bridge of a node"
        try:
            network = IPv4Interface(docker.network).network
            part = profile.networks
            for path, text in (
                ("networks.nodes", part.nodes),
                ("networks.pods", part.pods),
                ("networks.services", part.services),
            ):
                if text and network.overlaps(ip_network(text)):
                    yield "node.docker.network", f"node.docker.network: {docker.network} overlaps {path}, {text}"
        except ValueError as error:
            yield "node.docker.network", f"node.docker.network: {error}; want an address such as 172.17.0.1/16"
    yield from _networks_in("node.masquerade.beyond", node.masquerade.beyond)
    for number, text in enumerate(node.routes):
        try:
            if ip_network(text).version == 4:
                continue
            why = "want IPv4"
        except ValueError as error:
            why = str(error)
        yield f"node.routes[{number}]", f"node.routes[{number}]: {text}: {why}"
    for name in node.sysctls:
        if not name.startswith("net."):
            yield f"node.sysctls.{name}", f"node.sysctls: {name} is not of a network namespace (net.…)"
    for key, value in profile.workers.labels.items():
        if not _LABEL.fullmatch(key) or (value and not _LABEL.fullmatch(value)):
            yield "workers.labels", f"workers.labels: {key}={value} is no label"
