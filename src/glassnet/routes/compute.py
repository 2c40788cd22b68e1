"""Nodes and this node's own links -> how each Node's pods are reached from here, or why not.

`Mesh` takes one change at a time and tells which Nodes it concerns; what it then says of a Node depends on all that it was told, never on the
order. The rules on conflicts look at pairs of Nodes alone: the older one has its way, whatever else is wrong with it. So a change concerns the
Nodes whose ranges or addresses it touches, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from glassnet.netstack.model import OwnAddress
from glassnet.routes import mtu
from glassnet.routes.model import Peer, Problem, RoutesSettings
from glassnet.routes.prefixes import Prefixes


class Direct(NamedTuple):
    """A pod CIDR by way of a node's address on a link that is ours too."""

    cidr: str
    gateway: str
    dev: str


class Tunnelled(NamedTuple):
    """A pod CIDR by way of the tunnel to a node; `gateway` is the far end's inner address."""

    cidr: str
    gateway: str
    mac: str
    remote: str


class Ways(NamedTuple):
    """How the pods of one Node are reached, and what is in the way."""

    hops: tuple[Direct | Tunnelled, ...] = ()
    problems: tuple[Problem, ...] = ()


class Mesh:
    """All Nodes, seen from the Node named `here`."""

    def __init__(self, here: str, settings: RoutesSettings) -> None:
        self.here, self.settings = here, settings
        self._peers: dict[str, Peer] = {}
        self._cidrs, self._addresses = Prefixes(), Prefixes()
        self._macs: dict[str, set[str]] = {}
        self._own: tuple[OwnAddress, ...] = ()
        self._subnets: list[tuple[int, int, int, OwnAddress]] = []  # length (longest first), first address, mask, whose

    # -- what changes

    def names(self) -> list[str]:
        """The Nodes there are."""
        return list(self._peers)

    def put(self, peer: Peer) -> set[str]:
        """A Node as it is now; the names whose `ways` may be others than before."""
        old = self._peers.get(peer.name)
        if old == peer:
            return set()
        touched = self._drop(old) if old else set()
        self._peers[peer.name] = peer
        for cidr in peer.cidrs:
            self._cidrs.add(cidr, peer.name)
        for address in peer.addresses:
            self._addresses.add(address, peer.name)
        self._macs.setdefault(peer.mac, set()).add(peer.name)
        touched |= self._near(peer) | {peer.name}
        return set(self._peers) if peer.name == self.here else touched

    def remove(self, name: str) -> set[str]:
        """A Node has gone; the names whose `ways` may be others than before, itself among them."""
        old = self._peers.get(name)
        if old is None:
            return set()
        touched = self._drop(old)
        del self._peers[name]
        return {*self._peers, name} if name == self.here else touched

    def own(self, addresses: Iterable[OwnAddress]) -> set[str]:
        """This node's own addresses as they are now; the names whose `ways` may be others than before: all, or none."""
        found = tuple(addresses)
        if found == self._own:
            return set()
        self._own = found
        subnets = ((ip_network(one.network), one) for one in found)
        self._subnets = sorted(
            ((net.prefixlen, int(net.network_address), int(net.netmask), one) for net, one in subnets),
            key=lambda each: (-each[0], each[1], each[3].index),
        )
        return set(self._peers)

    def _drop(self, peer: Peer) -> set[str]:
        for cidr in peer.cidrs:
            self._cidrs.remove(cidr, peer.name)
        for address in peer.addresses:
            self._addresses.remove(address, peer.name)
        self._macs[peer.mac].discard(peer.name)
        if not self._macs[peer.mac]:
            del self._macs[peer.mac]
        return self._near(peer) | {peer.name}

    def _near(self, peer: Peer) -> set[str]:
        """The Nodes that have something in common with a peer."""
        found = set(self._macs.get(peer.mac, ()))
        for place in (*peer.cidrs, *peer.addresses):
            found |= self._cidrs.overlapping(place) | self._addresses.overlapping(place)
        return found

    # -- what this node is

    @property
    def outer(self) -> int:
        """The family that tunnels run over, 4 or 6; 0 when this node has no address. One VXLAN link has one (vxlan_fdb_add, EAFNOSUPPORT)."""
        me = self._peers.get(self.here)
        return 0 if me is None else 4 if me.ipv4 else 6 if me.ipv6 else 0

    @property
    def local(self) -> str:
        """The outer source of tunnels: this node's address if it is on a link of its own, else any; "" when the node has none."""
        if not self.outer:
            return ""
        address = self._peers[self.here].address(self.outer)
        return address if any(one.address == address for one in self._own) else "0.0.0.0" if self.outer == 4 else "::"

    @property
    def cidrs(self) -> tuple[str, ...]:
        """The pod CIDRs of this node."""
        me = self._peers.get(self.here)
        return me.cidrs if me else ()

    @property
    def mac(self) -> str:
        """The MAC of this node's end of the tunnels; "" while its Node is not known."""
        me = self._peers.get(self.here)
        return me.mac if me else ""

    def link_mtu(self) -> int:
        """The smallest MTU of the links with this node's addresses; 0 when they are on none."""
        me = self._peers.get(self.here)
        return min((one.mtu for one in self._own if me and one.address in me.addresses), default=0)

    def pod_mtu(self, link: int) -> int:
        """The MTU of pods' links, in bytes, over links with the MTU `link`.

        Where there may be tunnels it is theirs, whether there is one now or not: a pod's MTU stays as it was when the pod began.
        """
        if self.settings.mtu:
            return self.settings.mtu
        return link if self.settings.mode == "direct" else mtu.inner(link, self.outer)

    # -- what is said

    def ways(self, name: str) -> Ways:
        """How the pods of one Node are reached. No hops for this node, and for one that is not there."""
        peer = self._peers.get(name)
        if peer is None:
            return Ways()
        problems = [Problem("InvalidNode", text) for text in peer.unreadable]
        hops: list[Direct | Tunnelled] = []
        if not peer.cidrs and not peer.unreadable:
            problems.append(
                Problem("NoPodCIDR", "no spec.podCIDRs: does a controller allocate them (--allocate-node-cidrs)?")
            )
        if not peer.addresses and name == self.here:
            problems.append(Problem("NoNodeAddress", "no InternalIP in status.addresses: others cannot reach its pods"))
        for cidr in peer.cidrs:
            if (problem := self._conflict(peer, cidr)) is None and name != self.here:
                found = self._hop(peer, cidr)
                problem = found if isinstance(found, Problem) else None
                hops += [] if isinstance(found, Problem) else [found]
            problems += [problem] if problem else []
        if name == self.here:
            problems += [problem for one in peer.addresses if (problem := self._claimed(peer, one))]
        return Ways(tuple(hops), tuple(dict.fromkeys(problems)))

    def _older(self, peer: Peer, names: Iterable[str]) -> str:
        """The oldest of the Nodes with these names that is older than the peer, "" for none."""
        older = [self._peers[name] for name in names if self._peers[name].born < peer.born]
        return min(older, key=lambda one: one.born).name if older else ""

    def _conflict(self, peer: Peer, cidr: str) -> Problem | None:
        overlapping = self._cidrs.overlapping(cidr)
        if other := self._older(peer, overlapping):
            text = f"pod CIDR {cidr} overlaps {_listed(self._peers[other].cidrs)} of Node {other}, which is older"
            return Problem("PodCIDROverlap", text, other)
        if peer.name != self.here and self.here in overlapping:
            text = f"pod CIDR {cidr} overlaps {_listed(self.cidrs)} of this node, {self.here}: its own pods come first"
            return Problem("PodCIDROverlap", text, self.here)
        if nodes := self._addresses.overlapping(cidr):
            other = min(nodes)
            text = f"pod CIDR {cidr} holds the address of Node {other}: a route would cut the nodes off"
            return Problem("PodCIDRHoldsNodes", text, "" if other == peer.name else other)
        ranges = [ip_network(one) for one in self.settings.cluster_cidrs if (":" in one) == (":" in cidr)]
        network = ip_network(cidr)
        if ranges and not any(network.subnet_of(one) for one in ranges):  # type: ignore[arg-type]
            text = f"pod CIDR {cidr} lies outside the cluster's ({_listed(self.settings.cluster_cidrs)})"
            return Problem("PodCIDROutside", text)
        return None if peer.name == self.here else self._on_link(cidr)

    def _on_link(self, cidr: str) -> Problem | None:
        """Does a link of ours say that the pods are on it? Our own pods' bridge does not count, nor do other nodes' routers."""
        network = ip_network(cidr)
        mine = [ip_network(one) for one in self.cidrs]
        for *_, one in self._subnets:
            subnet = ip_network(one.network)
            if subnet.version != network.version or any(_within(subnet, each) for each in mine):
                continue
            if subnet.overlaps(network):
                text = f"pod CIDR {cidr} overlaps {one.network} of this node's link {one.dev}"
                return Problem("PodCIDROnLink", text, local=True)
        return None

    def _claimed(self, peer: Peer, address: str) -> Problem | None:
        """Is the peer's address another's?"""
        if other := self._older(peer, self._addresses.overlapping(address)):
            text = f"its address {address} is that of Node {other} too, which is older"
            return Problem("NodeAddressConflict", text, other)
        if peer.name != self.here and any(one.address == address for one in self._own):
            return Problem("NodeAddressConflict", f"its address {address} is this node's own", self.here)
        return None

    def _hop(self, peer: Peer, cidr: str) -> Direct | Tunnelled | Problem:
        family = 6 if ":" in cidr else 4
        address, mode = peer.address(family), self.settings.mode
        if mode == "vxlan":
            return self._tunnel(peer, cidr)
        if not address:
            if mode == "auto":
                return self._tunnel(peer, cidr)
            return Problem("NoNodeAddress", f"no InternalIP of IPv{family} for its pod CIDR {cidr}")
        if problem := self._claimed(peer, address):
            return problem
        if dev := self.link_to(address):
            return Direct(cidr, address, dev)
        if mode == "auto":
            return self._tunnel(peer, cidr)
        text = (
            f"its address {address} is on no link of this node: mode direct needs a shared link, auto and vxlan do not"
        )
        return Problem("NoSharedLink", text, local=True)

    def link_to(self, address: str) -> str:
        """The link that an address is on, by the longest of our subnets that hold it; "" for none."""
        number, bits = int(ip_address(address)), 128 if ":" in address else 32
        for length, first, mask, one in self._subnets:
            if (":" in one.network) == (bits == 128) and length < bits and number & mask == first:
                return one.dev
        return next((one.dev for one in self._own if one.network == f"{address}/{bits}" and one.address != address), "")

    def _tunnel(self, peer: Peer, cidr: str) -> Tunnelled | Problem:
        outer = self.outer
        if not outer:
            return Problem("NoNodeAddress", f"this node, {self.here}, has no InternalIP to send VXLAN from", local=True)
        remote = peer.address(outer)
        if not remote:
            text = f"no InternalIP of IPv{outer} in status.addresses, which this node's VXLAN runs over"
            return Problem("NoNodeAddress", text)
        if problem := self._claimed(peer, remote):
            return problem
        if other := self._older(peer, self._macs[peer.mac]):
            text = f"the names of this Node and of {other} give one VTEP MAC, {peer.mac}: rename one"
            return Problem("VTEPConflict", text, other)
        if peer.mac == self.mac:
            text = f"the names of this Node and of {self.here} give one VTEP MAC, {peer.mac}: rename one"
            return Problem("VTEPConflict", text, self.here)
        return Tunnelled(cidr, cidr.partition("/")[0], peer.mac, remote)


def _within(inner: object, outer: object) -> bool:
    return type(inner) is type(outer) and inner.subnet_of(outer)  # type: ignore[attr-defined]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def each(mesh: Mesh) -> Iterator[tuple[str, Ways]]:
    """The ways of all Nodes."""
    for name in mesh.names():
        yield name, mesh.ways(name)
