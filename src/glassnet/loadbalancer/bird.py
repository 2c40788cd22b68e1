"""The configuration of BIRD 2, which tells routers about addresses: one static route an address, never one in the kernel.

Sources: BIRD 2 user's guide (bgp, static, filters); RFC 4271 (BGP), RFC 4760 (IPv6 by it), RFC 1997 and RFC 8092 (communities).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from glassnet.kube import selectors
from glassnet.loadbalancer.pools import Bgp, Peer
from glassnet.net import address

MARK = "# glassnet: BGP of load balancers"
"""The first line of a configuration of ours."""
LOCAL_PORT = 10179
"""Where BIRD listens. It calls the routers, not they it: so it takes no right to a port below 1024, and none from another BGP speaker there."""


class Site(NamedTuple):
    """A node as BGP sees it: its name, its addresses (canonical, "" for none), its labels, the ranges of its pods."""

    name: str
    ipv4: str
    ipv6: str
    labels: Mapping[str, str]
    pod_cidrs: tuple[str, ...] = ()

    def of(self, family: str) -> str:
        """Its address of a family."""
        return self.ipv4 if family == address.IPV4 else self.ipv6


def peers(bgp: Bgp, site: Site) -> list[Peer]:
    """The routers that a node is to speak with."""
    return [peer for peer in bgp.peers if selectors.matches(peer.nodes, site.labels)]


def protocol_name(peer: Peer) -> str:
    """What a session is called in BIRD: its symbols are letters, digits and underscores."""
    return (
        "peer_"
        + "".join(char if char.isalnum() else "_" for char in peer.name)
        + f"_{zlib.crc32(peer.name.encode()):08x}"
    )


def problems(bgp: Bgp, site: Site) -> list[str]:
    """Why some sessions of a node cannot be."""
    return [
        f"peer {peer.name}: Node {site.name} has no {address.family(peer.address)} InternalIP to speak with {peer.address} from"
        for peer in peers(bgp, site)
        if not site.of(address.family(peer.address))
    ]


def render(bgp: Bgp, site: Site, vips: Iterable[str], passwords: Mapping[str, str], log: str = "stderr") -> str:
    """The configuration of a node that announces some addresses. `passwords` are the peers' by their name: keep the text from others' eyes."""
    routes: dict[str, list[str]] = {address.IPV4: [], address.IPV6: []}
    for ip in sorted(vips, key=lambda ip: (":" in ip, address.number(ip))):
        routes[address.family(ip)].append(f"{ip}/{128 if ':' in ip else 32}")
    if bgp.pod_cidrs:
        for cidr in site.pod_cidrs:
            routes[address.family(cidr)].append(cidr)
    lines = [MARK, f"log {log} all;", f"router id {_router_id(site)};", "protocol device {}"]
    for family, found in routes.items():
        lines += [f"protocol static glassnet_{family.lower()} {{", f"    {family.lower()};"]
        lines += [f"    route {each} blackhole;" for each in found]
        lines.append("}")
    lines += ["filter announced {", *(f"    {each}" for each in _attributes(bgp)), "    accept;", "}"]
    for peer in peers(bgp, site):
        if site.of(address.family(peer.address)):
            lines += _session(bgp, site, peer, passwords.get(peer.name, ""))
    return "\n".join(lines) + "\n"


def _router_id(site: Site) -> str:
    """The IPv4 address, else four octets of the name's hash."""
    return site.ipv4 or address.text_of(zlib.crc32(site.name.encode()) | 1 << 24, 32)


def _attributes(bgp: Bgp) -> Iterator[str]:
    for each in bgp.communities:
        parts = each.split(":")
        yield f"bgp_{'large_' if len(parts) == 3 else ''}community.add(({', '.join(parts)}));"
    if bgp.local_pref >= 0:
        yield f"bgp_local_pref = {bgp.local_pref};"


def _session(bgp: Bgp, site: Site, peer: Peer, password: str) -> Iterator[str]:
    own = site.of(address.family(peer.address))
    yield f"protocol bgp {protocol_name(peer)} {{"
    yield f"    local {own} port {LOCAL_PORT} as {bgp.asn};"
    yield f"    neighbor {peer.address} port {peer.port} as {peer.asn};"
    yield f"    {f'multihop {peer.hops}' if peer.hops > 1 else 'direct'};"
    yield f"    hold time {peer.hold_time};"
    yield "    connect delay time 1; connect retry time 2; error wait time 1, 10;"
    if password:
        yield f'    password "{password}";'
    for family in (address.IPV4, address.IPV6):
        if hop := site.of(family):
            yield f"    {family.lower()} {{ import none; export filter announced; next hop address {hop}; }};"
    yield "}"
