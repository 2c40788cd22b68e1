"""host-local: configurations, which address comes next, and that a free one is found whenever there is one."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from carried import Carried, call
from hypothesis import given
from hypothesis import strategies as st

from glassnet.cni import effects as e
from glassnet.cni import host_local
from glassnet.cni.errors import CniError
from glassnet.cni.host_local import Exhausted, Range, assign, choose
from glassnet.cni.request import Attachment
from glassnet.cni.result import Dns, Ip, RouteEntry


def conf(*sets: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"ipam": {"type": "host-local", "ranges": list(sets), **more}}


def ranges(*entries: dict[str, Any]) -> tuple[Range, ...]:
    return host_local.parse(call(conf(list(entries)))).sets[0]


SMALL = ranges({"subnet": "10.200.0.0/29"})
TWO = ranges({"subnet": "10.1.0.0/30"}, {"subnet": "10.2.0.0/30"})


# -- which comes next


@pytest.mark.parametrize(
    ("last", "taken", "address"),
    [
        ("", (), "10.200.0.2"),
        ("10.200.0.2", (), "10.200.0.3"),
        ("10.200.0.6", (), "10.200.0.2"),
        ("10.200.0.3", ("10.200.0.4", "10.200.0.5"), "10.200.0.6"),
        ("10.200.0.4", ("10.200.0.5", "10.200.0.6"), "10.200.0.2"),
        ("10.200.0.4", ("10.200.0.2", "10.200.0.3", "10.200.0.5", "10.200.0.6"), "10.200.0.4"),
        ("192.0.2.1", (), "10.200.0.2"),
        ("fd00::5", (), "10.200.0.2"),
        ("rubbish\n", (), "10.200.0.2"),
        ("10.200.0.1", (), "10.200.0.2"),
        ("10.200.0.7", (), "10.200.0.2"),
    ],
)
def test_round_robin(last: str, taken: tuple[str, ...], address: str) -> None:
    assert choose(SMALL, 0, taken, last) == address


def test_ranges_of_a_set_follow_each_other() -> None:
    assert choose(TWO, 0, (), "10.1.0.2") == "10.2.0.2" and choose(TWO, 0, (), "10.2.0.2") == "10.1.0.2"
    assert choose(TWO, 0, {"10.2.0.2"}, "10.1.0.2") == "10.1.0.2"


def test_a_part_of_a_subnet_and_a_gateway_of_its_own() -> None:
    part = ranges({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.12", "gateway": "10.1.0.11"})
    first = choose(part, 0, (), "")
    second = choose(part, 0, {first}, first)
    assert (first, second) == ("10.1.0.10", "10.1.0.12")
    with pytest.raises(
        Exhausted, match=r"for range 3: no IP addresses available in range set: 10\.1\.0\.10-10\.1\.0\.12$"
    ):
        choose(part, 3, {first, second}, second)


def test_a_gateway_outside_leaves_the_first_address_free() -> None:
    assert choose(ranges({"subnet": "10.1.0.0/24", "gateway": "192.0.2.1"}), 0, (), "") == "10.1.0.1"


def test_ipv6_has_no_broadcast_address() -> None:
    six = ranges({"subnet": "fd00::/126"})
    assert [choose(six, 0, (), last) for last in ("", "fd00::2", "fd00::3")] == ["fd00::2", "fd00::3", "fd00::2"]
    assert str(ranges({"subnet": "FD00::/64"})[0]) == "fd00::1-fd00::ffff:ffff:ffff:ffff"


@pytest.mark.parametrize(
    ("wanted", "taken", "words"),
    [
        ("10.200.0.1", (), "requested ip 10.200.0.1 is subnet's gateway"),
        ("10.200.0.5", ("10.200.0.5",), "requested IP address 10.200.0.5 is not available in range set 10.200.0.1-10.200.0.6"),
        ("10.200.0.7", (), "requested IP address 10.200.0.7 is not in range set"),
    ],
)  # fmt: skip
def test_an_address_that_is_asked_for_and_cannot_be_had(wanted: str, taken: tuple[str, ...], words: str) -> None:
    with pytest.raises(Exhausted) as caught:
        choose(SMALL, 0, taken, "", wanted)
    assert str(caught.value).startswith(f"failed to allocate for range 0: {words}")


def test_an_address_that_is_asked_for() -> None:
    assert choose(SMALL, 0, {"10.200.0.4"}, "10.200.0.4", "10.200.0.3") == "10.200.0.3"


def test_what_is_asked_for_goes_to_the_set_that_gives_it() -> None:
    """Two sets may share a subnet: what counts is where each begins and ends."""
    sets = host_local.parse(
        call(
            conf(
                [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.19"}],
                [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.30", "rangeEnd": "10.1.0.39"}],
                [{"subnet": "fd00::/64"}],
            )
        )
    ).sets
    assert assign(sets, ("10.1.0.35", "fd00::9")) == ("", "10.1.0.35", "fd00::9")
    for wanted in (("10.1.0.25",), ("10.1.0.11", "10.1.0.12")):
        with pytest.raises(CniError, match="failed to allocate all requested IPs: ") as caught:
            assign(sets, wanted)
        assert caught.value.code == 7


def test_no_set_gives_the_gateway_of_another() -> None:
    part = ranges({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.12"})
    assert choose(part, 0, (), "10.1.0.10", gateways={ip_address("10.1.0.11")}) == "10.1.0.12"


@st.composite
def some_ranges(draw: st.DrawFn) -> tuple[Range, ...]:
    """Up to three ranges of a few addresses, v4 or v6, some of one subnet, gateways anywhere."""
    six, entries = draw(st.booleans()), []
    for number in range(draw(st.integers(1, 3))):
        bits, base = (125, f"fd00::{number}:") if six else (29, f"10.0.{number}.")
        low = draw(st.integers(1, 6))
        start, end = f"{base}{low}", f"{base}{draw(st.integers(low, 6))}"
        gateway = f"{base}{draw(st.integers(0, 7))}"
        entries.append({"subnet": f"{base}0/{bits}", "rangeStart": start, "rangeEnd": end, "gateway": gateway})
    return ranges(*entries)


@given(some_ranges(), st.data())
def test_a_free_address_is_found_whenever_there_is_one(mine: tuple[Range, ...], data: st.DataObject) -> None:
    every = [str(type(one.start)(n)) for one in mine for n in range(int(one.start), int(one.end) + 1)]
    usable = {text for text in every if ip_address(text) not in {one.gateway for one in mine}}
    taken = data.draw(st.sets(st.sampled_from(every)))
    last = data.draw(st.sampled_from(["", "10.9.9.9", "fd00::", *every]))
    if usable - taken:
        found = choose(mine, 0, taken, last)
        assert found in usable - taken
        after = every[every.index(last) + 1 :] + every[: every.index(last) + 1] if last in every else every
        assert found == next(text for text in after if text in usable - taken)  # the first after the last one
    else:
        with pytest.raises(Exhausted):
            choose(mine, 0, taken, last)


@given(some_ranges())
def test_all_get_their_turn(mine: tuple[Range, ...]) -> None:
    seen: list[str] = []
    try:
        for _ in range(20):
            seen.append(choose(mine, 0, (), seen[-1] if seen else ""))
    except Exhausted:
        assert not seen
        return
    cycle = len(set(seen))
    assert seen[cycle:] == seen[: 20 - cycle]


def test_a_full_network_of_65000_is_told_soon() -> None:
    big = ranges({"subnet": "10.0.0.0/16"})
    taken = {f"10.0.{a}.{b}" for a in range(256) for b in range(256)}
    with pytest.raises(Exhausted):
        choose(big, 0, taken, "10.0.77.1")


# -- configuration


def test_the_sets_in_order_and_what_else_goes_into_the_result() -> None:
    ipam = {
        "type": "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "ranges": [[{"subnet": "10.2.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}], "dataDir": "/run/x", "resolvConf": "/etc/resolv.conf",
    }  # fmt: skip
    runtime = {"ipRanges": [[{"subnet": "10.3.0.0/24"}]], "ips": ["10.3.0.7/24", "10.2.0.8"]}
    read = host_local.parse(
        call({"ipam": ipam, "runtimeConfig": runtime, "args": {"cni": {"ips": ["10.2.0.8"]}}}, CNI_ARGS="IP=10.1.0.9")
    )
    assert [str(one) for (one,) in read.sets] == ["10.3.0.1-10.3.0.254", "10.1.0.9-10.1.0.254", "10.2.0.1-10.2.0.254"]
    assert read.wanted == ("10.1.0.9", "10.2.0.8", "10.3.0.7")
    assert (read.place, read.routes) == ("/run/x/net", (RouteEntry("0.0.0.0/0", "10.1.0.1"),))


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        ({}, "no IP ranges specified"),
        ({"ranges": []}, "no IP ranges specified"),
        ({"ranges": [[]]}, "want a list of sets"),
        ({"ranges": [{"subnet": "10.0.0.0/8"}]}, "want a list of sets"),
        ({"subnet": "10.0.0.0/31"}, "network 10.0.0.0/31 too small to allocate from"),
        ({"subnet": "10.0.0.9/24"}, "10.0.0.9/24 has host bits set"),
        ({"subnet": "bogus"}, "want a network such as"),
        ({"subnet": 5}, "5: want a string"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}, "10.0.1.1 not in network 10.0.0.0/24"),
        ({"subnet": "10.0.0.0/24", "rangeEnd": "fd00::1"}, "fd00::1 not in network 10.0.0.0/24"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}, "comes after rangeEnd"),
        ({"subnet": "10.0.0.0/24", "gateway": "fd00::1"}, "fd00::1 not in network"),
        ({"subnet": "10.0.0.0/24", "gateway": "fe80::1%x"}, "want an IP address"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}, "mixed address families"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/25"}]]}, "overlaps with"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]]}, "range set 1 overlaps with"),
        ({"subnet": "10.0.0.0/24", "routes": [{"gw": "10.0.0.1"}]}, "want a network"),
        ({"subnet": "10.0.0.0/24", "dataDir": "/run/\0"}, "without NUL"),
    ],
)  # fmt: skip
def test_bad_configurations(ipam: dict[str, Any], words: str) -> None:
    with pytest.raises(CniError) as caught:
        host_local.parse(call({"ipam": {"type": "host-local", **ipam}}))
    assert caught.value.code == 7 and words in str(caught.value)


def test_unknown_keys_are_code_2_at_every_depth() -> None:
    for ipam in (
        {"subnets": "x", "subnet": "10.0.0.0/24"},
        {"ranges": [[{"subnet": "10.0.0.0/24", "rangestart": "10.0.0.2"}]]},
    ):
        with pytest.raises(CniError, match="there is no such key; did you mean") as caught:
            host_local.parse(call({"ipam": {"type": "host-local", **ipam}}))
        assert caught.value.code == 2


@pytest.mark.parametrize("text", ["x", "fe80::1%eth0", "10.0.0.300"])
def test_bad_addresses_that_are_asked_for(text: str) -> None:
    with pytest.raises(CniError, match="want an IP address") as caught:
        host_local.parse(call(conf([{"subnet": "10.0.0.0/24"}]), CNI_ARGS=f"IP={text}"))
    assert caught.value.code == 7


def test_old_versions_have_one_address_a_family() -> None:
    sets = conf([{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}])
    with pytest.raises(CniError, match=r"CNI version 0\.2\.0 does not support more than 1 address per family"):
        host_local.parse(call({"cniVersion": "0.2.0", **sets}))
    assert len(host_local.parse(call({"cniVersion": "0.3.0", **sets})).sets) == 2


# -- leases and calls


def test_lease_files() -> None:
    assert host_local.lease_text("c1", "eth0") == "c1\r\neth0"
    for text in ("c1\r\neth0", "c1\r\neth0\r\n", "c1\neth0\n"):
        assert host_local.read_lease(text) == Attachment("c1", "eth0")
    assert host_local.read_lease("c1") == Attachment("c1", "") and host_local.read_lease("") == Attachment("", "")
    assert host_local.is_lease("10.0.0.1") and host_local.is_lease("fd00::1")
    for name in ("lock", "last_reserved_ip.0", "fe80::1%eth0", "FD00::1", "10.0.0.1.new", "5"):
        assert not host_local.is_lease(name), name


def test_add_gives_addresses_with_prefix_gateway_routes_and_resolver() -> None:
    carried = Carried(
        {e.Reserve: lambda one: ("10.1.0.2", "fd00::2"), e.ReadFile: lambda one: "search a\nnameserver 10.0.0.10\n"}
    )
    given = conf([{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}], resolvConf="/r", routes=[{"dst": "::/0"}])
    made = carried.run(host_local.add(call(given)))
    assert made.ips == (Ip("10.1.0.2/24", "10.1.0.1"), Ip("fd00::2/64", "fd00::1"))
    assert made.routes == (RouteEntry("::/0"),) and made.dns == Dns(("10.0.0.10",), search=("a",))


def test_a_resolver_file_that_is_missing_costs_no_address() -> None:
    carried = Carried({e.ReadFile: lambda one: None})
    with pytest.raises(CniError, match="open /run/nope: no such file or directory"):
        carried.run(host_local.add(call(conf([{"subnet": "10.1.0.0/24"}], resolvConf="/run/nope"))))
    assert not any(isinstance(one, e.Reserve) for one in carried.seen)


def test_resolv_conf() -> None:
    text = "# x\n; y\nnameserver 10.0.0.10\n nameserver 10.0.0.11\ndomain a\ndomain b\nsearch c d\nsearch e\noptions ndots:5 edns0\nnameserver\n"
    assert host_local.parse_resolv_conf(text) == Dns(
        ("10.0.0.10", "10.0.0.11"), "b", ("c", "d", "e"), ("ndots:5", "edns0")
    )


def test_del_reads_nothing_but_where_leases_lie() -> None:
    carried = Carried({e.Held: lambda one: ("10.1.0.2",), e.Release: lambda one: None})
    carried.run(host_local.delete(call({"ipam": {"type": "host-local", "subnet": "bogus", "typo": 1}}, command="DEL")))
    assert carried.seen[-1] == e.Release("/var/lib/cni/networks/net", ("10.1.0.2",))


def test_status_of_any_set_that_is_full() -> None:
    full = conf([{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/30"}])
    carried = Carried({e.Leases: lambda one: {"10.2.0.2": Attachment("c9", "eth0")}})
    with pytest.raises(
        CniError, match=r"for range 1: no IP addresses available in range set: 10\.2\.0\.1-10\.2\.0\.2"
    ) as caught:
        carried.run(host_local.status(call(full, command="STATUS")))
    assert caught.value.code == 50


def test_gc_keeps_leases_without_interface_of_a_live_container() -> None:
    leases = {
        "10.1.0.2": Attachment("c1", "eth0"),
        "10.1.0.3": Attachment("c1", "eth1"),
        "10.1.0.4": Attachment("c1", ""),
        "10.1.0.5": Attachment("c2", ""),
        "10.1.0.6": Attachment("", ""),
    }
    carried = Carried({e.Leases: lambda one: leases, e.Release: lambda one: None})
    valid = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    carried.run(host_local.collect(call({**conf([{"subnet": "10.1.0.0/24"}]), **valid}, command="GC")))
    assert carried.seen[-1] == e.Release("/var/lib/cni/networks/net", ("10.1.0.3", "10.1.0.5", "10.1.0.6"))


def test_check_names_the_new_holder() -> None:
    held = Carried({e.Held: lambda one: ("10.1.0.3",), e.Leases: lambda one: {"10.1.0.2": Attachment("c2", "eth0")}})
    previous = {"prevResult": {"ips": [{"address": "10.1.0.2/24"}]}}
    with pytest.raises(CniError, match=r"10\.1\.0\.2 of c1 eth0 is held by c2 eth0"):
        held.run(host_local.check(call({**conf([{"subnet": "10.1.0.0/24"}]), **previous}, command="CHECK")))
    nothing = Carried({e.Held: lambda one: ()})
    with pytest.raises(CniError, match="host-local: Failed to find address added by container c1"):
        nothing.run(host_local.check(call(conf([{"subnet": "10.1.0.0/24"}]), command="CHECK")))
