"""Which nodes are healthy: what is asked of them, and what a row of answers means."""

from __future__ import annotations

from typing import NamedTuple

from glassnet.kube.types import Service
from glassnet.loadbalancer.edge.behaviour import PROBE, Probing

PROXY_PORT, PATH = 10256, "/healthz"
"""The health port of a Service proxy (KEP-3458), and what is asked of it."""


class Question(NamedTuple):
    """What a node is asked: HTTP GET of `path` at `port`, or with `path` "" whether `port` takes TCP connections."""

    port: int
    path: str = ""

    @property
    def text(self) -> str:
        """`HTTP:PORT/path` or `TCP:PORT`, as clouds write it."""
        return f"HTTP:{self.port}{self.path}" if self.path else f"TCP:{self.port}"


SHARED = Question(PROXY_PORT, PATH)


def question(service: Service) -> Question:
    """What tells whether a node can take flows of a Service."""
    spec = service.spec
    if spec.external_traffic_policy == "Local" and spec.health_check_node_port:
        return Question(spec.health_check_node_port, PATH)
    ports = [port.node_port for port in spec.ports if port.node_port and port.protocol == "TCP"]
    if service.metadata.annotations.get(PROBE) == "node-port" and ports:
        return Question(ports[0])
    return SHARED


class Standing(NamedTuple):
    """How a node stands with a question: `known` once it has answered well or been given up, `row` answers of the other kind in a row."""

    healthy: bool = False
    known: bool = False
    row: int = 0


def heard(before: Standing, well: bool, probing: Probing) -> Standing:
    """The standing after one more answer. The first good one is enough for a node that is new."""
    if not before.known:
        known = well or before.row + 1 >= probing.fall
        return Standing(well, known, 0 if known else before.row + 1)
    if well == before.healthy:
        return Standing(before.healthy, True)
    row = before.row + 1
    if row >= (probing.rise if well else probing.fall):
        return Standing(well, True)
    return Standing(before.healthy, True, row)


def faster(probing: Probing, speed: float) -> Probing:
    """The same probing, `speed` times as fast; an answer may take a quarter of a second all the same."""
    return Probing(probing.interval / speed, max(probing.timeout / speed, 0.25), probing.fall, probing.rise)
