"""The rules of the DNS specification, one object at a time; the numbers are its sections."""

from __future__ import annotations

from typing import Any

import pytest

import dns_objects as objects
from dns_objects import endpoint, endpoints, external, headless, service
from glassnet.dns import compute
from glassnet.dns.model import Answer, DnsSettings, Record

SETTINGS = DnsSettings()
HTTP, DNS_UDP = ("http", "TCP", 80), ("dns", "UDP", 53)


def records(*bodies: dict[str, Any], settings: DnsSettings = SETTINGS) -> Answer:
    first, *slices = map(objects.decoded, bodies)
    return compute.service(first, slices, settings)


def lines(answer: Answer, zone: str = "cluster.local.") -> set[str]:
    """Records as text, without the cluster's zone."""
    return {f"{r.owner} {r.type} {r.data}".replace(f".svc.{zone}", "") for r in answer.records}


RULES = [
    ("2.3.1 a ClusterIP", [service("web", "10.0.0.5", ("", "TCP", 80))], {"web.demo A 10.0.0.5", "5.0.0.10.in-addr.arpa. PTR web.demo"}),
    ("2.3.1 both families, in any order", [service("web", ("fd00::5", "10.0.0.5"))],
     {"web.demo A 10.0.0.5", "web.demo AAAA fd00::5", "5.0.0.10.in-addr.arpa. PTR web.demo",
      f"5.{'0.' * 29}d.f.ip6.arpa. PTR web.demo"}),
    ("2.3.2 named ports only", [service("web", "10.0.0.5", HTTP, DNS_UDP, ("", "TCP", 99))],
     {"web.demo A 10.0.0.5", "_http._tcp.web.demo SRV 0 100 80 web.demo", "_dns._udp.web.demo SRV 0 100 53 web.demo",
      "5.0.0.10.in-addr.arpa. PTR web.demo"}),
    ("no address yet", [service("web")], set()),
    ("2.4 headless without slices", [headless("db", HTTP)], set()),
    ("2.4.1 and 2.4.3 a ready endpoint by its address", [headless("db"), endpoints("db", endpoint("10.1.0.7"))],
     {"db.demo A 10.1.0.7", "10-1-0-7.db.demo A 10.1.0.7", "7.0.1.10.in-addr.arpa. PTR 10-1-0-7.db.demo"}),
    ("2.4.1 by its hostname", [headless("db"), endpoints("db", endpoint("10.1.0.7", hostname="DB-0"))],
     {"db.demo A 10.1.0.7", "db-0.db.demo A 10.1.0.7", "7.0.1.10.in-addr.arpa. PTR db-0.db.demo"}),
    ("2.4.1 several addresses of one endpoint", [headless("db"), endpoints("db", endpoint("10.1.0.7", "10.1.0.8", hostname="a"))],
     {"db.demo A 10.1.0.7", "db.demo A 10.1.0.8", "a.db.demo A 10.1.0.7", "a.db.demo A 10.1.0.8",
      "7.0.1.10.in-addr.arpa. PTR a.db.demo", "8.0.1.10.in-addr.arpa. PTR a.db.demo"}),
    ("2.4.1 IPv6", [headless("db"), endpoints("db", endpoint("fd00::7"), family="IPv6")],
     {"db.demo AAAA fd00::7", "fd00--7.db.demo AAAA fd00::7", f"7.{'0.' * 29}d.f.ip6.arpa. PTR fd00--7.db.demo"}),
    ("not ready: no names", [headless("db"), endpoints("db", endpoint("10.1.0.7", ready=False))], set()),
    ("a condition nobody tells is ready", [headless("db"), endpoints("db", endpoint("10.1.0.7", hostname="a", ready=None))],
     {"db.demo A 10.1.0.7", "a.db.demo A 10.1.0.7", "7.0.1.10.in-addr.arpa. PTR a.db.demo"}),
    ("publishNotReadyAddresses", [headless("db", publishNotReadyAddresses=True), endpoints("db", endpoint("10.1.0.7", hostname="a", ready=False))],
     {"db.demo A 10.1.0.7", "a.db.demo A 10.1.0.7", "7.0.1.10.in-addr.arpa. PTR a.db.demo"}),
    ("2.4.2 N endpoints times M named ports",
     [headless("db"), endpoints("db", endpoint("10.1.0.7", hostname="a"), endpoint("10.1.0.8", hostname="b"), ports=(HTTP, DNS_UDP, ("", "TCP", 1)))],
     {"db.demo A 10.1.0.7", "db.demo A 10.1.0.8", "a.db.demo A 10.1.0.7", "b.db.demo A 10.1.0.8",
      "_http._tcp.db.demo SRV 0 100 80 a.db.demo", "_http._tcp.db.demo SRV 0 100 80 b.db.demo",
      "_dns._udp.db.demo SRV 0 100 53 a.db.demo", "_dns._udp.db.demo SRV 0 100 53 b.db.demo",
      "7.0.1.10.in-addr.arpa. PTR a.db.demo", "8.0.1.10.in-addr.arpa. PTR b.db.demo"}),
    ("2.5 ExternalName", [external("ext", "DB.example.com.")], {"ext.demo CNAME db.example.com."}),
]  # fmt: skip


@pytest.mark.parametrize(("bodies", "wanted"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_a_rule_of_the_specification(bodies: list[dict[str, Any]], wanted: set[str]) -> None:
    answer = records(*bodies)
    assert lines(answer) == wanted
    assert answer.problems == ()
    for record in answer.records:
        assert record.owner.endswith(record.zone)


def test_the_version_and_the_places_that_every_cluster_has() -> None:
    answer = compute.apex(SETTINGS)
    assert Record("cluster.local.", "dns-version.cluster.local.", "TXT", '"1.1.0"') in answer.records
    assert {r.zone for r in answer.records if r.type == "NS"} == {"cluster.local.", "pod.cluster.local.", "in-addr.arpa.", "ip6.arpa."}  # fmt: skip
    without = compute.apex(SETTINGS._replace(pods="disabled"))
    assert not [r for r in without.records if "pod" in r.owner]


def test_a_namespace_has_a_zone_of_its_own_and_a_place_for_its_pods() -> None:
    assert lines(compute.namespace("demo", SETTINGS)) == {
        "demo NS ns.dns.cluster.local.", "demo.pod.cluster.local. TYPE65280 \\# 0",
    }  # fmt: skip


def test_the_service_before_the_server_is_the_name_server() -> None:
    answer = records(service("kube-dns", "10.0.0.10", namespace="kube-system"))
    assert Record("cluster.local.", "ns.dns.cluster.local.", "A", "10.0.0.10") in answer.records


def test_another_cluster_domain() -> None:
    answer = records(service("web", "10.0.0.5"), settings=DnsSettings(domain="K8s.Example"))
    assert lines(answer, "k8s.example.") == {"web.demo A 10.0.0.5", "5.0.0.10.in-addr.arpa. PTR web.demo"}


WRONG = [
    ("BadExternalName", [external("ext", "10.0.0.1")], set(), "is an address"),
    ("BadExternalName", [external("ext", "a b")], set(), "no name of DNS"),
    ("BadExternalName", [external("ext", "")], set(), "no name of DNS"),
    ("BadExternalName", [external("ext", "ext.demo.svc.cluster.local")], set(), "the Service itself"),
    ("NoAddress", [service("web", "10.0.0.999")], set(), "10.0.0.999"),
    ("NoAddress", [headless("db"), endpoints("db", endpoint("fd00::1"))], set(), "no IPv4 address"),
    ("BadHostname", [headless("db"), endpoints("db", endpoint("10.1.0.7", hostname="a.b"))], {"db.demo A 10.1.0.7"}, "'a.b'"),
    ("BadHostname", [headless("db"), endpoints("db", endpoint("10.1.0.7", hostname="a" * 64))], {"db.demo A 10.1.0.7"}, "no label"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "bodies", "wanted", "text"), WRONG, ids=[f"{w[0]} {w[3]}" for w in WRONG])
def test_what_cannot_be_had_is_left_out_with_a_reason(
    reason: str, bodies: list[dict[str, Any]], wanted: set[str], text: str
) -> None:
    answer = records(*bodies)
    assert lines(answer) == wanted
    assert [problem.reason for problem in answer.problems] == [reason]
    assert text in answer.problems[0].message


def test_a_hostname_of_two_pods_has_both_addresses_and_somebody_hears_of_it() -> None:
    answer = records(headless("db"), endpoints("db", endpoint("10.1.0.7", hostname="a", pod="p1"), endpoint("10.1.0.8", hostname="a", pod="p2")))  # fmt: skip
    assert {"a.db.demo A 10.1.0.7", "a.db.demo A 10.1.0.8"} <= lines(answer)
    assert [problem.reason for problem in answer.problems] == ["DuplicateHostname"]
    both = (endpoints("db", endpoint("10.1.0.7", hostname="a", pod="p")), endpoints("db", endpoint("fd00::7", hostname="a", pod="p"), family="IPv6"))  # fmt: skip
    assert records(headless("db"), *both).problems == ()


def test_names_longer_than_dns_allows_are_left_out_and_the_others_stay() -> None:
    long = DnsSettings(domain=".".join(["d" * 30] * 4))  # 127 octets with the dots
    name, host = "s" * 60, "h" * 63
    answer = records(headless(name), endpoints(name, endpoint("10.1.0.7", hostname=host), ports=(HTTP,)), settings=long)
    assert {(r.type, r.owner.split(".")[0]) for r in answer.records} == {("A", name)}
    assert {problem.reason for problem in answer.problems} == {"NameTooLong"}
