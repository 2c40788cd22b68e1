"""What `dns explain` says is what happens: Knot's answers for hundreds of names, and the queries that glibc's own resolver sends."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from dns_site import SETTINGS, DnsSite, dns_site
from test_dns_rules import CLUSTER, NEGATIVE, POSITIVE
from test_dns_trouble import OUTSIDE

from dns_objects import external
from glassnet.dns import resolv_conf
from glassnet.dns.lookup import FORWARDED, NODATA, NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Names
from glassnet.dns.model import Server
from glassnet.dns.search_list import Walk

pytestmark = pytest.mark.kernel
Z = "svc.cluster.local"
ALIASES = [external("ext", "www.example"), external("near", f"web.demo.{Z}"), external("here", f"nope.demo.{Z}"),
           external("one", f"two.demo.{Z}"), external("two", f"one.demo.{Z}")]  # fmt: skip
WORDS = ("web", "db", "db-0", "db-9", "10-200-0-8", "demo", "empty", "nowhere", "svc", "pod", "cluster", "local", "_http", "_dns", "_tcp", "_udp",
         "ext", "near", "here", "one", "kube-dns", "kube-system", "early", "e", "nobody", "fd00--1", "dns", "ns", "dns-version", "20", "0")  # fmt: skip


def names_to_ask() -> Iterator[tuple[str, str]]:
    """Those of the rules, with every type, and names made of the cluster's own words; always the same."""
    dice = random.Random(7)
    for name in sorted({each[1] for each in (*POSITIVE, *NEGATIVE)}):
        yield from ((name.rstrip(".").lower(), kind) for kind in ("A", "AAAA", "SRV", "PTR", "TXT"))
    for tail, _ in itertools.product(("svc.cluster.local", "pod.cluster.local", "demo.svc.cluster.local", "cluster.local", "0.32.10.in-addr.arpa"), range(70)):  # fmt: skip
        words = [dice.choice(WORDS) for _ in range(dice.randint(1, 4))]
        yield ".".join((*words, tail)), dice.choice(("A", "AAAA", "SRV", "PTR"))


@pytest.mark.parametrize("upstreams", [(), (Server("127.0.0.2"),)], ids=["alone", "with an upstream"])
async def test_the_server_answers_as_is_said(upstreams: tuple[Server, ...]) -> None:
    async with dns_site() as site:
        settings = SETTINGS._replace(upstreams=upstreams)
        if upstreams:
            await site.upstream("127.0.0.2", OUTSIDE)
        site.put(*CLUSTER, *ALIASES)
        await site.start(settings)
        known = Names(site.view, settings)
        seen = set()
        for name, kind in names_to_ask():
            said = known.ask(f"{name}.", kind)
            answer = await site.ask(name, kind)
            code = dns.rcode.to_text(answer.rcode())
            records = [f"{dns.rdatatype.to_text(rrset.rdtype)} {item.to_text()}" for rrset in answer.answer for item in rrset]  # fmt: skip
            code = NODATA if code == NOERROR and not records else code
            seen.add(said.code)
            if said.code == FORWARDED:
                assert upstreams, name
                continue
            assert said.code == code, (name, kind, said)
            if code == NOERROR:
                assert sorted(records) == sorted(said.data), (name, kind)
        assert seen >= {NOERROR, NODATA, NXDOMAIN, SERVFAIL} | ({FORWARDED} if upstreams else set())


class Recorder:
    """A DNS server that says what `say` has for a name, and keeps the names it was asked for, each once in a row."""

    def __init__(self, site: DnsSite) -> None:
        self.say, self.asked = dict[str, str](), list[str]()
        self._socket = site.machine.netns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.9", 53))
        asyncio.get_running_loop().add_reader(self._socket, self._one)

    def _one(self) -> None:
        data, sender = self._socket.recvfrom(4096)
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text()
        if not self.asked or self.asked[-1] != name:
            self.asked.append(name)
        code = self.say.get(name, NXDOMAIN)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA  # without, an empty answer would be a referral
        reply.set_rcode(dns.rcode.from_text(NOERROR if code == NODATA else code))
        if code == NOERROR and question.rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", "192.0.2.1"))
        self._socket.sendto(reply.to_wire(), sender)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


async def test_glibc_asks_in_the_order_that_is_said() -> None:
    """Names, search lists and answers of all sorts; the dice are always the same."""
    dice = random.Random(3)
    async with dns_site() as site:
        recorder = Recorder(site)
        try:
            for _ in range(60):
                name = ".".join(dice.choices(("a", "b", "c"), k=dice.randint(1, 4))) + dice.choice(("", "", "", "."))
                domains = dice.sample(("x", "x.y", "z.", ".", "w"), k=dice.randint(0, 4))
                text = f"nameserver 127.0.0.9\noptions ndots:{dice.randint(0, 4)} timeout:1\n"
                text += f"search {' '.join(domains)}\n" if domains else ""
                conf = resolv_conf.parse(text)
                codes = (NXDOMAIN, NXDOMAIN, NXDOMAIN, NODATA, SERVFAIL, REFUSED, NOERROR)
                walk, wanted = Walk(name, conf), list[str]()
                recorder.say = {}
                for candidate in walk:
                    code = recorder.say.setdefault(candidate.name, dice.choice(codes))
                    wanted.append(candidate.name)
                    walk.told(code)
                recorder.asked = []
                (Path(site.machine.root) / "etc/resolv.conf").write_text(text)
                await site.machine.run(["python3", "-c", f"import socket\ntry: socket.getaddrinfo({name!r}, 80)\nexcept socket.gaierror: pass"])  # fmt: skip
                assert recorder.asked == [each for each, _ in itertools.groupby(wanted)], (name, text, recorder.say)
        finally:
            recorder.close()
