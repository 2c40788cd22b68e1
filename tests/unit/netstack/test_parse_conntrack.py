"""The connection table's text: every form the kernel and the conntrack tool (1.4.7) write, and what is none of them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.net.errors import ParseError
from glassnet.netstack.parse_conntrack import (
    ConntrackEntry,
    FlowTuple,
    parse_conntrack,
    parse_conntrack_lenient,
)

DNAT = (
    "ipv4     2 tcp      6 91 TIME_WAIT src=10.240.0.20 dst=10.32.0.28 sport=47218 dport=80 src=10.200.0.6 dst=10.200.0.1 "
    "sport=8080 dport=1064 [ASSURED] mark=0 use=1"
)
PLAIN = """\
tcp      6 99 ESTABLISHED src=10.0.0.1 dst=10.32.0.10 sport=1000 dport=80 packets=3 bytes=180 src=10.200.0.5 dst=10.0.0.1 sport=8080 dport=1000 packets=2 bytes=120 [ASSURED] mark=7 delta-time=4 use=1
udplite  136 29 src=10.0.0.1 dst=10.32.0.10 sport=1 dport=2 packets=0 bytes=0 [UNREPLIED] src=10.32.0.10 dst=10.0.0.1 sport=2 dport=1 packets=0 bytes=0 mark=0 delta-time=0 use=1
unknown  89 29 src=10.0.0.1 dst=10.32.0.10 packets=0 bytes=0 [UNREPLIED] src=10.32.0.10 dst=10.0.0.1 packets=0 bytes=0 mark=0 delta-time=0 use=1
gre      47 29 src=10.0.0.1 dst=10.32.0.10 srckey=0x1 dstkey=0x2a packets=0 bytes=0 [UNREPLIED] src=10.32.0.10 dst=10.0.0.1 srckey=0x2a dstkey=0x1 packets=0 bytes=0 mark=0 delta-time=0 use=1
udp      17 29 src=10.0.0.9 dst=10.32.0.10 sport=1001 dport=53 packets=0 bytes=0 [UNREPLIED] src=10.32.0.10 dst=10.0.0.9 sport=53 dport=1001 zone-reply=6 packets=0 bytes=0 mark=0 delta-time=0 use=1
udp      17 29 src=10.0.0.8 dst=10.32.0.10 sport=1001 dport=53 zone-orig=5 packets=0 bytes=0 [UNREPLIED] src=10.32.0.10 dst=10.0.0.8 sport=53 dport=1001 packets=0 bytes=0 mark=0 delta-time=0 use=1
dccp     33 29 OPEN src=10.0.0.1 dst=10.32.0.10 sport=4 dport=5 [UNREPLIED] src=10.32.0.10 dst=10.0.0.1 sport=5 dport=4 mark=0 use=1
sctp     132 29 ESTABLISHED src=10.0.0.1 dst=10.32.0.10 sport=1001 dport=53 [UNREPLIED] src=10.32.0.10 dst=10.0.0.1 sport=53 dport=1001 mark=0 use=1
icmp     1 28 src=10.0.0.1 dst=10.32.0.10 type=8 code=0 id=99 src=10.32.0.10 dst=10.0.0.1 type=0 code=0 id=99 mark=0 use=1
icmpv6   58 29 src=fd00::1 dst=fd00::2 type=128 code=0 id=99 [UNREPLIED] src=fd00::2 dst=fd00::1 type=129 code=0 id=99 mark=0 use=1
"""
EVENTS = """\
[1795267774.871251]\t    [NEW] ipv4     2 udp      17 30 src=10.0.0.7 dst=10.32.0.10 sport=1001 dport=53 [UNREPLIED] src=10.32.0.10 dst=10.0.0.7 sport=53 dport=1001 mark=0 zone=5 id=691264011 [USERSPACE] portid=3910 progname=conntrack
 [UPDATE] tcp      6 60 SYN_RECV src=10.0.0.1 dst=10.32.0.10 sport=1000 dport=80 src=10.200.0.5 dst=10.0.0.1 sport=8080 dport=1000
[DESTROY] tcp      6 src=10.0.0.1 dst=10.32.0.10 sport=1000 dport=80 packets=9 bytes=900 src=10.200.0.5 dst=10.0.0.1 sport=8080 dport=1000 packets=8 bytes=800 [ASSURED] delta-time=1 [start=Sat Nov 21 13:40:59 2026] [stop=Sat Nov 21 13:41:00 2026] id=919698123 [USERSPACE] portid=3955610509
"""


def one(line: str) -> ConntrackEntry:
    (entry,) = parse_conntrack(line)
    return entry


def test_an_entry_of_proc_has_all_its_parts() -> None:
    entry = one(DNAT)
    assert (entry.family, entry.protocol, entry.protocol_number, entry.timeout) == ("IPv4", "tcp", 6, 91)
    assert entry.state == "TIME_WAIT" and entry.over
    assert entry.original == FlowTuple("10.240.0.20", "10.32.0.28", 47218, 80)
    assert entry.reply == FlowTuple("10.200.0.6", "10.200.0.1", 8080, 1064)
    assert entry.flags == {"ASSURED"} and not entry.unreplied and not entry.offloaded
    assert (entry.mark, entry.use, entry.zone, entry.id, entry.original_packets) == (0, 1, None, None, None)
    assert (entry.line, entry.text) == (1, DNAT)


def test_the_plain_list_of_the_tool_has_every_protocol() -> None:
    tcp, udplite, ospf, gre, zone_reply, zone_orig, dccp, sctp, icmp, icmp6 = parse_conntrack(PLAIN)
    assert (tcp.original_packets, tcp.original_bytes, tcp.reply_packets, tcp.reply_bytes) == (3, 180, 2, 120)
    assert (tcp.mark, tcp.delta_time, tcp.use, tcp.state, tcp.over) == (7, 4, 1, "ESTABLISHED", False)
    assert (udplite.protocol_number, udplite.original.dport, udplite.unreplied) == (136, 2, True)
    assert (ospf.protocol, ospf.protocol_number, ospf.original) == ("unknown", 89, FlowTuple("10.0.0.1", "10.32.0.10"))
    assert gre.original == FlowTuple("10.0.0.1", "10.32.0.10", 1, 0x2A)
    assert (zone_reply.zone, zone_reply.zone_original, zone_reply.zone_reply) == (None, None, 6)
    assert (zone_orig.zone, zone_orig.zone_original, zone_orig.zone_reply) == (None, 5, None)
    assert (dccp.state, sctp.state) == ("OPEN", "ESTABLISHED")
    assert (icmp.original.icmp, icmp.reply.icmp, icmp.original.sport) == ((8, 0, 99), (0, 0, 99), 0)
    assert (icmp6.family, icmp6.protocol, icmp6.reply.icmp) == ("IPv6", "icmpv6", (129, 0, 99))
    assert [entry.line for entry in parse_conntrack(PLAIN)] == list(range(1, 11))


def test_events_have_their_kind_and_time_and_who_made_them_is_passed_over() -> None:
    new, update, destroy = parse_conntrack(EVENTS)
    assert (new.event, new.event_time, new.zone, new.id) == ("NEW", 1795267774.871251, 5, 691264011)
    assert new.flags == {"UNREPLIED", "USERSPACE"}
    assert (update.event, update.state, update.mark, update.event_time) == ("UPDATE", "SYN_RECV", None, None)
    assert (destroy.event, destroy.timeout, destroy.delta_time, destroy.id) == ("DESTROY", None, 1, 919698123)
    assert (destroy.start, destroy.stop) == ("Sat Nov 21 13:40:59 2026", "Sat Nov 21 13:41:00 2026")


def test_kernel_timestamps_stand_between_the_other_words() -> None:
    entry = one(
        "ipv6     10 tcp      6 99 ESTABLISHED src=fd00::1 dst=fd00:32::1:0:0:10 sport=1000 dport=80 packets=0 bytes=0 src=fd00:200::5 "
        "dst=fd00::1 sport=8080 dport=1000 packets=0 bytes=0 [ASSURED] mark=0 delta-time=0 [start=Sat Nov 21 13:40:59 2026] use=1 id=3714139710"
    )
    assert (entry.start, entry.use, entry.id, entry.flags) == ("Sat Nov 21 13:40:59 2026", 1, 3714139710, {"ASSURED"})
    assert entry.original.dst == "fd00:32::1:0:0:10"


def test_proc_spells_ipv6_out_and_the_entry_does_not() -> None:
    entry = one(
        "ipv6     10 udp      17 29 src=fd00:0000:0000:0000:0000:0000:0000:0001 dst=fd00:0032:0000:0000:0000:0000:0000:0010 sport=1001 dport=53 "
        "[UNREPLIED] src=fd00:0032:0000:0000:0000:0000:0000:0010 dst=fd00:0000:0000:0000:0000:0000:0000:0001 sport=53 dport=1001 mark=0 zone=0 use=2"
    )
    assert entry.original == FlowTuple("fd00::1", "fd00:32::10", 1001, 53)
    assert (entry.zone, entry.use) == (0, 2)
    mapped = one(
        "ipv6 10 udp 17 9 src=::ffff:1.2.3.4 dst=::1 sport=1 dport=2 src=::1 dst=::ffff:1.2.3.4 sport=2 dport=1 use=1"
    )
    assert (mapped.family, mapped.original.src) == ("IPv6", "::ffff:1.2.3.4")


@pytest.mark.parametrize("flag", ["OFFLOAD", "HW_OFFLOAD"])
def test_offloaded_flows_have_no_timeout_in_proc(flag: str) -> None:
    entry = one(
        f"ipv4     2 tcp      6 src=1.2.3.4 dst=5.6.7.8 sport=1 dport=2 src=5.6.7.8 dst=1.2.3.4 sport=2 dport=1 [{flag}] mark=0 zone=0 use=3"
    )
    assert (entry.timeout, entry.state, entry.flags, entry.offloaded) == (None, "", {flag}, True)


def test_gre_of_proc_says_its_timeouts_in_between() -> None:
    entry = one(
        "ipv4     2 gre      47 29 timeout=30, stream_timeout=180 src=10.0.0.1 dst=10.32.0.10 srckey=0x1 dstkey=0x2 packets=0 bytes=0 "
        "[UNREPLIED] src=10.32.0.10 dst=10.0.0.1 srckey=0x2 dstkey=0x1 packets=0 bytes=0 mark=0 zone=0 delta-time=0 use=2"
    )
    assert (entry.timeout, entry.original.sport, entry.reply.sport, entry.use) == (29, 1, 2, 2)


def test_words_behind_the_tuples_may_be_new_and_in_any_order() -> None:
    base = "udp 17 29 src=1.2.3.4 dst=5.6.7.8 sport=1 dport=2 src=5.6.7.8 dst=1.2.3.4 sport=2 dport=1 "
    entry = one(
        base + "mark=3 secctx=system_u:object_r:unlabeled_t:s0 zone=9 helper=ftp use=2 labels=a,b [CONFIRMED] later=x"
    )
    assert (entry.mark, entry.zone, entry.use) == (3, 9, 2)
    assert (entry.secctx, entry.flags) == ("system_u:object_r:unlabeled_t:s0", {"CONFIRMED"})
    assert one(base + "use=1 id=4 mark=5 secmark=1").mark == 5
    assert one(base + "use=1 progname=a program").use == 1


@pytest.mark.parametrize(
    ("line", "dnat", "snat", "rewritten"),
    [
        (DNAT, True, True, True),
        ("udp 17 5 src=1.1.1.1 dst=2.2.2.2 sport=5 dport=6 src=2.2.2.2 dst=1.1.1.1 sport=6 dport=5 use=1", False, False, False),
        ("udp 17 5 src=1.1.1.1 dst=2.2.2.2 sport=5 dport=6 src=2.2.2.2 dst=1.1.1.1 sport=7 dport=5 use=1", True, False, False),
        ("udp 17 5 src=1.1.1.1 dst=2.2.2.2 sport=5 dport=6 src=3.3.3.3 dst=1.1.1.1 sport=6 dport=5 use=1", True, False, False),
        ("udp 17 5 src=1.1.1.1 dst=2.2.2.2 sport=5 dport=6 src=2.2.2.2 dst=9.9.9.9 sport=6 dport=5 use=1", False, True, False),
        ("udp 17 5 src=1.1.1.1 dst=2.2.2.2 sport=5 dport=6 src=2.2.2.2 dst=1.1.1.1 sport=6 dport=55 use=1", False, True, True),
        ("icmp 1 5 src=1.1.1.1 dst=2.2.2.2 type=8 code=0 id=1 src=2.2.2.2 dst=9.9.9.9 type=0 code=0 id=2 use=1", False, True, True),
    ],
)  # fmt: skip
def test_translation_shows_in_the_difference_of_the_tuples(line: str, dnat: bool, snat: bool, rewritten: bool) -> None:
    entry = one(line)
    assert (entry.dnat, entry.snat, entry.port_rewritten) == (dnat, snat, rewritten)


def test_blank_lines_the_summary_and_odd_white_space_are_no_matter() -> None:
    text = (
        "conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown.\n\n"
        + DNAT.replace(" ", "\t")
        + "\r\n  "
        + DNAT
    )
    assert [entry.line for entry in parse_conntrack(text)] == [3, 4]
    assert parse_conntrack("") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Chain PREROUTING (policy ACCEPT)", "no entry of a connection table"),
        (DNAT[:100], "cut or of an unknown form"),
        (DNAT.replace("dst=10.32.0.28", "dst="), "missing or blacked out"),
        (DNAT.replace("10.240.0.20", "173.38.XXX.XXX"), "missing or blacked out"),
        (DNAT.replace("10.240.0.20", "10.240.0.256"), "'10.240.0.256' is no address"),
        (DNAT.replace("10.240.0.20", "fd00::1"), "two families"),
        (DNAT.replace("dst=10.200.0.1", "dst=fd00::1"), "two families"),
        (DNAT.replace("ipv4     2", "ipv6     10"), "two families"),
        (DNAT.replace("sport=47218", "sport=65536"), "port 65536"),
        (DNAT + " [ASSURED", "'[ASSURED' stands where"),
        (DNAT + " mark=", "mark=: want a number"),
        (DNAT + " id=" + "9" * 5000, "want a number"),  # more digits than int() takes
        (DNAT.replace("use=1", "use=" + "9" * 5000), "want a number"),
        (DNAT.replace("sport=47218", "sport=" + "9" * 5000), "unknown form"),
        (DNAT + " zone=x", "zone=x: want a number"),
        (PLAIN.split("\n")[8].replace("type=8", "type=256"), "do not fit"),
        ("<?xml version='1.0'?>", "XML"),
        ("-A -t 29 -u UNSET -s 10.0.0.1 -d 10.32.0.10 -p 89", "commands"),
    ],
)
def test_what_is_no_entry_is_refused_with_its_place(line: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_conntrack(f"{DNAT}\n{line}\n{DNAT}", "worker-0/conntrack.txt")
    assert message in str(caught.value)
    assert (caught.value.source, caught.value.line) == ("worker-0/conntrack.txt", 2)
    entries, errors = parse_conntrack_lenient(f"{DNAT}\n{line}\n{DNAT}", "x")
    assert [entry.line for entry in entries] == [1, 3]
    assert [(error.source, error.line) for error in errors] == [("x", 2)]


WORDS = st.sampled_from([*DNAT.split(), *PLAIN.split(), *EVENTS.split(), "src=", "sport=99999", "use=" + "9" * 21])
MIXED = st.lists(WORDS | st.text(max_size=5), max_size=40).map(" ".join)


@given(st.one_of(st.text(), MIXED, st.lists(MIXED, max_size=4).map("\n".join)))
def test_nothing_but_a_parse_error_leaves_the_parser(text: str) -> None:
    entries, errors = parse_conntrack_lenient(text, "fuzz")
    if errors:
        with pytest.raises(ParseError):
            parse_conntrack(text)
    else:
        assert parse_conntrack(text) == entries
    assert all(1 <= error.line <= text.count("\n") + 1 for error in errors)


@given(st.sampled_from([DNAT, *PLAIN.splitlines(), *EVENTS.splitlines()]), st.integers(0, 300), st.text(max_size=3))
def test_a_damaged_line_is_an_entry_or_an_error(line: str, at: int, put: str) -> None:
    entries, errors = parse_conntrack_lenient(line[:at] + put + line[at + 1 :])
    assert len(entries) + len(errors) <= 1 + put.count("\n")


PORTS = st.integers(0, 65535)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).filter(lambda ip: not ip.ipv4_mapped).map(str)  # those are written as ::ffff:1.2.3.4


@given(st.one_of(st.tuples(*[V4] * 4), st.tuples(*[V6] * 4)), st.tuples(*[PORTS] * 4), st.integers(0, 2**32 - 1))
def test_what_is_written_is_read(ips: tuple[str, ...], ports: tuple[int, ...], mark: int) -> None:
    entry = one(
        f"udp      17 30 src={ips[0]} dst={ips[1]} sport={ports[0]} dport={ports[1]} "
        f"src={ips[2]} dst={ips[3]} sport={ports[2]} dport={ports[3]} mark={mark} use=1"
    )
    assert entry.original == FlowTuple(ips[0], ips[1], ports[0], ports[1])
    assert entry.reply == FlowTuple(ips[2], ips[3], ports[2], ports[3])
    assert entry.mark == mark


def test_a_quarter_of_a_million_entries_are_read_in_seconds() -> None:
    lines = [
        f"ipv4     2 tcp      6 {i % 432000} ESTABLISHED src=10.{i >> 14 & 255}.{i >> 7 & 127}.{i & 127} dst=10.32.0.28 sport={1024 + i % 60000} "
        f"dport=80 src=10.200.{i % 9}.6 dst=10.{i >> 14 & 255}.{i >> 7 & 127}.{i & 127} sport=8080 dport={1024 + i % 60000} [ASSURED] mark=0 use=1"
        for i in range(25_000)
    ]
    text = "\n".join(lines)
    started = time.process_time()
    assert len(parse_conntrack(text)) == 25_000
    assert time.process_time() - started < 1.5  # a tenth of it takes 0.2 s; the bound is for slow and busy machines
