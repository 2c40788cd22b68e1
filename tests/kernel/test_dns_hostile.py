"""What no well-behaved client or upstream sends: odd EDNS, names that cannot be, floods, upstreams that take their time. The server stays up."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import struct
import time
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from dns_site import HERE, SETTINGS, DnsSite, dns_site, processes_of
from test_dns_trouble import CLUSTER, OUTSIDE, Z

from dns_objects import endpoint, endpoints, headless, namespace, service
from glassnet.dns.model import Server

pytestmark = pytest.mark.kernel
NAME = f"web.demo.{Z}"
OPT = b"\0\0\x29"  # the root's name and the type: where a client's OPT record begins


def with_opt(size: int, flags: int = 0, data: bytes = b"", times: int = 1) -> bytes:
    """A query with OPT records written by hand."""
    raw = bytearray(dns.message.make_query(NAME, "A", use_edns=False).to_wire())
    struct.pack_into(">H", raw, 10, times)
    return bytes(raw) + (OPT + struct.pack(">HIH", size, flags, len(data)) + data) * times


async def raw_exchange(site: DnsSite, data: bytes, timeout: float = 2.0) -> bytes:
    def talk() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.connect((HERE, 53))
            sock.send(data)
            return sock.recv(65535)

    answer: bytes = await site.inside(talk)
    return answer


async def test_edns_of_every_sort() -> None:
    async with dns_site() as site:
        ends = tuple(endpoint(f"10.201.{n // 200}.{n % 200 + 1}") for n in range(600))
        site.put(*CLUSTER, headless("many"), endpoints("many", *ends, name="many"))
        await site.start()
        for size in (0, 100, 511, 512, 1232, 65535):  # of sizes of a few bytes Knot says FORMERR
            answer = dns.message.from_wire(await raw_exchange(site, with_opt(size)))
            assert answer.rcode() == dns.rcode.NOERROR and answer.answer, size
            large = dns.message.make_query(f"many.demo.{Z}", "A", use_edns=0, payload=size)
            cut = await raw_exchange(site, large.to_wire())
            assert len(cut) <= max(512, min(size, 1232)) and dns.message.from_wire(cut, ignore_trailing=True).flags & dns.flags.TC  # fmt: skip
        whole = await site.exchange(dns.message.make_query(f"many.demo.{Z}", "A"), tcp=True)
        assert len(whole.answer[0]) == 600
        signed = await site.exchange(dns.message.make_query(NAME, "A", want_dnssec=True))
        assert signed.answer and not [rrset for rrset in signed.answer if rrset.rdtype == dns.rdatatype.RRSIG]
        options = [
            dns.edns.GenericOption(number, b"\xff" * 40) for number in (3, 9, 11, 12, 15, 65001)
        ]  # NSID, expire, keepalive, padding, …
        assert (await site.exchange(dns.message.make_query(NAME, "A", use_edns=0, options=options))).answer
        for version in (1, 7, 255):
            assert (
                await site.exchange(dns.message.make_query(NAME, "A", use_edns=version))
            ).rcode() == dns.rcode.BADVERS
        assert dns.message.from_wire(await raw_exchange(site, with_opt(4096, times=2)), one_rr_per_rrset=True).rcode() == dns.rcode.FORMERR  # fmt: skip
        bad = await raw_exchange(
            site, with_opt(4096, data=b"\0\x0a\0\xff")
        )  # an option that says it is longer than the message
        assert bad[3] & 15 == dns.rcode.FORMERR


async def test_names_that_cannot_be_do_not_come_into_the_zones() -> None:
    async with dns_site() as site:
        label = "a" * 63
        twins = endpoints(
            "db", endpoint("10.200.0.7", hostname="db-0", pod="one"), endpoint("10.200.0.8", hostname="DB-0", pod="two")
        )
        long = endpoints(label, endpoint("10.200.0.9", hostname=label), ports=(("x" * 60, "TCP", 1),), namespace=label)
        site.put(*CLUSTER, twins, namespace(label), headless(label, namespace=label), long)
        await site.start()
        assert await site.found(f"db-0.db.demo.{Z}") == ["10.200.0.7", "10.200.0.8"]
        assert await site.found(f"{label}.{label}.{Z}") == ["10.200.0.9"]
        assert {each.reason for each in site.events} >= {"DuplicateHostname"}
        await site.until_found(["10.32.0.20"], NAME)
        site.put(service("ok", "10.32.0.99", namespace=label))  # the zone with the long names takes changes
        await site.until_found(["10.32.0.99"], f"ok.{label}.{Z}")
        too_long = (
            bytearray(dns.message.make_query(NAME, "A").to_wire())[:12] + (b"\x3f" + b"b" * 63) * 4 + b"\0\0\x01\0\x01"
        )
        looped = (
            bytearray(dns.message.make_query(NAME, "A").to_wire())[:12] + b"\xc0\x0c\0\x01\0\x01"
        )  # a name that points to itself
        for odd in (too_long, looped):  # dropped, or refused
            with contextlib.suppress(TimeoutError):
                assert (await raw_exchange(site, bytes(odd), 0.2))[3] & 15 == dns.rcode.FORMERR
        assert await site.found(NAME) == ["10.32.0.20"]
        assert site.part.knot is not None and (site.part.knot.started, site.part.knot.mended) == (1, 0)


async def test_floods() -> None:
    """20,000 datagrams of rubbish, and 200 connections that say nothing, eight of them half a word; all others are answered meanwhile and after."""
    async with dns_site() as site:
        site.put(*CLUSTER)
        await site.start()
        pid = processes_of(site)

        def idle() -> list[socket.socket]:
            found = [socket.create_connection((HERE, 53), timeout=5) for _ in range(200)]
            for number, each in enumerate(found):
                each.sendall((b"\0", b"\xff\xff", b"\0\x0c\0")[number % 3] if number % 25 == 0 else b"")
            return found

        def rubbish() -> None:
            dice = random.Random(1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for _ in range(20_000):
                    sock.sendto(dice.randbytes(dice.randint(0, 80)), (HERE, 53))

        connections = await site.inside(idle)
        for tcp in (False, True):
            assert await site.found(NAME, tcp=tcp) == ["10.32.0.20"]
        flood = asyncio.create_task(site.inside(rubbish))
        answered = 0
        while not flood.done():
            answered += await site.found(NAME, tcp=True) == ["10.32.0.20"]
        assert answered
        site.put(endpoints("db", endpoint("10.200.0.8")))
        await site.until_found(["10.200.0.8"], f"db.demo.{Z}")
        assert processes_of(site) == pid
        for each in connections:
            each.close()


class SlowUpstream:
    """An upstream that lives, and keeps answers for names back until it is told."""

    def __init__(self, site: DnsSite, late: float = 0.0) -> None:
        """`late`: seconds that an answer to the question whether it lives takes."""
        self._late = late
        self.held: list[tuple[bytes, Any]] = []
        self._socket = site.machine.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.2", 53))
        asyncio.get_running_loop().add_reader(self._socket, self._one)

    def _one(self) -> None:
        data, sender = self._socket.recvfrom(4096)
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.set_rcode(dns.rcode.NXDOMAIN)
        if "loop-check" in query.question[0].name.to_text():
            asyncio.get_running_loop().call_later(self._late, self._send, answer.to_wire(), sender)
        else:
            self.held.append((answer.to_wire(), sender))

    def _send(self, data: bytes, where: Any) -> None:
        if self._socket.fileno() >= 0:
            self._socket.sendto(data, where)

    def tell(self) -> None:
        while self.held:
            self._send(*self.held.pop())

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


def ask_many(count: int) -> list[socket.socket]:
    found = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.sendto(dns.message.make_query(NAME, "A").to_wire(), (HERE, 53))
        found.append(sock)
    return found


def answered(waiting: list[socket.socket], wanted: int, seconds: float = 5.0) -> int:
    """How many have their answer, once these are as many as wanted or the time is over."""
    deadline, left, count = time.monotonic() + seconds, set(waiting), 0
    while count < wanted and time.monotonic() < deadline:
        for sock in select.select(list(left), [], [], 0.05)[0]:
            sock.recv(4096)
            left.discard(sock)
            count += 1
    return count


async def test_a_slow_upstream_gives_its_answer_and_most_names_of_the_cluster_do_not_wait() -> None:
    """One worker of eight waits for it: what comes to that one waits too, all else does not."""
    async with dns_site() as site:
        slow = SlowUpstream(site)
        site.put(*CLUSTER)
        await site.start(SETTINGS._replace(upstreams=(Server("127.0.0.2"),), upstream_timeout=8000), interval=60)
        try:
            foreign = asyncio.create_task(site.code("www.example", timeout=10))
            await site.until(lambda: slow.held)
            waiting = await site.inside(lambda: ask_many(100))
            assert await site.inside(lambda: answered(waiting, 60)) >= 60
            assert not foreign.done()
            slow.tell()
            assert await foreign == "NXDOMAIN"
            assert await site.found(NAME) == ["10.32.0.20"]
            for sock in waiting:
                sock.close()
        finally:
            slow.close()


async def test_a_slow_upstream_is_passed_over_for_one_that_is_not() -> None:
    async with dns_site() as site:
        slow = SlowUpstream(site, late=0.6)
        try:
            await site.upstream("127.0.0.3", OUTSIDE)
            site.put(*CLUSTER)
            await site.start(SETTINGS._replace(upstreams=(Server("127.0.0.2"), Server("127.0.0.3"))))
            await site.until_found(["192.0.2.80"], "www.example")
            forwarders = site.part.forwarders
            assert forwarders is not None and forwarders.slow(Server("127.0.0.2"))
            assert set(forwarders.states.values()) == {"alive"}
        finally:
            slow.close()
