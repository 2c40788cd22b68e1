"""Rules that other programs put into a node: each kind is understood, and decides as it does in the kernel."""

from __future__ import annotations

import pytest
from tests.tracer_worlds import lone_node, number

from glassnet.ruleset.parse_ipset import parse_ipset
from glassnet.ruleset.parse_iptables import parse_iptables
from glassnet.ruleset.parse_nft import parse_nft_text
from glassnet.tracer.packet import PROTOCOLS
from glassnet.tracer.trace import Request, Trace, Tracer
from glassnet.tracer.world import World

NODE = "192.168.0.2"

DOCKER = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 10.1.0.0/16 ! -o cni0 -j MASQUERADE
-A POSTROUTING -s 10.1.0.9/32 -d 10.1.0.9/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A DOCKER -i cni0 -j RETURN
-A DOCKER ! -i cni0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.9:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o cni0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o cni0 -j DOCKER
-A FORWARD -i cni0 ! -o cni0 -j ACCEPT
-A FORWARD -i cni0 -o cni0 -j ACCEPT
-A DOCKER -d 10.1.0.9/32 ! -i cni0 -o cni0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i cni0 ! -o cni0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br-other -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""
CALICO = """*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:cali-PREROUTING - [0:0]
:cali-rpf-skip - [0:0]
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A cali-PREROUTING -m comment --comment "cali:cN5MIZu3GfBPVJDn" -j MARK --set-xmark 0x0/0xf0000
-A cali-PREROUTING -i cali+ -m comment --comment "cali:R7h2" -j MARK --set-xmark 0x40000/0x40000
-A cali-PREROUTING -m comment --comment "cali:sC" -m mark --mark 0x40000/0x40000 -m rpfilter --validmark --invert -j DROP
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:cali-nat-outgoing - [0:0]
-A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-nat-outgoing
-A cali-nat-outgoing -m comment --comment "cali:flqWnvo8yq4ULQLa" -m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40all-ipam-pools dst -j MASQUERADE --random-fully
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:cali-FORWARD - [0:0]
:cali-tw-web - [0:0]
:cali-pi-allow - [0:0]
-A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-A cali-FORWARD -m comment --comment "cali:vjrMJCRpqwy5oRoX" -j MARK --set-xmark 0x0/0xe0000
-A cali-FORWARD -o cni0 -m comment --comment "cali:w" -j cali-tw-web
-A cali-tw-web -m comment --comment "cali:a" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-web -m comment --comment "cali:b" -m conntrack --ctstate INVALID -j DROP
-A cali-tw-web -m comment --comment "cali:c" -j MARK --set-xmark 0x0/0x10000
-A cali-tw-web -m comment --comment "cali:d" -m mark --mark 0x0/0x20000 -j cali-pi-allow
-A cali-tw-web -m comment --comment "cali:e" -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-web -m comment --comment "cali:f" -m mark --mark 0x0/0x20000 -j DROP
-A cali-pi-allow -p tcp -m comment --comment "cali:g" -m set --match-set cali40s:friends src -m multiport --dports 80,443 -j MARK --set-xmark 0x10000/0x10000
-A cali-pi-allow -m comment --comment "cali:h" -m mark --mark 0x10000/0x10000 -j RETURN
COMMIT
"""
CALICO_SETS = """create cali40masq-ipam-pools hash:net family inet hashsize 1024 maxelem 1048576
add cali40masq-ipam-pools 10.1.0.0/16
create cali40all-ipam-pools hash:net family inet hashsize 1024 maxelem 1048576
add cali40all-ipam-pools 10.1.0.0/16
create cali40s:friends hash:net family inet hashsize 1024 maxelem 1048576
add cali40s:friends 203.0.113.9
"""
KUBE_ROUTER = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-POD-FW-ABC - [0:0]
:KUBE-NWPLCY-DEF - [0:0]
-A FORWARD -m comment --comment "kube-router netpol - 4IA2OSFRMVNDXBVV" -j KUBE-ROUTER-FORWARD
-A KUBE-ROUTER-FORWARD -d 10.1.0.9/32 -m comment --comment "rule to jump traffic destined to POD name:web" -j KUBE-POD-FW-ABC
-A KUBE-ROUTER-FORWARD -d 10.1.0.9/32 -m physdev --physdev-is-bridged -m comment --comment "rule" -j KUBE-POD-FW-ABC
-A KUBE-ROUTER-FORWARD -m comment --comment "rule to explicitly ACCEPT traffic that comply to network policies" -m mark --mark 0x20000/0x20000 -j ACCEPT
-A KUBE-POD-FW-ABC -m comment --comment "rule for stateful firewall for pod" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-POD-FW-ABC -m comment --comment "rule to permit the traffic from the node" -m addrtype --src-type LOCAL -j ACCEPT
-A KUBE-POD-FW-ABC -j KUBE-NWPLCY-DEF
-A KUBE-POD-FW-ABC -m comment --comment "rule to log dropped traffic" -m mark ! --mark 0x10000/0x10000 -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100
-A KUBE-POD-FW-ABC -m comment --comment "rule to REJECT traffic" -m mark ! --mark 0x10000/0x10000 -j REJECT --reject-with icmp-port-unreachable
-A KUBE-POD-FW-ABC -j MARK --set-xmark 0x0/0x10000
-A KUBE-POD-FW-ABC -m comment --comment "set mark to ACCEPT traffic" -j MARK --set-xmark 0x20000/0x20000
-A KUBE-NWPLCY-DEF -p tcp -m set --match-set KUBE-SRC-X src -m set --match-set KUBE-DST-Y dst -m comment --comment "rule to ACCEPT" -m tcp --dport 80 -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-DEF -p tcp -m set --match-set KUBE-SRC-X src -m mark --mark 0x10000/0x10000 -j RETURN
COMMIT
"""
KUBE_ROUTER_SETS = "create KUBE-SRC-X hash:ip family inet timeout 0\nadd KUBE-SRC-X 203.0.113.9 timeout 0\ncreate KUBE-DST-Y hash:ip family inet\nadd KUBE-DST-Y 10.1.0.9\n"
UFW = """*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
:ufw-user-limit - [0:0]
:ufw-user-limit-accept - [0:0]
:ufw-logging-deny - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-logging-deny
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --set --name DEFAULT --mask 255.255.255.255 --rsource
-A ufw-user-input -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --update --seconds 30 --hitcount 6 --name DEFAULT --mask 255.255.255.255 --rsource -j ufw-user-limit
-A ufw-user-input -p tcp -m tcp --dport 22 -j ufw-user-limit-accept
-A ufw-user-limit -m limit --limit 3/min -j LOG --log-prefix "[UFW LIMIT BLOCK] "
-A ufw-user-limit -j REJECT --reject-with icmp-port-unreachable
-A ufw-user-limit-accept -j ACCEPT
-A ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
COMMIT
"""
FLANNEL_AND_PORTMAP = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-DN-2525f - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:FLANNEL-POSTRTG - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A CNI-DN-2525f -s 10.1.0.0/16 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-2525f -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-2525f -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.9:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"cbr0\\" id: \\"x\\"" -m multiport --dports 8080 -j CNI-DN-2525f
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.1.0.0/24 -d 10.1.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.1.0.0/16 -d 10.1.0.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.1.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""
KUBELET = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets" -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
"""
FIREWALLD = """table inet firewalld {
	chain mangle_PREROUTING {
		type filter hook prerouting priority mangle + 10; policy accept;
		jump mangle_PREROUTING_ZONES
	}
	chain mangle_PREROUTING_ZONES {
		iifname "eth0" goto mangle_PRE_public
		goto mangle_PRE_public
	}
	chain mangle_PRE_public { }
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_INPUT_ZONES {
		iifname "eth0" goto filter_IN_public
		goto filter_IN_public
	}
	chain filter_IN_public {
		jump filter_IN_public_allow
		meta l4proto { icmp, ipv6-icmp } accept
		reject with icmpx admin-prohibited
	}
	chain filter_IN_public_allow {
		tcp dport 22 accept
		ip6 daddr fe80::/64 udp dport 546 accept
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		ip6 daddr { ::/96, ::ffff:0.0.0.0/96 } reject with icmpv6 addr-unreachable
		reject with icmpx admin-prohibited
	}
}
"""


def world(rules: str, sets: str = "") -> World:
    tables = parse_nft_text(rules) if rules.startswith("table ") else parse_iptables(rules, "iptables-save.txt")
    found = lone_node(tables, [NODE], "10.1.0.0/16")
    found.machines["node"].ruleset.ipsets = parse_ipset(sets)
    return found


def send(
    where: World, to: str, port: int, source: str = "203.0.113.9", entry: str = "eth0", proto: str = "tcp"
) -> Trace:
    return Tracer(where).trace(
        Request("node", 32, PROTOCOLS[proto], number(to), port, number(source) if source else 0, entry=entry),
        replies=False,
    )


@pytest.mark.parametrize(
    ("name", "rules", "sets", "packet", "end", "source", "destination"),
    [
        ("docker-published", DOCKER, "", (NODE, 8080), "left", "203.0.113.9:40000", "10.1.0.9:80"),
        ("docker-closed", DOCKER, "", ("10.1.0.9", 81), "dropped", None, None),
        ("docker-outwards", DOCKER, "", ("198.51.100.1", 80, "10.1.0.9", "cni0"), "left", f"{NODE}:40000", "198.51.100.1:80"),
        ("calico-friend", CALICO, CALICO_SETS, ("10.1.0.9", 443), "left", "203.0.113.9:40000", "10.1.0.9:443"),
        ("calico-stranger", CALICO, CALICO_SETS, ("10.1.0.9", 443, "203.0.113.8"), "dropped", None, None),
        ("calico-outwards", CALICO, CALICO_SETS, ("198.51.100.1", 80, "10.1.0.9", "cni0"), "left", f"{NODE}:40000", None),
        ("kube-router-friend", KUBE_ROUTER, KUBE_ROUTER_SETS, ("10.1.0.9", 80), "left", None, None),
        ("ufw-open", UFW, "", (NODE, 80), "delivered", None, None),
        ("ufw-limited", UFW, "", (NODE, 22), "delivered", None, None),
        ("portmap", FLANNEL_AND_PORTMAP, "", (NODE, 8080), "left", "203.0.113.9:40000", "10.1.0.9:80"),
        ("portmap-from-pod", FLANNEL_AND_PORTMAP, "", (NODE, 8080, "10.1.0.9", "cni0"), "left", f"{NODE}:40000", "10.1.0.9:80"),
        ("flannel-outwards", FLANNEL_AND_PORTMAP, "", ("198.51.100.1", 80, "10.1.0.9", "cni0"), "left", f"{NODE}:40000", None),
        ("kubelet-loopback", KUBELET, "", ("127.0.0.1", 10249, "192.168.0.77"), "dropped", None, None),
        ("kubelet-else", KUBELET, "", (NODE, 10250), "delivered", None, None),
        ("firewalld-open", FIREWALLD, "", (NODE, 22), "delivered", None, None),
        ("firewalld-closed", FIREWALLD, "", (NODE, 23), "rejected", None, None),
        ("firewalld-forward", FIREWALLD, "", ("10.1.0.9", 80), "rejected", None, None),
    ],
)  # fmt: skip
def test_a_packet_meets_their_rules(
    name: str, rules: str, sets: str, packet: tuple[object, ...], end: str, source: str | None, destination: str | None
) -> None:
    trace = send(world(rules, sets), *packet)  # type: ignore[arg-type]
    assert trace.certain and {way.kind for way in trace.ways} == {end}, (
        name,
        trace.ways[0].detail,
        trace.ways[0].doubts,
    )
    (way, *_) = trace.ways
    assert source is None or way.packet.source == source
    assert destination is None or way.packet.destination == destination


def test_a_rate_limit_before_a_log_changes_nothing() -> None:
    """kube-router logs what it rejects at a limited rate: both ways end alike, so the limit leaves no doubt about the end."""
    trace = send(world(KUBE_ROUTER, KUBE_ROUTER_SETS), "10.1.0.9", 81)
    assert {way.kind for way in trace.ways} == {"rejected"} and trace.certain


def test_missing_sets_are_named() -> None:
    trace = send(world(CALICO), "10.1.0.9", 443)
    assert not trace.certain and "set cali40s:friends" in " ".join(trace.ways[0].doubts)
