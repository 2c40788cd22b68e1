"""What tells the clouds' load balancers from each other: behaviours, faults, questions to nodes, health, statuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_services import NAMES, NLB, lb_service, local
from glassnet.kube.change import Patch, Record
from glassnet.kube.types import Service
from glassnet.loadbalancer.assign import OTHER, Verdict
from glassnet.loadbalancer.edge import behaviour as b
from glassnet.loadbalancer.edge import model, status
from glassnet.loadbalancer.edge.behaviour import FLOATING_IP, KINDS, NODE_PORT_TARGETS, PASS_THROUGH
from glassnet.loadbalancer.edge.health import SHARED, Question, Standing, faster, heard, question

UDP = [{"port": 53, "protocol": "UDP", "nodePort": 30053}]
PORTLESS = [{"port": 80}]


@pytest.mark.parametrize(
    ("kind", "notes", "found"),
    [
        (FLOATING_IP, NLB, b.AZURE),
        (PASS_THROUGH, {}, b.GOOGLE),
        (NODE_PORT_TARGETS, {}, b.CLASSIC),
        (NODE_PORT_TARGETS, NLB, b.NETWORK),
    ],
)
def test_which_load_balancer_a_service_gets(kind: str, notes: dict[str, str], found: b.Behaviour) -> None:
    assert b.behaviour(kind, lb_service("x", notes)) is found
    assert (found.ip_mode == "Proxy") == (kind == NODE_PORT_TARGETS)


@pytest.mark.parametrize(
    ("service", "kinds", "words"),
    [
        (lb_service("x"), {}, ""),
        (lb_service("x", sessionAffinity="ClientIP"), {NODE_PORT_TARGETS}, "unsupported load balancer affinity: ClientIP"),
        (lb_service("x", ports=UDP), {NODE_PORT_TARGETS}, "port 53: protocol UDP is not supported by a load balancer of type classic (TCP)"),
        (lb_service("x", NLB, ports=UDP), {}, ""),
        (lb_service("x", ports=PORTLESS), {NODE_PORT_TARGETS}, "port 80 has no node port"),
        (lb_service("x", {b.DISTRIBUTION: "dice"}), set(KINDS), "'dice' is neither hash nor round-robin"),
        (lb_service("x", {b.PROBE: "ask"}), set(KINDS), "'ask' is neither shared nor node-port"),
        (lb_service("x", ports=[{"port": 1, "protocol": "SCTP", "nodePort": 30001}]), set(KINDS), "protocol SCTP"),
    ],
)  # fmt: skip
def test_what_a_load_balancer_cannot_do_is_said(service: Service, kinds: set[str], words: str) -> None:
    for kind in KINDS:
        said = b.fault(service, b.behaviour(kind, service))
        assert (words in said and said) if kind in kinds else not said


@pytest.mark.parametrize(
    ("service", "asked", "pool"),
    [
        (lb_service("x"), SHARED, "nodes"),
        (lb_service("x", sessionAffinity="ClientIP"), SHARED, "nodes.source"),
        (lb_service("x", {b.DISTRIBUTION: b.TURN}), SHARED, "nodes.round-robin"),
        (lb_service("x", {b.PROBE: "node-port"}), Question(30080), "demo/x"),
        (lb_service("x", {b.PROBE: "node-port"}, ports=PORTLESS), SHARED, "nodes"),
        (local("x"), Question(31000, "/healthz"), "demo/x"),
        (local("x", {b.PROBE: "node-port"}), Question(31000, "/healthz"), "demo/x"),
    ],
)
def test_what_nodes_are_asked_and_who_shares_a_pool(service: Service, asked: Question, pool: str) -> None:
    assert question(service) == asked
    assert model.pool_key(service, b.AZURE).name == pool
    assert SHARED.text == "HTTP:10256/healthz" and Question(30080).text == "TCP:30080"


def test_pools_of_two_services_never_have_one_name() -> None:
    names = [
        model.pool_key(one, kind).name for kind in (b.CLASSIC, b.NETWORK) for one in (local("web"), local("web-nlb"))
    ]
    assert len(set(names)) == 4


def test_without_healthy_nodes_some_give_up_and_some_try_all() -> None:
    for kind, slots in ((b.AZURE, ()), (b.CLASSIC, ()), (b.GOOGLE, tuple(NAMES)), (b.NETWORK, tuple(NAMES))):
        found = model.pool(model.pool_key(lb_service("x"), kind), reversed(NAMES), [], {})
        assert (found.slots, found.refuses) == (slots, kind is b.CLASSIC)
    assert model.pool(model.pool_key(lb_service("x"), b.AZURE), NAMES, ["worker-1", "gone"], {}).slots == ("worker-1",)


def test_source_ranges_are_kept_by_those_clouds_that_do() -> None:
    service = lb_service("x", loadBalancerSourceRanges=["10.0.0.0/8", " 10.1.2.3/16", "fd00::/8"])
    for kind, four, six in ((b.AZURE, ("10.0.0.0/8",), ("fd00::/8",)), (b.GOOGLE, None, None)):
        fronts = model.fronts(service, ("198.51.100.1", "2001:db8::1"), kind)
        assert [front.sources for front in fronts] == [four, six]


# -- health


def _after(answers: str, probing: b.Probing) -> list[bool]:
    standing, found = Standing(), []
    for answer in answers:
        standing = heard(standing, answer == "+", probing)
        found.append(standing.healthy)
    return found


def test_thresholds() -> None:
    probing = b.Probing(5, 5, fall=3, rise=2)
    assert _after("+--+---+-++", probing) == [c == "+" for c in "++++++----+"]
    assert _after("---++", probing) == [c == "+" for c in "----+"]  # given up: from then on it takes the rise
    assert _after("--+", probing) == [False, False, True]  # a new node needs one


@given(st.text("+-", max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_health_changes_only_after_so_many_answers_in_a_row(answers: str, fall: int, rise: int) -> None:
    found = _after(answers, b.Probing(5, 5, fall, rise))
    for place in range(1, len(answers)):
        if found[place - 1] and not found[place]:
            assert answers[place - fall + 1 : place + 1] == "-" * fall
        if found[place] and not found[place - 1]:
            assert answers[place] == "+"


def test_faster_probes_keep_their_thresholds() -> None:
    assert faster(b.AZURE.probing, 10) == b.Probing(0.5, 0.5, 2, 1)
    assert faster(b.GOOGLE.probing, 100) == b.Probing(0.08, 0.25, 3, 1)


# -- what is written


def _shown(service: Service, *ingress: dict[str, str]) -> Service:
    import msgspec

    from glassnet.kube.types import ServiceStatus

    return msgspec.structs.replace(
        service, status=msgspec.convert({"loadBalancer": {"ingress": list(ingress)}}, ServiceStatus)
    )


def _said(changes: list[Patch | Record]) -> list[object]:
    return [
        each.reason if isinstance(each, Record) else each.body["status"]["loadBalancer"]["ingress"] for each in changes
    ]


def test_what_is_written_when() -> None:
    good, mine = Verdict("Assigned", "", ("198.51.100.1",)), [{"ip": "198.51.100.1", "ipMode": "VIP"}]
    fresh, served = lb_service("x"), _shown(lb_service("x"), *mine)
    ours = ("198.51.100.1",)
    assert _said(status.writes(fresh, good, "", "VIP", ())) == ["EnsuringLoadBalancer", mine, "EnsuredLoadBalancer"]
    assert status.writes(served, good, "", "VIP", ours) == []
    assert _said(status.writes(served, good, "", "Proxy", ours))[1] == [{"ip": "198.51.100.1", "ipMode": "Proxy"}]
    assert _said(status.writes(served, Verdict(), "cannot", "VIP", ours)) == ["SyncLoadBalancerFailed", None]
    assert _said(status.writes(fresh, Verdict("PoolExhausted", "none is free"), "", "VIP", ())) == [
        "SyncLoadBalancerFailed"
    ]
    assert _said(status.writes(served, Verdict(), "", "VIP", ours)) == [
        "DeletingLoadBalancer",
        None,
        "DeletedLoadBalancer",
    ]
    assert status.writes(fresh, Verdict(), "", "VIP", ()) == []
    assert status.writes(served, Verdict(OTHER, "another's"), "", "VIP", ()) == []
    (said,) = status.writes(fresh, Verdict(), "cannot", "VIP", ())
    assert isinstance(said, Record)
    assert (said.type, said.source) == ("Warning", "service-controller")
    assert said.message == "Error syncing load balancer: failed to ensure load balancer: cannot"
