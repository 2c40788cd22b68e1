"""Nodes and this node's own links -> how each Node's pods are reached from here, or why not.

`Mesh` takes one change at a time and tells which Nodes it concerns; what it then says of a Node depends on all that it was told, never on the
order. The rules on conflicts look at pairs of Nodes alone: the older one has its way, whatever else is wrong with it. So a change concerns the
Nodes whose ranges or addresses it touches, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from glassnet.net.address import text_of
from glassnet.netstack.model import OwnAddress
from glassnet.routes import mtu
from glassnet.routes.model import Peer, Problem, RoutesSettings
from glassnet.routes.prefixes import Block, Prefixes, block, holds, overlap


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
        self._subnets: list[tuple[Block, OwnAddress]] = []  # of links of ours, the longest prefix first
        self._closed: list[tuple[Block, OwnAddress]] = []  # those where no pods of other nodes can be
        self._own_points: set[Block] = set()
        self._ranges = [block(one) for one in settings.cluster_cidrs]

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
        for place in peer.blocks:
            self._cidrs.add(place, peer.name)
        for place in peer.points:
            self._addresses.add(place, peer.name)
        self._macs.setdefault(peer.mac, set()).add(peer.name)
        touched |= self._near(peer) | {peer.name}
        if peer.name != self.here:
            return touched
        self._close()
        return set(self._peers)

    def remove(self, name: str) -> set[str]:
        """A Node has gone; the names whose `ways` may be others than before, itself among them."""
        old = self._peers.get(name)
        if old is None:
            return set()
        touched = self._drop(old)
        del self._peers[name]
        if name != self.here:
            return touched
        self._close()
        return {*self._peers, name}

    def own(self, addresses: Iterable[OwnAddress]) -> set[str]:
        """This node's own addresses as they are now; the names whose `ways` may be others than before: all, or none."""
        found = tuple(addresses)
        if found == self._own:
            return set()
        self._own = found
        subnets = ((block(one.network), one) for one in found)
        self._subnets = sorted(subnets, key=lambda each: (each[0][2], each[0], each[1].index))
        self._own_points = {block(one.address) for one in found}
        self._close()
        return set(self._peers)

    def _close(self) -> None:
        """Our own pods' bridge is no link that others' pods could be taken to be on."""
        me = self._peers.get(self.here)
        mine = me.blocks if me else ()
        self._closed = [each for each in self._subnets if not any(holds(one, each[0]) for one in mine)]

    def _drop(self, peer: Peer) -> set[str]:
        for place in peer.blocks:
            self._cidrs.remove(place, peer.name)
        for place in peer.points:
            self._addresses.remove(place, peer.name)
        self._macs[peer.mac].discard(peer.name)
        if not self._macs[peer.mac]:
            del self._macs[peer.mac]
        return self._near(peer) | {peer.name}

    def _near(self, peer: Peer) -> set[str]:
        """The Nodes that have something in common with a peer."""
        found = set(self._macs.get(peer.mac, ()))
        for place in (*peer.blocks, *peer.points):
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

    def fitting_mtu(self, link: int) -> int:
        """The MTU of pods' links, in bytes, that goes through links with the MTU `link`.

        Where there may be tunnels it is theirs, whether there is one now or not: a pod's MTU stays as it was when the pod began.
        """
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
        for cidr, place in zip(peer.cidrs, peer.blocks, strict=True):
            if (problem := self._conflict(peer, cidr, place)) is None and name != self.here:
                found = self._hop(peer, cidr)
                problem = found if isinstance(found, Problem) else None
                hops += [] if isinstance(found, Problem) else [found]
            problems += [problem] if problem else []
        if name == self.here:
            problems += [problem for one in peer.points if (problem := self._claimed(peer, one))]
        return Ways(tuple(hops), tuple(dict.fromkeys(problems)))

    def _older(self, peer: Peer, names: Iterable[str]) -> str:
        """The oldest of the Nodes with these names that is older than the peer, "" for none."""
        older = [self._peers[name] for name in names if self._peers[name].born < peer.born]
        return min(older, key=lambda one: one.born).name if older else ""

    def _conflict(self, peer: Peer, cidr: str, place: Block) -> Problem | None:
        overlapping = self._cidrs.overlapping(place)
        if other := self._older(peer, overlapping):
            text = f"pod CIDR {cidr} overlaps {_listed(self._peers[other].cidrs)} of Node {other}, which is older"
            return Problem("PodCIDROverlap", text, other)
        if peer.name != self.here and self.here in overlapping:
            text = f"pod CIDR {cidr} overlaps {_listed(self.cidrs)} of this node, {self.here}: its own pods come first"
            return Problem("PodCIDROverlap", text, self.here)
        if nodes := self._addresses.overlapping(place):
            other = min(nodes)
            text = f"pod CIDR {cidr} holds the address of Node {other}: a route would cut the nodes off"
            return Problem("PodCIDRHoldsNodes", text, "" if other == peer.name else other)
        ranges = [one for one in self._ranges if one[0] == place[0]]
        if ranges and not any(holds(one, place) for one in ranges):
            text = f"pod CIDR {cidr} lies outside the cluster's ({_listed(self.settings.cluster_cidrs)})"
            return Problem("PodCIDROutside", text)
        if peer.name != self.here:
            for subnet, one in self._closed:
                if overlap(subnet, place):
                    text = f"pod CIDR {cidr} overlaps {one.network} of this node's link {one.dev}"
                    return Problem("PodCIDROnLink", text, local=True)
        return None

    def _claimed(self, peer: Peer, point: Block) -> Problem | None:
        """Is the peer's address another's?"""
        if other := self._older(peer, self._addresses.overlapping(point)):
            text = f"its address {text_of(point[1], point[0])} is that of Node {other} too, which is older"
            return Problem("NodeAddressConflict", text, other)
        if peer.name != self.here and point in self._own_points:
            text = f"its address {text_of(point[1], point[0])} is this node's own"
            return Problem("NodeAddressConflict", text, self.here)
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
        point = peer.point(family)
        if problem := self._claimed(peer, point):
            return problem
        if dev := self._link_to(point):
            return Direct(cidr, address, dev)
        if mode == "auto":
            return self._tunnel(peer, cidr)
        text = (
            f"its address {address} is on no link of this node: mode direct needs a shared link, auto and vxlan do not"
        )
        return Problem("NoSharedLink", text, local=True)

    def _link_to(self, point: Block) -> str:
        """The link that an address is on, by the longest of our subnets that hold it; "" for none. A prefix of full length is our own address,
        or the far end of a point-to-point link."""
        for subnet, one in self._subnets:
            if holds(subnet, point) and (subnet[2] or block(one.address) != point):
                return one.dev
        return ""

    def _tunnel(self, peer: Peer, cidr: str) -> Tunnelled | Problem:
        outer = self.outer
        if not outer:
            return Problem("NoNodeAddress", f"this node, {self.here}, has no InternalIP to send VXLAN from", local=True)
        remote = peer.address(outer)
        if not remote:
            text = f"no InternalIP of IPv{outer} in status.addresses, which this node's VXLAN runs over"
            return Problem("NoNodeAddress", text)
        if problem := self._claimed(peer, peer.point(outer)):
            return problem
        if other := self._older(peer, self._macs[peer.mac]):
            text = f"the names of this Node and of {other} give one VTEP MAC, {peer.mac}: rename one"
            return Problem("VTEPConflict", text, other)
        if peer.mac == self.mac:
            text = f"the names of this Node and of {self.here} give one VTEP MAC, {peer.mac}: rename one"
            return Problem("VTEPConflict", text, self.here)
        return Tunnelled(cidr, cidr.partition("/")[0], peer.mac, remote)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
