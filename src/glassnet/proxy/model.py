"""What a Service port needs of a node, decided and ready to be spelled."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from glassnet.net import address


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """An address and port behind a Service port; `local` when its pod runs on the node the model is for."""

    ip: str
    port: int
    local: bool = False

    @property
    def text(self) -> str:
        """`ip:port`, or `[ip]:port`: what kube-proxy sorts endpoints by, and hashes for the name of their chain."""
        return address.with_port(self.ip, self.port)


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of one Service in one IP family, for one node.

    `cluster` and `local` are the endpoints to use for policy Cluster and Local; `any_endpoints` tells REJECT (none anywhere)
    from DROP (some, but not for this policy).
    """

    name: str  # namespace/name[:port]
    protocol: str  # TCP, UDP, SCTP
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    external_local: bool = False
    internal_local: bool = False
    affinity_seconds: int = 0
    health_check_port: int = 0
    cluster: tuple[Endpoint, ...] = ()
    local: tuple[Endpoint, ...] = ()
    any_endpoints: bool = False

    @property
    def externally_accessible(self) -> bool:
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)

    @property
    def uses_cluster(self) -> bool:
        """True when some traffic may go to any endpoint."""
        return not self.internal_local or self.externally_accessible

    @property
    def uses_local(self) -> bool:
        """True when some traffic is for endpoints on this node only."""
        return self.internal_local or (self.external_local and self.externally_accessible)

    @property
    def internal(self) -> tuple[Endpoint, ...]:
        """The endpoints of traffic to the ClusterIP."""
        return self.local if self.internal_local else self.cluster

    @property
    def external(self) -> tuple[Endpoint, ...]:
        """The endpoints of traffic from outside to a node port, an external or a load balancer's address."""
        return self.local if self.external_local else self.cluster

    @property
    def reachable(self) -> tuple[Endpoint, ...]:
        """Every endpoint some rule leads to, in kube-proxy's order (by text)."""
        if not self.uses_local:
            return self.cluster
        if not self.uses_cluster:
            return self.local
        found = {e.text: e for e in (*self.cluster, *self.local)}
        return tuple(found[text] for text in sorted(found))


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What of a node its rules depend on: name, zone label, and addresses of the Node object."""

    name: str = ""
    zone: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalDetector:
    """How traffic of this node's own pods is told from other traffic (kube-proxy's detectLocalMode).

    `kind`: "source" (`value` a CIDR), "interface" (its name) or "prefix" (what the names of pods' interfaces begin with).
    """

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for all Services of a node in one IP family.

    `detector` None: nothing tells local pods, then ClusterIPs are not masqueraded at all. `node_port_addresses` are the addresses that
    serve node ports (None: all of the node's). `service_cidrs` are refused where no Service is. `mark` is the bit that asks for masquerading.
    """

    family: str = address.IPV4
    detector: LocalDetector | None = None
    masquerade_all: bool = False
    mark: int = 0x4000
    node_port_addresses: tuple[str, ...] | None = None
    localhost_node_ports: bool = True
    service_cidrs: tuple[str, ...] = ()
    drop_invalid: bool = True  # iptables mode: not when conntrack is liberal about TCP
    random_fully: bool = True  # iptables 1.6.2 or newer
    counters: bool = False  # iptables mode: nfacct objects can be used
    layout: str = "current"  # iptables mode: how the chains are laid out, a name of backends.iptables_layouts
