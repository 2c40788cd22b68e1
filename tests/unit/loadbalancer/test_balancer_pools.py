"""The configuration of load balancers, and ranges of addresses."""

from __future__ import annotations

import json

import pytest

from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.loadbalancer import pools, ranges
from glassnet.loadbalancer.ranges import Space
from glassnet.net import address
from glassnet.net.errors import ParseError

WHOLE = """
pools:
- name: public
  addresses: [192.0.2.0/29, 192.0.2.100 - 192.0.2.110, "2001:db8::/120"]
  avoidBuggyIPs: true
  announce: both
- name: shop
  addresses: [198.51.100.7]
  autoAssign: false
  namespaces: [shop]
  serviceSelector: tier=front
  nodeSelector: zone in (a,b)
bgp:
  asn: 64512
  localPref: 200
  communities: ["64512:100", "64512:1:2"]
  podCIDRs: true
  peers:
  - {name: top, address: 10.0.0.1, asn: 64500, holdTime: 3}
"""


def test_a_whole_configuration_is_read() -> None:
    found = pools.parse(WHOLE)
    public, shop = found.pools
    assert (public.by_l2, public.by_bgp, shop.by_l2, shop.by_bgp, shop.auto) == (True, True, True, False, False)
    assert [each.text for each in public.ranges] == [
        "192.0.2.0-192.0.2.7",
        "192.0.2.100-192.0.2.110",
        "2001:db8::-2001:db8::ff",
    ]
    assert found.of("192.0.2.105") is public and found.of("2001:db8::7") is public and found.of("192.0.2.8") is None
    assert public.avoided(32, address.number("192.0.2.0")) and not public.avoided(32, address.number("192.0.2.1"))
    assert found.bgp is not None and found.bgp.peers[0].port == 179 and found.bgp.local_pref == 200
    assert pools.parse("") == pools.Pools()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("pools:\n- name: a\n  addresses: [10.0.0.0/33]", 3, "pools[0].addresses[0]: '10.0.0.0/33' is no CIDR"),
        ("pools:\n- name: a\n  addresses: [10.0.0.9-10.0.0.1]", 3, "ends before it begins"),
        ("pools:\n- name: a\n  addresses: ['10.0.0.9-fd00::1']", 3, "begins in one family and ends in the other"),
        ("pools:\n- name: a\n  addresses: [127.0.0.0/30]", 3, "127.0.0.0/8, which nobody can be reached by"),
        ("pools:\n- name: a\n  addresses: [10.0.0.1]\n  adresses: []", 4, "did you mean 'addresses'?"),
        ("pools:\n- name: a\n  addresses: []", 2, "a pool needs addresses such as"),
        ("pools:\n- name: A_b\n  addresses: [10.0.0.1]", 2, "want small letters"),
        ("pools:\n- name: a\n  addresses: [10.0.0.0/24]\n- name: b\n  addresses: [10.0.0.9]", 5, "pools[1].addresses: 10.0.0.9 overlaps 10.0.0.0-10.0.0.255 of pool a"),
        ("pools:\n- name: a\n  addresses: [10.0.0.1]\n- name: a\n  addresses: [10.0.0.2]", 4, "there is a pool a already"),
        ("pools:\n- name: a\n  addresses: [10.0.0.1]\n  announce: ospf", 4, "'ospf' is not among l2, bgp, both"),
        ("pools:\n- name: a\n  addresses: [10.0.0.1]\n  announce: bgp", 1, "a is announced by bgp, and there is no bgp"),
        ("pools:\n- name: a\n  addresses: [10.0.0.1]\n  serviceSelector: 'a b c'", 4, "want labels such as"),
        ("pools:\n- name: a\n  addresses: [10.0.0.1]\n  autoAssign: maybe", 4, "pools[0].autoAssign: expected `bool`, got `str`"),
        ("pools:\n- 7", 2, "pools[0]: want a mapping"),
        ("pools: {}", 1, "pools: expected `array`, got `object`"),
        ("bgp: 3", 1, "bgp: want a mapping"),
        ("bgp:\n  asn: 0\n  peers: [{address: 10.0.0.1, asn: 1}]", 2, "bgp.asn: 0 is not between 1 and 4294967295"),
        ("bgp:\n  asn: 1\n  communities: ['1:99999']\n  peers: [{address: 10.0.0.1, asn: 1}]", 3, "no community such as"),
        ("bgp:\n  asn: 1\n  peers:\n  - {address: router, asn: 1}", 4, "'router' is no IP address"),
        ("bgp:\n  asn: 1\n  peers: []", 1, "there is nobody to speak BGP with"),
        ("pools: [{", 2, ""),
    ],
)  # fmt: skip
def test_every_fault_is_told_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ParseError) as caught:
        pools.parse(text, "pools.yaml")
    assert caught.value.line == line, str(caught.value)
    assert words in str(caught.value)
    assert "pools.yaml" in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ParseError, match="3 faults") as caught:
        pools.parse("pools:\n- name: a\n  addresses: [x]\n  colour: red\n  announce: z")
    assert str(caught.value).count("line ") == 3


def test_addresses_that_others_have_are_found() -> None:
    node = decode(kinds.NODE, json.dumps({
        "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.0.8.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]},
    }))  # fmt: skip
    found = pools.parse("pools: [{name: a, addresses: [10.0.0.0/20]}, {name: b, addresses: ['fd00::/120']}]")
    clashes = pools.clashes(found, [node], ["10.0.9.0/24", "fd00::/112"])
    assert {(each.pool, each.taken.text) for each in clashes} == {
        ("a", "10.0.0.7"),
        ("a", "10.0.8.0-10.0.8.255"),
        ("a", "10.0.9.0-10.0.9.255"),
        ("b", "fd00::-fd00::ff"),
    }
    assert any("Node n1 (10.0.0.7)" in each.text for each in clashes)


def test_a_space_gives_the_lowest_and_what_was_given_back() -> None:
    space, used = Space([ranges.parse("10.0.0.1-10.0.0.3"), ranges.parse("10.0.0.9")]), set[int]()

    def take() -> str:
        number = space.take(lambda number: number + (number in used))
        if number is None:
            return ""
        used.add(number)
        return address.text_of(number, 32)

    assert [take() for _ in range(5)] == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9", ""]
    used.remove(address.number("10.0.0.2"))
    space.free(address.number("10.0.0.2"))
    assert [take(), take()] == ["10.0.0.2", ""]
    assert Space([]).take(lambda number: number) is None
