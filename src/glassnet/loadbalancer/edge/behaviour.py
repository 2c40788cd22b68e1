"""What tells one cloud's load balancer from another's: how a packet reaches the node, who keeps what out, what probes ask, what ends a flow.

Numbers are the real ones, in seconds; sources are in docs/design/cloud-load-balancer.md.
"""

from __future__ import annotations

from typing import NamedTuple

from glassnet.kube.types import Service

FLOATING_IP, PASS_THROUGH, NODE_PORT_TARGETS = "floating-ip", "pass-through", "node-port-targets"
KINDS = (FLOATING_IP, PASS_THROUGH, NODE_PORT_TARGETS)
"""Words of `glassnet up --load-balancer` and of a profile's loadBalancer.kind."""
TYPE = "service.beta.kubernetes.io/aws-load-balancer-type"
"""Annotation of node port targets: "nlb" asks for the load balancer that keeps the source, anything else is the classic one."""
DISTRIBUTION = "glassnet.dev/cloud-distribution"
PROBE = "glassnet.dev/cloud-probe"
"""Annotation: "node-port" probes each node's port of the Service by TCP, "shared" (as without) the health port of its proxy."""

HASH, SOURCE, TURN = "hash", "source", "round-robin"
"""How a node is chosen for a flow: by a hash of the five-tuple, of both addresses alone, or in turn."""


class Probing(NamedTuple):
    """How often a node is asked (seconds), how long an answer may take, after how many failures in a row it is out, successes back."""

    interval: float
    timeout: float
    fall: int
    rise: int = 1


class Behaviour(NamedTuple):
    """One kind of load balancer.

    `translates`: the destination becomes a node's address and node port; `proxies`: and the source the load balancer's. `guards`: source
    ranges are kept here and not by the nodes. `fail_open`: without any healthy node all get new flows. `refuses`: with no node to give a flow
    to, TCP is reset; else nothing answers. `idle` is how long a flow without packets is remembered, `drain` how long flows of a node that
    has left go on (0: as long as they live), `ends_unhealthy` tells whether flows of a node that fails its probes end at once. `silent`: the
    cloud lets no ICMP of nodes out, so a client does not hear that a node refuses.
    """

    name: str
    probing: Probing
    translates: bool = False
    proxies: bool = False
    guards: bool = False
    fail_open: bool = False
    refuses: bool = False
    ends_unhealthy: bool = False
    silent: bool = False
    idle: int = 240
    drain: int = 0
    method: str = HASH
    affinity: bool = True
    protocols: frozenset[str] = frozenset(("TCP", "UDP"))

    @property
    def ip_mode(self) -> str:
        """What the status says: whether nodes may catch the address themselves (KEP-1860)."""
        return "Proxy" if self.translates else "VIP"


AZURE = Behaviour("floating-ip", Probing(5, 5, 2), guards=True, silent=True)
GOOGLE = Behaviour("pass-through", Probing(8, 1, 3), fail_open=True, idle=60, drain=30)
CLASSIC = Behaviour(
    "classic", Probing(10, 5, 6, 2), translates=True, proxies=True, guards=True, refuses=True, idle=60, drain=300,
    method=TURN, affinity=False, protocols=frozenset(("TCP",)),
)  # fmt: skip
NETWORK = Behaviour(
    "nlb", Probing(10, 10, 3, 3), translates=True, guards=True, fail_open=True, ends_unhealthy=True, idle=350, drain=300, affinity=False,
)  # fmt: skip


def usual(kind: str) -> Behaviour:
    """The load balancer of a cloud of this kind for a Service that asks for nothing particular."""
    return {FLOATING_IP: AZURE, PASS_THROUGH: GOOGLE}.get(kind, CLASSIC)


def behaviour(kind: str, service: Service) -> Behaviour:
    """The load balancer a Service gets in a cloud of this kind."""
    if kind == NODE_PORT_TARGETS and service.metadata.annotations.get(TYPE) == "nlb":
        return NETWORK
    return usual(kind)


def fault(service: Service, found: Behaviour) -> str:
    """Why this load balancer cannot serve the Service, in words; "" when it can."""
    spec = service.spec
    if spec.session_affinity != "None" and not found.affinity:
        return f"unsupported load balancer affinity: {spec.session_affinity}"
    for port in spec.ports:
        if port.protocol not in found.protocols:
            return f"port {port.port}: protocol {port.protocol} is not supported by a load balancer of type {found.name} ({', '.join(sorted(found.protocols))})"
        if found.translates and not port.node_port:
            return f"port {port.port} has no node port, and targets are node ports: leave out allocateLoadBalancerNodePorts: false"
    wanted = service.metadata.annotations.get(DISTRIBUTION, "")
    if wanted not in ("", HASH, TURN):
        return f"annotation {DISTRIBUTION}: {wanted!r} is neither {HASH} nor {TURN}"
    asked = service.metadata.annotations.get(PROBE, "")
    if asked not in ("", "shared", "node-port"):
        return f"annotation {PROBE}: {asked!r} is neither shared nor node-port"
    return ""


def method(service: Service, found: Behaviour) -> str:
    """How this Service's flows are spread over nodes."""
    if service.spec.session_affinity == "ClientIP":
        return SOURCE
    return service.metadata.annotations.get(DISTRIBUTION, "") or found.method
