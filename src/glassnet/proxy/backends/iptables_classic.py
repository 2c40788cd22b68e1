"""ServicePorts as the chains of kube-proxy 1.18: what tutorials and runbooks of that time show.

Source: listings of clusters of the time, and what is known of kube-proxy 1.18's iptables mode and of its kubelet (KUBE-MARK-DROP, KUBE-FIREWALL).
1.19 took away the colon of a port without a name (kubernetes commit 341022f8d136); later the marking of ClusterIPs and node ports moved into
KUBE-SVC- (kubernetes/kubernetes#96959), 1.24 brought KUBE-EXT- and KUBE-SVL-, and KEP-3178 took KUBE-MARK-DROP from the kubelet.

What packets meet is what `proxy.compute` decided, as in every layout. So some rules are of a later day: KUBE-SVL- for internalTrafficPolicy
Local, KUBE-EXTERNAL-SERVICES and KUBE-FIREWALL asked from FORWARD too (then, a packet that KUBE-MARK-DROP had marked was dropped only at
addresses of the node itself, and went on to all others), external IPs for pods too.
"""

from __future__ import annotations

from functools import lru_cache

from glassnet.net import address
from glassnet.proxy.backends.iptables import (
    CANARY,
    EXTERNAL,
    FIREWALL,
    FORWARD,
    JUMPS,
    MARK_MASQ,
    NODE_PORTS,
    POSTROUTING,
    PROXY_FIREWALL,
    SERVICES,
    Piece,
    Place,
    Speller,
    Spelling,
    jump,
)
from glassnet.proxy.model import ServicePort
from glassnet.proxy.naming import Recipe

MARK_DROP = "KUBE-MARK-DROP"
TOP = {
    "mangle": (CANARY,),
    "filter": (SERVICES, EXTERNAL, FORWARD, FIREWALL, CANARY),
    "nat": (SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ, MARK_DROP, CANARY),
}
_NOT_YET = (f"-j {PROXY_FIREWALL}", f"-j {NODE_PORTS}")


@lru_cache(maxsize=4096)
def probability(left: int) -> str:
    """1/left with five digits, as kube-proxy wrote it before 1.19, and as the kernel keeps it: in steps of 2^-31."""
    return f"{round(float(f'{1 / left:.5f}') * 2**31) / 2**31:.11f}"


class Classic(Spelling):
    """The spelling of kube-proxy 1.18."""

    top = TOP
    jumps = (*(each for each in JUMPS if not each[2].endswith(_NOT_YET)), jump("filter", "FORWARD", FIREWALL))
    pairs = True
    recipe = Recipe(colon_without_port_name=True)

    @property
    def drop_mark(self) -> str:
        """The kubelet's bit 15, unless the proxy marks with that one."""
        return "0x8000" if self.rules.mark != 0x8000 else "0x4000"

    def speller(self, out: Piece, port: ServicePort) -> Speller:
        """What spells one port into `out`."""
        return _Classic(out, port, self)

    def probability(self, left: int) -> str:
        """The chance of the first of `left` endpoints."""
        return probability(left)

    def counter(self, name: str) -> str:
        """No counters yet."""
        return ""

    def fixed(self) -> dict[Place, list[str]]:
        """Rules of shared chains that no Service asks for."""
        top = super().fixed()
        drop = self.drop_mark
        top["nat", MARK_DROP] = [f"-A {MARK_DROP} -j MARK --set-xmark {drop}/{drop}"]
        comment = '-m comment --comment "kubernetes firewall for dropping marked packets"'
        marked = f"-A {FIREWALL} {comment} -m mark --mark {drop}/{drop} -j DROP"
        top["filter", FIREWALL] = [marked, *top.get(("filter", FIREWALL), ())]
        detector = self.rules.detector
        if detector is not None and detector.kind == "source":
            known = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            top["filter", FORWARD][-1:] = [
                f'-A {FORWARD} {side} {detector.value} -m comment --comment "kubernetes forwarding conntrack pod {word} rule" {known}'
                for side, word in (("-s", "source"), ("-d", "destination"))
            ]
        return top


class _Classic(Speller):
    """Spells one ServicePort."""

    def __init__(self, out: Piece, port: ServicePort, how: Spelling) -> None:
        super().__init__(out, port, how)
        self.xlb = f"KUBE-XLB{self.svc.removeprefix('KUBE-SVC')}"
        self.outer = self.xlb if port.external_local else self.svc  # where traffic from outside goes

    def spell(self) -> None:
        """Add the port's rules."""
        port = self.port
        if port.internal:
            self._cluster_ip()
        else:
            self._refuse(SERVICES, port.cluster_ip)
        if port.externally_accessible:
            self._external()
        if port.uses_cluster and port.cluster:
            self._balance(self.svc, port.cluster)
        if port.internal_local and port.local:
            self._balance(self.svl, port.local)
        for endpoint in port.reachable:
            self._endpoint(endpoint)

    def _cluster_ip(self) -> None:
        port, how, out = self.port, self.how, self.out
        if how.rules.masquerade_all:
            out.add("nat", SERVICES, f"{self.at(port.cluster_ip, 'cluster IP')} -j {MARK_MASQ}")
        elif how.not_from_pods:
            first, then = (how.not_from_pods, "") if how.by_source else ("", how.not_from_pods)
            out.add("nat", SERVICES, f"{self.at(port.cluster_ip, 'cluster IP', first, then)} -j {MARK_MASQ}")
        entry = self.svl if port.internal_local else self.svc
        out.add("nat", SERVICES, f"{self.at(port.cluster_ip, 'cluster IP')} -j {entry}")

    def _external(self) -> None:
        """KUBE-EXTERNAL-SERVICES refuses where there is no endpoint anywhere; KUBE-XLB- drops where there is only none on this node."""
        port, out = self.port, self.out
        if not port.any_endpoints:
            super()._external()
            return
        for ip in port.external_ips:
            at = self.at(ip, "external IP")
            if not port.external_local:
                out.add("nat", SERVICES, f"{at} -j {MARK_MASQ}")
            out.add("nat", SERVICES, f"{at} -j {self.outer}")
        for ip in port.load_balancer_ips:
            out.add("nat", SERVICES, f"{self.at(ip, 'loadbalancer IP')} -j {self.fw}")
        if port.load_balancer_ips:
            self._firewall_chain()
        if port.node_port:
            self._node_port()
        if port.external_local:
            self._local_chain()

    def _firewall_chain(self) -> None:
        port, fw = self.port, self.fw
        comment = f'-m comment --comment "{self.name} loadbalancer IP"'
        lines = [] if port.external_local else [f"-A {fw} {comment} -j {MARK_MASQ}"]
        sources = [f"-s {cidr} " for cidr in port.source_ranges] or [""]
        lines += [f"-A {fw} {source}{comment} -j {self.outer}" for source in sources]
        self.out.chains[fw] = [*lines, f"-A {fw} {comment} -j {MARK_DROP}"]

    def _node_port(self) -> None:
        port = self.port
        rule = f'-p {self.protocol} -m comment --comment "{self.name}" -m {self.protocol} --dport {port.node_port}'
        home = ""  # a node asking itself by 127.0.0.1 would leave with that source otherwise
        if port.external_local:
            home = "-s 127.0.0.0/8 " if self.how.rules.family == address.IPV4 else "-s ::1/128 "
        self.out.add("nat", NODE_PORTS, f"{home}{rule} -j {MARK_MASQ}")
        self.out.add("nat", NODE_PORTS, f"{rule} -j {self.outer}")

    def _local_chain(self) -> None:
        port, xlb, how = self.port, self.xlb, self.how
        lines = self.out.chains[xlb] = []
        if how.from_pods:
            comment = '-m comment --comment "Redirect pods trying to reach external loadbalancer VIP to clusterIP"'
            lines.append(f"-A {xlb} {how.from_pods}{comment} -j {self.svc}")
        local = "-m addrtype --src-type LOCAL -j"
        what = f"LOCAL traffic for {self.name} LB IP"
        lines.append(f'-A {xlb} -m comment --comment "masquerade {what}" {local} {MARK_MASQ}')
        lines.append(f'-A {xlb} -m comment --comment "route {what} to service chain" {local} {self.svc}')
        if not port.local:
            lines.append(f'-A {xlb} -m comment --comment "{self.name} has no local endpoints" -j {MARK_DROP}')
            return
        seps = [self._sep(endpoint.text) for endpoint in port.local]
        if port.affinity_seconds:
            lines += [self._again(xlb, endpoint.text) for endpoint in port.local]
        for index, sep in enumerate(seps):
            left = len(seps) - index
            share = f" -m statistic --mode random --probability {how.probability(left)}" if left > 1 else ""
            comment = f'-m comment --comment "Balancing rule {index} for {self.name}"'
            lines.append(f"-A {xlb} {comment}{share} -j {sep}")

    def _marks(self, chain: str) -> list[str]:
        """Nothing: KUBE-SERVICES has marked already."""
        return []

    def _arrow(self, text: str) -> str:
        return f' -m comment --comment "{self.name}"' if self.how.comments else ""
