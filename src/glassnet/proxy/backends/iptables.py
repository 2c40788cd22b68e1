"""ServicePorts as kube-proxy's chains, name for name. Source: kube-proxy 1.36, iptables mode: chains, order of rules, comments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from glassnet.proxy.model import Endpoint, ServicePort
from glassnet.proxy.naming import Recipe
from glassnet.ruleset.emit_iptables import emit
from glassnet.ruleset.model import (
    AddressType,
    CtState,
    Destination,
    Dnat,
    Dport,
    Jump,
    Mark,
    Masquerade,
    Match,
    Probability,
    Protocol,
    Recent,
    Rule,
    SetMark,
    Source,
    Unknown,
    Verdict,
)

MARK = 0x4000
SERVICES, EXTERNAL, NODE_PORTS, POSTROUTING = (
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
)
MARK_MASQ, FORWARD, FIREWALL, PROXY_FIREWALL = "KUBE-MARK-MASQ", "KUBE-FORWARD", "KUBE-FIREWALL", "KUBE-PROXY-FIREWALL"
PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
CANARY = "KUBE-PROXY-CANARY"  # empty, in every table: when it is gone, somebody has flushed the table
TOP = {  # the canary's own table comes first in writing and last in sweeping: while anything of ours is there, it is
    "mangle": (CANARY,),
    "filter": (SERVICES, EXTERNAL, FORWARD, NODE_PORTS, PROXY_FIREWALL, FIREWALL, CANARY),
    "nat": (SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ, CANARY),
}
REJECT, DROP, ACCEPT, RETURN = Verdict("REJECT"), Verdict("DROP"), Verdict("ACCEPT"), Verdict("RETURN")
_NEW = (CtState(("NEW",)),)

# (table, builtin chain, rule), each put in front of the chain: the last one here comes first there
JUMPS: tuple[tuple[str, str, Rule], ...] = (
    *(
        (("filter", chain, Rule(_NEW, Jump(EXTERNAL), "kubernetes externally-visible service portals")))
        for chain in ("INPUT", "FORWARD")
    ),
    ("filter", "INPUT", Rule((), Jump(NODE_PORTS), "kubernetes health check service ports")),
    *(("filter", chain, Rule(_NEW, Jump(SERVICES), "kubernetes service portals")) for chain in ("FORWARD", "OUTPUT")),
    ("filter", "FORWARD", Rule((), Jump(FORWARD), "kubernetes forwarding rules")),
    *(
        ("filter", chain, Rule(_NEW, Jump(PROXY_FIREWALL), "kubernetes load balancer firewall"))
        for chain in ("INPUT", "OUTPUT", "FORWARD")
    ),
    *(("nat", chain, Rule((), Jump(SERVICES), "kubernetes service portals")) for chain in ("OUTPUT", "PREROUTING")),
    ("nat", "POSTROUTING", Rule((), Jump(POSTROUTING), "kubernetes postrouting rules")),
    *(("filter", chain, Rule((), Jump(FIREWALL))) for chain in ("INPUT", "OUTPUT")),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for a whole node. `cluster_cidr` tells local pods from others ("" for no such detector).

    `node_port_addresses` are the node's addresses that serve node ports; None: all of them.
    """

    cluster_cidr: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    localhost_node_ports: bool = True
    node_port_addresses: tuple[str, ...] | None = None


@dataclass(slots=True)
class Piece:
    """The rules of one Service: lines of the shared chains, and chains of its own (name -> lines)."""

    top: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    chains: dict[str, list[str]] = field(default_factory=dict)

    def rule(self, table: str, chain: str, matches: Iterable[Match], target: object, comment: str) -> None:
        """Add a line to a shared chain."""
        self.top.setdefault((table, chain), []).append(emit(chain, Rule(tuple(matches), target, comment)))  # type: ignore[arg-type]

    def own(self, chain: str, *matches: Match, target: object, comment: str) -> None:
        """Add a line to a chain of the Service's own."""
        self.chains.setdefault(chain, []).append(emit(chain, Rule(matches, target, comment)))  # type: ignore[arg-type]


def piece(ports: Iterable[ServicePort], options: Options) -> Piece:
    """The rules of one Service's ports."""
    out = Piece()
    for port in ports:
        _Speller(out, port, options).spell()
    return out


def fixed(options: Options) -> dict[tuple[str, str], list[str]]:
    """Rules of shared chains that no Service asks for; NODE_PORTS' jump comes last in SERVICES (see `last`)."""
    out = Piece()
    out.rule("nat", POSTROUTING, [Mark(MARK, MARK, negate=True)], RETURN, "")
    out.rule("nat", POSTROUTING, [], SetMark("xor", MARK), "")
    out.rule("nat", POSTROUTING, [], Masquerade(), "kubernetes service traffic requiring SNAT")
    out.rule("nat", MARK_MASQ, [], SetMark("or", MARK), "")
    out.rule("filter", FORWARD, [CtState(("INVALID",))], DROP, "")
    out.rule("filter", FORWARD, [Mark(MARK, MARK)], ACCEPT, "kubernetes forwarding rules")
    out.rule("filter", FORWARD, [CtState(("RELATED", "ESTABLISHED"))], ACCEPT, "kubernetes forwarding conntrack rule")
    if options.localhost_node_ports:
        matches: list[Match] = [
            Source("127.0.0.0/8", negate=True),
            Destination("127.0.0.0/8"),
            CtState(("RELATED", "ESTABLISHED", "DNAT"), negate=True),
        ]
        out.rule("filter", FIREWALL, matches, DROP, "block incoming localnet connections")
    return out.top


def last(options: Options) -> list[str]:
    """The rules that must end KUBE-SERVICES: whatever no address matched may be a node port."""
    comment = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    entries: list[tuple[Match, ...]] = [(AddressType("dst"),)]
    if options.node_port_addresses is not None:
        entries = [(Destination(f"{ip}/32"),) for ip in options.node_port_addresses]
    elif not options.localhost_node_ports:
        entries = [(Destination("127.0.0.0/8", negate=True), AddressType("dst"))]
    return [emit(SERVICES, Rule(matches, Jump(NODE_PORTS), comment)) for matches in entries]


class _Speller:
    """Spells one ServicePort."""

    def __init__(self, out: Piece, port: ServicePort, options: Options) -> None:
        self.out, self.port, self.options = out, port, options
        self.protocol = port.protocol.lower()
        recipe = options.recipe
        self.svc, self.svl, self.ext, self.fw = (
            recipe.service(f"KUBE-{kind}", port.name, port.protocol) for kind in ("SVC", "SVL", "EXT", "FW")
        )

    def at(self, address: str) -> list[Match]:
        """Traffic to an address at the Service's port."""
        return [Destination(f"{address}/32"), Dport(self.protocol, self.port.port)]

    def spell(self) -> None:
        port = self.port
        internal = port.local if port.internal_local else port.cluster
        entry = self.svl if port.internal_local else self.svc
        if internal:
            self.out.rule("nat", SERVICES, self.at(port.cluster_ip), Jump(entry), f"{port.name} cluster IP")
        else:
            self._refuse("filter", SERVICES, self.at(port.cluster_ip))
        if port.externally_accessible:
            self._external()
        if port.health_check_port:
            self.out.rule(
                "filter",
                NODE_PORTS,
                [Dport("tcp", port.health_check_port)],
                ACCEPT,
                f"{port.name} health check node port",
            )
        if port.uses_cluster and port.cluster:
            self._balance(self.svc, port.cluster)
        if port.uses_local and port.local:
            self._balance(self.svl, port.local)
        for endpoint in port.reachable:
            self._endpoint(endpoint)

    def _refuse(self, table: str, chain: str, matches: list[Match]) -> None:
        """REJECT when there is no endpoint anywhere, DROP when there is only none for this policy."""
        if self.port.any_endpoints:
            self.out.rule(table, chain, matches, DROP, f"{self.port.name} has no local endpoints")
        else:
            self.out.rule(table, chain, matches, REJECT, f"{self.port.name} has no endpoints")

    def _external(self) -> None:
        port, out = self.port, self.out
        if port.any_endpoints:
            for address in port.external_ips:
                out.rule("nat", SERVICES, self.at(address), Jump(self.ext), f"{port.name} external IP")
            for address in port.load_balancer_ips:
                target = self.fw if port.source_ranges else self.ext
                out.rule("nat", SERVICES, self.at(address), Jump(target), f"{port.name} loadbalancer IP")
                if port.source_ranges:
                    out.rule(
                        "filter",
                        PROXY_FIREWALL,
                        self.at(address),
                        DROP,
                        f"{port.name} traffic not accepted by {self.fw}",
                    )
            if port.node_port:
                out.rule("nat", NODE_PORTS, [Dport(self.protocol, port.node_port)], Jump(self.ext), port.name)
            self._ext_chain()
            if port.source_ranges and port.load_balancer_ips:
                self._firewall_chain()
        if port.any_endpoints and (port.local if port.external_local else port.cluster):
            return
        for address in (*port.external_ips, *port.load_balancer_ips):
            self._refuse("filter", EXTERNAL, self.at(address))
        if port.node_port:
            self._refuse("filter", EXTERNAL, [AddressType("dst"), Dport(self.protocol, port.node_port)])

    def _ext_chain(self) -> None:
        port, own = self.port, self.out.own
        if not port.external_local:
            own(self.ext, target=Jump(MARK_MASQ), comment=f"masquerade traffic for {port.name} external destinations")
            own(self.ext, target=Jump(self.svc), comment="")
            return
        if self.options.cluster_cidr:
            own(
                self.ext,
                Source(self.options.cluster_cidr),
                target=Jump(self.svc),
                comment=f"pod traffic for {port.name} external destinations",
            )
        own(
            self.ext,
            AddressType("src"),
            target=Jump(MARK_MASQ),
            comment=f"masquerade LOCAL traffic for {port.name} external destinations",
        )
        own(
            self.ext,
            AddressType("src"),
            target=Jump(self.svc),
            comment=f"route LOCAL traffic for {port.name} external destinations",
        )
        if port.local:
            own(self.ext, target=Jump(self.svl), comment="")

    def _firewall_chain(self) -> None:
        port, own = self.port, self.out.own
        for cidr in port.source_ranges:
            own(self.fw, Source(cidr), target=Jump(self.ext), comment=f"{port.name} loadbalancer IP")
        own(self.fw, target=None, comment=f"other traffic to {port.name} will be dropped by {PROXY_FIREWALL}")

    def _balance(self, chain: str, endpoints: tuple[Endpoint, ...]) -> None:
        """The chain that picks an endpoint: at random, or the one the client had before."""
        port, own, options = self.port, self.out.own, self.options
        own_chain_entry = chain == (self.svl if port.internal_local else self.svc)
        if options.cluster_cidr and own_chain_entry:
            own(
                chain,
                *self.at(port.cluster_ip),
                Source(options.cluster_cidr, negate=True),
                target=Jump(MARK_MASQ),
                comment=f"{port.name} cluster IP",
            )
        seps = [(e, options.recipe.endpoint(port.name, port.protocol, e.text)) for e in endpoints]
        if port.affinity_seconds:
            for endpoint, sep in seps:
                own(
                    chain,
                    Recent(sep, port.affinity_seconds),
                    target=Jump(sep),
                    comment=f"{port.name} -> {endpoint.text}",
                )
        for index, (endpoint, sep) in enumerate(seps):
            left = len(seps) - index
            share = (Probability(1 / left),) if left > 1 else ()
            own(chain, *share, target=Jump(sep), comment=f"{port.name} -> {endpoint.text}")

    def _endpoint(self, endpoint: Endpoint) -> None:
        port, own = self.port, self.out.own
        sep = self.options.recipe.endpoint(port.name, port.protocol, endpoint.text)
        own(sep, Source(f"{endpoint.ip}/32"), target=Jump(MARK_MASQ), comment=port.name)
        remember: tuple[Match, ...] = (Recent(sep),) if port.affinity_seconds else ()
        own(
            sep,
            *remember,
            Protocol(self.protocol),
            Unknown(f"-m {self.protocol}"),
            target=Dnat(endpoint.text),
            comment=port.name,
        )
