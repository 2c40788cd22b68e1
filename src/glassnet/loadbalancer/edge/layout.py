"""How a load balancer's nodes, pools and ports are spelled in its nftables table, in one of two ways.

*Forwarded*: the destination stays. Nothing tracks connections, as answers go another way; flows are remembered in one set a node, by their
five-tuple, for as long as they are not idle. A TCP connection keeps its node whatever becomes of the node. What begins one (SYN), and UDP, keeps
a node that is in the pool, and else gets another, and the first forgets it: so a client that tries again is not sent to a node that has died.
The node's number is the packet's mark, and the mark chooses the routes (`routing`).
*Translated*: the destination becomes a node's port. The kernel's connection tracking remembers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from glassnet.loadbalancer.edge import behaviour as b
from glassnet.loadbalancer.edge.model import Front, Pool, Site, Target
from glassnet.loadbalancer.edge.table import Chain, Element, Table
from glassnet.net import address

FLOWS = 65536
PROXIED = 0x1  # mark of connections whose source becomes the load balancer's
BACK = 0x10000
"""Mark of packets that the router gives back to the load balancer."""
_MANGLE = "type filter hook prerouting priority mangle; policy accept"


class Words:
    """The words of one family."""

    def __init__(self, family: str) -> None:
        six = family == address.IPV6
        self.family = family
        self.ip, self.type = ("ip6", "ipv6_addr") if six else ("ip", "ipv4_addr")
        self.port = f"{self.ip} daddr . meta l4proto . th dport"
        self.tuple = f"{self.ip} saddr . th sport . {self.ip} daddr . meta l4proto . th dport"
        self.both = f"{self.ip} saddr . {self.ip} daddr"
        self.port_type = f"{self.type} . inet_proto . inet_service"
        self.flow_type = f"{self.type} . inet_service . {self.type} . inet_proto . inet_service"


def table(family: str, site: Site, pools: Iterable[Pool], fronts: Iterable[Front]) -> Table:
    """The load balancer's table of one family."""
    words, translates = Words(family), site.usual.translates
    there = {node.name: node for node in site.nodes if node.address(family)}
    made = Table(words.ip, {}, {}, {})
    _ranges(made, words, "ours", "addresses of the load balancer", site.of(family))
    made.sets["limited"] = ("set", f'type {words.port_type}; comment "ports with loadBalancerSourceRanges";')
    made.sets["allowed"] = (
        "set",
        f'type {words.port_type} . {words.type}; flags interval; comment "and who may send to them";',
    )
    made.sets["frontends"] = ("map", f"type {words.port_type} : verdict;")
    (_translated if translates else _forwarded)(made, words, there, site.usual.idle)
    for each in pools:
        kept = () if translates else _kept(words, each, there)
        made.chains[f"pool-{each.name}"] = Chain((*kept, _choice(words, each, there)))
    for front in fronts:
        if address.family(front.ip) == family:
            _front(made, front, translates)
    return made


def _ranges(made: Table, words: Words, name: str, note: str, cidrs: Iterable[str]) -> None:
    made.sets[name] = ("set", f'type {words.type}; flags interval; comment "{note}";')
    made.elements.update({(name, cidr): Element() for cidr in cidrs})


def _kept(words: Words, pool: Pool, there: Mapping[str, Target]) -> Iterator[str]:
    """The rules that give a flow the node it has, if that is still in the pool; else no node knows it any more."""
    for name in dict.fromkeys(pool.slots):
        if name in there:
            yield f"{words.tuple} @flows-{name} goto to-{name}"
    yield "jump forget"


def _choice(words: Words, pool: Pool, there: Mapping[str, Target]) -> str:
    """The rule that chooses a node for a new flow."""
    names = [name for name in pool.slots if name in there]
    if not names:
        return "meta l4proto tcp reject with tcp reset" if pool.refuses else "drop"
    if len(names) == 1:
        return f"goto to-{names[0]}"
    key = {
        b.TURN: f"numgen inc mod {len(names)}",
        b.SOURCE: f"jhash {words.both} mod {len(names)} seed 0x1",
    }.get(pool.method, f"jhash {words.tuple} mod {len(names)} seed 0x1")
    return f"{key} vmap {{ {', '.join(f'{place} : goto to-{name}' for place, name in enumerate(names))} }}"


def _front(made: Table, front: Front, translates: bool) -> None:
    key, note = f"{front.ip} . {front.protocol} . {front.port}", front.text
    made.elements["frontends", key] = Element(note, f"goto pool-{front.pool}")
    if translates:
        made.elements["ports", key] = Element(note, str(front.node_port))
        if front.proxies:
            made.elements["proxied", key] = Element(note)
    if front.sources is not None:
        made.elements["limited", key] = Element(note)
        for cidr in front.sources:
            made.elements["allowed", f"{key} . {cidr}"] = Element(note)


def _guard(words: Words) -> tuple[str, ...]:
    return (
        f"{words.ip} daddr != @ours accept",
        f"{words.port} @limited {words.port} . {words.ip} saddr != @allowed drop",
    )


def _forwarded(made: Table, words: Words, there: Mapping[str, Target], idle: int) -> None:
    for name, node in there.items():
        flows = f"flows-{name}"
        made.sets[flows] = (
            "set",
            f'type {words.flow_type}; flags dynamic,timeout; timeout {idle}s; size {FLOWS}; comment "flows of node {name}";',
        )
        arrive = (f"update @{flows} {{ {words.tuple} }}", f"meta mark set {node.number:#x} accept")
        made.chains[f"to-{name}"] = Chain(arrive, note=f"node {name}")
    made.chains["known"] = Chain(
        tuple(f"{words.tuple} @flows-{name} goto to-{name}" for name in there), note="flows keep their node"
    )
    forget = " ".join(f"delete @flows-{name} {{ {words.tuple} }}" for name in there)
    made.chains["forget"] = Chain((forget,) if forget else (), note="the nodes a flow had")
    rules = (
        *_guard(words),
        "tcp flags & (syn|ack) != syn jump known",
        f"{words.port} vmap @frontends",
        "drop",
    )
    made.chains["prerouting"] = Chain(rules, _MANGLE)
    made.chains["untracked"] = Chain(
        (f"{words.ip} daddr @ours notrack",), "type filter hook prerouting priority raw; policy accept"
    )


def _translated(made: Table, words: Words, there: Mapping[str, Target], idle: int) -> None:
    made.sets["ports"] = ("map", f'type {words.port_type} : inet_service; comment "node ports";')
    made.sets["proxied"] = ("set", f'type {words.port_type}; comment "ports whose clients\' addresses are replaced";')
    for name, node in there.items():
        place = f"[{node.address(words.family)}]" if words.ip == "ip6" else node.address(words.family)
        rule = f"meta l4proto {{ tcp, udp }} dnat to {place} : {words.port} map @ports"
        made.chains[f"to-{name}"] = Chain((rule,), note=f"node {name}")
    made.chains["prerouting"] = Chain(_guard(words), _MANGLE)
    translate = (
        f"{words.ip} daddr != @ours accept",
        f"{words.port} @proxied ct mark set {PROXIED:#x}",
        f"{words.port} vmap @frontends",
        "drop",
    )
    made.chains["translate"] = Chain(translate, "type nat hook prerouting priority dstnat; policy accept")
    made.chains["source"] = Chain(
        (f"ct mark {PROXIED:#x} masquerade",), "type nat hook postrouting priority srcnat; policy accept"
    )


def router_table(family: str, site: Site, fronts: Iterable[Front]) -> Table:
    """The table of the VPC's router: answers of node ports that a load balancer has translated, and left the source to, go back through it.

    A node that does not know an address of the load balancer sends on what is for it: what comes out of the VPC with a source from outside is
    dropped, as clouds do with sources that are not the machine's, and does not go round. In a cloud that is `silent` refusals stay inside.
    """
    words, ports = Words(family), dict[tuple[str, int], str]()
    for front in fronts:
        if front.keeps and address.family(front.ip) == family:
            ports[front.protocol, front.node_port] = front.text
    made = Table(words.ip, {}, {}, {})
    made.sets["targets"] = ("set", f'type {words.port_type}; comment "node ports behind the load balancer";')
    _ranges(made, words, "ours", "addresses of the load balancer", site.of(family))
    _ranges(
        made, words, "outside", "who is not in the VPC", (one for one in site.outside if address.family(one) == family)
    )
    for node in site.nodes:
        if place := node.address(family):
            for (protocol, number), text in ports.items():
                made.elements["targets", f"{place} . {protocol} . {number}"] = Element(text)
    rules = (
        'iifname != "eth0" accept',
        f"{words.ip} daddr @ours {words.ip} saddr @outside drop",
        "ct status dnat accept",
        f"{words.ip} saddr . meta l4proto . th sport @targets meta mark set {BACK:#x}",
    )
    made.chains["prerouting"] = Chain(rules, _MANGLE)
    if site.usual.silent:
        kind = (
            "icmp type destination-unreachable icmp code != 4"
            if words.ip == "ip"
            else "icmpv6 type destination-unreachable"
        )
        rule = f'iifname "eth0" oifname "eth1" {kind} drop'
        made.chains["forward"] = Chain(
            (rule,), "type filter hook forward priority filter; policy accept", "refusals stay inside"
        )
    return made
