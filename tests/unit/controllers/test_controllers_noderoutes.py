"""Conditions of Nodes' networks, and pod CIDRs: values in, values out."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.controllers import noderoutes, podcidrs
from glassnet.controllers.noderoutes import Ranges
from glassnet.controllers.podcidrs import Space
from glassnet.controllers.result import NOTHING
from glassnet.kube import kinds
from glassnet.kube.change import Patch, Record
from glassnet.kube.types import Node, decode

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def node(name: str, *cidrs: str, ips: tuple[str, ...] = ("10.0.0.1",), age: int = 0, **condition: Any) -> Node:
    created = (NOW - timedelta(seconds=age)).isoformat()
    conditions = [{"type": "NetworkUnavailable", **condition}] if condition else []
    body = {
        "metadata": {"name": name, "uid": name, "resourceVersion": "7", "creationTimestamp": created},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips], "conditions": conditions},
    }
    found: Node = decode(kinds.NODE, json.dumps(body))
    return found


def ranges(*nodes: Node) -> Ranges:
    made = Ranges()
    for each in nodes:
        made.put(each)
    return made


def said(one: Node, *others: Node) -> tuple[str, str]:
    found = noderoutes.verdict(one, ranges(one, *others))
    return found.status, found.reason


def test_what_a_condition_says() -> None:
    assert said(node("a", "10.1.0.0/24")) == ("False", "RouteCreated")
    assert said(node("a", "10.1.0.0/24", "fd00::/64")) == ("False", "RouteCreated")
    assert said(node("a")) == ("True", "NoPodCIDR")
    assert said(node("a", "10.1.0.0/24", ips=())) == ("True", "NoAddress")
    old, new = node("old", "10.1.0.0/16", age=9), node("new", "10.1.7.0/24")
    assert said(new, old) == ("True", "PodCIDROverlap")
    assert said(old, new) == ("False", "RouteCreated")
    assert "10.1.7.0/24 overlaps 10.1.0.0/16 of the older Node old" in noderoutes.verdict(new, ranges(old, new)).message
    assert said(node("b", "10.1.0.0/24"), node("a", "10.1.0.0/24")) == ("True", "PodCIDROverlap")  # of one age: by name
    assert said(node("a", "10.1.0.0/24"), node("b", "fd00::/64", age=9)) == ("False", "RouteCreated")


def test_the_patch_and_the_events() -> None:
    bare = node("a")
    patch, event = noderoutes.reconcile(bare, ranges(bare), NOW).changes
    assert isinstance(patch, Patch)
    assert isinstance(event, Record)
    assert (patch.subresource, patch.strategic, patch.resource_version) == ("status", True, "7")
    (condition,) = patch.body["status"]["conditions"]
    assert (condition["status"], condition["lastTransitionTime"]) == ("True", "2026-01-02T03:04:05Z")
    assert (event.type, event.reason, event.regarding["name"]) == ("Warning", "NoPodCIDR", "a")
    well = node("a", "10.1.0.0/24")
    (first,) = noderoutes.reconcile(well, ranges(well), NOW).changes  # the first False needs no Event
    assert isinstance(first, Patch)
    again = node("a", "10.1.0.0/24", **first.body["status"]["conditions"][0])
    assert noderoutes.reconcile(again, ranges(again), NOW) == NOTHING


def test_a_transition_is_a_change_of_status_alone() -> None:
    before = "2025-01-01T00:00:00Z"
    other = node("a", status="True", reason="Stranger", message="", lastTransitionTime=before)
    (condition,) = noderoutes.reconcile(other, ranges(other), NOW).changes[0].body["status"]["conditions"]  # type: ignore[union-attr]
    assert condition["lastTransitionTime"] == before
    other = node("a", status="False", reason="Stranger", message="", lastTransitionTime=before)
    (condition,) = noderoutes.reconcile(other, ranges(other), NOW).changes[0].body["status"]["conditions"]  # type: ignore[union-attr]
    assert condition["lastTransitionTime"] == "2026-01-02T03:04:05Z"


CIDRS = st.one_of(
    st.builds(lambda n, length: str(ip_network((n << 12 | 0x0A000000, length), strict=False)), st.integers(0, 31), st.integers(16, 24)),
    st.builds(lambda n, length: str(ip_network(((0xFD << 120) | n << 60, length), strict=False)), st.integers(0, 15), st.integers(60, 72)),
)  # fmt: skip
CHANGES = st.lists(st.tuples(st.sampled_from("abcdefg"), st.lists(CIDRS, max_size=2), st.integers(0, 3)), max_size=25)


@given(CHANGES)
def test_overlaps_are_what_comparing_all_with_all_finds_after_any_changes(changes: list[tuple[str, list[str], int]]) -> None:  # fmt: skip
    index, there = Ranges(), dict[str, Node]()
    verdicts: dict[str, Any] = {}
    for name, cidrs, age in changes:
        affected = {name}
        if cidrs:
            there[name] = node(name, *cidrs, age=age)
            affected |= index.put(there[name])
        else:
            there.pop(name, None)
            affected |= index.remove(name)
        now = {each: noderoutes.verdict(one, index) for each, one in there.items()}
        changed = {each for each in now if each in verdicts and verdicts[each] != now[each]}
        assert changed <= affected  # nobody is forgotten
        verdicts = now
    for one in there.values():
        wanted = {
            (mine, theirs, other.metadata.name)
            for other in there.values()
            for mine in one.spec.pod_cidrs
            for theirs in other.spec.pod_cidrs
            if _rank(other) < _rank(one) and _overlap(mine, theirs)
        }
        assert set(index.claims(one.metadata.name)) == wanted


def _rank(one: Node) -> tuple[datetime, str]:
    assert one.metadata.creation_timestamp
    return one.metadata.creation_timestamp, one.metadata.name


def _overlap(one: str, other: str) -> bool:
    a, b = ip_network(one), ip_network(other)
    return a.version == b.version and a.overlaps(b)  # type: ignore[arg-type]


def test_five_thousand_nodes_are_a_matter_of_moments() -> None:
    nodes = [node(f"n{i}", f"10.{i >> 8}.{i & 255}.0/24", f"fd00:0:0:{i:x}::/64", ips=("10.0.0.1", "fd01::1")) for i in range(5000)]  # fmt: skip
    begun = time.perf_counter()
    index = ranges(*nodes)
    assert {noderoutes.verdict(each, index).reason for each in nodes} == {"RouteCreated"}
    assert time.perf_counter() - begun < 5  # all with all would be minutes


# -- pod CIDRs


def given_to(*there: Node, spaces: tuple[tuple[str, int], ...], count: int = 1) -> list[tuple[str, ...]]:
    index, made = ranges(*there), [Space(*each) for each in spaces]
    out = []
    for number in range(count):
        _, later = podcidrs.allocate(node(f"new{number}"), index, made)
        index.put(later)
        out.append(later.spec.pod_cidrs)
    return out


def test_free_ranges_of_both_families_in_turn() -> None:
    taken = (node("a", "10.4.0.0/24", "fd00:4::/64"), node("wide", "10.4.2.0/23"))
    assert given_to(*taken, spaces=(("10.4.0.0/21", 24), ("fd00:4::/62", 64)), count=3) == [
        ("10.4.1.0/24", "fd00:4:0:1::/64"), ("10.4.4.0/24", "fd00:4:0:2::/64"), ("10.4.5.0/24", "fd00:4:0:3::/64"),
    ]  # fmt: skip


def test_a_range_that_is_used_up_is_told_and_nothing_is_patched() -> None:
    index = ranges(node("a", "10.4.0.0/24"))
    result, later = podcidrs.allocate(node("b"), index, [Space("10.4.0.0/24", 24)])
    assert [type(each) for each in result.changes] == [Record]
    assert later.spec.pod_cidrs == ()
    assert "10.4.0.0/24 has no free range" in result.changes[0].message  # type: ignore[union-attr]


def test_who_has_a_range_keeps_it() -> None:
    have = node("a", "192.168.0.0/24")
    assert podcidrs.allocate(have, ranges(have), [Space("10.4.0.0/16", 24)]) == (NOTHING, have)


@pytest.mark.parametrize(("cidr", "mask"), [("10.4.0.0/24", 20), ("10.4.0.0/24", 33), ("10.4.0.0/33", 33), ("x", 24)])
def test_spaces_that_cannot_be(cidr: str, mask: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        Space(cidr, mask)
