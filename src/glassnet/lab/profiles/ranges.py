"""A lab's networks and what lies where in them: the profile's, but for what options of `glassnet up` say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, summarize_address_range

import msgspec

from glassnet.cni import ready
from glassnet.cni.ready import Block
from glassnet.lab.profiles.model import Profile
from glassnet.lab.profiles.reading import ON_NODES_NETWORK
from glassnet.lab.settings import Settings
from glassnet.lab.topology import INTERNET
from glassnet.net.errors import UsageError

INTERNET6 = IPv6Network("2001:db8:192::/64")  # of RFC 3849's documentation prefix
ROUTER, HOST = 1, 16  # host numbers on the network of `internet`: 16 is ::10


def settle(settings: Settings, profile: Profile) -> Settings:
    """The settings with the profile's word wherever they have none."""
    part = profile.networks
    said = {
        "workers": profile.workers.count,
        "proxy": profile.proxy.mode,
        "iptables_layout": profile.proxy.iptables_layout,
        "cni": profile.cni.conf,
        "routes": profile.vpc.routes,
        "load_balancer": profile.load_balancer.kind,
        "ip_family": part.ip_family,
        "node_cidr": part.nodes,
        "pod_cidr": part.pods,
        "service_cidr": part.services,
        "public_cidr": part.public,
    }
    return msgspec.structs.replace(settings, **{name: getattr(settings, name) or word for name, word in said.items()})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a machine's addresses are: its own, its public one, its pods' ranges, and the block of the nodes' network they come from."""

    address: IPv4Address
    public: str
    address6: str = ""
    pod_cidr: str = ""
    pod_cidr6: str = ""
    block: Block | None = None

    def block_prefixes(self) -> tuple[str, ...]:
        """The block as prefixes that a router can have routes for."""
        if self.block is None:
            return ()
        ends = IPv4Address(self.block.first), IPv4Address(self.block.last)
        return tuple(str(prefix) for prefix in summarize_address_range(*ends))


@dataclass(frozen=True, slots=True)
class Ranges:
    """The networks of a lab; those of IPv6 are None in a lab of IPv4 alone, `pods` when pods are on the nodes' network."""

    nodes: IPv4Network
    pods: IPv4Network | None
    services: IPv4Network
    public: IPv4Network
    nodes6: IPv6Network | None = None
    pods6: IPv6Network | None = None
    services6: IPv6Network | None = None

    @property
    def gateway(self) -> str:
        """The router's address on the nodes' network."""
        return str(self.nodes[1])

    @property
    def gateway6(self) -> str:
        """The same for IPv6, or ""."""
        return str(self.nodes6[1]) if self.nodes6 else ""


def ranges(settings: Settings, profile: Profile) -> Ranges:
    """The networks of settled settings. Raises UsageError that names the option and a value that would do."""
    _check_family(settings, profile)
    words = {
        "--node-cidr": settings.node_cidr,
        "--pod-cidr": settings.pod_cidr,
        "--service-cidr": settings.service_cidr,
        "--public-cidr": settings.public_cidr,
    }
    networks = {option: _network(option, text) for option, text in words.items() if text}
    options = list(networks)
    for index, option in enumerate(options):
        for other in options[index + 1 :]:
            if networks[option].overlaps(networks[other]):
                raise UsageError(
                    f"{option} {networks[option]} and {other} {networks[other]} overlap; give one of them another range"
                )
        if networks[option].overlaps(INTERNET):
            raise UsageError(
                f"{option} {networks[option]} overlaps {INTERNET}, where the host `internet` is; give it another range"
            )
    _check_sizes(settings.workers, profile, networks)
    four = (networks["--node-cidr"], networks.get("--pod-cidr"), networks["--service-cidr"], networks["--public-cidr"])
    if settings.ip_family != "dual":
        return Ranges(*four)
    six = profile.networks.ipv6
    return Ranges(*four, IPv6Network(six.nodes), IPv6Network(six.pods), IPv6Network(six.services))


def _check_family(settings: Settings, profile: Profile) -> None:
    if settings.pod_cidr and profile.on_nodes_network():
        raise UsageError(
            f"--pod-cidr {settings.pod_cidr}: pods of {profile.name} are on the nodes' network; leave the option out"
        )
    if settings.cni == "none":
        return
    if settings.cni not in ready.KINDS:
        raise UsageError(f"--cni {settings.cni}: want one of {', '.join(ready.KINDS)}, none")
    if (settings.cni in ON_NODES_NETWORK) != profile.on_nodes_network():
        raise UsageError(
            f"--cni {settings.cni} does not go with --profile {profile.name}, whose pods are {'' if profile.on_nodes_network() else 'not '}on the nodes' network"
        )


def _check_sizes(workers: int, profile: Profile, networks: Mapping[str, IPv4Network]) -> None:
    if workers < 1:
        raise UsageError(f"--nodes {workers}: a lab has at least 1 worker")
    part = profile.workers
    need = part.first_host + part.step * workers
    controllers, more = profile.controllers, profile.controllers.count - 1
    for option, step, last in (
        ("--node-cidr", part.step, controllers.first_host + more),
        ("--public-cidr", 1, controllers.public_host() + more),
    ):
        room = (networks[option].num_addresses - 1 - part.first_host) // step
        if room < workers or last >= networks[option].num_addresses - 1:
            fits = (
                f"it has room for {room} workers"
                if room > 0
                else f"it is too small for any worker (the first has host number {part.first_host})"
            )
            raise UsageError(
                f"--nodes {workers} does not fit into {option} {networks[option]}: {fits}; {_wider(option, need)}"
            )
    _check_controllers(workers, profile)
    pods, length = networks.get("--pod-cidr"), profile.networks.node_prefix
    rooms = 0 if pods is None else 2 ** (length - pods.prefixlen) if pods.prefixlen <= length else 0
    if pods is not None and rooms < workers:
        raise UsageError(
            f"--pod-cidr {pods} has {rooms} /{length} ranges, and each of the {workers} workers needs one; a /16 has {2 ** (length - 16) if length > 16 else 1}"
        )
    if networks["--service-cidr"].num_addresses < 16:
        raise UsageError(f"--service-cidr {networks['--service-cidr']} is too small: at least a /28, e.g. 10.32.0.0/24")


def _check_controllers(workers: int, profile: Profile) -> None:
    """Workers must not come to the host numbers of controllers."""
    part, theirs = profile.workers, profile.controllers
    for first, step, field in ((theirs.first_host, part.step, "firstHost"), (theirs.public_host(), 1, "firstPublic")):
        if part.first_host <= first and (fits := (first - part.first_host) // step) < workers:
            raise UsageError(
                f"--nodes {workers}: {profile.name} has room for {fits} workers, then come the controllers (host number {first}); "
                f"controllers.{field} in a copy of the profile is theirs"
            )


def _wider(option: str, need: int) -> str:
    bits = (need + 1).bit_length()
    base = "10.240.0.0" if option == "--node-cidr" else "198.18.0.0"
    return f"e.g. {option} {base}/{min(24, 32 - bits)}"


def _network(option: str, text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}; want an IPv4 range such as 10.240.0.0/24") from None


# -- what lies where


def controller_place(number: int, profile: Profile, found: Ranges) -> Place:
    """A controller's addresses."""
    part = profile.controllers
    return _place(found, part.first_host + number, part.public_host() + number)


def worker_place(number: int, profile: Profile, found: Ranges) -> Place:
    """A worker's addresses, and those of its pods."""
    part = profile.workers
    host = part.first_host + number * part.step
    place = _place(found, host, part.first_host + number)
    cidr6 = _piece(found.pods6, profile.networks.ipv6.node_prefix, number)
    if found.pods is not None:
        cidr = _piece(found.pods, profile.networks.node_prefix, number)
        return Place(place.address, place.public, place.address6, cidr, cidr6)
    block = Block(str(found.nodes), str(found.nodes[host + 1]), str(found.nodes[host + part.step - 1]))
    return Place(place.address, place.public, place.address6, "", cidr6, block)


def _place(found: Ranges, host: int, public: int) -> Place:
    return Place(found.nodes[host], str(found.public[public]), str(found.nodes6[host]) if found.nodes6 else "")


def _piece(network: IPv4Network | IPv6Network | None, length: int, number: int) -> str:
    if network is None:
        return ""
    size = 1 << (network.max_prefixlen - length)
    return f"{network[number * size]}/{length}"


def internet_address(number: int, dual: bool) -> tuple[str, ...]:
    """Addresses on the network of `internet`, IPv4 first: ROUTER's or HOST's."""
    four = str(INTERNET[10] if number == HOST else INTERNET[number])
    return (four, str(INTERNET6[number])) if dual else (four,)


__all__ = [
    "HOST",
    "INTERNET6",
    "ROUTER",
    "Place",
    "Ranges",
    "controller_place",
    "internet_address",
    "ranges",
    "settle",
    "worker_place",
]
