"""ServicePorts as kube-proxy's chains, name for name, each rule as iptables-save shows it: what is written can be compared with what is there.

Source: kube-proxy 1.36, iptables mode: chains, order of rules, comments; iptables-save 1.8.9 for the spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from glassnet.net import address
from glassnet.proxy.model import Endpoint, Rules, ServicePort
from glassnet.proxy.naming import Recipe

SERVICES, EXTERNAL, NODE_PORTS, POSTROUTING = (
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
)
MARK_MASQ, FORWARD, FIREWALL, PROXY_FIREWALL = "KUBE-MARK-MASQ", "KUBE-FORWARD", "KUBE-FIREWALL", "KUBE-PROXY-FIREWALL"
PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-XLB-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
CANARY = "KUBE-PROXY-CANARY"  # empty, in every table: tools that know kube-proxy look for it
TOP = {  # the canary's own table comes first in writing and last in sweeping: while anything of ours is there, it is
    "mangle": (CANARY,),
    "filter": (SERVICES, EXTERNAL, FORWARD, NODE_PORTS, PROXY_FIREWALL, FIREWALL, CANARY),
    "nat": (SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ, CANARY),
}
INVALID_COUNTER, LOCALHOST_COUNTER = "ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"
_NEW = "-m conntrack --ctstate NEW "


def jump(table: str, chain: str, target: str, state: str = "", comment: str = "") -> tuple[str, str, str]:
    note = f'-m comment --comment "{comment}" ' if comment else ""
    return table, chain, f"{state}{note}-j {target}"


# (table, builtin chain, rule), each put in front of the chain: the last one here comes first there
JUMPS: tuple[tuple[str, str, str], ...] = (
    *(jump("filter", c, EXTERNAL, _NEW, "kubernetes externally-visible service portals") for c in ("INPUT", "FORWARD")),
    jump("filter", "INPUT", NODE_PORTS, "", "kubernetes health check service ports"),
    *(jump("filter", c, SERVICES, _NEW, "kubernetes service portals") for c in ("FORWARD", "OUTPUT")),
    jump("filter", "FORWARD", FORWARD, "", "kubernetes forwarding rules"),
    *(
        jump("filter", c, PROXY_FIREWALL, _NEW, "kubernetes load balancer firewall")
        for c in ("INPUT", "OUTPUT", "FORWARD")
    ),
    *(jump("nat", c, SERVICES, "", "kubernetes service portals") for c in ("OUTPUT", "PREROUTING")),
    jump("nat", "POSTROUTING", POSTROUTING, "", "kubernetes postrouting rules"),
    *(jump("filter", c, FIREWALL) for c in ("INPUT", "OUTPUT")),
)

Place = tuple[str, str]  # table, chain


@dataclass(slots=True)
class Piece:
    """The rules of one Service: lines of the shared chains, and chains of its own in `nat` (name -> lines)."""

    top: dict[Place, list[str]] = field(default_factory=dict)
    chains: dict[str, list[str]] = field(default_factory=dict)

    def add(self, table: str, chain: str, rule: str) -> None:
        """A line for a shared chain."""
        self.top.setdefault((table, chain), []).append(f"-A {chain} {rule}")


class Spelling:
    """How rules are spelled on one node. `comments` False: endpoints' rules have none, as kube-proxy leaves them out in large clusters.

    `top` names the shared chains of each table, `jumps` the rules that lead there; `pairs` tells that a rule in KUBE-SERVICES or KUBE-NODEPORTS
    may have to stand before another one of the same Service.
    """

    top: Mapping[str, tuple[str, ...]] = TOP
    jumps: tuple[tuple[str, str, str], ...] = JUMPS
    pairs = False
    recipe = Recipe()

    def __init__(self, rules: Rules, recipe: Recipe | None = None, comments: bool = True) -> None:
        self.rules, self.recipe, self.comments = rules, recipe or self.recipe, comments
        v4 = rules.family == address.IPV4
        self.length = 32 if v4 else 128
        self.refusal = f"REJECT --reject-with icmp{'' if v4 else '6'}-port-unreachable"
        self.all_bits = "255.255.255.255" if v4 else "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        self.counts_localhost = v4 and rules.localhost_node_ports and rules.counters
        self.from_pods = self.not_from_pods = ""
        if rules.detector:
            match rules.detector.kind:
                case "source":
                    self.from_pods, self.not_from_pods = f"-s {rules.detector.value} ", f"! -s {rules.detector.value} "
                case "interface":
                    self.from_pods, self.not_from_pods = f"-i {rules.detector.value} ", f"! -i {rules.detector.value} "
                case "prefix":
                    name = f"{rules.detector.value}+"
                    self.from_pods, self.not_from_pods = f"-i {name} ", f"! -i {name} "
        self.by_source = rules.detector is None or rules.detector.kind == "source"

    def piece(self, ports: Iterable[ServicePort]) -> Piece:
        """The rules of one Service's ports."""
        out = Piece()
        for port in ports:
            self.speller(out, port).spell()
        return out

    def speller(self, out: Piece, port: ServicePort) -> Speller:
        """What spells one port into `out`."""
        return Speller(out, port, self)

    def probability(self, left: int) -> str:
        """The chance of the first of `left` endpoints."""
        return probability(left)

    def fixed(self) -> dict[Place, list[str]]:
        """Rules of shared chains that no Service asks for; the jump to KUBE-NODEPORTS, which comes last in KUBE-SERVICES, is `last`."""
        rules, out = self.rules, Piece()
        mark = f"{rules.mark:#x}"
        out.add("nat", POSTROUTING, f"-m mark ! --mark {mark}/{mark} -j RETURN")
        out.add("nat", POSTROUTING, f"-j MARK --set-xmark {mark}/0x0")
        fully = " --random-fully" if rules.random_fully else ""
        comment = '-m comment --comment "kubernetes service traffic requiring SNAT"'
        out.add("nat", POSTROUTING, f"{comment} -j MASQUERADE{fully}")
        out.add("nat", MARK_MASQ, f"-j MARK --set-xmark {mark}/{mark}")
        if rules.drop_invalid:
            out.add("filter", FORWARD, f"-m conntrack --ctstate INVALID{self.counter(INVALID_COUNTER)} -j DROP")
        forwarding = '-m comment --comment "kubernetes forwarding'
        out.add("filter", FORWARD, f'{forwarding} rules" -m mark --mark {mark}/{mark} -j ACCEPT')
        established = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        out.add("filter", FORWARD, f'{forwarding} conntrack rule" {established}')
        if rules.localhost_node_ports and rules.family == address.IPV4:
            out.add(
                "filter",
                FIREWALL,
                '! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" '
                "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
            )
        return out.top

    def counter(self, name: str) -> str:
        """A match that counts into an nfacct object, where the node has them; with the two spaces that iptables-save shows."""
        return f" -m nfacct --nfacct-name  {name}" if self.rules.counters else ""

    def last(self) -> list[str]:
        """The rules that must end KUBE-SERVICES: whatever no address matched may be a node port."""
        comment = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
        rules = self.rules
        if rules.node_port_addresses is not None:
            return [
                f"-A {SERVICES} -d {ip}/{self.length} {comment} -j {NODE_PORTS}" for ip in rules.node_port_addresses
            ]
        loopback = ""
        if rules.family == address.IPV6:
            loopback = "! -d ::1/128 "
        elif not rules.localhost_node_ports:
            loopback = "! -d 127.0.0.0/8 "
        return [f"-A {SERVICES} {loopback}{comment} -m addrtype --dst-type LOCAL -j {NODE_PORTS}"]


@lru_cache(maxsize=4096)
def probability(left: int) -> str:
    """1/left as kube-proxy writes it and the kernel keeps it: in steps of 2^-31 (xt_statistic.h)."""
    return f"{round(float(f'{1 / left:.10f}') * 2**31) / 2**31:.11f}"


class Speller:
    """Spells one ServicePort."""

    def __init__(self, out: Piece, port: ServicePort, how: Spelling) -> None:
        self.out, self.port, self.how = out, port, how
        self.seps: dict[str, str] = {}
        self.name = how.recipe.title(port.name)
        self.protocol = port.protocol.lower()
        digits = how.recipe.service("", self.name, port.protocol)
        self.svc, self.svl, self.ext, self.fw = (f"KUBE-{kind}{digits}" for kind in ("SVC", "SVL", "EXT", "FW"))

    def at(self, ip: str, comment: str, first: str = "", then: str = "") -> str:
        """Traffic to an address at the Service's port, in iptables-save's order: source, destination, interface, protocol, comment, port."""
        port = self.port
        return (
            f"{first}-d {ip}/{self.how.length} {then}-p {self.protocol} "
            f'-m comment --comment "{self.name} {comment}" -m {self.protocol} --dport {port.port}'
        )

    def spell(self) -> None:
        """Add the port's rules."""
        port, out = self.port, self.out
        if port.internal:
            entry = self.svl if port.internal_local else self.svc
            out.add("nat", SERVICES, f"{self.at(port.cluster_ip, 'cluster IP')} -j {entry}")
        else:
            self._refuse(SERVICES, port.cluster_ip)
        if port.externally_accessible:
            self._external()
        if port.health_check_port:
            comment = f'-m comment --comment "{self.name} health check node port"'
            out.add("filter", NODE_PORTS, f"-p tcp {comment} -m tcp --dport {port.health_check_port} -j ACCEPT")
        if port.uses_cluster and port.cluster:
            self._balance(self.svc, port.cluster)
        if port.uses_local and port.local:
            self._balance(self.svl, port.local)
        for endpoint in port.reachable:
            self._endpoint(endpoint)

    def _why(self) -> tuple[str, str]:
        """REJECT when there is no endpoint anywhere, DROP when there is only none for this policy."""
        return ("has no local endpoints", "DROP") if self.port.any_endpoints else ("has no endpoints", self.how.refusal)

    def _refuse(self, chain: str, ip: str) -> None:
        why, target = self._why()
        self.out.add("filter", chain, f"{self.at(ip, why)} -j {target}")

    def _external(self) -> None:
        port, out = self.port, self.out
        if port.any_endpoints:
            for ip in port.external_ips:
                out.add("nat", SERVICES, f"{self.at(ip, 'external IP')} -j {self.ext}")
            for ip in port.load_balancer_ips:
                target = self.fw if port.source_ranges else self.ext
                out.add("nat", SERVICES, f"{self.at(ip, 'loadbalancer IP')} -j {target}")
                if port.source_ranges:
                    refused = self.at(ip, f"traffic not accepted by {self.fw}")
                    out.add("filter", PROXY_FIREWALL, f"{refused} -j DROP")
            if port.node_port:
                self._node_port()
            self._ext_chain()
            if port.source_ranges and port.load_balancer_ips:
                self._firewall_chain()
        if port.external:
            return
        for ip in (*port.external_ips, *port.load_balancer_ips):
            self._refuse(EXTERNAL, ip)
        if port.node_port:
            why, target = self._why()
            local = f'-m comment --comment "{self.name} {why}" -m addrtype --dst-type LOCAL'
            numbered = f"-m {self.protocol} --dport {port.node_port}"
            out.add("filter", EXTERNAL, f"-p {self.protocol} {local} {numbered} -j {target}")

    def _node_port(self) -> None:
        port = self.port
        rule = f'-p {self.protocol} -m comment --comment "{self.name}" -m {self.protocol} --dport {port.node_port}'
        if self.how.counts_localhost:
            counter = self.how.counter(LOCALHOST_COUNTER)
            self.out.add("nat", NODE_PORTS, f"-d 127.0.0.0/8 {rule}{counter} -j {self.ext}")
        self.out.add("nat", NODE_PORTS, f"{rule} -j {self.ext}")

    def _ext_chain(self) -> None:
        port, ext = self.port, self.ext
        lines = self.out.chains[ext] = []
        destinations = f'{self.name} external destinations"'
        if not port.external_local:
            lines.append(f'-A {ext} -m comment --comment "masquerade traffic for {destinations} -j {MARK_MASQ}')
            lines.append(f"-A {ext} -j {self.svc}")
            return
        if self.how.from_pods:
            comment = f'-m comment --comment "pod traffic for {destinations}'
            lines.append(f"-A {ext} {self.how.from_pods}{comment} -j {self.svc}")
        local = "-m addrtype --src-type LOCAL"
        lines.append(
            f'-A {ext} -m comment --comment "masquerade LOCAL traffic for {destinations} {local} -j {MARK_MASQ}'
        )
        lines.append(f'-A {ext} -m comment --comment "route LOCAL traffic for {destinations} {local} -j {self.svc}')
        if port.local:
            lines.append(f"-A {ext} -j {self.svl}")

    def _firewall_chain(self) -> None:
        port, fw = self.port, self.fw
        comment = f'-m comment --comment "{self.name} loadbalancer IP"'
        lines = [f"-A {fw} -s {cidr} {comment} -j {self.ext}" for cidr in port.source_ranges]
        lines.append(f'-A {fw} -m comment --comment "other traffic to {self.name} will be dropped by {PROXY_FIREWALL}"')
        self.out.chains[fw] = lines

    def _balance(self, chain: str, endpoints: tuple[Endpoint, ...]) -> None:
        """The chain that picks an endpoint: at random, or the one the client had before."""
        port, how = self.port, self.how
        lines = self.out.chains[chain] = self._marks(chain)
        seps = [(endpoint.text, self._sep(endpoint.text)) for endpoint in endpoints]
        if port.affinity_seconds:
            lines += [self._again(chain, text) for text, _ in seps]
        left = len(seps)
        for text, sep in seps:
            share = f" -m statistic --mode random --probability {how.probability(left)}" if left > 1 else ""
            lines.append(f"-A {chain}{self._arrow(text)}{share} -j {sep}")
            left -= 1

    def _marks(self, chain: str) -> list[str]:
        """What of the traffic to the ClusterIP is masqueraded."""
        port, how = self.port, self.how
        if chain != (self.svl if port.internal_local else self.svc):
            return []
        if how.rules.masquerade_all:
            return [f"-A {chain} {self.at(port.cluster_ip, 'cluster IP')} -j {MARK_MASQ}"]
        if not how.not_from_pods:
            return []
        first, then = (how.not_from_pods, "") if how.by_source else ("", how.not_from_pods)
        return [f"-A {chain} {self.at(port.cluster_ip, 'cluster IP', first, then)} -j {MARK_MASQ}"]

    def _again(self, chain: str, text: str) -> str:
        """A client that had an endpoint gets it again."""
        sep = self._sep(text)
        return (
            f"-A {chain}{self._arrow(text)} -m recent --rcheck --seconds {self.port.affinity_seconds} --reap "
            f"--name {sep} --mask {self.how.all_bits} --rsource -j {sep}"
        )

    def _sep(self, text: str) -> str:
        """The chain of an endpoint."""
        found = self.seps.get(text)
        if found is None:
            found = self.seps[text] = self.how.recipe.endpoint(self.name, self.port.protocol, text)
        return found

    def _arrow(self, text: str) -> str:
        return f' -m comment --comment "{self.name} -> {text}"' if self.how.comments else ""

    def _endpoint(self, endpoint: Endpoint) -> None:
        port, how, text = self.port, self.how, endpoint.text
        sep = self._sep(text)
        comment = f' -m comment --comment "{self.name}"' if how.comments else ""
        remember = f" -m recent --set --name {sep} --mask {how.all_bits} --rsource" if port.affinity_seconds else ""
        self.out.chains[sep] = [
            f"-A {sep} -s {endpoint.ip}/{how.length}{comment} -j {MARK_MASQ}",
            f"-A {sep} -p {self.protocol}{comment}{remember} -m {self.protocol} -j DNAT --to-destination {text}",
        ]
