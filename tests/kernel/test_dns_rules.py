"""Cluster DNS as its clients see it: every rule of the specification, negative answers, TCP, EDNS; real Knot DNS, a real resolver library."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.reversename
import pytest
from dns_site import HERE, SETTINGS, DnsSite, dns_site

from dns_objects import endpoint, endpoints, external, headless, namespace, service
from glassnet.dns.model import Server

pytestmark = pytest.mark.kernel
HTTP, DNS_UDP = ("http", "TCP", 80), ("dns", "UDP", 53)
Z = "svc.cluster.local"

CLUSTER = [
    namespace("demo"), namespace("empty"), namespace("kube-system"),
    service("kube-dns", "10.32.0.10", DNS_UDP, namespace="kube-system"),
    service("web", ("10.32.0.20", "fd00:32::20"), HTTP, ("", "TCP", 99)),
    headless("db", HTTP, DNS_UDP),
    endpoints("db", endpoint("10.200.0.7", hostname="db-0", pod="db-0"), endpoint("10.200.0.8", pod="x"),
              endpoint("10.200.0.9", hostname="db-9", ready=False), ports=(HTTP, DNS_UDP)),
    endpoints("db", endpoint("fd00:200::7", hostname="db-0", pod="db-0"), family="IPv6", ports=(HTTP, DNS_UDP)),
    headless("early", publishNotReadyAddresses=True),
    endpoints("early", endpoint("10.200.1.1", hostname="e", ready=False)),
    headless("nobody", HTTP),
    endpoints("nobody", endpoint("10.200.2.2", ready=False), ports=(HTTP,)),
    external("ext", "outside.example"),
]  # fmt: skip

# rule of the specification, name, type, data
POSITIVE = [
    ("1 version", "dns-version.cluster.local", "TXT", ['"1.1.0"']),
    ("2 ClusterIP A", f"web.demo.{Z}", "A", ["10.32.0.20"]),
    ("3 ClusterIP AAAA", f"web.demo.{Z}", "AAAA", ["fd00:32::20"]),
    ("4 SRV of a named port", f"_http._tcp.web.demo.{Z}", "SRV", [f"0 100 80 web.demo.{Z}."]),
    ("5 PTR v4", str(dns.reversename.from_address("10.32.0.20")), "PTR", [f"web.demo.{Z}."]),
    ("6 PTR v6", str(dns.reversename.from_address("fd00:32::20")), "PTR", [f"web.demo.{Z}."]),
    ("7 headless A", f"db.demo.{Z}", "A", ["10.200.0.7", "10.200.0.8"]),
    ("7 not ready and published", f"early.demo.{Z}", "A", ["10.200.1.1"]),
    ("8 headless AAAA", f"db.demo.{Z}", "AAAA", ["fd00:200::7"]),
    ("9 hostname A", f"db-0.db.demo.{Z}", "A", ["10.200.0.7"]),
    ("9 hostname AAAA", f"db-0.db.demo.{Z}", "AAAA", ["fd00:200::7"]),
    ("9 by address", f"10-200-0-8.db.demo.{Z}", "A", ["10.200.0.8"]),
    ("10 headless SRV", f"_http._tcp.db.demo.{Z}", "SRV", [f"0 100 80 10-200-0-8.db.demo.{Z}.", f"0 100 80 db-0.db.demo.{Z}."]),
    ("10 headless SRV UDP", f"_dns._udp.db.demo.{Z}", "SRV", [f"0 100 53 10-200-0-8.db.demo.{Z}.", f"0 100 53 db-0.db.demo.{Z}."]),
    ("11 headless PTR v4", str(dns.reversename.from_address("10.200.0.7")), "PTR", [f"db-0.db.demo.{Z}."]),
    ("11 headless PTR v6", str(dns.reversename.from_address("fd00:200::7")), "PTR", [f"db-0.db.demo.{Z}."]),
    ("12 ExternalName", f"ext.demo.{Z}", "CNAME", ["outside.example."]),
    ("pod by address", "10-200-0-7.demo.pod.cluster.local", "A", ["10.200.0.7"]),
    ("pod by address, v6", "fd00-200--7.empty.pod.cluster.local", "AAAA", ["fd00:200::7"]),
    ("case does not matter", f"WEB.Demo.{Z}".upper(), "A", ["10.32.0.20"]),
    ("name servers", "cluster.local", "NS", ["ns.dns.cluster.local."]),
    ("name server's address", "ns.dns.cluster.local", "A", ["10.32.0.10"]),
]  # fmt: skip

NEGATIVE = [
    ("NXDOMAIN", f"nope.demo.{Z}", "A"),
    ("NXDOMAIN", f"web.nowhere.{Z}", "A"),
    ("NXDOMAIN", f"nowhere.{Z}", "A"),
    ("NXDOMAIN", "nope.cluster.local", "A"),
    ("NXDOMAIN", f"nobody.demo.{Z}", "A"),  # headless, nobody ready
    ("NXDOMAIN", f"_http._tcp.nobody.demo.{Z}", "SRV"),
    ("NXDOMAIN", f"db-9.db.demo.{Z}", "A"),
    ("NXDOMAIN", f"_https._tcp.web.demo.{Z}", "SRV"),
    ("NXDOMAIN", f"_http._udp.web.demo.{Z}", "SRV"),
    ("NXDOMAIN", "1-2-3-4.nowhere.pod.cluster.local", "A"),
    ("NXDOMAIN", "nowhere.pod.cluster.local", "A"),
    ("NXDOMAIN", "1-2-3-999.demo.pod.cluster.local", "A"),
    ("NXDOMAIN", "web.demo.pod.cluster.local", "A"),
    ("NXDOMAIN", str(dns.reversename.from_address("10.32.0.99")), "PTR"),
    ("NXDOMAIN", str(dns.reversename.from_address("192.0.2.1")), "PTR"),
    ("NODATA", f"web.demo.{Z}", "MX"),
    ("NODATA", f"early.demo.{Z}", "AAAA"),
    ("NODATA", f"kube-dns.kube-system.{Z}", "AAAA"),
    ("NODATA", f"_tcp.web.demo.{Z}", "A"),
    ("NODATA", Z, "A"),
    ("NODATA", f"demo.{Z}", "A"),
    ("NODATA", f"empty.{Z}", "A"),
    ("NODATA", "demo.pod.cluster.local", "A"),
    ("NODATA", "pod.cluster.local", "A"),
    ("NODATA", "10-200-0-7.demo.pod.cluster.local", "AAAA"),
    ("NODATA", "cluster.local", "A"),
    ("NODATA", str(dns.reversename.from_address("10.32.0.20")), "A"),
]


async def test_every_rule_and_every_negative_answer() -> None:
    async with dns_site() as site:
        site.put(*CLUSTER)
        await site.start()
        for rule, name, kind, wanted in POSITIVE:
            for tcp in (False, True):
                answer = await site.ask(name, kind, tcp=tcp)
                assert sorted(item.to_text() for rrset in answer.answer for item in rrset) == wanted, rule
                assert all(rrset.ttl == 5 for rrset in answer.answer), rule
        for code, name, kind in NEGATIVE:
            assert await site.code(name, kind) == code, (name, kind)
            answer = await site.ask(name, kind)
            (soa,) = [rrset for rrset in answer.authority if rrset.rdtype == dns.rdatatype.SOA]
            assert (soa.ttl, soa[0].minimum) == (5, 5), name
            assert dns.name.from_text(name).is_subdomain(soa.name), name
        assert await site.code("example.com") == "REFUSED"  # nobody to ask
        await _by_search_list(site)
        await _odd_questions(site)


async def _by_search_list(site: DnsSite) -> None:
    """As a pod's stub resolver asks: short names, ndots 5."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.ndots, resolver.use_search_by_default = [HERE], 5, True
    resolver.search = [dns.name.from_text(each) for each in (f"demo.{Z}", Z, "cluster.local")]
    for name in ("web", "web.demo", "web.demo.svc"):
        found = await site.inside(lambda name=name: resolver.resolve(name, "A"))
        assert [item.to_text() for item in found] == ["10.32.0.20"]
        assert str(found.canonical_name) == f"web.demo.{Z}."
    with pytest.raises(dns.resolver.NXDOMAIN):
        await site.inside(lambda: resolver.resolve(f"nope.demo.{Z}.", "A"))


async def _odd_questions(site: DnsSite) -> None:
    name = f"web.demo.{Z}"
    plain = await site.exchange(dns.message.make_query(name, "A", use_edns=False))
    assert plain.edns == -1 and plain.answer
    for option in (dns.edns.GenericOption(65001, b"x" * 200), dns.edns.ECSOption("192.0.2.0", 24)):
        odd = await site.exchange(dns.message.make_query(name, "A", use_edns=0, payload=4096, options=[option]))
        assert odd.rcode() == dns.rcode.NOERROR and odd.answer
    future = await site.exchange(dns.message.make_query(name, "A", use_edns=1))
    assert future.rcode() == dns.rcode.BADVERS
    chaos = await site.exchange(dns.message.make_query("version.bind", "TXT", "CH"))
    assert not chaos.answer  # who we are is nobody's business
    many = endpoints("many", *(endpoint(f"10.201.0.{n}") for n in range(1, 200)), name="many")
    site.put(headless("many"), many)
    large = dns.message.make_query(f"many.demo.{Z}", "A", use_edns=0, payload=512)
    await site.until_found(["10.201.0.1"], f"10-201-0-1.many.demo.{Z}")
    assert (await site.exchange(large)).flags & dns.flags.TC
    assert len((await site.exchange(large, tcp=True)).answer[0]) == 199
    dig = (await site.machine.run(["dig", "+short", f"@{HERE}", f"many.demo.{Z}"])).split()
    assert len(dig) == 199  # by TCP, on its own


async def test_servfail_until_the_first_lists_are_complete_and_other_names_all_the_while() -> None:
    async with dns_site() as site:
        await site.upstream("127.0.0.2", {"example.": "www A 192.0.2.80\n"})
        site.put(*CLUSTER)
        await site.start(SETTINGS._replace(upstreams=(Server("127.0.0.2"),)), lists=False)
        for name, kind in ((f"web.demo.{Z}", "A"), (f"nope.demo.{Z}", "A"), ("1-2-3-4.demo.pod.cluster.local", "A"), ("1.0.32.10.in-addr.arpa", "PTR")):  # fmt: skip
            assert await site.code(name, kind) == "SERVFAIL"
        assert await site.found("www.example") == ["192.0.2.80"]
        assert not site.part.ready
        site.lists.set()
        await site.until(lambda: site.part.ready)
        assert await site.found(f"web.demo.{Z}") == ["10.32.0.20"]
        assert await site.code(f"nope.demo.{Z}") == "NXDOMAIN"


async def test_records_follow_objects() -> None:
    async with dns_site() as site:
        site.put(*CLUSTER)
        await site.start()
        pid = site.part.knot.pid  # type: ignore[union-attr]
        site.put(endpoints("nobody", endpoint("10.200.2.2"), ports=(HTTP,)))
        await site.until_found(["10.200.2.2"], f"nobody.demo.{Z}")
        site.put(endpoints("nobody", endpoint("10.200.2.2", ready=False), ports=(HTTP,)))
        await site.until_found([], f"nobody.demo.{Z}")
        assert await site.code(f"nobody.demo.{Z}") == "NXDOMAIN"
        site.put(namespace("new"), service("web", "10.33.0.1", namespace="new"))
        await site.until_found(["10.33.0.1"], f"web.new.{Z}")
        await site.until_found([f"web.new.{Z}."], "1.0.33.10.in-addr.arpa", "PTR")
        await site.until_found(["1.2.3.4"], "1-2-3-4.new.pod.cluster.local")
        site.put(service("web", "10.33.0.1", namespace="new"), namespace("new"), deleted=True)
        await site.until_found([], "1-2-3-4.new.pod.cluster.local")
        await site.until_found([], f"web.new.{Z}")
        assert await site.code(f"web.new.{Z}") == await site.code("1-2-3-4.new.pod.cluster.local") == "NXDOMAIN"
        site.put(external("web", "elsewhere.example"))
        await site.until_found(["elsewhere.example."], f"web.demo.{Z}", "CNAME")
        site.put(service("web", "10.32.0.21", HTTP))
        await site.until_found(["10.32.0.21"], f"web.demo.{Z}")
        assert site.part.knot.pid == pid and site.part.knot.mended == 0  # type: ignore[union-attr]


async def test_zones_are_transferred_to_those_who_may() -> None:
    async with dns_site() as site:
        site.put(*CLUSTER)
        await site.start(SETTINGS._replace(transfer_to=("127.0.0.7",)))
        whole = await _transfer(site, f"demo.{Z}")
        assert f"web.demo.{Z}. 5 IN A 10.32.0.20" in whole and f"demo.{Z}. 5 IN NS ns.dns.cluster.local." in whole
        assert f"demo.{Z}. 5 IN NS ns.dns.cluster.local." in await _transfer(site, "cluster.local")
        refused = (await site.machine.run(["dig", f"@{HERE}", "axfr", f"demo.{Z}"])).decode()
        assert "Transfer failed" in refused and "web.demo" not in refused


async def _transfer(site: DnsSite, zone: str) -> list[str]:
    text = (await site.machine.run(["dig", "-b", "127.0.0.7", f"@{HERE}", "axfr", zone])).decode()
    return [" ".join(line.split()) for line in text.splitlines()]
