"""The configuration of load balancers: pools of addresses, and the BGP sessions by which some are announced. YAML, every fault with its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import msgspec

from glassnet.kube import manifest, sections, selectors
from glassnet.kube.sections import Fault, Section
from glassnet.kube.selectors import Selector
from glassnet.kube.types import Node
from glassnet.loadbalancer import ranges
from glassnet.loadbalancer.ranges import Range
from glassnet.net import address
from glassnet.net.errors import ParseError

NAME, KEY = "glassnet-loadbalancer", "pools.yaml"
"""The ConfigMap that has the configuration, and the key in it."""
L2, BGP, BOTH = "l2", "bgp", "both"
_WORD = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_COMMUNITY = re.compile(r"(\d{1,5}):(\d{1,5})")
_LARGE_COMMUNITY = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})")


class Pool(NamedTuple):
    """Addresses for Services. Without namespaces it is for all, with an empty selector for each Service (on each node)."""

    name: str
    ranges: tuple[Range, ...]
    avoid: bool = False
    auto: bool = True
    namespaces: frozenset[str] = frozenset()
    services: Selector = ()
    nodes: Selector = ()
    announce: str = L2

    @property
    def by_l2(self) -> bool:
        """Whether a node answers ARP and neighbour solicitations for its addresses."""
        return self.announce in (L2, BOTH)

    @property
    def by_bgp(self) -> bool:
        """Whether nodes tell routers about its addresses."""
        return self.announce in (BGP, BOTH)

    def has(self, bits: int, number: int) -> bool:
        """Whether an address is one of this pool's."""
        return any(each.has(bits, number) for each in self.ranges)

    def avoided(self, bits: int, number: int) -> bool:
        """Whether an address is one that old equipment takes for a network's own or its broadcast (.0, .255), and the pool leaves out."""
        return self.avoid and bits == 32 and number & 255 in (0, 255)


class Peer(NamedTuple):
    """A router to speak BGP with. `password_file` is a file on the node; `hops` above 1 for one that shares no link."""

    name: str
    address: str
    asn: int
    port: int = 179
    hold_time: int = 9
    hops: int = 1
    password_file: str = ""
    nodes: Selector = ()


class Bgp(NamedTuple):
    """BGP as all nodes speak it. `local_pref` is -1 for none; `pod_cidrs` announces each node's pods, too."""

    asn: int
    peers: tuple[Peer, ...]
    communities: tuple[str, ...] = ()
    local_pref: int = -1
    pod_cidrs: bool = False


class Pools(NamedTuple):
    """The whole configuration; `bgp` is None where nobody speaks it."""

    pools: tuple[Pool, ...] = ()
    bgp: Bgp | None = None

    def named(self, name: str) -> Pool | None:
        """A pool by its name."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def of(self, text: str) -> Pool | None:
        """The pool that a canonical address is in: it is in one at most."""
        bits, number = 128 if ":" in text else 32, address.number(text)
        return next((pool for pool in self.pools if pool.has(bits, number)), None)


class _PoolPart(Section, frozen=True):
    name: str = ""
    addresses: tuple[str, ...] = ()
    avoid_buggy_ips: bool = msgspec.field(name="avoidBuggyIPs", default=False)
    auto_assign: bool = True
    namespaces: tuple[str, ...] = ()
    service_selector: str = ""
    node_selector: str = ""
    announce: str = L2


class _PeerPart(Section, frozen=True):
    name: str = ""
    address: str = ""
    asn: int = 0
    port: int = 179
    hold_time: int = 9
    hops: int = 1
    password_file: str = ""
    node_selector: str = ""


class _BgpPart(Section, frozen=True):
    asn: int = 0
    peers: list[Any] = []
    communities: tuple[str, ...] = ()
    local_pref: int = -1
    pod_cidrs: bool = msgspec.field(name="podCIDRs", default=False)


class _Whole(Section, frozen=True):
    pools: list[Any] = []
    bgp: _BgpPart | None = None


def parse(text: str, source: str = KEY) -> Pools:
    """The configuration of a text. Raises ParseError that names every fault with its line and the way out."""
    item = manifest.document(text, source)
    body = dict(item.body)
    bgp = body.get("bgp")
    faults = sections.unknown(_Whole, body)
    if isinstance(bgp, dict):
        faults += sections.unknown(_BgpPart, bgp, "bgp")
        body["bgp"] = sections.prune(_BgpPart, bgp)
    elif bgp is not None:
        faults.append(("bgp", "bgp: want a mapping with asn and peers"))
        del body["bgp"]
    whole, wrong = sections.convert(sections.prune(_Whole, body), _Whole)
    faults += wrong
    pools, spoken = list[Pool](), None
    for number, part in enumerate(whole.pools):
        pools += _pool(part, f"pools[{number}]", faults)
    faults += _twice(pools)
    if whole.bgp is not None:
        spoken = _bgp(whole.bgp, faults)
    elif any(pool.by_bgp for pool in pools):
        name = next(pool.name for pool in pools if pool.by_bgp)
        faults.append(("pools", f"pools: {name} is announced by bgp, and there is no bgp: give its asn and peers"))
    sections.refuse(faults, source, item)
    return Pools(tuple(pools), spoken)


def _entry(kind: type[Any], body: Any, path: str, faults: list[Fault]) -> Any:
    """An entry of a list, without what is wrong with it; None when it is none."""
    if not isinstance(body, dict):
        faults.append((path, f"{path}: want a mapping of fields to values"))
        return None
    faults += sections.unknown(kind, body, path)
    part, wrong = sections.convert(sections.prune(kind, body), kind)
    faults += [(f"{path}.{field}", f"{path}.{message}") for field, message in wrong]
    return part


def _pool(body: Any, path: str, faults: list[Fault]) -> Iterator[Pool]:
    part: _PoolPart | None = _entry(_PoolPart, body, path, faults)
    if part is None:
        return
    if not _WORD.fullmatch(part.name):
        faults.append((f"{path}.name", f"{path}.name: {part.name!r}: want small letters, digits, '-' and '.', 63 at most"))  # fmt: skip
    found = list[Range]()
    for number, text in enumerate(part.addresses):
        try:
            found.append(ranges.parse(text))
        except ValueError as error:
            faults.append((f"{path}.addresses[{number}]", f"{path}.addresses[{number}]: {error}"))
    if not part.addresses:
        faults.append((path, f"{path}.addresses: a pool needs addresses such as 192.0.2.0/28 or 192.0.2.10-192.0.2.20"))
    if part.announce not in (L2, BGP, BOTH):
        faults.append((f"{path}.announce", f"{path}.announce: {part.announce!r} is not among l2, bgp, both"))
    services = _selector(part.service_selector, f"{path}.serviceSelector", faults)
    nodes = _selector(part.node_selector, f"{path}.nodeSelector", faults)
    yield Pool(
        part.name, tuple(found), part.avoid_buggy_ips, part.auto_assign, frozenset(part.namespaces), services, nodes, part.announce
    )  # fmt: skip


def _selector(text: str, path: str, faults: list[Fault]) -> Selector:
    try:
        return selectors.parse(text)
    except ParseError as error:
        faults.append((path, f"{path}: {error.message}; want labels such as tier=public,zone in (a,b)"))
        return ()


def _twice(pools: list[Pool]) -> Iterator[Fault]:
    names = [pool.name for pool in pools]
    for number, name in enumerate(names):
        if name and name in names[:number]:
            yield f"pools[{number}].name", f"pools[{number}].name: there is a pool {name} already"
    every = [(at, pool.name, each) for at, pool in enumerate(pools) for each in pool.ranges]
    for (_, name, one), (at, other, two) in combinations(every, 2):
        if one.overlaps(two):
            same = "the same pool" if name == other else f"pool {name}"
            yield f"pools[{at}].addresses", f"pools[{at}].addresses: {two.text} overlaps {one.text} of {same}: an address is in one pool once"  # fmt: skip


def _bgp(part: _BgpPart, faults: list[Fault]) -> Bgp:
    faults += _number("bgp.asn", part.asn, 1, (1 << 32) - 1)
    if part.local_pref != -1:
        faults += _number("bgp.localPref", part.local_pref, 0, (1 << 32) - 1)
    for number, text in enumerate(part.communities):
        parts = _COMMUNITY.fullmatch(text) or _LARGE_COMMUNITY.fullmatch(text)
        most = 65535 if parts and len(parts.groups()) == 2 else (1 << 32) - 1
        if parts is None or any(int(each) > most for each in parts.groups()):
            path = f"bgp.communities[{number}]"
            faults.append((path, f"{path}: {text!r} is no community such as 64512:100 (RFC 1997) or 64512:1:100 (RFC 8092)"))  # fmt: skip
    peers = list[Peer]()
    for number, body in enumerate(part.peers):
        peers += _peer(body, f"bgp.peers[{number}]", faults)
    if not part.peers:
        faults.append(("bgp", "bgp.peers: there is nobody to speak BGP with: give address and asn of a router"))
    names = [peer.name for peer in peers]
    for name in {name for name in names if names.count(name) > 1}:
        faults.append(("bgp.peers", f"bgp.peers: two peers are called {name}"))
    return Bgp(part.asn, tuple(peers), part.communities, part.local_pref, part.pod_cidrs)


def _peer(body: Any, path: str, faults: list[Fault]) -> Iterator[Peer]:
    part: _PeerPart | None = _entry(_PeerPart, body, path, faults)
    if part is None:
        return
    there = address.canonical(part.address)
    if not there:
        faults.append((f"{path}.address", f"{path}.address: {part.address!r} is no IP address"))
    name = part.name or f"peer-{there.replace(':', '-').replace('.', '-')}"
    if there and not _WORD.fullmatch(name):
        faults.append((f"{path}.name", f"{path}.name: {name!r}: want small letters, digits, '-' and '.'"))
    faults += _number(f"{path}.asn", part.asn, 1, (1 << 32) - 1)
    faults += _number(f"{path}.port", part.port, 1, 65535)
    faults += _number(f"{path}.holdTime", part.hold_time, 3, 65535)  # RFC 4271, section 4.2
    faults += _number(f"{path}.hops", part.hops, 1, 255)
    if part.password_file and (not part.password_file.startswith("/") or '"' in part.password_file):
        faults.append((f"{path}.passwordFile", f"{path}.passwordFile: {part.password_file!r} is no absolute path"))
    nodes = _selector(part.node_selector, f"{path}.nodeSelector", faults)
    yield Peer(name, there, part.asn, part.port, part.hold_time, part.hops, part.password_file, nodes)


def _number(path: str, value: int, least: int, most: int) -> list[Fault]:
    return [] if least <= value <= most else [(path, f"{path}: {value} is not between {least} and {most}")]


# -- what else has the addresses


class Clash(NamedTuple):
    """A pool has addresses that something else in the cluster has. `taken` are those, which no Service gets."""

    pool: str
    what: str
    taken: Range

    @property
    def text(self) -> str:
        """For people."""
        return f"pool {self.pool} has addresses of {self.what}: they are given to no Service; take them out of the pool"


def clashes(pools: Pools, nodes: Iterable[Node], service_cidrs: Iterable[str]) -> list[Clash]:
    """Addresses of pools that are a node's own, or in a range of pods or of ClusterIPs."""
    mine = [(pool.name, each) for pool in pools.pools for each in pool.ranges]
    found = [
        Clash(name, what, Range(each.bits, max(each.first, theirs.first), min(each.last, theirs.last)))
        for what, theirs in (*_of_nodes(nodes), *((f"Services ({cidr})", _range(cidr)) for cidr in service_cidrs))
        for name, each in mine
        if each.overlaps(theirs)
    ]
    return sorted(set(found))


def _of_nodes(nodes: Iterable[Node]) -> Iterator[tuple[str, Range]]:
    for node in nodes:
        name = node.metadata.name
        for text in node.internal_ips():
            if address.canonical(text):
                yield f"Node {name} ({text})", _range(address.canonical(text))
        for cidr in node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ()):
            yield f"pods of Node {name} ({cidr})", _range(cidr)


def _range(text: str) -> Range:
    network, mask, bits = address.prefix(text)
    return Range(bits, network, network | (~mask & ((1 << bits) - 1)))
