"""Cluster DNS in trouble: the server killed, its socket gone, upstreams dead, slow or ourselves; and many changes under load."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest
from dns_site import SETTINGS, DnsSite, dns_site, end_process, processes_of

from dns_objects import endpoint, endpoints, external, headless, namespace, service
from glassnet.dns.model import Server, Stub

pytestmark = pytest.mark.kernel
Z = "svc.cluster.local"
CLUSTER = [namespace("demo"), service("web", "10.32.0.20"), headless("db"), endpoints("db", endpoint("10.200.0.7"))]
OUTSIDE = {"example.": "www A 192.0.2.80\nalias CNAME www.example.\nv6 AAAA 2001:db8::1\n9.9 PTR x.example.\n",
           "2.0.192.in-addr.arpa.": "80 PTR www.example.\n"}  # fmt: skip


async def test_a_killed_server_comes_back_with_all_records_and_so_does_one_whose_socket_is_gone() -> None:
    async with dns_site() as site:
        site.put(*CLUSTER)
        await site.start()
        first = processes_of(site)
        end_process(first)
        site.put(endpoints("db", endpoint("10.200.0.8")))  # while there is none
        await site.until_found(["10.200.0.8"], f"db.demo.{Z}")
        second = processes_of(site)
        assert second not in (0, first)
        assert await site.found(f"web.demo.{Z}") == ["10.32.0.20"]
        place = Path(site.machine.root) / "run/glassnet/dns"
        (place / "knot.sock").unlink()
        await site.until(lambda: processes_of(site) not in (0, second) and site.part.ready)
        site.put(endpoints("db", endpoint("10.200.0.9")))
        await site.until_found(["10.200.0.9"], f"db.demo.{Z}")
        assert site.part.knot is not None and site.part.knot.started == 3
        metrics = site.part.metrics.render()[0].decode()
        assert "glassnet_dns_server_starts_total 3.0" in metrics and "glassnet_dns_ready 1.0" in metrics


async def test_a_server_that_somebody_changed_behind_our_back_is_set_right() -> None:
    async with dns_site() as site:
        site.put(*CLUSTER)
        await site.start()
        control = ["knotc", "-s", "/run/glassnet/dns/knot.sock"]
        for words in (["zone-begin"], ["zone-unset"], ["zone-commit"]):
            record = [f"db.demo.{Z}.", "A", "10.200.0.7"] if words == ["zone-unset"] else []
            await site.machine.run([*control, *words, f"demo.{Z}.", *record])
        assert await site.found(f"db.demo.{Z}") == []
        site.put(endpoints("db", endpoint("10.200.0.8")))  # the record that is to go is not there
        await site.until_found(["10.200.0.8"], f"db.demo.{Z}")
        await site.until(lambda: site.part.knot is not None and site.part.knot.mended == 1 and site.part.ready)
        assert await site.found(f"db.demo.{Z}") == ["10.200.0.8"]


async def test_other_names_go_to_upstreams_and_stub_domains_and_aliases_are_followed() -> None:
    async with dns_site() as site:
        await site.upstream("127.0.0.2", OUTSIDE)
        await site.upstream("127.0.0.3", {"corp.example.": "www A 192.0.2.90\n"})
        site.put(*CLUSTER, external("ext", "www.example"), external("far", "alias.example"), external("corp", "www.corp.example"),
                 external("web2", f"web.demo.{Z}"), external("one", f"two.demo.{Z}"), external("two", f"one.demo.{Z}"),
                 external("gone", "nope.example"))  # fmt: skip
        stubs = (Stub("corp.example.", (Server("127.0.0.3"),)),)
        await site.start(SETTINGS._replace(upstreams=(Server("127.0.0.2"),), stubs=stubs))
        for tcp in (False, True):
            assert await site.found("www.example", tcp=tcp) == ["192.0.2.80"]
            assert await site.found("www.corp.example", tcp=tcp) == ["192.0.2.90"]
            assert await site.found("80.2.0.192.in-addr.arpa", "PTR", tcp=tcp) == ["www.example."]
            assert await site.code("nope.example", tcp=tcp) == "NXDOMAIN"
            assert await site.found(f"ext.demo.{Z}", tcp=tcp) == ["192.0.2.80"]
            assert await site.found(f"far.demo.{Z}", tcp=tcp) == ["192.0.2.80"]
            assert await site.found(f"corp.demo.{Z}", tcp=tcp) == ["192.0.2.90"]
            assert await site.found(f"web2.demo.{Z}", tcp=tcp) == ["10.32.0.20"]
            assert await site.code(f"gone.demo.{Z}", tcp=tcp) == "NXDOMAIN"
            assert await site.code(f"one.demo.{Z}", tcp=tcp) == "SERVFAIL"  # round and round
        assert await site.found(f"ext.demo.{Z}", "CNAME") == ["www.example."]
        chain = (await site.ask(f"far.demo.{Z}")).answer
        assert [str(rrset.name) for rrset in chain] == [f"far.demo.{Z}.", "alias.example.", "www.example."]


async def test_a_dead_upstream_holds_up_nobody_and_the_next_one_is_asked() -> None:
    async with dns_site() as site:
        for address in ("127.0.0.2", "127.0.0.3"):
            await site.upstream(address, OUTSIDE)
        site.put(*CLUSTER)
        await site.start(SETTINGS._replace(upstreams=(Server("127.0.0.2"), Server("127.0.0.3"))))
        forwarders = site.part.forwarders
        assert forwarders is not None
        assert await site.found("www.example") == ["192.0.2.80"]
        await site.end_upstream("127.0.0.2")
        with _silent(site, "127.0.0.2"):  # nobody answers there, and nothing says so
            await site.until(lambda: forwarders.states[Server("127.0.0.2")] == "dead")
            await site.until_found(["192.0.2.80"], "www.example")
            site.put(endpoints("db", endpoint("10.200.0.8")))  # records that were changed survive a change of upstreams
            await site.until_found(["10.200.0.8"], f"db.demo.{Z}")
            await site.end_upstream("127.0.0.3")
            await site.until(lambda: set(forwarders.states.values()) == {"dead"})
            assert await site.found(f"db.demo.{Z}") == ["10.200.0.8"]
            await _many_dead_questions(site)
        await site.upstream_again("127.0.0.2")
        await site.until_found(["192.0.2.80"], "www.example")
        assert await site.found(f"db.demo.{Z}") == ["10.200.0.8"]


def _silent(site: DnsSite, address: str) -> socket.socket:
    sock = site.machine.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    return sock


async def _many_dead_questions(site: DnsSite) -> None:
    """Names of the cluster are answered while hundreds ask for names that nobody knows."""

    def flood() -> list[socket.socket]:
        from dns import message

        socks = []
        for number in range(300):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.sendto(message.make_query(f"n{number}.example", "A").to_wire(), ("127.0.0.1", 53))
            socks.append(sock)
        return socks

    socks = await site.inside(flood)
    for _ in range(20):
        assert await site.found(f"web.demo.{Z}", timeout=1.0) == ["10.32.0.20"]
    for sock in socks:
        sock.close()
    assert await site.code("www.example") == "SERVFAIL"


async def test_an_upstream_that_comes_back_to_us_is_asked_no_more() -> None:
    async with dns_site() as site:
        site.put(*CLUSTER)
        machine = site.machine  # what is sent to 127.0.0.5 arrives at us: a forwarder that forwards to us
        await machine.run(["nft", "add table ip t; add chain ip t o { type nat hook output priority 0; }; add rule ip t o ip daddr 127.0.0.5 udp dport 53 dnat to 127.0.0.1:53"])  # fmt: skip
        await site.start(SETTINGS._replace(upstreams=(Server("127.0.0.5"),)))
        forwarders = site.part.forwarders
        assert forwarders is not None
        await site.until(lambda: forwarders.states[Server("127.0.0.5")] == "loop")
        assert await site.code("www.example") == "SERVFAIL"
        assert await site.found(f"web.demo.{Z}") == ["10.32.0.20"]
        assert 'server="127.0.0.5:53",state="loop"} 1.0' in site.part.metrics.render()[0].decode()


async def test_no_query_is_lost_while_a_hundred_changes_come_a_second() -> None:
    async with dns_site() as site:
        site.put(*CLUSTER)
        await site.start()
        questions = f"web.demo.{Z} A\ndb.demo.{Z} A\nnope.demo.{Z} A\n"
        await site.machine.run(["sh", "-c", "cat > /tmp/questions"], questions.encode())
        asking = asyncio.create_task(site.machine.run(["dnsperf", "-s", "127.0.0.1", "-d", "/tmp/questions", "-l", "3", "-Q", "800", "-c", "8"]))  # fmt: skip
        number = 0
        while not asking.done():
            number += 1
            site.put(endpoints("db", endpoint(f"10.200.{number // 250}.{number % 250 + 1}")))
            await asyncio.sleep(0.01)
        told = (await asking).decode()
        assert number > 100
        assert re.search(r"Queries lost:\s+0 ", told), told
        assert "SERVFAIL" not in told
        await site.until_found([f"10.200.{number // 250}.{number % 250 + 1}"], f"db.demo.{Z}")
        assert site.part.knot is not None and site.part.knot.mended == 0 and site.part.knot.started == 1


async def test_what_is_no_question_does_not_bring_the_server_down() -> None:
    async with dns_site() as site:
        site.put(*CLUSTER)
        await site.start(SETTINGS._replace(upstreams=(Server("127.0.0.9"),)))

        def rubbish() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for size in range(300):
                    sock.sendto(bytes((size * 7 + n * n) & 255 for n in range(size)), ("127.0.0.1", 53))
            for data in (b"", b"\0", b"\xff\xff" + b"x" * 100, b"\0\x0c" + b"\0" * 12):
                with socket.create_connection(("127.0.0.1", 53), timeout=2) as stream:
                    stream.sendall(data)

        await site.inside(rubbish)
        assert await site.found(f"web.demo.{Z}") == ["10.32.0.20"]
        assert site.part.knot is not None and site.part.knot.started == 1
