"""Which addresses are announced, how, and by which nodes: out of Services, their endpoints, Nodes and pools.

Sources: Kubernetes documentation, "Services" (externalTrafficPolicy), well-known labels (node.kubernetes.io/exclude-from-external-load-balancers);
KEP-1143: a cordoned node stays behind load balancers, one with the label does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from glassnet.kube import selectors
from glassnet.kube.types import Node, Service
from glassnet.kube.view import Key, View
from glassnet.loadbalancer import request
from glassnet.loadbalancer.pools import Pool, Pools

EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"


class Speaker(NamedTuple):
    """A node that may announce addresses: the labels that pools choose by, and whether the API holds it for ready."""

    name: str
    ready: bool
    labels: Mapping[str, str]


class Vip(NamedTuple):
    """An address to be announced. `nodes` are those that may, ready or not; `l2` and `bgp` say how."""

    ip: str
    l2: bool
    bgp: bool
    nodes: frozenset[str]


def speaker(node: Node) -> Speaker | None:
    """A Node that may announce; None for one that is kept from it by the label, or going."""
    meta = node.metadata
    if EXCLUDED in meta.labels or meta.deletion_timestamp is not None:
        return None
    found = next((each.status for each in node.status.conditions if each.type == "Ready"), "True")
    return Speaker(meta.name, found == "True", meta.labels)


def local_nodes(service: Service, view: View) -> frozenset[str] | None:
    """The nodes with a ready endpoint of a Service whose packets must not go on to another node; None when they may."""
    if service.spec.external_traffic_policy != "Local":
        return None
    return frozenset(
        each.node_name
        for part in view.slices_of(request.key_of(service))
        for each in part.endpoints
        if each.node_name and each.conditions.ready is not False and not each.conditions.terminating
    )


class Announcements:
    """What is to be announced, kept up to date Service by Service."""

    def __init__(self, pools: Pools | None = None) -> None:
        self._pools = pools or Pools()
        self._speakers: dict[str, Speaker] = {}
        self._eligible: dict[str, frozenset[str]] = {}  # pool -> nodes
        self._of: dict[Key, tuple[tuple[str, ...], frozenset[str] | None]] = {}
        self._by_ip: dict[str, set[Key]] = {}

    # -- what comes in; each says which addresses to ask for again

    def configure(self, pools: Pools) -> set[str]:
        """Other pools."""
        self._pools = pools
        self._eligible.clear()
        return set(self._by_ip)

    def put_node(self, name: str, found: Speaker | None) -> set[str]:
        """A Node as it is now; None when it has gone or may not announce."""
        if self._speakers.get(name) == found:
            return set()
        self._speakers.pop(name, None)
        if found is not None:
            self._speakers[name] = found
        self._eligible.clear()
        return set(self._by_ip)

    def put_service(self, key: Key, service: Service | None, view: View) -> set[str]:
        """A Service as it is now with its endpoints; None when it has gone."""
        new: tuple[tuple[str, ...], frozenset[str] | None] = ((), None)
        if service is not None and (ips := request.given(service)):
            new = (ips, local_nodes(service, view))
        old = self._of.get(key, ((), None))
        if new == old:
            return set()
        for ip in old[0]:
            self._by_ip[ip].discard(key)
            if not self._by_ip[ip]:
                del self._by_ip[ip]
        for ip in new[0]:
            self._by_ip.setdefault(ip, set()).add(key)
        if new[0]:
            self._of[key] = new
        else:
            self._of.pop(key, None)
        return {*old[0], *new[0]}

    # -- what comes out

    @property
    def speakers(self) -> Mapping[str, Speaker]:
        """The nodes that may announce, by name."""
        return self._speakers

    def services(self, ip: str) -> Iterable[Key]:
        """The Services that have an address."""
        return self._by_ip.get(ip, ())

    def vip(self, ip: str) -> Vip | None:
        """How an address is to be announced; None when it is not."""
        keys, pool = self._by_ip.get(ip), self._pools.of(ip)
        if not keys or pool is None:
            return None
        nodes = self._nodes(pool)
        for key in keys:
            local = self._of[key][1]
            if local is not None:
                nodes = nodes & local
        return Vip(ip, pool.by_l2, pool.by_bgp, nodes)

    def vips(self) -> list[Vip]:
        """All that are to be announced."""
        return [found for ip in self._by_ip if (found := self.vip(ip)) is not None]

    def _nodes(self, pool: Pool) -> frozenset[str]:
        """The nodes that a pool's addresses may be announced by: the ready ones, or all when none is."""
        if pool.name not in self._eligible:
            fit = [each for each in self._speakers.values() if selectors.matches(pool.nodes, each.labels)]
            ready = [each.name for each in fit if each.ready]
            self._eligible[pool.name] = frozenset(ready or (each.name for each in fit))
        return self._eligible[pool.name]
