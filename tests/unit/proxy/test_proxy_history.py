"""After any sequence of changes what the kernel holds is what a fresh instance would have put there, and the transactions given lead there."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.kube.view import Key
from glassnet.proxy.backends import iptables_state, nftables, nftables_state
from glassnet.proxy.backends.iptables_layouts import in_pairs
from glassnet.proxy.backends.nftables import place
from glassnet.proxy.model import Endpoint, LocalDetector, Rules, ServicePort
from proxy_fakes import IptablesKernel, NfTablesKernel

Ports = tuple[ServicePort, ...]
RULES = {
    "IPv4": Rules(detector=LocalDetector("source", "10.0.0.0/8"), service_cidrs=("172.30.0.0/16",)),
    "IPv6": Rules(family="IPv6", detector=LocalDetector("prefix", "veth"), node_port_addresses=("fd00::1",)),
}
PREFIX = {"IPv4": ("10.0.0.{}", "172.30.0.{}", "198.51.100.{}"), "IPv6": ("fd00:1::{}", "fd00:2::{}", "2001:db8::{}")}
RANGES = {"IPv4": ("203.0.113.0/24", "203.0.113.8/29"), "IPv6": ("2001:db8:1::/64", "2001:db8:1::8/125")}


@st.composite
def service_port(draw: st.DrawFn, number: int, family: str) -> ServicePort:
    pods, virtual, outside = PREFIX[family]
    all_ = [Endpoint(pods.format(n), 8080 + n % 2, n % 3 == 0) for n in range(1, 14)]
    cluster = tuple(sorted(draw(st.lists(st.sampled_from(all_), unique=True, max_size=12)), key=lambda e: e.text))
    local = tuple(e for e in cluster if e.local)
    external_local, internal_local = draw(st.booleans()), draw(st.booleans())
    return ServicePort(
        name=f"demo/s{number}:p",
        protocol=draw(st.sampled_from(["TCP", "UDP"])),
        cluster_ip=virtual.format(number),
        port=80,
        node_port=draw(st.sampled_from([0, 30000 + number])),
        external_ips=draw(st.sampled_from([(), (outside.format(number),)])),
        load_balancer_ips=draw(st.sampled_from([(), (outside.format(100 + number),)])),
        source_ranges=draw(st.sampled_from([(), RANGES[family]])),
        external_local=external_local,
        internal_local=internal_local,
        affinity_seconds=draw(st.sampled_from([0, 0, 10, 300])),
        health_check_port=draw(st.sampled_from([0, 31000 + number])),
        cluster=cluster,
        local=local if external_local or internal_local else (),
        any_endpoints=bool(cluster),
    )


@st.composite
def history(draw: st.DrawFn, family: str) -> list[dict[Key, Ports | None]]:
    batches = []
    for _ in range(draw(st.integers(0, 10))):
        batch: dict[Key, Ports | None] = {}
        for number in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True)):
            port = draw(st.none() | service_port(number, family))
            batch[Key("demo", f"s{number}")] = (port,) if port else None
        batches.append(batch)
    return batches


def merged(batches: list[dict[Key, Ports | None]]) -> dict[Key, Ports]:
    wanted: dict[Key, Ports] = {}
    for batch in batches:
        for key, ports in batch.items():
            wanted.pop(key, None)
            if ports:
                wanted[key] = ports
    return wanted


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_table_after_any_history_is_a_fresh_one(family: str, data: st.DataObject) -> None:
    batches = data.draw(history(family))
    lived, kernel = nftables_state.State(RULES[family]), NfTablesKernel()
    kernel.commit(lived.full({}))
    for batch in batches:
        kernel.commit(lived.update(batch))
    fresh, new = nftables_state.State(RULES[family]), NfTablesKernel()
    new.commit(fresh.full(merged(batches)))
    assert kernel.content() == new.content()
    assert lived.update(merged(batches)) == []


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_events_squashed_or_split_lead_to_the_same_table(data: st.DataObject) -> None:
    batches = data.draw(history("IPv4"))
    one, two = NfTablesKernel(), NfTablesKernel()
    squashed, split = nftables_state.State(RULES["IPv4"]), nftables_state.State(RULES["IPv4"])
    one.commit(squashed.full({}))
    two.commit(split.full({}))
    one.commit(squashed.update({key: ports for batch in batches for key, ports in batch.items()}))
    for batch in batches:
        for key, ports in sorted(batch.items(), reverse=True):
            two.commit(split.update({key: ports}))
    assert one.content() == two.content()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers())
def test_whatever_was_done_to_a_table_is_mended(data: st.DataObject, seed: int) -> None:
    wanted = merged(data.draw(history("IPv4")))
    state, kernel = nftables_state.State(RULES["IPv4"]), NfTablesKernel()
    kernel.commit(state.full(wanted))
    before, random_ = kernel.content(), random.Random(seed)
    for each in random_.sample(sorted(kernel.elements), min(3, len(kernel.elements))):
        if each[0] not in ("services", "local", "node-port-services", "node-port-local"):
            del kernel.elements[each]
    kernel.elements["cluster-ips", bytes(4)] = b""
    kernel.chains["services"].pop()
    kernel.chains["foreign"] = []
    kernel.commit(state.reconcile(kernel.observed()))
    assert kernel.content() == before


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_successor_takes_over_a_table_that_is_there(data: st.DataObject) -> None:
    batches = data.draw(history("IPv4"))
    first, kernel = nftables_state.State(RULES["IPv4"]), NfTablesKernel()
    kernel.commit(first.full({}))
    for batch in batches:
        kernel.commit(first.update(batch))
    second = nftables_state.State(RULES["IPv4"])
    second.update(merged(batches))
    kernel.commit(second.reconcile(kernel.observed()))
    fresh, new = nftables_state.State(RULES["IPv4"]), NfTablesKernel()
    new.commit(fresh.full(merged(batches)))
    assert kernel.content() == new.content()


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("layout", ["current", "classic"])
@given(data=st.data())
def test_chains_after_any_history_are_fresh_ones(family: str, layout: str, data: st.DataObject) -> None:
    batches, rules = data.draw(history(family)), replace(RULES[family], layout=layout)
    lived, kernel = iptables_state.State(rules), IptablesKernel()
    kernel.restore(lived.reconcile(kernel.tables))
    for batch in batches:
        kernel.restore(lived.update(batch))
    fresh, new = iptables_state.State(rules), IptablesKernel()
    fresh.set_ports(merged(batches))
    new.restore(fresh.reconcile(new.tables))
    assert kernel.content() == new.content()
    for chain in ("KUBE-SERVICES", "KUBE-NODEPORTS"):
        assert in_pairs(kernel.tables["nat"][chain])
    assert lived.update(merged(batches)) == ""
    assert lived.reconcile(kernel.tables) == ""
    assert fresh.lines == lived.lines
    other = iptables_state.State(replace(rules, layout="classic" if layout == "current" else "current"))
    other.set_ports(merged(batches))
    kernel.restore(other.reconcile(kernel.tables))
    assert other.reconcile(kernel.tables) == ""
    kernel.restore(fresh.reconcile(kernel.tables))
    assert kernel.content() == new.content()
    new.restore(iptables_state.sweep(new.tables))
    assert new.tables == IptablesKernel().tables


def test_a_kubelet_keeps_its_chain_when_a_proxy_goes() -> None:
    state, kernel = iptables_state.State(RULES["IPv4"]), IptablesKernel()
    kernel.tables["mangle"]["KUBE-KUBELET-CANARY"] = []
    kernel.restore(state.reconcile(kernel.tables))
    kernel.tables["filter"]["KUBE-FIREWALL"].append("-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP")
    firewall = [line for (_, chain), lines in state.fixed().items() if chain == "KUBE-FIREWALL" for line in lines]
    kernel.restore(iptables_state.sweep(kernel.tables, firewall))
    assert kernel.tables["filter"]["KUBE-FIREWALL"] == ["-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP"]
    assert kernel.tables["filter"]["INPUT"] == ["-A INPUT -j KUBE-FIREWALL"]


@given(st.permutations(range(8)), st.integers(0, 8), st.permutations(range(4, 12)), st.integers(0, 8))
def test_slots_move_as_little_as_can_be(a: list[int], n: int, b: list[int], k: int) -> None:
    def endpoint(number: int) -> Endpoint:
        return Endpoint(f"10.0.0.{number}", 80)

    old, wanted = tuple(map(endpoint, a[:n])), tuple(map(endpoint, b[:k]))
    slots = place(old, wanted)
    assert sorted(slots) == sorted(wanted)
    moved = sum(1 for index, each in enumerate(slots) if each in old and old.index(each) != index)
    assert moved <= max(0, len(old) - len(slots)) or not old


def test_names_longer_than_the_kernel_takes_are_cut_and_stay_different() -> None:
    long: Any = "n" * 63
    names = set()
    for number in range(3):
        port = ServicePort(
            name=f"{long}/{'s' * 253}:{'p' * 60}{number}", protocol="TCP", cluster_ip="172.30.0.1", port=80,
            affinity_seconds=10, cluster=(Endpoint("10.0.0.1", 80),), any_endpoints=True,
        )  # fmt: skip
        made = nftables.elements([port], nftables_state.FAMILIES["IPv4"])
        names |= {*made.chains, *made.sets}
    assert len(names) == 9
    assert max(map(len, names)) < 256
