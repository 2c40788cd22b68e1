"""Which endpoints of a Service port count, on this node, for which policy.

Sources: KEP-1672 (terminating endpoints), KEP-2086 (internalTrafficPolicy), KEP-2433 and KEP-4444 (hints); kube-proxy's topology.go for the
order of fallbacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from glassnet.kube.types import EndpointSlice, SliceEndpoint
from glassnet.net.address import canonical
from glassnet.proxy.model import Endpoint, NodeFacts

_TEXT = attrgetter("text")


class Selection(NamedTuple):
    """The endpoints for policy Cluster and for policy Local, and whether any endpoint anywhere could be used."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    usable_anywhere: bool


class _Found(NamedTuple):
    endpoint: Endpoint
    state: SliceEndpoint


def select(port_name: str, protocol: str, slices: Iterable[EndpointSlice], node: NodeFacts) -> Selection:
    """Choose among the endpoints that slices of one family list for a port, joined by the port's name and protocol (never by its number).

    Policy Cluster: ready endpoints, narrowed by hints; without any ready one, those that still serve while they shut down. Policy Local: the
    same of this node alone, hints aside; decided on its own.
    """
    found = _found(port_name, protocol, slices, node.name)
    ready = [each for each in found if each.state.conditions.ready is not False]
    if ready:
        cluster = [each.endpoint for each in _near(ready, node)]
        local = [each.endpoint for each in ready if each.endpoint.local]
        if len(ready) < len(found) and not local:
            local = [e for e in _draining(found) if e.local]
        usable = True
    else:
        cluster = _draining(found) if found else []
        local = [e for e in cluster if e.local]
        usable = bool(cluster)
    return Selection(_sorted(cluster), _sorted(local), usable)


def _sorted(endpoints: list[Endpoint]) -> tuple[Endpoint, ...]:
    if len(endpoints) > 1:
        endpoints.sort(key=_TEXT)
    return tuple(endpoints)


def _draining(found: Iterable[_Found]) -> list[Endpoint]:
    return [
        endpoint
        for endpoint, state in found
        if state.conditions.terminating is True
        and state.conditions.serving is not False
        and state.conditions.ready is False
    ]


def _found(port_name: str, protocol: str, slices: Iterable[EndpointSlice], node: str) -> list[_Found]:
    """Endpoints of one port; of doublets the one that is not terminating."""
    found: dict[tuple[str, int], _Found] = {}
    for piece in slices:
        for there in piece.ports or ():
            number = there.port
            if there.name != port_name or not number or (there.protocol or "TCP") != protocol:
                continue  # a port without a name ("" is one) or number is for nobody
            for state in piece.endpoints:
                ip = canonical(state.addresses[0]) if state.addresses else ""
                if ip and ((ip, number) not in found or state.conditions.terminating is not True):
                    local = bool(node) and state.node_name == node
                    found[ip, number] = _Found(Endpoint(ip, number, local), state)
    return list(found.values())


def _near(ready: list[_Found], node: NodeFacts) -> list[_Found]:
    """Narrowed by hints when every ready endpoint has one and some are for here: for this node first, then for its zone."""
    if ready[0].state.hints is None:  # all or nothing: one without hints decides for all
        return ready
    for field, here in (("for_nodes", node.name), ("for_zones", node.zone)):
        hinted = [(each, {h.name for h in getattr(each.state.hints, field, ())}) for each in ready]
        if here and all(names for _, names in hinted):
            mine = [each for each, names in hinted if here in names]
            if mine:
                return mine
    return ready


def local_ready_addresses(slices: Iterable[EndpointSlice], family: str, node: str) -> int:
    """How many distinct addresses of ready endpoints there are on a node, over all ports: what a health check node port reports."""
    return len(
        {
            ip
            for piece in slices
            if piece.address_type == family
            for state in piece.endpoints
            if state.conditions.ready is not False and state.node_name == node and state.addresses
            if (ip := canonical(state.addresses[0]))
        }
    )
