"""The picture of a trace: the chains the articles draw, what changes on the way there and back, and that it can be read."""

from __future__ import annotations

from typing import Any

import pytest
from tests.picture_checks import boxes, check, said, texts
from tests.tracer_worlds import CAPTURES, capture

from glassnet.tracer.drawing.journey import CHANGE, MARK, Visit, journeys, matched
from glassnet.tracer.drawing.journey_svg import journey_svg
from glassnet.tracer.explain import Explainer
from glassnet.tracer.names import Names
from glassnet.tracer.objects import Objects
from glassnet.tracer.report import trace_report

PATHS = [
    ("internet", "worker-1:30080"),
    ("demo/probe-m7rpp", "svc/demo/web:http"),
    ("worker-0", "svc/kube-system/kube-dns:dns"),
    ("demo/probe-m7rpp", "10.99.99.99:80"),
    ("demo/probe-m7rpp", "192.0.2.77:9"),
]


def reported(name: str, source: str, target: str) -> dict[str, Any]:
    world, tracer = capture(name)
    objects = Objects(world.objects)
    request = Names(world, objects, "demo").request(source, target)
    return trace_report(tracer.trace(request), world, Explainer(objects))


def chains(visits: tuple[Visit, ...], machine: str) -> list[str]:
    """Kinds of chains met on a machine, in order."""
    titles = [card.title for visit in visits if visit.machine == machine for card in visit.cards if card.rule]
    return ["-".join(title.split("-")[:2]) if len(title) > 20 else title for title in titles]


def test_a_service_from_a_pod_is_the_chain_of_chains() -> None:
    report = reported("hardway-iptables", "demo/probe-m7rpp", "svc/demo/web:http")
    found = journeys(report)
    assert sum(each.share for each in found) <= 1 and all(each.there and each.back and each.good for each in found)
    node = found[0].there[1].machine
    assert chains(found[0].there, node)[:3] == ["KUBE-SERVICES", "KUBE-SVC", "KUBE-SEP"]
    lines = [line for visit in found[0].there for card in visit.cards for line in card.lines]
    (dnat,) = [line.text for line in lines if line.kind == CHANGE and line.text.startswith("DNAT")]
    vip = f"{report['request']['to']}:{report['request']['port']}"
    assert dnat.startswith(f"DNAT {vip} → 10.200.")
    back = [line.text for visit in found[0].back for card in visit.cards for line in card.lines]
    assert any(text.startswith("un-SNAT 10.200.") and text.endswith(f"→ {vip}") for text in back)
    assert found[0].back[-1].cards[-1].title == "comes home"


def test_a_node_port_from_outside_is_marked_and_masqueraded() -> None:
    found = journeys(reported("hardway-iptables", "internet", "worker-1:30080"))
    here = chains(found[0].there, "worker-1")
    wanted = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXT", "KUBE-MARK-MASQ", "KUBE-EXT", "KUBE-SVC", "KUBE-SEP"]
    assert here[: len(wanted)] == wanted and here[-1] == "KUBE-POSTROUTING"
    kinds = [line.kind for visit in found[0].there for card in visit.cards for line in card.lines]
    assert MARK in kinds and kinds.count(CHANGE) >= 2
    packets = [visit.packet for visit in found[0].there[1:]]
    assert packets[0] != packets[-1] and packets[-1][1].startswith("10.200.")


def test_ways_that_look_alike_are_one_with_the_others_named() -> None:
    report = reported("hardway-iptables", "demo/probe-m7rpp", "svc/demo/web:http")
    found = journeys(report)
    assert len(report["ways"]) == sum(1 + len(each.alike) for each in found)
    assert all("in the same way to demo/" in text for each in found for text in each.alike)


@pytest.mark.parametrize("name", CAPTURES)
@pytest.mark.parametrize(("source", "target"), PATHS)
def test_the_picture_can_be_read(name: str, source: str, target: str) -> None:
    report = reported(name, source, target)
    document = check(journey_svg(report))
    shown, found = said(document), journeys(report)
    for journey in found[:6]:
        assert journey.title in shown
    lanes = [box for box in boxes(document) if box.what.startswith("f-machine")]
    assert len(lanes) >= sum(len(journey.there) for journey in found[:6])
    cards = [box for box in boxes(document) if box.what.startswith("f-chain")]
    assert all(any(card.inside(lane) for lane in lanes) for card in cards)
    assert len(cards) == sum(len(visit.cards) for each in found[:6] for visit in (*each.there, *each.back))


def test_no_text_of_the_gaps_reaches_into_a_machine() -> None:
    document = check(journey_svg(reported("hardway-iptables", "internet", "worker-1:30080")))
    lanes = [box for box in boxes(document) if box.what.startswith("f-machine")]
    for text in texts(document):
        assert any(text.inside(lane) for lane in lanes) or all(text.apart(lane) for lane in lanes), text


def test_a_loss_says_where() -> None:
    report = reported("hardway-iptables", "demo/probe-m7rpp", "192.0.2.77:9")
    (journey,) = journeys(report)
    assert report["results"] == {"no-route": 1.0} and not journey.good
    last = journey.there[-1]
    assert (last.machine, last.cards[-1].title) == (report["ways"][0]["end"]["machine"], "no route")
    assert "has no route to 192.0.2.77" in last.cards[-1].lines[-1].text


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ('-A KUBE-SERVICES -d 10.0.0.7/32 -p tcp -m comment --comment "a/b: cluster IP" -m tcp --dport 80 -j KUBE-SVC-X', "-d 10.0.0.7/32 -p tcp --dport 80"),
        ('-A KUBE-SVC-X -m comment --comment "a/b" -m statistic --mode random --probability 0.33332999982 -j KUBE-SEP-Y', "probability 0.3333"),
        ("-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000", "every packet"),
        ('ip daddr . meta l4proto . th dport vmap @service-ips comment "x -j y"', "ip daddr . meta l4proto . th dport vmap @service-ips"),
    ],
)  # fmt: skip
def test_what_a_rule_asks_for(rule: str, words: str) -> None:
    assert matched(rule) == words
