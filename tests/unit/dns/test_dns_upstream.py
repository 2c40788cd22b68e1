"""Upstreams, stub domains, settings, messages: what is read and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.agent.dns.control import Answers, ControlError, encode
from glassnet.dns import knot_conf, message, upstream
from glassnet.dns.message import Message, Resource
from glassnet.dns.model import DnsSettings, Server, Stub
from glassnet.dns.settings import settings
from glassnet.net.errors import UsageError


def test_servers_and_stub_domains_are_read() -> None:
    assert upstream.server("192.0.2.1") == Server("192.0.2.1", 53)
    assert upstream.server("192.0.2.1:5353") == Server("192.0.2.1", 5353)
    assert upstream.server("[2001:DB8::1]:54") == Server("2001:db8::1", 54)
    assert upstream.server("2001:db8::1") == Server("2001:db8::1", 53)
    assert upstream.stub("Corp.Example.=192.0.2.1,192.0.2.2:54") == Stub("corp.example.", (Server("192.0.2.1"), Server("192.0.2.2", 54)))  # fmt: skip


@pytest.mark.parametrize("text", ["", "dns.google", "192.0.2.1:0", "192.0.2.1:x", "192.0.2.1:65536", "[::1", "1.2.3"])
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no DNS server"):
        upstream.server(text) if text != "[::1" else upstream.server("[::1]:x")


def test_resolv_conf_gives_its_name_servers() -> None:
    text = "# nameserver 192.0.2.9\nsearch a.example\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver bad\nnameserver 192.0.2.1\n"
    assert upstream.servers_of(text) == (Server("192.0.2.1"), Server("fe80::1"))


@pytest.mark.parametrize(
    ("listen", "server", "own", "loop"),
    [
        ("0.0.0.0", "127.0.0.53", (), True),  # the stub of systemd-resolved on a node with hostNetwork
        ("0.0.0.0", "10.0.0.2", ("10.0.0.2",), True),
        ("0.0.0.0", "10.0.0.3", ("10.0.0.2",), False),
        ("10.0.0.2", "127.0.0.53", ("10.0.0.2",), False),
        ("10.0.0.2", "10.0.0.2", (), True),
        ("10.0.0.2:5353", "10.0.0.2", (), False),
        ("0.0.0.0:5353", "127.0.0.1", (), False),
        ("[::]", "::1", (), True),
    ],
)
def test_an_upstream_that_is_this_server_is_found(listen: str, server: str, own: tuple[str, ...], loop: bool) -> None:
    found = DnsSettings(listen=(upstream.server(listen),))
    good, wrong = upstream.without_ourselves([upstream.server(server), Server("192.0.2.1")], found, own)
    assert (good == (Server("192.0.2.1"),)) == loop
    assert bool(wrong) == loop


def test_the_closest_stub_domain_is_asked() -> None:
    stubs = (Stub("example.", (Server("192.0.2.1"),)), Stub("corp.example.", (Server("192.0.2.2"),)))
    up = (Server("192.0.2.3"),)
    assert upstream.for_name("a.corp.example.", up, stubs) == (Server("192.0.2.2"),)
    assert upstream.for_name("notcorp.example.", up, stubs) == (Server("192.0.2.1"),)
    assert upstream.for_name("example.com.", up, stubs) == up


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"domain": "a b"}, "cluster domain"),
        ({"domain": "x" * 60 + "." + "y" * 60 + ".z"}, "so long"),
        ({"stubs": ["cluster.local=192.0.2.1"]}, "the cluster's own"),
        ({"stubs": ["a.example=192.0.2.1", "A.example.=192.0.2.2"]}, "given twice"),
        ({"stubs": ["a.example"]}, "no stub domain"),
        ({"stubs": ["a.example=127.0.0.1"]}, "loop"),
        ({"transfer_to": ["10.0.0.0/33"]}, "no address and no prefix"),
        ({"own_service": "kube-dns"}, "NAMESPACE/NAME"),
    ],
)
def test_settings_that_cannot_be_are_refused(more: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        settings(**{"domain": "cluster.local", **more})  # type: ignore[arg-type]


def test_the_configuration_forwards_only_where_there_is_somebody() -> None:
    found = settings(domain="cluster.local", stubs=["corp.example=192.0.2.2"], transfer_to=["10.0.0.0/8"])
    zones = {"cluster.local.": "", "0.10.in-addr.arpa.": "mod-dnsproxy/reverse"}
    text = knot_conf.render(found, "/run/x", (Server("192.0.2.1"),), zones, "token")
    assert "global-module: mod-dnsproxy/upstream" in text and 'address: "192.0.2.1@53"' in text
    assert 'domain: "corp.example."\n    module: mod-dnsproxy/stub0' in text
    assert "action: transfer" in text and knot_conf.CHECK_ZONE in text
    alone = knot_conf.render(DnsSettings(), "/run/x", (), {"cluster.local.": ""})
    assert "dnsproxy" not in alone and "acl" not in alone and "loop-check" not in alone


@given(st.lists(st.binary(max_size=60)), st.binary(max_size=200))
def test_a_message_that_is_none_is_refused_and_nothing_else_happens(parts: list[bytes], raw: bytes) -> None:
    for data in (raw, b"".join(parts), b"\0" * 4 + b"\0\1\0\1" + raw):
        try:
            message.unpack(data)
        except ValueError:
            continue


def test_a_message_comes_back_as_it_was_packed() -> None:
    records = (
        Resource("a.example.", message.CNAME, 5, b"b.example."),
        Resource("b.example.", message.A, 9, b"\1\2\3\4"),
    )
    whole = Message(77, "a.example.", message.A, True, message.NXDOMAIN, False, True, records)
    assert message.unpack(message.pack(whole)) == whole


@given(st.integers(1, 7))
def test_answers_of_the_control_socket_may_come_in_any_pieces(size: int) -> None:
    units = encode({"command": "zone-read", "zone": "a."}) + encode({"error": "no"}) + b"\x03"
    answers, blocks = Answers(), []
    for at in range(0, len(units), size):
        blocks += answers.feed(units[at : at + size])
    assert blocks == [[{"command": "zone-read", "zone": "a."}], [{"error": "no"}], []]


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(ControlError, match="no code"):
        Answers().feed(b"HTTP/1.1 200 OK")
