"""What a node is to the others: a name, addresses, the ranges of its pods; and how a cluster's routes are set up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Literal, NamedTuple, get_args

from glassnet.kube.types import Node
from glassnet.net.address import canonical, text_of
from glassnet.net.errors import UsageError
from glassnet.routes import mtu as sizes
from glassnet.routes.prefixes import Block, block, overlap

Mode = Literal["auto", "direct", "vxlan"]
MARK = "glassnet routes between nodes"  # the alias of the VXLAN link, by which it is known as ours
_UNFIT = tuple(
    map(block, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8"))
)  # this host, loopback, link-local, multicast, reserved; RFC 6890, RFC 4291
_NAME_MAX = 15  # bytes; IFNAMSIZ less the end mark


class RoutesSettings(NamedTuple):
    """How pods reach the pods of other nodes.

    `mode`: direct (host routes alone), vxlan (tunnels alone), auto (a host route where a node shares a link with this one, else a tunnel).
    `cluster_cidrs`: the ranges of all pods; a Node's pod CIDR outside of them gets no route (none given in its family: any may).
    `mtu`: bytes of pods' links, 0: worked out from the node's link. `vxlan_id` is the VNI, `vxlan_port` the UDP port on all nodes.
    """

    mode: Mode = "auto"
    cluster_cidrs: tuple[str, ...] = ()
    mtu: int = 0
    vxlan_id: int = 1
    vxlan_port: int = 8472
    link: str = "glassnet-vxlan"


def check(settings: RoutesSettings) -> RoutesSettings:
    """The settings, CIDRs in their one spelling. Raises UsageError naming the one that is off."""
    if settings.mode not in get_args(Mode):
        raise UsageError(f"routes: mode {settings.mode!r}: want one of {', '.join(get_args(Mode))}")
    for name, value, low, high in (
        ("vxlan_id", settings.vxlan_id, 1, (1 << 24) - 1),
        ("vxlan_port", settings.vxlan_port, 1, 65535),
        ("mtu", settings.mtu, sizes.LEAST_IPV4, 65535),
    ):
        if not low <= value <= high and not (name == "mtu" and value == 0):
            raise UsageError(f"routes: {name} {value}: want {low} to {high}")
    encoded = settings.link.encode()
    if not 0 < len(encoded) <= _NAME_MAX or settings.link in (".", "..") or set(settings.link) & set("/: \t\n"):
        raise UsageError(f"routes: link {settings.link!r}: want the name of an interface, {_NAME_MAX} bytes at most")
    networks = []
    for text in settings.cluster_cidrs:
        try:
            networks.append(str(ip_network(text)))
        except ValueError as error:
            raise UsageError(f"routes: cluster_cidrs {text!r}: {error}") from None
    return settings._replace(cluster_cidrs=tuple(networks))


class Peer(NamedTuple):
    """A Node as far as routes go.

    `born` orders Nodes by age: creationTimestamp (RFC 3339; "9" for one without), then name. `ipv4` and `ipv6` are its first InternalIPs,
    "" for none. `cidrs` are pod CIDRs in their one spelling, `unreadable` says what of the Node could not be read. `blocks` and `points` are
    the pod CIDRs and the addresses as numbers.
    """

    name: str
    born: tuple[str, str]
    ipv4: str = ""
    ipv6: str = ""
    cidrs: tuple[str, ...] = ()
    mac: str = ""
    unreadable: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    points: tuple[Block, ...] = ()

    def address(self, family: int) -> str:
        """Its address of a family (4 or 6), "" for none."""
        return self.ipv4 if family == 4 else self.ipv6

    def point(self, family: int) -> Block:
        """Its address of a family as numbers. Raises StopIteration when it has none."""
        return next(one for one in self.points if one[0] == (32 if family == 4 else 128))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those it has."""
        return tuple(one for one in (self.ipv4, self.ipv6) if one)


class Problem(NamedTuple):
    """Why there is no route to (some of) a Node's pods.

    `reason` is the Event's. `other` is the Node that it conflicts with, "" for none. `local`: it lies in this node, others may have a route.
    """

    reason: str
    text: str
    other: str = ""
    local: bool = False


def peer_of(node: Node) -> Peer:
    """What the Node object says. What cannot be read becomes a reason, and nothing else is lost of it."""
    name, created = node.metadata.name, node.metadata.creation_timestamp
    wrong: list[str] = []
    addresses = {4: "", 6: ""}
    for text in node.internal_ips():
        found = canonical(text)
        if not found:
            wrong.append(f"InternalIP {text!r} is no IP address")
        elif not addresses[6 if ":" in found else 4]:
            addresses[6 if ":" in found else 4] = found
    listed = node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
    cidrs = tuple(dict.fromkeys(_read(listed, wrong)))
    return Peer(
        name,
        (created.isoformat() if created else "9", name),
        addresses[4],
        addresses[6],
        cidrs,
        vtep_mac(name),
        tuple(wrong),
        tuple(block(cidr) for cidr in cidrs),
        tuple(block(one) for one in addresses.values() if one),
    )


def _read(listed: Iterable[str], wrong: list[str]) -> Iterable[str]:
    for text in listed:
        try:
            bits, first, host = place = block(text)
        except ValueError:
            wrong.append(f"pod CIDR {text!r} is no network such as 10.200.0.0/24")
            continue
        if bits == host:
            wrong.append(f"pod CIDR {text} is the whole internet")
        elif any(overlap(place, each) for each in _UNFIT):
            wrong.append(f"pod CIDR {text} lies where no pods can be")
        else:
            yield f"{text_of(first, bits)}/{bits - host}"


def vtep_mac(node: str) -> str:
    """The MAC of a node's end of the tunnels, worked out from its name: unicast, locally administered (IEEE 802-2014, 8.4).

    All nodes get to the same one without telling each other, and it stays when the node's address changes.
    """
    digest = hashlib.sha256(f"glassnet vtep {node}".encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")
