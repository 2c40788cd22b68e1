"""Records as values, and what a cluster's DNS is to be like.

Names are absolute, in lower case, with the dot at the end. Types and data are as a zone file has them (RFC 1035, section 5).
"""

from __future__ import annotations

from typing import NamedTuple

SCHEMA = "1.1.0"  # the version of the Kubernetes DNS specification that is kept
MARK = "TYPE65280"  # private use (RFC 6895): gives a name that has no records of its own a place in the zone
V4_ZONE, V6_ZONE = "in-addr.arpa.", "ip6.arpa."
PORT = 53


class Record(NamedTuple):
    """One resource record of class IN. No two objects of a cluster give the same one."""

    zone: str
    owner: str
    type: str
    data: str


class Problem(NamedTuple):
    """What an object asks for and does not get, or gets in a way that may surprise: `reason` for an Event, `message` for people."""

    reason: str
    message: str


class Answer(NamedTuple):
    """What one object gives: its records, and what is wrong with it."""

    records: frozenset[Record]
    problems: tuple[Problem, ...] = ()


NOTHING = Answer(frozenset())


class Server(NamedTuple):
    """Where a DNS server is reached."""

    address: str
    port: int = PORT

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Stub(NamedTuple):
    """A domain whose names others know, and who."""

    domain: str
    servers: tuple[Server, ...]


class DnsSettings(NamedTuple):
    """What a cluster's DNS is to be like.

    `domain` is the cluster's, without the dot at the end; `ttl` is in seconds; `pods` is "insecure" (a name such as 10-0-0-1.NAMESPACE.pod is
    answered from the name alone) or "disabled". `own_service` is the Service before this server, NAMESPACE/NAME. `transfer_to` are the
    addresses and prefixes that may have our zones whole. `alias_server` answers for Services of type ExternalName with what the other name
    stands for; without one the answer is the CNAME record alone, which many stub resolvers do not follow. `upstream_timeout` is in milliseconds.
    """

    domain: str = "cluster.local"
    ttl: int = 5
    pods: str = "insecure"
    listen: tuple[Server, ...] = (Server("0.0.0.0"), Server("::"))
    upstreams: tuple[Server, ...] = ()
    stubs: tuple[Stub, ...] = ()
    transfer_to: tuple[str, ...] = ()
    own_service: str = "kube-system/kube-dns"
    udp_workers: int = 16
    tcp_workers: int = 4
    upstream_timeout: int = 2000
    alias_server: Server | None = None

    @property
    def zone(self) -> str:
        """The cluster's zone."""
        return f"{self.domain.lower().rstrip('.')}."

    @property
    def pod_zone(self) -> str:
        """The zone of pods' names; "" when there are none."""
        return f"pod.{self.zone}" if self.pods == "insecure" else ""

    @property
    def zones(self) -> tuple[str, ...]:
        """The zones that every cluster has; those of namespaces and of addresses come and go with their records."""
        return tuple(zone for zone in (self.zone, self.pod_zone, V4_ZONE, V6_ZONE) if zone)

    def namespace_zone(self, namespace: str) -> str:
        """The zone of a namespace's Services."""
        return f"{namespace}.svc.{self.zone}"
