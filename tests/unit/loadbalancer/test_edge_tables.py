"""Tables of the cloud's load balancer: as they are to be, and that a change leads from any to any other. `nft -c` and the kernel judge them."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_services import NAMES, NLB, NODES, lb_service, local, made, site, tables
from glassnet.kube.types import Service
from glassnet.loadbalancer.edge import behaviour as b
from glassnet.loadbalancer.edge import layout, routing, table
from glassnet.loadbalancer.edge.behaviour import FLOATING_IP, KINDS, NODE_PORT_TARGETS, PASS_THROUGH
from glassnet.loadbalancer.edge.table import Table
from glassnet.netstack.ops import AddRoute, AddRule

GOLDENS = Path(__file__).parents[2] / "data/cloud"
WEB = (lb_service("web"), ("198.51.100.1", "2001:db8:51::101"))
LOCAL = (local("local", node_port=30081, loadBalancerSourceRanges=["192.0.2.0/24"]), ("198.51.100.2",))
TURN = (lb_service("turn", {b.DISTRIBUTION: b.TURN}, node_port=30082), ("198.51.100.3",))
KEPT = (lb_service("kept", NLB, node_port=30083), ("198.51.100.4",))
ALONE = {"local": ["worker-1"]}


def nft(script: str, *words: str) -> str:
    """What nft says to a script in a network namespace of its own."""
    command = ["unshare", "--net", "sh", "-c", f"nft {' '.join(words)} -f - && nft -j list ruleset"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=30, check=False)
    assert not done.returncode, f"{done.stderr}\n{script}"
    return done.stdout


@pytest.mark.kernel
@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_as_they_were_and_nft_takes_them(kind: str) -> None:
    pools, fronts = made(kind, [WEB, LOCAL, TURN, KEPT], ALONE)
    script = "".join(table.whole(each) for each in tables(kind, pools, fronts))
    router = "".join(table.whole(layout.router_table(family, site(kind), fronts)) for family in ("IPv4", "IPv6"))
    for name, text in ((kind, script), (f"{kind}-router", router)):
        assert text == (GOLDENS / f"{name}.nft").read_text(), f"{name}: another script than the one kept"
        nft(text, "-c")


@st.composite
def _states(draw: st.DrawFn) -> tuple[list[tuple[Service, tuple[str, ...]]], dict[str, list[str]]]:
    found: list[tuple[Service, tuple[str, ...]]] = []
    for number in draw(st.sets(st.integers(1, 5))):
        notes = draw(st.sampled_from([{}, NLB, {b.DISTRIBUTION: b.TURN}]))
        spec: dict[str, Any] = draw(
            st.sampled_from([{}, {"loadBalancerSourceRanges": ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"]}])
        )
        make = draw(st.sampled_from([lb_service, local]))
        ips = (f"198.51.100.{number}", f"2001:db8:51::10{number}")[: draw(st.integers(1, 2))]
        found.append((make(f"s{number}", notes, node_port=30000 + number, **spec), ips))
    names = st.lists(st.sampled_from(NAMES), unique=True)
    return found, {name: draw(names) for name in ("", "s1", "s2", "s3", "s4", "s5")}


def _listed(text: str) -> Any:
    """A listing without handles and order."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items() if name != "handle"}
        return [plain(each) for each in value] if isinstance(value, list) else value

    objects = [plain(each) for each in json.loads(text)["nftables"]]
    for each in objects:
        for kind in ("set", "map"):
            if kind in each:
                each[kind]["elem"] = sorted(map(json.dumps, each[kind].get("elem", [])))
    return sorted(json.dumps(each, sort_keys=True) for each in objects)


@pytest.mark.kernel
@settings(max_examples=12, deadline=None)
@given(st.sampled_from(KINDS), _states(), _states())
def test_a_change_leads_where_a_fresh_table_is(kind: str, first: Any, second: Any) -> None:
    old = tables(kind, *made(kind, *first))
    new = tables(kind, *made(kind, *second))
    steps = [table.whole(each) for each in old]
    steps += [table.changes(before, after) for before, after in zip(old, new, strict=True)]
    assert all(table.changes(each, each) == "" for each in new)
    fresh = "".join(table.whole(each) for each in new)
    assert _listed(nft("".join(steps))) == _listed(nft(fresh))


def test_one_more_service_is_a_few_elements() -> None:
    many = [(lb_service(f"s{n}", node_port=30000 + n), (f"198.51.100.{n}",)) for n in range(1, 200)]
    for kind, sets in ((FLOATING_IP, {"frontends"}), (NODE_PORT_TARGETS, {"frontends", "ports", "proxied"})):
        before, _ = tables(kind, *made(kind, many[:-1], {}))
        after, _ = tables(kind, *made(kind, many, {}))
        lines = table.changes(before, after).splitlines()
        assert {line.split()[4] for line in lines} == sets
        assert all(line.startswith("add element ") and "demo/s199" in line for line in lines)


def test_a_node_that_fails_is_the_rules_of_its_pool() -> None:
    before, _ = tables(PASS_THROUGH, *made(PASS_THROUGH, [WEB], {}))
    after, _ = tables(PASS_THROUGH, *made(PASS_THROUGH, [WEB], {"": ["worker-0", "worker-2"]}))
    lines = table.changes(before, after).splitlines()
    assert all(" pool-nodes" in line for line in lines) and not any("worker-1" in line for line in lines)
    assert [line.split()[0] for line in lines] == ["add", "flush", "add", "add", "add", "add"]
    assert "mod 2" in lines[-1]


def test_what_is_removed_is_removed_whole() -> None:
    assert table.gone("ip") == "table ip glassnet-cloud\ndelete table ip glassnet-cloud\n"
    full, _ = tables(FLOATING_IP, *made(FLOATING_IP, [WEB, LOCAL], ALONE))
    empty, _ = tables(FLOATING_IP, *made(FLOATING_IP, [], {}))
    left = table.changes(full, empty)
    assert (
        "delete element ip glassnet-cloud frontends" in left
        and "delete chain ip glassnet-cloud pool-demo/local" in left
    )
    assert table.changes(Table("ip", {}, {}, {}), empty).startswith("add set ip glassnet-cloud ours")


def test_marks_lead_to_nodes() -> None:
    found = routing.to_nodes(NODES[:1], "eth0")
    assert found == [
        AddRoute("default", gateway="10.240.0.20", dev="eth0", table=1001, onlink=True),
        AddRule(1001, family=4, priority=1001, mark=1),
        AddRoute("default", gateway="fd00:10:240::20", dev="eth0", table=1001, onlink=True),
        AddRule(1001, family=6, priority=1001, mark=1),
    ]
    back = routing.to_balancer(["198.51.100.0/24", "2001:db8:51::/120"], ["169.254.200.2"], "eth2", True)
    assert [each.destination for each in back if isinstance(each, AddRoute)] == ["198.51.100.0/24", "default"]


def test_the_choice_of_a_node_is_spread_evenly() -> None:
    """What `jhash … mod N` does is the tracer's to say; here that slots and nodes agree, weights included."""
    weighted = (local("heavy", {"networking.gke.io/weighted-load-balancing": "pods-per-node"}), ("198.51.100.9",))
    pools, _ = made(PASS_THROUGH, [weighted], {}, {"worker-0": 3, "worker-1": 1})
    assert pools[0].slots == ("worker-0",) * 3 + ("worker-1",)
    order = list(NAMES)
    random.Random(1).shuffle(order)
    pools, _ = made(PASS_THROUGH, [weighted], {"heavy": order}, {})
    assert pools[0].slots == tuple(NAMES)
