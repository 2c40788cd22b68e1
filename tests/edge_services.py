"""A small cluster behind a cloud's load balancer, for tests of its tables."""

from __future__ import annotations

import json
from typing import Any

from glassnet.kube import kinds
from glassnet.kube.types import Service, decode
from glassnet.loadbalancer.edge import behaviour as b
from glassnet.loadbalancer.edge import layout, model
from glassnet.loadbalancer.edge.model import Front, Pool, Site, Target
from glassnet.loadbalancer.edge.table import Table

NODES = tuple(Target(f"worker-{n}", n + 1, (f"10.240.0.2{n}", f"fd00:10:240::2{n}")) for n in range(3))
NAMES = [node.name for node in NODES]
VIPS, OUTSIDE = ("198.51.100.0/24", "2001:db8:51::100/120"), ("192.0.2.0/24", "2001:db8:192::/64")
NLB = {b.TYPE: "nlb"}


def lb_service(name: str, notes: dict[str, str] | None = None, *, node_port: int = 30080, **spec: Any) -> Service:
    """A Service of type LoadBalancer with a port 80."""
    ports = spec.pop("ports", [{"name": "http", "port": 80, "nodePort": node_port}])
    body = {
        "metadata": {"name": name, "namespace": "demo", "uid": name, "annotations": notes or {}},
        "spec": {"type": "LoadBalancer", "ports": ports, **spec},
    }
    made: Service = decode(kinds.SERVICE, json.dumps(body))
    return made


def local(name: str, notes: dict[str, str] | None = None, **spec: Any) -> Service:
    """The same with externalTrafficPolicy Local."""
    return lb_service(name, notes, externalTrafficPolicy="Local", healthCheckNodePort=31000, **spec)


Healthy = dict[str, list[str]]  # name of a Service or "" -> nodes that are well


def made(kind: str, services: list[tuple[Service, tuple[str, ...]]], healthy: Healthy, weights: dict[str, int] | None = None) -> tuple[list[Pool], list[Front]]:  # fmt: skip
    """Pools and ports of Services with their addresses."""
    pools, fronts = {}, []
    for service, ips in services:
        found = b.behaviour(kind, service)
        key = model.pool_key(service, found)
        pools[key.name] = model.pool(key, NAMES, healthy.get(key.owner.partition("/")[2], NAMES), weights or {})
        fronts += model.fronts(service, ips, found)
    return list(pools.values()), fronts


def site(kind: str) -> Site:
    """Where the load balancer is."""
    return Site(NODES, VIPS, b.usual(kind), OUTSIDE)


def tables(kind: str, pools: list[Pool], fronts: list[Front]) -> list[Table]:
    """The load balancer's tables of both families."""
    return [layout.table(family, site(kind), pools, fronts) for family in site(kind).families]
