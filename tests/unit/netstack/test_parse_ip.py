"""iproute2's JSON, sysctl and ss: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.net import address
from glassnet.net.errors import ParseError
from glassnet.netstack import parse_ip
from glassnet.netstack.namespace import NetStack

ROUTES = (
    b'[{"dst":"default","gateway":"10.0.0.1","dev":"eth0","flags":[]},'
    b'{"dst":"10.1.0.0/16","nexthops":[{"gateway":"10.0.0.2","dev":"eth0","weight":1,"flags":[]},{"gateway":"10.0.0.3","dev":"eth0","weight":3,"flags":["dead"]}]},'
    b'{"type":"blackhole","dst":"10.9.0.0/16","metric":100,"flags":[]},'
    b'{"dst":"fd00::/64","dev":"eth0","protocol":"kernel","metric":256,"pref":"medium","flags":[]},'
    b'{"dst":"10.5.0.0/24","via":{"family":"inet6","host":"fe80::1"},"dev":"eth0","table":"100","metrics":[{"mtu":1400}],"flags":[]}]'
)


def test_routes_of_every_kind() -> None:
    default, multi, blackhole, six, via = parse_ip.parse_routes(ROUTES)
    assert default.text == "default via 10.0.0.1 dev eth0"
    assert [(hop.weight, hop.alive) for hop in multi.hops] == [(1, True), (3, False)]
    assert (blackhole.type, blackhole.metric, blackhole.hops) == ("blackhole", 100, ())
    assert (six.bits, six.length) == (128, 64)
    assert (via.table, via.mtu, via.hops[0].gateway_bits) == ("100", 1400, 128)


def test_links_with_masters_peers_and_addresses() -> None:
    links, addresses = parse_ip.parse_links(
        b'[{"ifindex":4,"link_index":2,"ifname":"veth0","flags":["UP"],"mtu":1450,"master":"cni0","linkinfo":{"info_kind":"veth"},'
        b'"addr_info":[{"family":"inet","local":"10.0.0.1","prefixlen":24,"scope":"global"},{}]}]'
    )
    assert [(x.name, x.kind, x.master, x.peer, x.mtu, x.up) for x in links] == [
        ("veth0", "veth", "cni0", 2, 1450, True)
    ]
    assert [(a.text, a.length, a.dev) for a in addresses] == [("10.0.0.1", 24, "veth0")]


def test_rules_with_selectors() -> None:
    marked, inverted, strange = parse_ip.parse_rules(
        b'[{"priority":100,"src":"all","fwmark":"0x80000","fwmask":"0x80000","table":"52"},'
        b'{"priority":200,"not":null,"src":"10.0.0.0","srclen":8,"table":"main"},{"priority":300,"src":"all","uidrange":"1-2","table":"main"}]'
    )
    assert (marked.mark, marked.mask, marked.table) == (0x80000, 0x80000, "52")
    assert inverted.inverted and inverted.source == (address.number("10.0.0.0"), 0xFF000000)
    assert "uidrange" in strange.unknown


def test_neighbours_ports_and_forwarding() -> None:
    (neighbour,) = parse_ip.parse_neighbours(b'[{"dst":"10.0.0.9","dev":"eth0","state":["FAILED"]}]')
    assert (neighbour.state, neighbour.hardware) == ("FAILED", "")
    (port,) = parse_ip.parse_bridge_links(b'[{"ifname":"v0","master":"br0","state":"forwarding","hairpin":true}]')
    assert port.hairpin and not port.isolated
    fdb = parse_ip.parse_fdb(
        b'[{"mac":"aa:bb:cc:dd:ee:ff","ifname":"v0","master":"br0","state":""},{"mac":"33:33:00:00:00:01","ifname":"v0","flags":["self"]}]'
    )
    assert fdb == {("br0", "aa:bb:cc:dd:ee:ff"): "v0"}


def test_sysctls_and_sockets() -> None:
    assert parse_ip.parse_sysctls("net.ipv4.ip_forward = 1\nnet.ipv4.conf.eth0/5.rp_filter=2\n") == {
        "net.ipv4.ip_forward": "1",
        "net.ipv4.conf.eth0/5.rp_filter": "2",
    }
    listed = parse_ip.parse_listeners(
        'tcp   LISTEN 0 4096 127.0.0.1:10249 0.0.0.0:* users:(("kube-proxy",pid=1,fd=13))\n'
        "tcp LISTEN 0 4096 *:80 *:*\nudp UNCONN 0 0 [::]:53 [::]:*\nudp UNCONN 0 0 10.0.0.1%eth0:68 0.0.0.0:*\nudp ESTAB 0 0 1.1.1.1:1 2.2.2.2:2\n"
    )
    assert [(x.protocol, x.port, x.bits, x.dual) for x in listed] == [
        ("tcp", 10249, 32, False), ("tcp", 80, 128, True), ("udp", 53, 128, True), ("udp", 68, 32, False),
    ]  # fmt: skip


READERS: list[Callable[..., Any]] = [
    parse_ip.parse_links, parse_ip.parse_routes, parse_ip.parse_rules, parse_ip.parse_neighbours, parse_ip.parse_bridge_links, parse_ip.parse_fdb,
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("data", [b"{", b"[1]", b'{"a":1}', b"\x00\xff", b'[{"dst":'])
def test_junk_is_refused(reader: Callable[..., Any], data: bytes) -> None:
    with pytest.raises(ParseError) as caught:
        reader(data, "worker-0/ip.json")
    assert "worker-0/ip.json" in str(caught.value)


def test_a_truncated_file_is_told_apart() -> None:
    with pytest.raises(ParseError, match="cut off"):
        parse_ip.parse_routes(ROUTES[:200], "f")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 70000)
    | st.text(max_size=6)
    | st.sampled_from(["10.0.0.0/8", "default", "fe80::1", "all", "0x4"])
)
ROWS = st.lists(
    st.dictionaries(
        st.sampled_from(["dst", "gateway", "dev", "ifindex", "ifname", "addr_info", "local", "prefixlen", "via", "nexthops", "priority", "src", "fwmark", "table", "mac", "master", "state", "metrics", "linkinfo", "flags", "sport"]),
        SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from(["host", "mtu", "local", "info_kind"]), SCALARS, max_size=2),
        max_size=6,
    ),
    max_size=3,
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(READERS), ROWS)
def test_only_parse_errors_leave(reader: Callable[..., Any], rows: list[dict[str, Any]]) -> None:
    import msgspec

    try:
        reader(msgspec.json.encode(rows))
    except ParseError:
        return


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60),
    st.sampled_from(["addr", "route", "rule", "neigh", "bridge-link", "bridge-fdb", "sysctl", "listen"]),
)
def test_binary_junk(data: bytes, part: str) -> None:
    try:
        parse_ip.add_part(NetStack(), part, data, "f")
    except ParseError:
        return
