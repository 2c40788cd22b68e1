"""Ways -> operations: each state leads to each other, what is right is left alone, and the VXLAN link is set right rather than made anew."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.agent.routes.table import RouteTable
from glassnet.net.errors import KernelError
from glassnet.netstack.model import Vxlan
from glassnet.netstack.ops import (
    AddAddress,
    AddRoute,
    AddVxlan,
    DelAddress,
    DelFdb,
    DelLink,
    DelNeighbour,
    DelRoute,
    MarkLink,
    Operation,
    SetFdb,
    SetLink,
    SetNeighbour,
    SetVxlan,
)  # fmt: skip
from glassnet.routes.compute import Direct, Tunnelled, Ways
from glassnet.routes.model import MARK
from glassnet.routes.plan import (
    STANDBY,
    Entry,
    Key,
    difference,
    entries,
    key_of,
    link_addresses,
    link_operations,
    removal,
    standby,
)  # fmt: skip

LINK = "glassnet-vxlan"
hops = st.builds(
    Direct,
    st.sampled_from(["10.200.1.0/24", "10.200.2.0/24", "fd00::/64"]),
    st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    st.just("eth0"),
) | st.builds(
    Tunnelled,
    st.sampled_from(["10.200.1.0/24", "10.200.2.0/24"]),
    st.sampled_from(["10.200.1.0", "10.200.2.0"]),
    st.sampled_from(["02:00:00:00:00:01", "02:00:00:00:00:02"]),
    st.sampled_from(["10.9.0.1", "10.9.0.2"]),
)
states = st.lists(hops, max_size=4).map(lambda some: entries(Ways(tuple(some)), LINK))


def carry_out(table: dict[Key, Entry], operation: Operation) -> None:
    """As the kernel does: a route is made where none is, the others replace."""
    match operation:
        case AddRoute():
            assert key_of(operation) not in table and not operation.replace
            table[key_of(operation)] = operation
        case SetFdb() | SetNeighbour():
            table[key_of(operation)] = operation
        case DelRoute():
            there = table.pop(("route", operation.destination))
            assert isinstance(there, AddRoute)
            assert (there.gateway, there.dev, there.protocol) == (operation.gateway, operation.dev, operation.protocol)
        case DelFdb():
            del table["fdb", operation.hardware]
        case DelNeighbour():
            del table["neighbour", operation.address]
        case _:
            raise AssertionError(operation)


@given(states, states)
def test_the_difference_leads_from_one_to_the_other(present: dict[Key, Entry], wanted: dict[Key, Entry]) -> None:
    table = dict(present)
    steps = difference({**present, **wanted}, present, wanted)
    for key, operation in steps:
        before = dict(table)
        carry_out(table, operation)
        assert all(before.get(each) == table.get(each) for each in {*before, *table} if each != key)
    assert table == wanted and (steps == []) == (present == wanted)
    routes = [number for number, (key, _) in enumerate(steps) if key[0] == "route"]
    for number, (_, operation) in enumerate(steps):  # what a route stands on comes first and goes last
        assert all(number < each for each in routes) or not isinstance(operation, SetFdb | SetNeighbour)
        assert all(number > each for each in routes) or not isinstance(operation, DelFdb | DelNeighbour)


def test_only_ours_are_removed() -> None:
    route = AddRoute("10.200.1.0/24", gateway="10.0.0.1", dev="eth0", protocol=114, metric=7, table=9)
    gone = removal(route)
    assert isinstance(gone, DelRoute)
    assert (gone.protocol, gone.gateway, gone.dev, gone.metric, gone.table) == (114, "10.0.0.1", "eth0", 7, 9)
    assert key_of(route) != key_of(AddRoute("10.200.1.0/24")) != key_of(standby(AddRoute("10.200.1.0/24")))


# -- the link

WANTED = Vxlan(
    LINK,
    1,
    8472,
    "10.240.0.10",
    False,
    "02:00:00:00:00:01",
    1450,
    True,
    MARK,
    addresses=("10.200.0.0/32", "fd00::/128"),
)


def changed(**fields: object) -> Vxlan:
    made: Vxlan = WANTED._replace(**{"rp_filter": 2, "index": 9, **fields})
    return made


def test_the_link_is_made_with_its_mark() -> None:
    made = link_operations(WANTED, None)
    assert isinstance(made[0], AddVxlan) and made[0].hardware == WANTED.hardware and made[0].mtu == 1450
    assert MarkLink(LINK, MARK) in made and made[-1] == AddAddress("fd00::/128", LINK, exist_ok=True)
    assert link_addresses(["10.200.0.0/24", "fd00::/64"]) == WANTED.addresses


def test_a_link_that_is_right_is_left_alone() -> None:
    assert link_operations(WANTED, changed()) == []


@pytest.mark.parametrize(
    ("there", "kinds"),
    [
        (changed(local="10.240.0.11"), [SetVxlan]),
        (changed(mtu=1400), [SetLink]),
        (changed(hardware="02:00:00:00:00:09"), [SetLink]),
        (changed(up=False), [SetLink]),
        (changed(rp_filter=1), [SetLink]),
        (changed(addresses=("10.200.9.0/32", "fd00::/128")), [DelAddress, AddAddress]),
    ],
)
def test_a_link_is_set_right_where_it_stands(there: Vxlan, kinds: list[type]) -> None:
    assert [type(each) for each in link_operations(WANTED, there)] == kinds


@pytest.mark.parametrize(
    "there", [changed(vni=2), changed(port=4789), changed(learning=True), changed(local="fd40::1")]
)
def test_a_link_that_cannot_be_set_right_is_made_anew(there: Vxlan) -> None:
    made = link_operations(WANTED, there)
    assert made[0] == DelLink(LINK, missing_ok=True) and isinstance(made[1], AddVxlan)


# -- the table


class Kernel:
    """Takes in entries as the kernel does, and refuses some."""

    def __init__(self) -> None:
        self.table: dict[Key, Entry] = {}
        self.refused: set[str] = set()
        self.asked = 0

    def attempt(self, operations: Sequence[Operation]) -> dict[int, KernelError]:
        failures = {}
        for number, operation in enumerate(operations):
            self.asked += 1
            if getattr(operation, "destination", "") in self.refused:
                failures[number] = KernelError("AddRoute", errno.ENETUNREACH)
            else:
                carry_out(self.table, operation)
        return failures


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def wanted(*routes: str) -> dict[Key, Entry]:
    return {("route", each): AddRoute(each, gateway="10.0.0.1", dev="eth0", protocol=114) for each in routes}


def test_what_is_refused_holds_up_nothing_and_is_tried_again_ever_later() -> None:
    kernel, clock = Kernel(), Clock()
    table = RouteTable(kernel, clock)  # type: ignore[arg-type]
    kernel.refused = {"10.200.1.0/24"}
    both = wanted("10.200.1.0/24", "10.200.2.0/24")
    table.want(both, ())
    assert table.push(100) == {("route", "10.200.1.0/24")}
    assert (
        set(kernel.table) == {("route", "10.200.2.0/24")} and "unreachable" in table.refused["route", "10.200.1.0/24"]
    )
    waits = []
    for _ in range(12):
        due = table.due()
        assert due is not None
        waits.append(round(due, 1))
        clock.now += due + 0.001
        table.push(100)
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8] and waits[-1] == 60.0
    kernel.refused = set()
    table.retry()
    assert table.push(100) == {("route", "10.200.1.0/24")} and kernel.table == both and table.refused == {}


def test_who_fights_over_a_route_meets_ever_longer_pauses() -> None:
    kernel, clock = Kernel(), Clock()
    table = RouteTable(kernel, clock)  # type: ignore[arg-type]
    mine = wanted("10.200.1.0/24")
    table.want(mine, ())
    table.push(100)
    waits = []
    for _ in range(5):
        kernel.table.clear()
        table.lost(list(mine.values()))
        due = table.due()
        assert due is not None
        waits.append(round(due, 2))
        clock.now += due + 0.001
        table.push(100)
        assert kernel.table == mine
    assert waits == [0.0, 0.2, 0.4, 0.8, 1.6]
    clock.now += 1000  # peace
    kernel.table.clear()
    table.lost(list(mine.values()))
    assert table.due() == 0.0


def test_our_own_removals_are_no_losses() -> None:
    kernel, clock = Kernel(), Clock()
    table = RouteTable(kernel, clock)  # type: ignore[arg-type]
    old = wanted("10.200.1.0/24")
    table.want(old, ())
    table.push(100)
    new = {("route", "10.200.1.0/24"): AddRoute("10.200.1.0/24", gateway="10.0.0.2", dev="eth0", protocol=114)}
    table.want(new, ())
    table.push(100)
    asked = kernel.asked
    table.lost(list(old.values()))  # the kernel tells of it afterwards
    assert table.due() is None and kernel.table == new
    table.push(100)
    assert kernel.asked == asked


def test_the_work_comes_in_parts() -> None:
    kernel = Kernel()
    table = RouteTable(kernel, Clock())  # type: ignore[arg-type]
    table.want(wanted(*(f"10.200.{at}.0/24" for at in range(10))), ())
    sizes = []
    while table.due() == 0:
        table.push(4)
        sizes.append(len(kernel.table))
    assert sizes == [4, 8, 10]
    assert STANDBY > 1024  # larger than what an IPv6 route gets by default
