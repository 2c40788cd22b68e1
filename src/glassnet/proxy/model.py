"""What a Service port needs of a node, decided and ready to be spelled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An address and port behind a Service port; `local` when its pod runs on the node the model is for."""

    ip: str
    port: int
    local: bool = False

    @property
    def text(self) -> str:
        return f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one Service, for one node.

    `cluster` and `local` are the endpoints to use for policy Cluster and Local; `any_endpoints` tells REJECT (none anywhere)
    from DROP (some, but not for this policy).
    """

    name: str  # namespace/name[:port]
    protocol: str  # TCP, UDP, SCTP
    cluster_ip: str
    port: int
    node_port: int
    external_ips: tuple[str, ...]
    load_balancer_ips: tuple[str, ...]
    source_ranges: tuple[str, ...]
    external_local: bool
    internal_local: bool
    affinity_seconds: int
    health_check_port: int
    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    any_endpoints: bool

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
    def reachable(self) -> tuple[Endpoint, ...]:
        """Every endpoint some rule leads to, in kube-proxy's order (by text)."""
        found = {
            e.text: e for e in (*(self.cluster if self.uses_cluster else ()), *(self.local if self.uses_local else ()))
        }
        return tuple(found[text] for text in sorted(found))
