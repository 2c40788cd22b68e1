"""What single rules do to a packet, spelled for iptables and for nft: the flow table of the evaluator."""

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
BASES = {
    "raw": ("PREROUTING", "OUTPUT"), "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), "filter": ("INPUT", "FORWARD", "OUTPUT"),
}  # fmt: skip


def iptables(rules: str, policy: str = "ACCEPT") -> World:
    """A node with iptables rules, given as `table: -A …` lines; chains that are not built in are declared."""
    lines: dict[str, list[str]] = {}
    for line in filter(None, (each.strip() for each in rules.splitlines())):
        table, _, rule = line.partition(": ")
        lines.setdefault(table, []).append(rule)
    text = ""
    for table, found in lines.items():
        own = dict.fromkeys(rule.split()[1] for rule in found if rule.split()[1] not in BASES[table])
        text += f"*{table}\n" + "".join(f":{chain} {policy} [0:0]\n" for chain in BASES[table])
        text += "".join(f":{chain} - [0:0]\n" for chain in own) + "\n".join(found) + "\nCOMMIT\n"
    return lone_node(parse_iptables(text, "iptables-save.txt"), [NODE])


def nft(chains: str) -> World:
    """A node with one nft table `ip t`."""
    return lone_node(parse_nft_text("table ip t {\n" + chains + "\n}\n", "ruleset.nft"), [NODE])


def send(
    world: World, to: str, port: int = 80, source: str = "203.0.113.9", entry: str = "eth0", proto: str = "tcp", sport: int = 40000, length: int = 60
) -> Trace:  # fmt: skip
    bits = 128 if ":" in to else 32
    return Tracer(world).trace(
        Request(
            "node", bits, PROTOCOLS[proto], number(to), port, number(source) if source else 0, sport, entry, length
        ),
        replies=False,
    )


def kinds(trace: Trace) -> set[str]:
    return {way.kind for way in trace.ways}


ACCEPTED = {"left", "delivered", "refused", "no-neighbour"}

DROPS = [
    "-p tcp -m tcp --dport 80",
    "-p tcp -m tcp --dport 79:81",
    "-p tcp -m tcp --dport :80",
    "-p tcp -m tcp --sport 40000",
    "-p tcp -m multiport --dports 22,80,443",
    "-p tcp -m multiport ! --dports 22,443",
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
    "-p tcp -m tcp --syn",
    "-s 203.0.113.0/24",
    "! -s 10.0.0.0/8",
    "-d 10.1.2.3/32",
    "-i eth0",
    "-i eth+",
    "! -i cni0",
    "-o cni0",
    "-m conntrack --ctstate NEW",
    "-m state --state NEW,ESTABLISHED",
    "-m conntrack --ctorigdst 10.1.2.3",
    "-m conntrack --ctdir ORIGINAL",
    "-m mark --mark 0x0/0x4000",
    "-m addrtype --src-type UNICAST --dst-type UNICAST",
    "-m addrtype ! --dst-type LOCAL",
    "-m iprange --src-range 203.0.113.1-203.0.113.20",
    "-m iprange --dst-range 10.1.2.3-10.1.2.3",
    "-m length --length 40:100",
    "-m ttl --ttl-lt 64",
    "-m pkttype --pkt-type unicast",
    '-m comment --comment "it\'s \\"quoted\\""',
    "-m set --match-set pods dst",
    "-m set ! --match-set empty src",
    "-m set --match-set webs dst,dst",
    "-m nfacct --nfacct-name x",
    "-m statistic --mode random --probability 1.00000000000",
    "-p 6",
    "-m policy --dir in --pol none",
]
SETS = """create pods hash:net family inet
add pods 10.1.0.0/16
add pods 10.1.9.0/24 nomatch
create empty hash:ip family inet
create webs hash:ip,port family inet
add webs 10.1.2.3,tcp:80-81
"""


@pytest.mark.parametrize("match", DROPS)
def test_a_match_that_fits(match: str) -> None:
    world = iptables(f"filter: -A FORWARD {match} -j DROP")
    world.machines["node"].ruleset.ipsets = parse_ipset(SETS)
    trace = send(world, "10.1.2.3")
    assert kinds(trace) == {"dropped"} and trace.certain
    assert trace.ways[0].steps[-1].rule is not None


@pytest.mark.parametrize(
    "match",
    [
        "-p udp", "-p tcp -m tcp --dport 443", "-p tcp -m tcp ! --dport 80", "-p tcp -m multiport --dports 1:79,81:100", "-s 10.0.0.0/8",
        "! -d 10.1.2.3/32", "-i cni0", "-o eth0", "-m conntrack --ctstate ESTABLISHED,RELATED", "-m conntrack --ctstate DNAT",
        "-m mark --mark 0x4000/0x4000", "-m addrtype --dst-type LOCAL", "-m set --match-set empty dst", "-m physdev --physdev-is-bridged",
        "-p icmp -m icmp --icmp-type 8", "-m rpfilter --invert", "-m statistic --mode random --probability 0.00000000000", "-f",
        "-m recent --rcheck --seconds 60 --name bad --rsource", "-m owner --uid-owner 0",
    ],
)  # fmt: skip
def test_a_match_that_does_not_fit(match: str) -> None:
    world = iptables(f"filter: -A FORWARD {match} -j DROP")
    world.machines["node"].ruleset.ipsets = parse_ipset(SETS)
    trace = send(world, "10.1.2.3")
    assert not kinds(trace) & {"dropped", "unknown"} and trace.certain


def test_a_dump_of_recent_addresses_decides() -> None:
    world = iptables("filter: -A FORWARD -m recent --rcheck --seconds 60 --name bad --rsource -j DROP")
    world.machines["node"].recent = {"bad": {number("203.0.113.9")}}
    assert kinds(send(world, "10.1.2.3")) == {"dropped"}


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        ("-m string --string x --algo bm", "not understood"),
        ("-m tcp --frobnicate 3", "option is not understood"),
        ("-m set --match-set nowhere src", "not part of the dump"),
        ("-m mac --mac-source aa:bb:cc:dd:ee:ff", "not known"),
    ],
)
def test_what_is_not_understood_taints_what_depends_on_it(match: str, reason: str) -> None:
    trace = send(iptables(f"filter: -A FORWARD {match} -j DROP"), "10.1.2.3")
    assert not trace.certain and "dropped" in kinds(trace) and len(trace.ways) == 2
    assert all(reason in " ".join(way.doubts) for way in trace.ways)


def test_and_nothing_else() -> None:
    """Behind a rule that cannot match, and in another branch, nothing is in doubt."""
    world = iptables(
        "filter: -A FORWARD -p udp -m string --string x -j DROP\nfilter: -A INPUT -m string --string x -j DROP"
    )
    assert send(world, "10.1.2.3").certain


def test_an_unknown_target() -> None:
    trace = send(iptables("filter: -A FORWARD -p tcp -j TELEPORT --to mars"), "10.1.2.3")
    assert kinds(trace) == {"unknown"} and "-j TELEPORT --to mars" in trace.ways[0].detail


def test_chains_return_goto_and_policy() -> None:
    rules = "filter: -A FORWARD -j one\nfilter: -A FORWARD -p tcp -j REJECT --reject-with tcp-reset\nfilter: -A one -s 10.0.0.0/8 -j RETURN\nfilter: -A one -g two\nfilter: -A two -p udp -j ACCEPT"
    trace = send(iptables(rules), "10.1.2.3")
    assert kinds(trace) == {"rejected"} and trace.ways[0].detail == "tcp-reset"
    assert kinds(
        send(
            iptables(
                "filter: -A FORWARD -g one\nfilter: -A FORWARD -j ACCEPT\nfilter: -A one -p udp -j ACCEPT", "DROP"
            ),
            "10.1.2.3",
        )
    ) == {"dropped"}


def test_statistic_gives_the_kernels_shares() -> None:
    rules = """nat: -A PREROUTING -d 10.32.0.10/32 -j svc
    nat: -A svc -m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination 10.1.0.1
    nat: -A svc -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.1.0.2
    nat: -A svc -j DNAT --to-destination 10.1.0.3"""
    trace = send(iptables(rules), "10.32.0.10")
    shares = {way.packet.destination: way.weight for way in trace.ways}
    assert set(shares) == {"10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80"}
    assert all(share == pytest.approx(1 / 3, abs=1e-6) for share in shares.values())


@pytest.mark.parametrize(
    ("rule", "source", "destination"),
    [
        ("nat: -A PREROUTING -j DNAT --to-destination 10.1.0.9:8080", "203.0.113.9:40000", "10.1.0.9:8080"),
        ("nat: -A PREROUTING -p tcp -j DNAT --to-destination :8080", "203.0.113.9:40000", "10.1.2.3:8080"),
        ("nat: -A PREROUTING -j NETMAP --to 10.7.0.0/16", "203.0.113.9:40000", "10.7.2.3:80"),
        ("nat: -A POSTROUTING -j SNAT --to-source 198.51.100.7", "198.51.100.7:40000", "10.1.2.3:80"),
        ("nat: -A POSTROUTING -p tcp -j SNAT --to-source 198.51.100.7:1024-2000", "198.51.100.7:1024", "10.1.2.3:80"),
        ("nat: -A POSTROUTING -j MASQUERADE", f"{NODE}:40000", "10.1.2.3:80"),
    ],
)
def test_translations(rule: str, source: str, destination: str) -> None:
    (way,) = send(iptables(rule), "10.1.2.3").ways
    assert (way.packet.source, way.packet.destination) == (source, destination)


def test_redirect_goes_to_this_machine() -> None:
    (way,) = send(iptables("nat: -A PREROUTING -p tcp -j REDIRECT --to-ports 15001"), "10.1.2.3").ways
    assert way.machine == "node" and way.packet.destination == f"{NODE}:15001"


def test_marks_travel_from_mangle_to_nat() -> None:
    rules = """mangle: -A PREROUTING -s 203.0.113.0/24 -j MARK --set-xmark 0x10/0xff
    mangle: -A PREROUTING -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff
    mangle: -A FORWARD -j MARK --set-xmark 0x0/0xffffffff
    mangle: -A POSTROUTING -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
    nat: -A POSTROUTING -m mark --mark 0x10/0xff -j SNAT --to-source 198.51.100.7"""
    (way,) = send(iptables(rules), "10.1.2.3").ways
    assert way.packet.source == "198.51.100.7:40000"


def test_notrack_leaves_nat_aside() -> None:
    rules = "raw: -A PREROUTING -p tcp -j CT --notrack\nnat: -A PREROUTING -j DNAT --to-destination 10.1.0.9\nfilter: -A FORWARD -m conntrack --ctstate UNTRACKED -j DROP"
    assert kinds(send(iptables(rules), "10.1.2.3")) == {"dropped"}


# -- nft

FORWARD = "chain f { type filter hook forward priority filter; policy accept;\n %s\n }"


@pytest.mark.parametrize(
    "rule",
    [
        "ip saddr 203.0.113.0/24 drop", "tcp dport 80 drop", "tcp dport 79-81 drop", "tcp dport { 22, 80 } drop", "tcp dport != 443 drop",
        "ct state new drop", "ct state { new, related } drop", "meta l4proto tcp drop", "iifname \"eth0\" drop", "iifname \"eth*\" drop",
        "oifname != \"eth0\" drop", "ip daddr . tcp dport { 10.1.2.3 . 80 } drop", "ip saddr . ip daddr { 203.0.113.0/24 . 10.0.0.0/8 } drop",
        "meta mark & 0x4000 == 0 drop", "meta mark set meta mark | 0x4000 meta mark & 0x4000 != 0 drop", "tcp flags syn drop",
        "tcp flags & (fin | syn | rst | ack) == syn drop", "fib daddr type unicast drop", "fib saddr . iif oif exists drop",
        "ip daddr vmap { 10.1.2.3 : drop }", "tcp dport vmap { 80-90 : drop, 443 : accept }", "ip ttl < 64 drop", "ct direction original drop",
        "ct original ip daddr 10.1.2.3 drop", "meta length > 40 drop", "ip protocol tcp drop", "meta nfproto ipv4 drop",
    ],
)  # fmt: skip
def test_an_nft_rule_that_fits(rule: str) -> None:
    trace = send(nft(FORWARD % rule), "10.1.2.3")
    assert kinds(trace) == {"dropped"} and trace.certain, trace.ways[0].detail


@pytest.mark.parametrize(
    "rule",
    [
        "udp dport 80 drop", "ip saddr 10.0.0.0/8 drop", "tcp dport { 22, 443 } drop", "ct state established,related drop", "ip6 saddr ::1 drop",
        "icmp type echo-request drop", "iifname \"cni0\" drop", "tcp flags ack drop", "fib daddr type local drop", "ct status dnat drop",
        "meta mark 0x1 drop", "ip daddr vmap { 10.9.9.9 : drop }",
    ],
)  # fmt: skip
def test_an_nft_rule_that_does_not_fit(rule: str) -> None:
    trace = send(nft(FORWARD % rule), "10.1.2.3")
    assert not kinds(trace) & {"dropped", "unknown"} and trace.certain


def test_named_sets_maps_and_intervals() -> None:
    chains = """set nets { type ipv4_addr; flags interval; elements = { 10.1.0.0/16, 10.3.0.1-10.3.0.9 } }
    map backends { type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = { 10.1.2.3 . 80 : 10.1.0.5 . 8080 } }
    chain p { type nat hook prerouting priority dstnat; policy accept;
     ip daddr @nets dnat ip to ip daddr . tcp dport map @backends
    }"""
    (way,) = send(nft(chains), "10.1.2.3").ways
    assert way.packet.destination == "10.1.0.5:8080"


def test_numgen_spreads_evenly() -> None:
    chains = """chain p { type nat hook prerouting priority dstnat; policy accept;
     dnat to numgen random mod 4 map { 0 : 10.1.0.1, 1 : 10.1.0.2, 2 : 10.1.0.3, 3 : 10.1.0.1 }
    }"""
    shares: dict[str, float] = {}
    for way in send(nft(chains), "10.1.2.3").ways:
        shares[way.packet.destination] = shares.get(way.packet.destination, 0) + way.weight
    assert shares == pytest.approx({"10.1.0.1:80": 0.5, "10.1.0.2:80": 0.25, "10.1.0.3:80": 0.25})


def test_base_chains_of_one_priority_run_later_first() -> None:
    tables = "table ip a {\n chain c { type filter hook forward priority 0; policy accept;\n meta mark 0x2 drop\n meta mark set 0x1\n }\n}\n"
    tables += "table ip b {\n chain c { type filter hook forward priority 0; policy accept;\n meta mark 0x1 drop\n meta mark set 0x2\n }\n}\n"
    assert kinds(send(lone_node(parse_nft_text(tables), [NODE]), "10.1.2.3")) == {"dropped"}


def test_an_accept_ends_its_own_table_alone() -> None:
    text = "table ip a {\n chain c { type filter hook forward priority -5; policy drop;\n accept\n }\n}\n"
    text += "table inet b {\n chain c { type filter hook forward priority 5; policy accept;\n tcp dport 80 reject with tcp reset\n }\n}\n"
    trace = send(lone_node(parse_nft_text(text), [NODE]), "10.1.2.3")
    assert kinds(trace) == {"rejected"}


@pytest.mark.parametrize(
    "rule", ["frobnicate the packet", "ip daddr @missing drop", "meta skuid 0 drop", "jump nowhere"]
)
def test_nft_words_that_are_not_understood(rule: str) -> None:
    trace = send(nft(FORWARD % rule), "10.1.2.3")
    assert not trace.certain
