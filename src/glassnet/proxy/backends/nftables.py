"""ServicePorts as elements of a few maps: a ruleset whose size in chains does not depend on the cluster.

A Service with N endpoints sends its traffic to chain `pick-N`, which draws a slot below N and looks the endpoint up in one map for all.
Only Services with session affinity have chains of their own. Sources: nft(8) (vmap, numgen, concatenations); Linux 5.13 or newer.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from glassnet.proxy.model import Endpoint, ServicePort

TABLE = "glassnet"
FEWEST_PICKS = 8
LONGEST_NAME = 230  # the kernel allows 255 characters, prefixes included


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for a whole node. `cluster_cidr` tells local pods from others ("": nothing does); `node_port_addresses` are the
    node's addresses that serve node ports (None: all but 127.0.0.0/8); the rest of `service_cidrs` is dropped."""

    cluster_cidr: str = ""
    node_port_addresses: tuple[str, ...] | None = None
    service_cidrs: tuple[str, ...] = ()


@dataclass(slots=True)
class Elements:
    """What one Service adds: elements by set or map (key -> the text behind it), chains and sets of its own (name -> rules, definition)."""

    of: dict[str, dict[str, str]] = field(default_factory=dict)
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    picks: int = 0

    def put(self, name: str, key: str, value: str = "", owner: str = "") -> None:
        """One element; `owner` becomes its comment."""
        comment = f' comment "{owner}"' if owner else ""
        self.of.setdefault(name, {})[key] = f"{comment} : {value}" if value else comment


def elements(ports: Iterable[ServicePort]) -> Elements:
    """The elements of one Service's ports."""
    out = Elements()
    for port in ports:
        _Speller(out, port).spell()
    return out


class _Speller:
    """Spells one ServicePort."""

    def __init__(self, out: Elements, port: ServicePort) -> None:
        self.out, self.port, self.protocol = out, port, port.protocol.lower()

    def spell(self) -> None:
        port, out = self.port, self.out
        key = f"{port.cluster_ip} . {self.protocol} . {port.port}"
        out.put("cluster_ips", port.cluster_ip)
        chosen = port.local if port.internal_local else port.cluster
        if chosen:
            kind = "local" if port.internal_local else "cluster"
            out.put("services", key, self.choice("endpoints", "pick", key, chosen, kind), port.name)
        else:
            out.put("refused", key, self.refusal(), port.name)
        for address in (*port.external_ips, *port.load_balancer_ips):
            self.external("", f"{address} . {self.protocol} . {port.port}")
        if port.node_port:
            self.external("node_port_", f"{self.protocol} . {port.node_port}")
        for address in port.load_balancer_ips if port.source_ranges else ():
            self.restricted(f"{address} . {self.protocol} . {port.port}")
        for endpoint in port.reachable:
            out.put("hairpins", f"{endpoint.ip} . {endpoint.ip} . {self.protocol} . {endpoint.port}")

    def refusal(self) -> str:
        """Refused when there is no endpoint anywhere, dropped when there is only none for this policy."""
        return "drop" if self.port.any_endpoints else "goto reject-chain"

    def external(self, prefix: str, key: str) -> None:
        """One entry from outside. With policy Local, pods and the node itself still reach all endpoints, the node with its address as source."""
        port, out = self.port, self.out
        if not (port.local if port.external_local else port.cluster):
            out.put(f"{prefix}refused", key, self.refusal(), port.name)
        if not port.any_endpoints:
            return
        pick = f"{prefix.replace('_', '-')}pick"
        out.put(
            f"{prefix}services", key, self.choice(f"{prefix}endpoints", pick, key, port.cluster, "cluster"), port.name
        )
        if not port.external_local:
            out.put(f"{prefix}masqueraded", key)
            return
        out.put(f"{prefix}masqueraded_own", key)
        verdict = "return"
        if port.local:
            local = f"{prefix.replace('_', '-')}local"
            verdict = self.choice(f"{prefix}local_endpoints", local, key, port.local, "local")
        out.put(f"{prefix}local", key, verdict, port.name)

    def choice(self, container: str, chain: str, key: str, endpoints: tuple[Endpoint, ...], kind: str) -> str:
        """The verdict that leads to one of several endpoints."""
        if self.port.affinity_seconds:
            return self.sticky(endpoints, kind)
        self.out.picks = max(self.out.picks, len(endpoints))
        for slot, endpoint in enumerate(endpoints):
            self.out.put(container, f"{key} . {slot}", f"{endpoint.ip} . {endpoint.port}")
        return f"goto {chain}-{len(endpoints)}"

    def sticky(self, endpoints: tuple[Endpoint, ...], kind: str) -> str:
        """Chains that look for the client's last endpoint first. Which endpoint a client has is shared by all addresses of the port."""
        out, base = self.out, f"{self.port.name.replace(':', '/')}/{self.protocol}"
        chain = _name(f"sticky-{kind}-", base)
        names = [_name("endpoint-", f"{base}__{endpoint.ip}/{endpoint.port}") for endpoint in endpoints]
        for endpoint, name in zip(endpoints, names, strict=True):
            remembered = name.replace("endpoint-", "affinity-", 1)
            timeout = self.port.affinity_seconds
            out.sets[remembered] = f"type ipv4_addr; flags dynamic,timeout; timeout {timeout}s;"
            out.chains[name] = (
                f"update @{remembered} {{ ip saddr }}",
                f"meta l4proto {self.protocol} dnat to {endpoint.text}",
            )
        found = [f"ip saddr @{name.replace('endpoint-', 'affinity-', 1)} goto {name}" for name in names]
        slots = ", ".join(f"{slot} : goto {name}" for slot, name in enumerate(names))
        out.chains[chain] = (*found, f"numgen random mod {len(names)} vmap {{ {slots} }}")
        return f"goto {chain}"

    def restricted(self, key: str) -> None:
        """loadBalancerSourceRanges: the ranges as one interval set, overlaps put together as nft asks for."""
        self.out.put("restricted", key, owner=self.port.name)
        networks = [ipaddress.IPv4Network(text) for text in self.port.source_ranges]
        for network in ipaddress.collapse_addresses(networks):
            source = str(network.network_address) if network.prefixlen == 32 else str(network)
            self.out.put("allowed_sources", f"{key} . {source}")


def _name(prefix: str, base: str) -> str:
    """A readable name, made different from all others by a hash where it had to be cut."""
    if len(base) > LONGEST_NAME:
        digest = base64.b32encode(hashlib.sha256(base.encode()).digest()).decode()[:8].lower()
        base = f"{base[: LONGEST_NAME - 12]}...{digest}"
    return prefix + base


def picks_for(need: int) -> int:
    """How many pick chains to have, so that growth seldom needs more."""
    size = FEWEST_PICKS
    while size < need:
        size *= 2
    return size


KEY, PORT_KEY = "ip daddr . meta l4proto . th dport", "meta l4proto . th dport"
TYPE, PORT_TYPE = "ipv4_addr . inet_proto . inet_service", "inet_proto . inet_service"


def _containers() -> str:
    """Sets and maps: those of addresses, and the same again for node ports, whose key has no address."""
    lines = [
        "set cluster_ips { type ipv4_addr; }",
        "set hairpins { type ipv4_addr . ipv4_addr . inet_proto . inet_service; }",
        f"set restricted {{ type {TYPE}; }}",
        f"set allowed_sources {{ type {TYPE} . ipv4_addr; flags interval; }}",
    ]
    for prefix, kind, key in (("", TYPE, KEY), ("node_port_", PORT_TYPE, PORT_KEY)):
        lines += [f"map {prefix}{name} {{ type {kind} : verdict; }}" for name in ("services", "local", "refused")]
        lines += [f"set {prefix}{name} {{ type {kind}; }}" for name in ("masqueraded", "masqueraded_own")]
        lines += [
            f"map {prefix}{name} {{ typeof {key} . numgen inc mod 65536 : ip daddr . th dport; }}"
            for name in ("endpoints", "local_endpoints")
        ]
    return "".join(f"  {line}\n" for line in lines)


def _picks(count: int) -> str:
    """For each number of endpoints a chain that draws one of that many slots."""
    kinds = (
        ("pick", KEY, "endpoints"),
        ("local", KEY, "local_endpoints"),
        ("node-port-pick", PORT_KEY, "node_port_endpoints"),
        ("node-port-local", PORT_KEY, "node_port_local_endpoints"),
    )
    return "".join(
        f"  chain {chain}-{n} {{ meta l4proto {{ tcp, udp, sctp }} dnat ip to {key} . numgen random mod {n} map @{name}; }}\n"
        for chain, key, name in kinds
        for n in range(1, count + 1)
    )


def skeleton(options: Options, picks: int) -> str:
    """The table anew, empty of elements: one transaction that replaces whatever was there."""
    cidr = options.cluster_cidr
    outside = "fib saddr type != local " + (f"ip saddr != {cidr} " if cidr else "")
    node_ports = "fib daddr type local ip daddr != 127.0.0.0/8"
    if options.node_port_addresses is not None:
        node_ports = f"ip daddr {{ {', '.join(options.node_port_addresses) or '255.255.255.255'} }}"
    mark = "meta mark set meta mark or 0x4000"
    cluster_ips = f"    ip daddr @cluster_ips ip saddr != {cidr} {mark}\n" if cidr else ""
    unused = f"    ip daddr {{ {', '.join(options.service_cidrs)} }} drop\n" if options.service_cidrs else ""
    return f"""add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  comment "glassnet: Services of the cluster"
{_containers()}  chain reject-chain {{ reject; }}
{_picks(picks)}  chain node-ports {{
    {PORT_KEY} @node_port_masqueraded {mark}
    {outside}{PORT_KEY} vmap @node_port_local
    fib saddr type local {PORT_KEY} @node_port_masqueraded_own {mark}
    {PORT_KEY} vmap @node_port_services
  }}
  chain services {{
{cluster_ips}    {KEY} @masqueraded {mark}
    {outside}{KEY} vmap @local
    fib saddr type local {KEY} @masqueraded_own {mark}
    {KEY} vmap @services
    {node_ports} goto node-ports
  }}
  chain firewall {{ {KEY} @restricted {KEY} . ip saddr != @allowed_sources drop; }}
  chain refuse {{ {KEY} vmap @refused; }}
  chain refuse-node-ports {{ {node_ports} {PORT_KEY} vmap @node_port_refused; }}
  chain unused-cluster-ips {{
    ip daddr @cluster_ips reject
{unused}  }}
  chain firewall-prerouting {{ type filter hook prerouting priority -110; policy accept; ct state new jump firewall; }}
  chain firewall-output {{ type filter hook output priority -110; policy accept; ct state new jump firewall; }}
  chain prerouting {{ type nat hook prerouting priority -100; policy accept; jump services; }}
  chain output {{ type nat hook output priority -100; policy accept; jump services; }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    meta mark & 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random
    ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpins masquerade fully-random
  }}
  chain filter-input {{
    type filter hook input priority 0; policy accept;
    ct state new jump refuse-node-ports
    ct state new jump refuse
  }}
  chain filter-forward {{
    type filter hook forward priority 0; policy accept;
    ct state new jump refuse
    ct state new jump unused-cluster-ips
  }}
  chain filter-output {{
    type filter hook output priority 0; policy accept;
    ct state new jump refuse
    ct state new jump unused-cluster-ips
  }}
}}
"""
