"""Which UDP flows still go where no endpoint is. UDP has no end the kernel could see: an entry that is used stays, and with it its translation.

TCP and SCTP are left alone: their ends notice. Source: kube-proxy's rules for stale entries, and kubernetes/kubernetes#139628 for the Service
that loses its last endpoint: its entries go here too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from glassnet.kube.types import EndpointSlice, Service
from glassnet.net import address
from glassnet.netstack.conntrack import Flow
from glassnet.proxy import compute


class UdpPort(NamedTuple):
    """A UDP service port: its (address, port) pairs, its node port (0: none), and the endpoints that serve, shutting down or not."""

    addresses: frozenset[tuple[str, int]]
    node_port: int
    serving: frozenset[tuple[str, int]]


def udp_ports(service: Service, slices: Iterable[EndpointSlice], family: str) -> tuple[UdpPort, ...]:
    """The UDP ports of a Service in one IP family. An endpoint that serves is good whatever the policies."""
    virtual = compute.cluster_ip(service, family) if compute.proxied(service) else ""
    if not virtual or not any(port.protocol == "UDP" for port in service.spec.ports):
        return ()
    ingress = (item.ip for item in service.status.load_balancer.ingress)
    texts = (address.canonical(ip) for ip in (*service.spec.external_ips, *ingress))
    ips = [virtual, *(ip for ip in texts if ip and address.family(ip) == family)]
    mine = [piece for piece in slices if piece.address_type == family]
    return tuple(
        UdpPort(
            frozenset((ip, port.port) for ip in ips),
            port.node_port,
            frozenset(
                (address.canonical(endpoint.addresses[0]), there.port)
                for piece in mine
                for there in piece.ports or ()
                if there.name == port.name and there.protocol == "UDP" and there.port
                for endpoint in piece.endpoints
                if endpoint.addresses and endpoint.conditions.serving is not False
            ),
        )
        for port in service.spec.ports
        if port.protocol == "UDP"
    )


def stale(flows: Iterable[Flow], ports: Iterable[UdpPort], node_addresses: Iterable[str] = ()) -> list[Flow]:
    """Entries that belong to one of the ports and are answered by none of its endpoints.

    An entry that is not translated at all is among them: it dates from a time when the Service had no endpoint. For a node port, whose number
    another host's service may have as well, it must be to this node then (`node_addresses`).
    """
    by_address = {place: port for port in ports for place in port.addresses}
    by_number = {port.node_port: port for port in ports if port.node_port}
    mine = frozenset(node_addresses)
    out = []
    for flow in flows:
        port = by_address.get((flow.destination, flow.destination_port))
        if port is None and (flow.translated or flow.destination in mine):
            port = by_number.get(flow.destination_port)
        if port and (flow.reply_source, flow.reply_port) not in port.serving:
            out.append(flow)
    return out
