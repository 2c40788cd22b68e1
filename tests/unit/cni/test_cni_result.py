"""Results in every version of the specification."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.cni.errors import CniError
from glassnet.cni.result import (
    VERSIONS,
    Dns,
    Interface,
    Ip,
    Result,
    RouteEntry,
    parse_result,
    render_result,
)

FULL = Result(
    (Interface("cni0", "0a:58:0a:16:00:01", mtu=1400), Interface("eth0", "0a:58:0a:16:00:02", "/run/netns/x", 1400, "/s", "0:1")),
    (Ip("10.22.0.2/24", "10.22.0.1", 1), Ip("fd00:22::2/64", "fd00:22::1", 1)),
    (RouteEntry("0.0.0.0/0"), RouteEntry("1100:200::1/24", "fd00:22::1", 1300, 1200, 5, 100, 0)),
    Dns(("10.0.0.10",), "cluster.local", ("a", "b"), ("ndots:5",)),
)  # fmt: skip


def test_the_newest_version_has_it_all_in_the_reference_plugins_order() -> None:
    body = render_result(FULL, "1.1.0")
    assert list(body) == ["cniVersion", "interfaces", "ips", "routes", "dns"]
    assert list(body["interfaces"][1]) == ["name", "mac", "mtu", "sandbox", "socketPath", "pciID"]
    assert body["routes"][1] == {"dst": "1100:200::1/24", "gw": "fd00:22::1", "mtu": 1300, "advmss": 1200, "priority": 5, "table": 100, "scope": 0}  # fmt: skip
    assert parse_result(json.loads(json.dumps(body)), "1.1.0") == FULL


def test_older_versions() -> None:
    one = render_result(FULL, "1.0.0")
    assert one["interfaces"][0] == {"name": "cni0", "mac": "0a:58:0a:16:00:01"}
    assert one["routes"][1] == {"dst": "1100:200::1/24", "gw": "fd00:22::1"} and "version" not in one["ips"][0]
    for version in ("0.3.0", "0.3.1", "0.4.0"):
        body = render_result(FULL, version)
        assert [ip["version"] for ip in body["ips"]] == ["4", "6"] and body["ips"][0]["interface"] == 1
    for version in ("0.1.0", "0.2.0"):
        assert render_result(FULL, version) == {
            "cniVersion": version,
            "ip4": {"ip": "10.22.0.2/24", "gateway": "10.22.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00:22::2/64", "gateway": "fd00:22::1", "routes": [{"dst": "1100:200::1/24", "gw": "fd00:22::1"}]},
            "dns": {"nameservers": ["10.0.0.10"], "domain": "cluster.local", "search": ["a", "b"], "options": ["ndots:5"]},
        }  # fmt: skip


def test_nothing_is_printed_as_little() -> None:
    """A network without addresses has words in every version: nothing may fail when all has been done."""
    for version in VERSIONS:
        assert render_result(Result(), version) == {"cniVersion": version, "dns": {}}


def test_addresses_are_written_one_way() -> None:
    body = {"ips": [{"address": "FD00:0::2/64", "gateway": "FD00::0001"}], "routes": [{"dst": "FD01::/16"}]}
    assert parse_result(body, "1.0.0") == Result(ips=(Ip("fd00::2/64", "fd00::1"),), routes=(RouteEntry("fd01::/16"),))


def test_its_own_version_comes_first_and_unknown_keys_are_dropped() -> None:
    old = {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.0.0.2/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "x": 1,
    }
    assert parse_result(old, "1.1.0") == Result(ips=(Ip("10.0.0.2/24", "10.0.0.1"),), routes=(RouteEntry("0.0.0.0/0"),))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"ips": {}}, "want a list"),
        ({"ips": [{"gateway": "10.0.0.1"}]}, "want an address with a prefix length"),
        ({"ips": [{"address": "10.0.0.1/255.0.0.0"}]}, "want an address with a prefix length"),
        ({"interfaces": [{"name": "a"}], "ips": [{"address": "10.0.0.1/8", "interface": 1}]}, "1: there are 1 interfaces"),
        ({"routes": [{"gw": "10.0.0.1"}]}, "want a network"),
        ({"dns": []}, "want an object"),
        ({"cniVersion": 1}, "want a string"),
        ({"cniVersion": "0.2.0", "ip4": "10.0.0.1"}, "want an object"),
    ],
)  # fmt: skip
def test_what_is_no_result(body: dict[str, Any], words: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_result(body, "1.0.0", "the answer of x")
    assert caught.value.code == 6 and words in str(caught.value)
    assert str(caught.value).startswith("could not parse the answer of x: ")


v4, v6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
word = st.text("abc0:/.", min_size=1, max_size=6)
interfaces = st.lists(
    st.builds(Interface, word, st.just("") | word, st.just("") | word, st.integers(0, 9000), st.just("") | word, st.just("") | word),
    max_size=3,
)  # fmt: skip
ips = st.lists(
    st.tuples(v4, st.integers(0, 32), st.none() | v4) | st.tuples(v6, st.integers(0, 128), st.none() | v6), max_size=4
)  # fmt: skip
routes = st.lists(
    st.builds(
        RouteEntry,
        st.builds("{}/{}".format, v4, st.integers(0, 32)) | st.builds("{}/{}".format, v6, st.integers(0, 128)),
        st.just("") | v4.map(str) | v6.map(str),
        st.integers(0, 9000),
        st.integers(0, 9000),
        st.integers(0, 9),
        st.integers(-1, 2**32 - 1),
        st.integers(-1, 255),
    ),
    max_size=4,
)  # fmt: skip


@st.composite
def results(draw: st.DrawFn) -> Result:
    links = tuple(draw(interfaces))
    place = st.none() | st.integers(0, len(links) - 1) if links else st.none()
    found = tuple(Ip(f"{ip}/{length}", str(gw or ""), draw(place)) for ip, length, gw in draw(ips))
    words = st.lists(word, max_size=2).map(tuple)
    return Result(
        links, found, tuple(draw(routes)), Dns(draw(words), draw(st.just("") | word), draw(words), draw(words))
    )


def sayable(result: Result, version: str) -> Result:
    """What is left of a result in a version."""
    if version != "1.1.0":
        result = result._replace(
            interfaces=tuple(Interface(*one[:3]) for one in result.interfaces),
            routes=tuple(RouteEntry(*one[:2]) for one in result.routes),
        )
    if version in VERSIONS[:2]:
        firsts = [next((ip for ip in result.ips if ip.family == family), None) for family in (4, 6)]
        kept = tuple(ip._replace(interface=None) for ip in firsts if ip is not None)
        mine = [route for ip in kept for route in result.routes if route.family == ip.family]
        result = result._replace(interfaces=(), ips=kept, routes=tuple(mine))
    return result


@given(results(), st.sampled_from(VERSIONS))
def test_what_is_written_is_read_again(result: Result, version: str) -> None:
    text = json.dumps(render_result(result, version))
    assert parse_result(json.loads(text), version) == sayable(result, version)


@given(results(), st.sampled_from(VERSIONS), st.sampled_from(VERSIONS))
def test_conversion_by_way_of_another_version_is_that_versions(result: Result, first: str, second: str) -> None:
    via = parse_result(render_result(result, first), first)
    assert sayable(sayable(result, first), second) == parse_result(render_result(via, second), second)


keys = st.sampled_from(
    ["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6", "address", "ip", "dst", "gw", "interface"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["10.0.0.1/24", "0.2.0"])
)
anything = st.recursive(
    scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(keys, x, max_size=4), max_leaves=15
)


@given(st.dictionaries(keys, anything, max_size=5), st.sampled_from(VERSIONS))
def test_rubbish_is_refused_and_nothing_worse(body: dict[str, Any], version: str) -> None:
    try:
        parse_result(body, version)
    except CniError as error:
        assert error.code in (1, 6)
