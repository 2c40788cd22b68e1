"""ServicePorts as elements of a few maps: a ruleset whose size in chains does not depend on the cluster.

A Service with N endpoints sends its traffic to chain `pick-N`, which draws a slot below N and looks the endpoint up in one map for all.
Sources: nft(8) (vmap, numgen, concatenations); Linux 5.13 or newer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from glassnet.proxy.model import ServicePort

TABLE = "glassnet"
FEWEST_PICKS = 32


@dataclass(slots=True)
class Elements:
    """Elements by set or map: key -> value ("" in sets)."""

    of: dict[str, dict[str, str]] = field(default_factory=dict)

    def put(self, name: str, key: str, value: str = "") -> None:
        """One element."""
        self.of.setdefault(name, {})[key] = value


def elements(ports: Iterable[ServicePort]) -> Elements:
    """The elements of one Service's ports."""
    out = Elements()
    for port in ports:
        protocol = port.protocol.lower()
        out.put("cluster_ips", port.cluster_ip)
        endpoints = port.cluster
        addresses = [port.cluster_ip, *port.external_ips, *port.load_balancer_ips]
        for address in addresses:
            key = f"{address} . {protocol} . {port.port}"
            if not endpoints:
                out.put("no_endpoints", key)
                continue
            out.put("services", key, f"goto pick-{len(endpoints)}")
            if address != port.cluster_ip:
                out.put("external_ips", f"{address} . {protocol} . {port.port}")
            for slot, endpoint in enumerate(endpoints):
                out.put("endpoints", f"{key} . {slot}", f"{endpoint.ip} . {endpoint.port}")
        if port.node_port:
            key = f"{protocol} . {port.node_port}"
            if not endpoints:
                out.put("no_endpoint_ports", key)
            else:
                out.put("nodeports", key, f"goto pick-port-{len(endpoints)}")
                for slot, endpoint in enumerate(endpoints):
                    out.put("nodeport_endpoints", f"{key} . {slot}", f"{endpoint.ip} . {endpoint.port}")
        for endpoint in endpoints:
            out.put("hairpins", f"{endpoint.ip} . {endpoint.ip} . {protocol} . {endpoint.port}")
    return out


def largest(ports: Iterable[ServicePort]) -> int:
    """The largest number of endpoints of one port."""
    return max((len(port.cluster) for port in ports), default=0)


def picks_for(need: int) -> int:
    """How many pick chains to have, so that growth seldom needs more."""
    size = FEWEST_PICKS
    while size < need:
        size *= 2
    return size


def skeleton(cluster_cidr: str, picks: int) -> str:
    """The table anew, empty of elements: one transaction that replaces whatever was there."""
    outside = f"ip saddr != {cluster_cidr} " if cluster_cidr else ""
    pick = "".join(
        f"  chain pick-{n} {{ meta l4proto {{ tcp, udp, sctp }} dnat ip to ip daddr . meta l4proto . th dport . numgen random mod {n} map @endpoints; }}\n"
        f"  chain pick-port-{n} {{ meta l4proto {{ tcp, udp, sctp }} dnat ip to meta l4proto . th dport . numgen random mod {n} map @nodeport_endpoints; }}\n"
        for n in range(1, picks + 1)
    )
    return f"""add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  comment "glassnet: Services of the cluster"
  map services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map endpoints {{ typeof ip daddr . meta l4proto . th dport . numgen inc mod 65536 : ip daddr . th dport; }}
  map nodeports {{ type inet_proto . inet_service : verdict; }}
  map nodeport_endpoints {{ typeof meta l4proto . th dport . numgen inc mod 65536 : ip daddr . th dport; }}
  set cluster_ips {{ type ipv4_addr; }}
  set external_ips {{ type ipv4_addr . inet_proto . inet_service; }}
  set no_endpoints {{ type ipv4_addr . inet_proto . inet_service; }}
  set no_endpoint_ports {{ type inet_proto . inet_service; }}
  set nodeport_marks {{ type inet_proto . inet_service; }}
  set hairpins {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; }}
{pick}  chain services {{
    ip daddr @cluster_ips {outside}meta mark set meta mark or 0x4000
    ip daddr . meta l4proto . th dport @external_ips meta mark set meta mark or 0x4000
    ip daddr . meta l4proto . th dport vmap @services
    fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport @nodeport_marks meta mark set meta mark or 0x4000
    fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @nodeports
  }}
  chain no-endpoints {{
    ip daddr . meta l4proto . th dport @no_endpoints reject
    fib daddr type local meta l4proto . th dport @no_endpoint_ports reject
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
  chain output {{ type nat hook output priority -100; policy accept; jump services; }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random
    ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpins masquerade fully-random
  }}
  chain filter-input {{ type filter hook input priority filter; policy accept; ct state new jump no-endpoints; }}
  chain filter-forward {{ type filter hook forward priority filter; policy accept; ct state new jump no-endpoints; }}
  chain filter-output {{ type filter hook output priority filter; policy accept; ct state new jump no-endpoints; }}
}}
"""


def merge(pieces: Iterable[Elements]) -> Elements:
    """All elements together; two Services may share an element of a set."""
    out = Elements()
    for found in pieces:
        for name, content in found.of.items():
            out.of.setdefault(name, {}).update(content)
    if "nodeports" in out.of:
        out.of["nodeport_marks"] = dict.fromkeys(out.of["nodeports"], "")
    return out


def difference(old: Elements, new: Elements) -> str:
    """nft commands that lead from one set of elements to another, in one transaction."""
    removals, additions = [], []
    for name in sorted({*old.of, *new.of}):
        before, after = old.of.get(name, {}), new.of.get(name, {})
        gone = [key for key, value in before.items() if after.get(key) != value]
        fresh = {key: value for key, value in after.items() if before.get(key) != value}
        if gone:
            removals.append(f"delete element ip {TABLE} {name} {{ {', '.join(gone)} }}\n")
        if fresh:
            additions.append(
                f"add element ip {TABLE} {name} {{ {', '.join(_element(k, v) for k, v in fresh.items())} }}\n"
            )
    return "".join(removals + additions)


def _element(key: str, value: str) -> str:
    return f"{key} : {value}" if value else key
