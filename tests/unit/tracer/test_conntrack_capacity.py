"""How full the table is, and the arithmetic of its size."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.net.errors import ParseError, UsageError
from glassnet.tracer.conntrack_capacity import memory, parse_conntrack_stats, plan, pressure

STATS = """\
cpu=0   \tfound=3 invalid=412 insert=9 insert_failed=18 drop=5 early_drop=1 error=0 search_restart=0 clash_resolve=0 chaintoolong=0 
cpu=1   \tfound=0 invalid=388 insert=2 insert_failed=17 drop=4 early_drop=0 error=0 search_restart=0 clash_resolve=0 chaintoolong=0 
"""  # noqa: W291
PROC = """\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000000b  00000000 00000003 00000000 0000001c 00000000 00000000 00000000 00000009 00000002 0000000a 00000001 00000000  00000000 00000000 00000000 00000000
0000000b  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000009 00000000 00000001 00000000 00000000  00000000 00000000 00000000 00000000
"""
QUIET = "cpu=0 found=0 invalid=0 insert=0 insert_failed=0 drop=0 early_drop=0 error=0 search_restart=0"


def limits(count: int, maximum: int = 1000, buckets: int = 1000) -> dict[str, str]:
    prefix = "net.netfilter.nf_conntrack_"
    return {
        f"{prefix}count": str(count),
        f"{prefix}max": f"{maximum}\n",
        "net/netfilter/nf_conntrack_buckets": str(buckets),
    }


def test_counters_are_summed_over_cpus() -> None:
    stats = parse_conntrack_stats(STATS)
    assert len(stats.cpus) == 2
    assert (stats.drop, stats.early_drop, stats.insert_failed, stats.invalid) == (9, 1, 35, 800)
    assert (stats.total("found"), stats.total("no such counter")) == (3, 0)


def test_counters_of_proc_are_hexadecimal() -> None:
    stats = parse_conntrack_stats(PROC)
    assert (stats.drop, stats.early_drop, stats.insert_failed, stats.invalid) == (11, 1, 2, 29)
    assert "entries" not in stats.cpus[0]  # it is the whole table's, on every line


@pytest.mark.parametrize(
    "text", ["", "no counters", "cpu=0 found", "cpu=0", STATS + "cpu=x found=1", PROC + "0000000b 1"]
)
def test_other_text_is_no_counters(text: str) -> None:
    with pytest.raises(ParseError):
        parse_conntrack_stats(text, "stats")


@given(st.text() | st.lists(st.sampled_from([*STATS.split(), *PROC.split(), "\n"])).map(" ".join))
def test_nothing_but_a_parse_error_leaves_the_reader_of_counters(text: str) -> None:
    with contextlib.suppress(ParseError):
        parse_conntrack_stats(text)


@pytest.mark.parametrize(
    ("count", "verdict"),
    [
        (0, "ok"),
        (749, "ok"),
        (750, "high"),
        (899, "high"),
        (900, "critical"),
        (999, "critical"),
        (1000, "full"),
        (1200, "full"),
    ],
)
def test_the_verdict_follows_the_ratio(count: int, verdict: str) -> None:
    found = pressure(limits(count))
    assert found.verdict == verdict
    assert found.ratio == count / 1000 and (found.count, found.maximum, found.buckets) == (count, 1000, 1000)
    assert f"{count} of 1000" in found.reasons[0]


def test_a_count_given_goes_before_the_sysctl() -> None:
    assert pressure(limits(1), 950).verdict == "critical"


def test_what_is_not_known_is_said() -> None:
    assert pressure({}).verdict == "unknown" and "nf_conntrack_count" in pressure({}).reasons[0]
    assert pressure({}, 5).verdict == "unknown" and "nf_conntrack_max" in pressure({}, 5).reasons[0]
    assert pressure(limits(5, maximum=0)).verdict == "ok"


def test_long_chains_ask_for_buckets() -> None:
    found = pressure(limits(500, buckets=100))
    assert found.chain == 10 and any("nf_conntrack_buckets" in reason for reason in found.reasons)
    assert not any("buckets" in reason for reason in pressure(limits(500)).reasons)


def test_drops_tell_that_the_table_was_full_once() -> None:
    found = pressure(limits(10), stats=parse_conntrack_stats(STATS))
    assert found.verdict == "high"
    assert [reason.split()[0] for reason in found.reasons] == ["10", "9", "1", "35", "800"]
    assert pressure(limits(950), stats=parse_conntrack_stats(STATS)).verdict == "critical"
    assert pressure(limits(10), stats=parse_conntrack_stats(QUIET)).verdict == "ok"


def test_a_sysctl_that_is_no_number_is_refused() -> None:
    with pytest.raises(ParseError, match="nf_conntrack_max"):
        pressure({"nf_conntrack_max": "many"}, 4)
    with pytest.raises(ParseError, match="ip_local_port_range"):
        plan({"net.ipv4.ip_local_port_range": "60999 32768"})


def test_128k_entries_of_two_minutes_are_1092_connections_a_second() -> None:
    found = plan(maximum=128 * 1024)
    assert (found.timeout, found.lifetime, int(found.rate)) == (120, 120, 1092)
    too_many = plan(maximum=128 * 1024, wanted=1100)
    assert (too_many.needed, too_many.enough) == (132_000, False)
    assert plan(maximum=128 * 1024, wanted=1092).enough is True
    assert found.enough is None and found.needed is None and found.advised_maximum is None


def test_the_other_way_round_entries_memory_and_settings_follow_from_the_rate() -> None:
    found = plan(wanted=5000, duration=2)
    assert found.needed == 5000 * 122 == 610_000
    assert found.advised_maximum == found.advised_buckets == 1 << 20  # a quarter of room, to a power of two
    assert found.advised_memory == (1 << 20) * (320 + 8) == memory(1 << 20, 1 << 20)
    assert plan(wanted=1).advised_maximum == 131072
    assert plan(wanted=870).advised_maximum == 131072  # 104,400 entries, and a quarter
    assert plan(wanted=880).advised_maximum == 262144


@pytest.mark.parametrize(
    ("kind", "default", "name"),
    [
        ("tcp", 120, "nf_conntrack_tcp_timeout_time_wait"),
        ("tcp-reset", 10, "nf_conntrack_tcp_timeout_close"),
        ("tcp-abandoned", 432000, "nf_conntrack_tcp_timeout_established"),
        ("udp", 30, "nf_conntrack_udp_timeout"),
        ("udp-stream", 120, "nf_conntrack_udp_timeout_stream"),
        ("icmp", 30, "nf_conntrack_icmp_timeout"),
    ],
)
def test_each_kind_has_its_timeout_of_the_sysctls_or_the_kernel(kind: str, default: int, name: str) -> None:
    assert plan(kind=kind).timeout == default
    assert plan({f"net.netfilter.{name}": "7"}, kind=kind, duration=3).lifetime == 10
    assert plan({f"net.netfilter.{name}": "7"}, kind=kind, timeout=1).timeout == 1


def test_a_table_of_the_sysctls_is_reckoned_with_its_buckets() -> None:
    found = plan({"net.netfilter.nf_conntrack_max": "262144", "net.netfilter.nf_conntrack_buckets": "65536"})
    assert found.maximum == 262144 and found.memory == 262144 * 320 + 65536 * 8
    assert plan({"net.netfilter.nf_conntrack_max": "0"}).maximum == 131072


def test_ports_bound_what_one_source_opens_to_one_destination() -> None:
    found = plan()
    assert (found.snat_ports, found.snat_rate) == (64512, 537.6)
    assert found.local_ports == 28232
    wide = plan({"net.ipv4.ip_local_port_range": "1024\t65535"})
    assert wide.local_ports == 64512 and wide.local_rate == wide.snat_rate


@pytest.mark.parametrize(
    "words",
    [
        {"kind": "smtp"}, {"duration": -1.0}, {"timeout": 0.0}, {"maximum": 0}, {"maximum": -5}, {"wanted": float("inf")}, {"wanted": -1.0},
        {"duration": float("nan")},
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan(**words)


@given(st.integers(1, 10**8), st.floats(0, 10**5), st.floats(1, 10**6))
def test_both_ways_agree(maximum: int, duration: float, timeout: float) -> None:
    rate = plan(maximum=maximum, duration=duration, timeout=timeout).rate
    back = plan(maximum=maximum, duration=duration, timeout=timeout, wanted=rate)
    assert back.needed is not None and abs(back.needed - maximum) <= 1
    assert back.advised_maximum is not None and back.advised_maximum >= back.needed
