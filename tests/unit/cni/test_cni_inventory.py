"""Whose an address is, and whether anybody has it; what may be given back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.cni.inventory import (
    ALIVE,
    LEAKED,
    Facts,
    Lease,
    advice,
    kept_addresses,
    living,
    newest,
    places,
    releasable,
    rows,
)
from glassnet.cni.request import Attachment
from glassnet.cni.runtime import Container, Kept, Network, parse_network

NOW, BOOTED = 10_000.0, 1_000.0
DATA = "/var/lib/cni/networks/pods"


def conf(**more: Any) -> Network:
    body = {"cniVersion": "1.1.0", "name": "pods", "type": "bridge", "ipam": {"type": "host-local"}, **more}
    return parse_network(json.dumps(body), "pods.conf")


def kept(container: str, *ips: str, netns: str = "/run/netns/there", pod: str = "web", network: Network | None = None) -> Kept:  # fmt: skip
    arguments = (("K8S_POD_NAMESPACE", "demo"), ("K8S_POD_NAME", pod)) if pod else ()
    result = {"cniVersion": "1.1.0", "ips": [{"address": ip} for ip in ips]}
    return Kept(network or conf(), Container(container, netns, "eth0", -1, arguments), result)


def lease(address: str, container: str, changed: float = 5_000.0, ifname: str = "eth0") -> Lease:
    return Lease("pods", DATA, address, Attachment(container, ifname), changed)


def facts(*leases: Lease, **more: Any) -> Facts:
    base: dict[str, Any] = {
        "leases": leases, "kept": (), "addresses": frozenset(), "wired": frozenset(), "namespaces": frozenset(), "kept_at": {},
        "booted": BOOTED, "now": NOW,
    }  # fmt: skip
    return Facts(**(base | more))


def test_an_address_in_a_namespace_is_alive_and_known_by_its_pod() -> None:
    (row,) = rows(facts(lease("10.1.0.2", "c1"), kept=(kept("c1", "10.1.0.2/24"),), addresses=frozenset(["10.1.0.2"])))
    assert (row.state, row.pod, row.age, row.settled) == (ALIVE, "demo/web", 5_000.0, True)


def test_a_veth_pair_that_is_up_speaks_for_its_container_only() -> None:
    found = rows(facts(lease("10.1.0.2", "c1"), lease("10.1.0.3", "c2"), wired=frozenset([("pods", "c1", "eth0")])))
    assert [row.state for row in found] == [ALIVE, LEAKED]


@pytest.mark.parametrize(
    ("more", "changed", "why"),
    [
        ({}, 5_000.0, "no such container: no namespace has the address"),
        ({}, 500.0, "from before the last boot"),
        ({"kept": (kept("c1", "10.1.0.2/24"),)}, 5_000.0, "kept result without namespace: /run/netns/there is gone"),
        (
            {"kept": (kept("c1", "10.1.0.2/24"),), "namespaces": frozenset(["/run/netns/there"])},
            5_000.0,
            "/run/netns/there is there, without the address",
        ),
    ],
)
def test_what_leaked_says_why(more: dict[str, Any], changed: float, why: str) -> None:
    (row,) = rows(facts(lease("10.1.0.2", "c1", changed), **more))
    assert (row.state, row.why) == (LEAKED, why)


def test_a_kept_result_without_a_lease_is_told_too() -> None:
    one = kept("c1", "10.1.0.2/24", "fd00::2/64")
    found = rows(facts(kept=(one,), kept_at={("pods", one.container.attachment): 9_990.0}))
    assert [(row.address, row.state, row.place, row.settled) for row in found] == [
        ("10.1.0.2", LEAKED, "", False),
        ("fd00::2", LEAKED, "", False),
    ]
    (row,) = rows(facts(kept=(kept("c1", "10.1.0.2/24"),), addresses=frozenset(["10.1.0.2"])))
    assert (row.state, row.why) == (ALIVE, "a namespace has the address, no lease")


def test_results_of_old_versions_have_their_addresses_elsewhere() -> None:
    old = kept("c1")._replace(result={"ip4": {"ip": "10.1.0.2/24"}, "ip6": {"ip": "fd00::2/64"}})
    assert kept_addresses(old) == ["10.1.0.2", "fd00::2"]
    assert kept_addresses(old._replace(result={"ips": "damaged"})) == []


def test_rows_come_in_the_order_of_addresses() -> None:
    found = rows(facts(*(lease(text, "c1") for text in ("10.1.0.10", "fd00::2", "10.1.0.9"))))
    assert [row.address for row in found] == ["10.1.0.9", "10.1.0.10", "fd00::2"]


def test_only_what_leaked_twice_and_is_old_is_given_back() -> None:
    first = rows(facts(lease("10.1.0.2", "c1"), lease("10.1.0.3", "c2"), lease("10.1.0.4", "c3"), lease("10.1.0.5", "c4", NOW - 59)))  # fmt: skip
    second = rows(
        facts(
            lease("10.1.0.2", "c1"),  # leaked at both looks
            lease("10.1.0.3", "c9"),  # another has it now
            lease("10.1.0.4", "c3"),  # its address has come
            lease("10.1.0.5", "c4", NOW - 59),  # young
            lease("10.1.0.6", "c5"),  # seen for the first time
            addresses=frozenset(["10.1.0.4"]),
        )
    )
    assert [row.address for row in releasable(first, second)] == ["10.1.0.2"]


@given(
    st.lists(st.tuples(st.integers(2, 30), st.booleans(), st.booleans(), st.floats(0, 9_999)), unique_by=lambda x: x[0])
)
def test_nothing_that_lives_is_ever_given_back(entries: list[tuple[int, bool, bool, float]]) -> None:
    leases = [lease(f"10.1.0.{n}", f"c{n}", changed) for n, _, _, changed in entries]
    addresses = frozenset(f"10.1.0.{n}" for n, configured, _, _ in entries if configured)
    wired = frozenset(("pods", f"c{n}", "eth0") for n, _, up, _ in entries if up)
    found = rows(facts(*leases, addresses=addresses, wired=wired))
    gone = {row.holder.container_id for row in releasable(found, found)}
    assert gone == {
        f"c{n}" for n, configured, up, changed in entries if not configured and not up and NOW - changed >= 60
    }


def test_gc_keeps_all_that_something_speaks_for() -> None:
    there = kept("c4", netns="/run/netns/c4")
    one = facts(
        lease("10.1.0.2", "c1"), lease("10.1.0.3", "c2"), lease("10.1.0.4", "young", NOW - 1),
        addresses=frozenset(["10.1.0.2"]), wired=frozenset([("pods", "c3", "eth0"), ("other", "c9", "eth0")]),
        kept=(there, kept("c5", netns="/run/netns/gone")), namespaces=frozenset(["/run/netns/c4"]),
    )  # fmt: skip
    assert {each.container_id for each in living(one, "pods")} == {"c1", "young", "c4", "c3"}


def test_leases_lie_where_the_network_says() -> None:
    network = conf(ipam={"type": "host-local", "dataDir": "/run/leases"})
    assert places([network, conf(), conf(ipam={"type": "dhcp", "dataDir": "/x"})]) == {"/run/leases/pods": "pods"}


def test_only_our_own_plugins_are_asked_in_a_newer_version() -> None:
    assert newest(conf(cniVersion="0.3.1")).version == "1.1.0"
    assert newest(conf(cniVersion="0.3.1", type="macvlan")).version == "0.3.1"
    assert newest(conf(cniVersion="0.3.1", ipam={"type": "dhcp"})).version == "0.3.1"


@pytest.mark.parametrize(
    ("message", "show", "mend"),
    [
        ("Interface cnio0 is down", "ip link show dev cnio0", "ip link set dev cnio0 up"),
        ("Interface veth1: does not exist", "ip link show dev veth1", "kubectl delete pod"),
        ('Interface cnio0 Error: does not exist', "ip link show dev cnio0", "the next ADD makes it"),
        ("bridge cni0 has lost the gateway's address 10.1.0.1", "ip address show to 10.1.0.1", "ip address add 10.1.0.1/"),
        ("Interface veth1 is not a port of cni0", "bridge link show", "master cni0"),
        ('failed to open netns "/run/netns/x": No such file', "nsenter --net=/run/netns/x ip address", "kubectl delete pod"),
        ("Failed to match addr 10.1.0.9/24 on interface eth0", "nsenter --net=/run/netns/x ip address", "kubectl delete pod"),
        ("masquerade rules are missing: -A POSTROUTING", "iptables -t nat -S POSTROUTING", "flushed"),
        ("failed to allocate for range 0: no IP addresses available in range set: a-b", "glassnet cni leases", "--release-leaked"),
        ("the pod CIDRs of this node are not known (yet)", "cat /run/glassnet/node.json", "glassnet cni serve"),
        ("who knows", "glassnet doctor", "kubectl delete pod"),
    ],
)  # fmt: skip
def test_a_fault_comes_with_what_shows_and_mends_it(message: str, show: str, mend: str) -> None:
    found = advice(message, "/run/netns/x")
    assert found.show.startswith(show) and mend in found.mend
