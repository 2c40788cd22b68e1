"""What the fuzzer found: each case once was told otherwise than the kernel does it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.tracer_worlds import lone_node, number

from glassnet.netstack.model import Address, NextHop, Route, RoutingRule
from glassnet.netstack.namespace import NetStack
from glassnet.ruleset.model import Table
from glassnet.ruleset.nft_print import rule_text
from glassnet.ruleset.parse_iptables import parse_iptables
from glassnet.ruleset.parse_nft import parse_nft_text
from glassnet.tracer.fib import Fib, Question, select_address6
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import ACK, FIN, SYN, Branch, Packet
from glassnet.tracer.path import Departure, End
from glassnet.tracer.trace import Tracer

NODE4, NODE6, POD, CLIENT = "192.0.2.1", "2001:db8::1", "10.1.1.1", "203.0.113.5"


def nft(text: str) -> list[Table]:
    return parse_nft_text(text)


def chain(hook: str, *rules: str, family: str = "inet", kind: str = "filter", priority: int = 0, more: str = "") -> list[Table]:  # fmt: skip
    """One base chain in a table of nft."""
    body = "\n".join(rules)
    return nft(f"table {family} t {{\n{more}\nchain c {{\ntype {kind} hook {hook} priority {priority}; policy accept;\n{body}\n}}\n}}\n")  # fmt: skip


def xt(table: str, *rules: str, family: str = "ip") -> list[Table]:
    """Rules of one table of iptables."""
    chains = {"mangle": "PREROUTING INPUT FORWARD OUTPUT POSTROUTING", "nat": "PREROUTING INPUT OUTPUT POSTROUTING", "filter": "INPUT FORWARD OUTPUT"}[table]  # fmt: skip
    text = [f"*{table}", *(f":{name} ACCEPT [0:0]" for name in chains.split()), *rules, "COMMIT\n"]
    return parse_iptables("\n".join(text), "", family)


def node(tables: list[Table]) -> Machine:
    return lone_node(tables, [NODE4, NODE6]).machines["node"]


def ways(machine: Machine | list[Table], src: str, dst: str, protocol: int = 6, entry: str = "cni0", **fields: Any) -> list[Departure | End]:  # fmt: skip
    """Where a first packet ends."""
    if isinstance(machine, list):
        machine = node(machine)
    world = lone_node([], [NODE4, NODE6])
    world.machines["node"] = machine
    bits = 128 if ":" in dst else 32
    fields = {"sport": 40000, "dport": 80, "flags": SYN} | fields
    packet = Packet(bits, protocol, number(src), number(dst), **fields)
    passage = Tracer(world).passage(machine)
    return list(passage.receive(Branch(packet), entry, packet.dst) if entry else passage.send(Branch(packet)))


def kinds(*words: Any, **fields: Any) -> set[str]:
    return {"gone" if isinstance(each, Departure) else each.kind for each in ways(*words, **fields)}


def test_log_with_a_prefix_prints() -> None:
    assert rule_text([{"log": {"prefix": "x "}}]) == 'log prefix "x "'


@pytest.mark.parametrize(("protocol", "fields", "valid"), [
    (6, {"flags": SYN}, True), (6, {"flags": ACK}, True), (6, {"flags": SYN | ACK}, False), (6, {"flags": FIN}, False), (17, {}, True),
    (1, {"icmp_type": 8}, True), (1, {"icmp_type": 0}, False), (1, {"icmp_type": 5}, False),
])  # fmt: skip
def test_what_begins_a_connection(protocol: int, fields: dict[str, Any], valid: bool) -> None:
    tables = xt("filter", "-A FORWARD -m conntrack --ctstate INVALID -j DROP")
    assert kinds(tables, POD, CLIENT, protocol, **fields) == {"gone" if valid else "dropped"}


def test_without_a_connection_conntrack_says_no_negated_or_not() -> None:
    for words in (
        "-m conntrack ! --ctstatus ASSURED",
        "-m connmark ! --mark 0x1",
        "-m conntrack ! --ctorigdst 8.8.8.8/32",
    ):
        tables = xt("filter", f"-A FORWARD {words} -j DROP")
        assert kinds(tables, POD, CLIENT, flags=FIN) == {"gone"}
        assert kinds(tables, POD, CLIENT) == {"dropped"}


def test_status_none_is_a_mask_of_no_bits() -> None:
    assert kinds(xt("filter", "-A FORWARD -m conntrack --ctstatus NONE -j DROP"), POD, CLIENT) == {"gone"}


def test_negated_probability() -> None:
    tables = xt("filter", "-A FORWARD -m statistic --mode random ! --probability 0.25 -j DROP")
    shares = {type(each).__name__: each.branch.weight for each in ways(tables, POD, CLIENT)}
    assert shares == pytest.approx({"End": 0.75, "Departure": 0.25})


def test_numgen_inside_a_concatenation_offers_every_endpoint() -> None:
    more = "map m { typeof ip daddr . numgen inc mod 65536 : ip daddr . th dport\nelements = { 172.30.0.1 . 0 : 10.1.0.1 . 81, 172.30.0.1 . 1 : 10.1.0.2 . 82 }\n}"
    tables = chain("prerouting", "meta l4proto tcp dnat ip to ip daddr . numgen random mod 2 map @m", family="ip", kind="nat", priority=-100, more=more)  # fmt: skip
    found = {
        (each.branch.packet.dst, each.branch.packet.dport, each.branch.weight)
        for each in ways(tables, POD, "172.30.0.1")
    }
    assert found == {(number("10.1.0.1"), 81, 0.5), (number("10.1.0.2"), 82, 0.5)}


def test_reject_of_one_family_lets_the_other_pass() -> None:
    assert kinds(chain("forward", "reject with icmpv6 no-route"), POD, CLIENT) == {"gone"}
    assert kinds(chain("forward", "reject with tcp reset"), POD, CLIENT, 17) == {"gone"}
    assert kinds(chain("forward", "reject with icmpx no-route"), POD, CLIENT) == {"rejected"}


def test_translation_of_one_family_lets_the_other_pass() -> None:
    tables = chain("prerouting", "dnat ip to 10.1.0.9", kind="nat", priority=-100)
    (there,) = ways(tables, "2001:db8:5::1", "2001:db8:9::1", entry="eth0")
    assert there.branch.packet.dst == number("2001:db8:9::1")
    (there,) = ways(tables, POD, CLIENT)
    assert there.branch.packet.dst == number("10.1.0.9")


def test_fields_of_the_header_that_rules_write() -> None:
    (there,) = ways(xt("mangle", "-A FORWARD -j TTL --ttl-set 9", "-A FORWARD -j DSCP --set-dscp 0x0a", "-A FORWARD -m ttl ! --ttl-eq 9 -j DROP"), POD, CLIENT)  # fmt: skip
    assert (there.branch.packet.ttl, there.branch.packet.dscp) == (9, 10)
    (there,) = ways(chain("forward", "ip dscp set af11 ip dscp != af11 drop", "ip6 hoplimit set 3"), POD, CLIENT)
    assert (there.branch.packet.ttl, there.branch.packet.dscp) == (63, 10)


def test_hash_over_a_single_port_is_not_padded() -> None:
    tables = chain("forward", "jhash tcp dport mod 3 seed 0x9 1 drop")
    assert kinds(tables, POD, CLIENT, dport=443) == {"dropped"}


def test_transport_fields_of_a_protocol_without_ports_equal_nothing() -> None:
    tables = chain("forward", "meta l4proto . th dport != @p drop", more="set p { type inet_proto . inet_service; elements = { tcp . 80 }; }")  # fmt: skip
    assert kinds(tables, POD, CLIENT, 1, icmp_type=8) == {"dropped"}
    assert kinds(tables, POD, CLIENT) == {"gone"}


def test_status_after_translation_has_the_bits_of_being_done() -> None:
    text = "table ip t {\nchain n {\ntype nat hook prerouting priority -100;\ndnat to 10.1.0.9\n}\nchain f {\ntype filter hook forward priority 0;\nct status %s drop\n}\n}\n"
    assert kinds(nft(text % "!= dnat"), POD, CLIENT) == {"dropped"}
    assert kinds(nft(text % "dnat"), POD, CLIENT) == {"dropped"}


def test_rules_behind_a_translation_at_output_see_the_old_device() -> None:
    tables = xt("nat", "-A OUTPUT -d 172.30.0.1/32 -j DNAT --to-destination 10.1.0.9") + xt("filter", "-A OUTPUT -o cni0 -j DROP")  # fmt: skip
    (there,) = ways(tables, NODE4, "172.30.0.1", entry="")
    assert isinstance(there, Departure)
    assert there.dev == "cni0"


@pytest.mark.parametrize(("table", "dev"), [("nat", "eth0"), ("mangle", "cni0")])
def test_a_mark_leads_to_another_route_only_where_routes_are_asked_again(table: str, dev: str) -> None:
    machine = node(xt(table, "-A OUTPUT -j MARK --set-xmark 0x1/0x1"))
    machine.stack.routes.append(Route(0, 0, 32, "77", hops=(NextHop("cni0"),)))
    machine.stack.rules = [RoutingRule(90, 32, "77", mark=1, mask=1), RoutingRule(0, 32, "local"), RoutingRule(32766, 32, "main")]  # fmt: skip
    machine.fib = Fib(machine.stack)
    (there,) = ways(machine, NODE4, CLIENT, entry="")
    assert isinstance(there, Departure)
    assert there.dev == dev


def test_a_source_port_out_of_a_range_is_the_kernels_choice() -> None:
    (there,) = ways(xt("nat", "-A POSTROUTING -p tcp -j SNAT --to-source 192.0.2.1:1000-2000"), POD, CLIENT)
    assert there.branch.packet.connection is not None
    assert there.branch.packet.connection.random_port


def test_every_way_to_the_machine_itself_arrives() -> None:
    tables = chain("postrouting", "numgen random mod 2 0 masquerade", kind="nat", priority=100)
    assert kinds(tables, NODE4, NODE4, entry="") == {"delivered"}
    assert len(ways(tables, NODE4, NODE4, entry="")) == 2


def test_loopback_addresses_of_ipv6() -> None:
    assert kinds([], "::1", "2001:db8:9::1", entry="") == {"gone"}
    redirect = xt("nat", "-A PREROUTING -j DNAT --to-destination fd00::9", family="ip6")
    assert kinds(redirect, "2001:db8:5::1", "::1", entry="eth0") == {"dropped"}


def test_sources_of_ipv6() -> None:
    own = [Address(number("fd00:1::1"), 128, 64, "cni0"), Address(number("2001:db8:2::10"), 128, 64, "eth0"), Address(number("2001:db8:3::1"), 128, 64, "eth0")]  # fmt: skip
    assert select_address6(own, "lo", number("2001:db8:3::1")) == number("2001:db8:3::1")
    assert select_address6(own, "eth0", number("2001:db8:3::99")) == number("2001:db8:3::1")
    assert select_address6(own, "cni0", number("fd00:2::5")) == number("fd00:1::1")


def test_a_link_local_gateway_does_not_make_a_link_local_source() -> None:
    machine = node(xt("filter"))
    machine.stack.addresses.append(Address(number("fe80::5"), 128, 64, "eth0", "link"))
    route = Route(0, 0, 128, hops=(NextHop("eth0", number("fe80::1")),))
    (decision,) = Fib(NetStack(links=machine.stack.links, addresses=machine.stack.addresses, routes=[route])).lookup(
        Question(128, number("2001:db8:9::1"))
    )
    assert machine.fib.source_for(decision, number("2001:db8:9::1"), 128) == number(NODE6)


def test_types_of_addresses() -> None:
    machine = node(xt("filter", "-A FORWARD -m addrtype --dst-type LOCAL,UNICAST -j DROP", family="ip6"))
    assert kinds(machine, "2001:db8:5::1", "2001:db8:9::1", entry="eth0") == {"gone"}  # all of the kinds, not one
    machine.stack.routes.append(Route(number("198.51.100.0"), 24, 32, type="unreachable"))
    machine.fib = Fib(machine.stack)
    assert machine.fib.type_of(number("198.51.100.1"), 32) == "unicast"
    assert machine.fib.type_of(number(NODE6), 128, "cni0") == "unicast"


def test_no_route_leads_back_to_an_address_of_the_machine() -> None:
    assert kinds(chain("prerouting", "fib saddr oif exists drop"), NODE4, CLIENT) == {"gone"}


def test_where_no_route_leads_the_source_is_not_looked_at() -> None:
    machine = node([])
    machine.stack.sysctls |= {"net.ipv4.conf.all.accept_local": "0", "net.ipv6.conf.all.forwarding": "0"}
    machine.stack.routes += [Route(number("198.51.100.0"), 24, 32, type="prohibit"), Route(number("2001:db8:66::"), 64, 128, type="prohibit")]  # fmt: skip
    machine.fib = Fib(machine.stack)
    assert kinds(machine, NODE4, "198.51.100.1") == {"unreachable"}
    assert kinds(machine, NODE4, CLIENT) == {"dropped"}
    assert kinds(machine, "2001:db8:5::1", "2001:db8:66::1", entry="eth0") == {"unreachable"}


def test_a_new_decision_after_translation_spreads_over_all_next_hops() -> None:
    """ip_route_me_harder looks the route up anew: a multipath route takes its share there as well."""
    world = lone_node(xt("nat", "-A OUTPUT -p udp -j DNAT --to-destination 198.51.100.200"), [NODE4])
    machine = world.machines["node"]
    hops = (NextHop("eth0", weight=1), NextHop("cni0", weight=2))
    machine.stack.routes.append(Route(number("198.51.100.128"), 25, 32, hops=hops))
    machine.fib = Fib(machine.stack)
    branch = Branch(Packet(32, 17, 0, number("203.0.113.77"), 40000, 53))
    found = {r.dev: r.branch.weight for r in Tracer(world).passage(machine).send(branch) if isinstance(r, Departure)}
    assert found == pytest.approx({"eth0": 1 / 3, "cni0": 2 / 3})


def test_a_port_that_nft_prints_with_a_remark() -> None:
    from glassnet.tracer.evaluate.nft_values import literal

    assert literal("inet_service", "0x1bb [invalid type]") == (443, 443)
