"""What a load balancer at the edge is to do, as values: its nodes, the pools flows are spread over, the ports it takes packets for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import collapse_addresses, ip_network
from typing import NamedTuple

from glassnet.kube.types import Service
from glassnet.loadbalancer.edge import behaviour as b
from glassnet.loadbalancer.edge.behaviour import Behaviour
from glassnet.loadbalancer.edge.health import Question, question
from glassnet.net import address


class Target(NamedTuple):
    """A node: `number` (from 1) is its mark, its table of routes; `addresses` are its own, at most one a family."""

    name: str
    number: int
    addresses: tuple[str, ...]

    def address(self, family: str) -> str:
        """Its address of a family, "" without."""
        return next((one for one in self.addresses if address.family(one) == family), "")


class Site(NamedTuple):
    """Where a load balancer is: its nodes, the ranges its addresses come from, what it does unless a Service asks for something else, and the
    ranges that are `outside` the VPC."""

    nodes: tuple[Target, ...]
    addresses: tuple[str, ...]
    usual: Behaviour
    outside: tuple[str, ...] = ()

    def of(self, family: str) -> tuple[str, ...]:
        """The ranges of a family."""
        return tuple(cidr for cidr in self.addresses if address.family(cidr) == family)

    @property
    def families(self) -> tuple[str, ...]:
        """The families it has addresses of."""
        return tuple(dict.fromkeys(address.family(cidr) for cidr in self.addresses))


class Pool(NamedTuple):
    """Who gets flows, and how one is chosen: `slots` has a node's name once, or as many times as it weighs. `refuses`: an empty one resets."""

    name: str
    method: str
    slots: tuple[str, ...]
    refuses: bool = False


class PoolKey(NamedTuple):
    """By this Services share a pool: all whose nodes answer one question, spread one way by one kind of load balancer.

    `owner` is the Service ("namespace/name") whose pool it is alone, "" for pools of nodes as such.
    """

    asked: Question
    method: str
    behaviour: Behaviour
    owner: str = ""
    weighted: bool = False

    @property
    def name(self) -> str:
        """What its chain is called, without `pool-`."""
        words = [self.owner or "nodes", *([self.method] if self.method != self.behaviour.method else [])]
        return ".".join(
            [*words, *([self.behaviour.name] if self.behaviour is b.NETWORK else [])]
        )  # no Service's name has a dot


class Front(NamedTuple):
    """A port of a Service at one of its addresses. `sources` are ranges that may send to it, kept by the load balancer; None: everybody."""

    ip: str
    protocol: str
    port: int
    node_port: int
    text: str  # namespace/name[:port]
    pool: str
    proxies: bool = False
    keeps: bool = False  # translates, and keeps the source
    sources: tuple[str, ...] | None = None


WEIGHTED = "networking.gke.io/weighted-load-balancing"
"""Annotation of Google's: "pods-per-node" weighs nodes by their endpoints, with external policy Local."""


def pool_key(service: Service, found: Behaviour) -> PoolKey:
    """The pool a Service's flows are spread over."""
    asked, how, meta = question(service), b.method(service, found), service.metadata
    shared = service.spec.external_traffic_policy != "Local" and asked.path
    weighted = not shared and found is b.GOOGLE and meta.annotations.get(WEIGHTED) == "pods-per-node"
    return PoolKey(asked, how, found, "" if shared else f"{meta.namespace}/{meta.name}", weighted)


def fronts(service: Service, ips: Iterable[str], found: Behaviour) -> list[Front]:
    """A Service's ports at its addresses."""
    spec, meta = service.spec, service.metadata
    pool, made = pool_key(service, found).name, []
    for ip in ips:
        family, sources = address.family(ip), None
        if found.guards and spec.load_balancer_source_ranges:
            sources = _ranges(spec.load_balancer_source_ranges, family)
        for port in spec.ports:
            text = f"{meta.namespace}/{meta.name}" + (f":{port.name}" if port.name else "")
            made.append(Front(ip, port.protocol.lower(), port.port, port.node_port, text, pool, found.proxies, found.translates and not found.proxies, sources))  # fmt: skip
    return made


def _ranges(texts: Iterable[str], family: str) -> tuple[str, ...]:
    """The ranges of a family, without those that lie in others: a set of intervals takes no overlaps."""
    found = [ip_network(text.strip(), strict=False) for text in texts if address.family(text) == family]
    return tuple(str(each) for each in collapse_addresses(found))  # type: ignore[type-var]


def pool(key: PoolKey, nodes: Iterable[str], healthy: Iterable[str], weights: Mapping[str, int]) -> Pool:
    """A pool as it is now: of the cluster's nodes those that are healthy, or all when the kind fails open and none is."""
    there, well = sorted(nodes), set(healthy)
    chosen = [name for name in there if name in well] or (there if key.behaviour.fail_open else [])
    if key.weighted and any(weights.get(name) for name in chosen):
        chosen = [name for name in chosen for _ in range(weights.get(name, 0))]
    return Pool(key.name, key.method, tuple(chosen), key.behaviour.refuses)
