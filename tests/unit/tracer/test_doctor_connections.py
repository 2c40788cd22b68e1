"""The doctor on connection tables: stale entries, entries older than the rules, full tables, clashes."""

from __future__ import annotations

import pytest
from tests.doctor_worlds import (
    IPTABLES,
    LEGACY,
    NFTABLES,
    append,
    findings,
    named,
    objects,
    only,
    put,
    remove,
    sysctl,
    told,
)

ALL = (IPTABLES, LEGACY, NFTABLES)
TABLE = "worker-0/conntrack.txt"
GONE = (
    "ipv4     2 udp      17 25 src=10.200.0.4 dst=10.32.0.10 sport=5353 dport=53 [UNREPLIED] "
    "src=10.200.0.99 dst=10.200.0.4 sport=53 dport=5353 mark=0 use=1\n"
)


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_found_where_nothing_is_wrong(name: str) -> None:
    assert findings(name) == []


@pytest.mark.parametrize("name", ALL)
def test_udp_flow_to_an_endpoint_that_is_gone(name: str) -> None:
    found = only(name, append(TABLE, GONE))
    assert (found.pain, found.severity, found.object, found.node) == (
        "stale-conntrack",
        "critical",
        "Service kube-system/kube-dns",
        "worker-0",
    )
    assert "10.200.0.99" in told(found) and TABLE in told(found)
    assert found.remedy[0].startswith(
        "conntrack -D -f ipv4 -p udp --orig-src 10.200.0.4 --orig-dst 10.32.0.10 --sport 5353 --dport 53"
    )


def test_udp_flow_to_a_service_that_has_no_endpoint_left() -> None:
    line = (
        GONE.replace("10.32.0.10", "10.32.0.30").replace("dport=53 ", "dport=5300 ").replace("sport=53 ", "sport=8081 ")
    )
    found = only(IPTABLES, append(TABLE, line))
    assert (found.pain, found.object) == ("stale-conntrack", "Service demo/nobody")
    assert "has none left" in found.title


def test_answered_stale_flow_is_a_warning_and_tcp_is_none() -> None:
    answered = GONE.replace(" [UNREPLIED]", "")
    assert only(IPTABLES, append(TABLE, answered)).severity == "warning"
    tcp = GONE.replace("udp      17 25", "tcp      6 86000 ESTABLISHED")
    assert not [each for each in findings(IPTABLES, append(TABLE, tcp)) if each.pain == "stale-conntrack"]


@pytest.mark.parametrize("name", ALL)
def test_flow_older_than_the_rules(name: str) -> None:
    line = GONE.replace("src=10.200.0.99", "src=10.32.0.10")
    found = only(name, append(TABLE, line))
    assert (found.pain, found.severity, found.object) == (
        "conntrack-before-rules",
        "critical",
        "Service kube-system/kube-dns",
    )
    assert "not translated" in found.title and "src=10.32.0.10" in told(found)
    assert found.remedy[0].startswith("conntrack -D")


def test_connection_that_is_over_is_left_alone() -> None:
    line = (
        "ipv4     2 tcp      6 90 TIME_WAIT src=10.200.0.4 dst=10.32.0.20 sport=5353 dport=80 "
        "src=10.32.0.20 dst=10.200.0.4 sport=80 dport=5353 [ASSURED] mark=0 use=1\n"
    )
    assert findings(IPTABLES, append(TABLE, line)) == []


def test_flow_to_no_service_is_none_of_ours() -> None:
    assert findings(IPTABLES, append(TABLE, GONE.replace("10.32.0.10", "203.0.113.10"))) == []


COUNT, MAXIMUM = "net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"


@pytest.mark.parametrize(
    ("count", "severity"), [("262144", "critical"), ("240000", "critical"), ("200000", "warning"), ("190000", "")]
)
def test_table_that_fills_up(count: str, severity: str) -> None:
    found = findings(IPTABLES, sysctl("worker-1", COUNT, count))
    assert [(each.pain, each.severity, each.object) for each in found] == (
        [("conntrack-full", severity, "worker-1")] if severity else []
    )
    if severity:
        assert f"{COUNT} = {count}" in found[0].evidence and f"{MAXIMUM} = 262144" in found[0].evidence
        assert "takes part in" in told(found[0])
        assert found[0].remedy[0].startswith(f"sysctl -w {MAXIMUM}=524288")


def test_entries_are_counted_when_the_sysctl_is_not_dumped() -> None:
    found = only(IPTABLES, sysctl("worker-1", COUNT, None), sysctl("worker-1", MAXIMUM, "1300"))
    assert (found.pain, found.severity) == ("conntrack-full", "critical")
    assert f"{COUNT} = 1309" in found.evidence


def test_table_that_was_full() -> None:
    stats = "cpu=0   \tfound=0 invalid=3 insert=0 insert_failed=0 drop=17 early_drop=2 error=0 search_restart=0\n"
    found = only(IPTABLES, put("worker-2/conntrack-stats.txt", stats))
    assert (found.pain, found.severity, found.object) == ("conntrack-full", "warning", "worker-2")
    assert "17 packets were dropped" in told(found) and "was full" in found.title


def test_without_dumps_of_connections_nothing_is_said() -> None:
    gone = [remove(f"worker-{i}/conntrack.txt") for i in range(3)]
    assert findings(IPTABLES, *gone, *(sysctl(f"worker-{i}", COUNT, None) for i in range(3))) == []


DIRECT = (
    "ipv4     2 tcp      6 86000 ESTABLISHED src=10.200.0.4 dst=10.200.2.6 sport=45000 dport=8080 "
    "src=10.200.2.6 dst=10.200.0.4 sport=8080 dport=45000 [ASSURED] mark=0 use=1\n"
)
BY_SERVICE = (
    "ipv4     2 tcp      6 86000 ESTABLISHED src=10.200.0.4 dst=10.32.0.20 sport=45000 dport=80 "
    "src=10.200.2.6 dst=10.200.0.4 sport=8080 dport={port} [ASSURED] mark=0 use=1\n"
)


def test_one_source_port_to_service_and_pod() -> None:
    found = only(IPTABLES, append(TABLE, DIRECT + BY_SERVICE.format(port=61234)))
    assert (found.pain, found.severity, found.object) == ("port-clash", "info", "worker-0")
    assert "its source port became 61234" in told(found)


def test_answers_that_look_alike() -> None:
    found = only(IPTABLES, append(TABLE, DIRECT + BY_SERVICE.format(port=45000)))
    assert (found.pain, found.severity) == ("port-clash", "warning")
    assert "its answers have the same addresses and ports" in told(found)


def test_two_ports_are_no_clash() -> None:
    assert findings(IPTABLES, append(TABLE, DIRECT.replace("45000", "45001") + BY_SERVICE.format(port=45000))) == []


@pytest.mark.parametrize(("failed", "severity"), [(4, "info"), (4000, "warning")])
def test_entries_lost_to_a_race(failed: int, severity: str) -> None:
    stats = (
        f"cpu=0   \tfound=0 invalid=0 insert=0 insert_failed={failed} drop=0 early_drop=0 error=0 search_restart=0\n"
    )
    found = only(IPTABLES, put("worker-0/conntrack-stats.txt", stats))
    assert (found.pain, found.severity) == ("port-clash", severity)
    assert f"insert_failed={failed}" in told(found)


def test_broken_counters_and_objects_break_nothing() -> None:
    assert findings(IPTABLES, put("worker-0/conntrack-stats.txt", "conntrack: not found")) == []
    odd = objects("nodes", named("worker-2", lambda each: each["spec"].update(podCIDR="none", podCIDRs=["none"])))
    assert isinstance(findings(IPTABLES, odd, append(TABLE, GONE)), list)
