"""Which UDP flows still go to endpoints that have gone. UDP has no end the kernel could see: an entry that is used stays, and with it its translation.

TCP and SCTP are left alone: their ends notice. Source: kube-proxy's rules for stale entries; conntrack(8) for the listing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from glassnet.kube.types import EndpointSlice, Service


class UdpPort(NamedTuple):
    """A UDP service port: its addresses ("ip:port"), its node port (0: none), and the endpoints that serve, shutting down or not."""

    addresses: frozenset[str]
    node_port: int
    serving: frozenset[str]


def udp_ports(service: Service, slices: Iterable[EndpointSlice]) -> list[UdpPort]:
    """The UDP ports of a Service that have a serving endpoint; without one, nothing would be won by forgetting a flow."""
    spec = service.spec
    if spec.cluster_ip in ("", "None"):
        return []
    ingress = (item.ip for item in service.status.load_balancer.ingress if item.ip)
    ips = (spec.cluster_ip, *spec.external_ips, *ingress)
    slices = tuple(slices)
    out = []
    for port in spec.ports:
        if port.protocol != "UDP":
            continue
        serving = frozenset(
            f"{endpoint.addresses[0]}:{there.port}"
            for piece in slices
            for there in piece.ports or ()
            if there.name == port.name and there.protocol == "UDP"
            for endpoint in piece.endpoints
            if endpoint.addresses and endpoint.conditions.serving is not False
        )
        if serving:
            out.append(UdpPort(frozenset(f"{ip}:{port.port}" for ip in ips), port.node_port, serving))
    return out


class Flow(NamedTuple):
    """The original direction of an entry, in text: what it takes to delete it."""

    source: str
    destination: str
    source_port: str
    destination_port: str

    def words(self) -> list[str]:
        """Options of `conntrack -D`."""
        return [
            "-p", "udp", "--orig-src", self.source, "--orig-dst", self.destination,
            "--orig-port-src", self.source_port, "--orig-port-dst", self.destination_port,
        ]  # fmt: skip


def stale(listing: str, ports: Iterable[UdpPort]) -> list[Flow]:
    """Entries of `conntrack -L -p udp` that belong to one of the ports and are answered by none of its endpoints.

    An entry that is not translated at all is among them: it dates from a time when the Service had no endpoint.
    """
    by_address = {address: port for port in ports for address in port.addresses}
    by_number = {str(port.node_port): port for port in ports if port.node_port}
    out = []
    for line in listing.splitlines():
        words = [word.split("=", 1) for word in line.split() if "=" in word]
        ends = [value for name, value in words if name in ("src", "dst", "sport", "dport")]
        if len(ends) < 8:
            continue
        flow = Flow(*ends[:4])
        port = by_address.get(f"{flow.destination}:{flow.destination_port}") or by_number.get(flow.destination_port)
        if port and f"{ends[4]}:{ends[6]}" not in port.serving:
            out.append(flow)
    return out
