"""Which addresses serve node ports."""

from __future__ import annotations

import pytest

from glassnet.net.address import canonical
from glassnet.proxy.nodeports import includes_loopback, resolve

NODE = ("192.168.0.2", "fd00::2", "127.0.0.1")
LOCAL = ("127.0.0.1", "192.168.0.2", "10.1.0.1", "::1", "fd00::2")


@pytest.mark.parametrize(
    ("words", "family", "default", "wanted"),
    [
        ((), "IPv4", "", None),
        ((), "IPv4", "primary", ("192.168.0.2",)),
        (("primary",), "IPv6", "", ("fd00::2",)),
        (("192.168.0.0/16",), "IPv4", "primary", ("192.168.0.2",)),
        (("192.168.0.0/16",), "IPv6", "primary", None),  # none of the family: all
        (("192.168.0.0/16", "fd00::/8"), "IPv6", "", ("fd00::2",)),
        (("0.0.0.0/0",), "IPv4", "primary", None),
        (("127.0.0.0/8",), "IPv4", "", ("127.0.0.1",)),
        (("203.0.113.0/24",), "IPv4", "", ()),
    ],
)
def test_node_port_addresses(words: tuple[str, ...], family: str, default: str, wanted: tuple[str, ...] | None) -> None:
    assert resolve(words, family, NODE, LOCAL, default) == wanted


def test_loopback_counts_unless_ranges_leave_it_out() -> None:
    assert includes_loopback((), "IPv4")
    assert includes_loopback(("127.0.0.0/8",), "IPv4")
    assert includes_loopback(("fd00::/8",), "IPv4")
    assert not includes_loopback(("192.168.0.0/16",), "IPv4")
    assert not includes_loopback(("primary",), "IPv4")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.1", "10.0.0.1"), ("010.000.0.01", "10.0.0.1"), ("256.0.0.1", ""), ("1.2.3", ""), ("1.2.3.4.5", ""), ("+1.2.3.4", ""),
        (" 1.2.3.4", ""), ("2001:DB8::0:1", "2001:db8::1"), ("::ffff:1.2.3.4", "1.2.3.4"), ("fe80::1%eth0", ""), ("", ""), ("٣.1.1.1", ""),
    ],
)  # fmt: skip
def test_addresses_have_one_spelling(text: str, wanted: str) -> None:
    assert canonical(text) == wanted
