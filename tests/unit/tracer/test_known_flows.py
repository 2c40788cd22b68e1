"""The evaluator against the kernel's own decisions: real rulesets of kube-proxy, and what happened to real packets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.tracer_worlds import CAPTURES, capture, flows, lone_node, number, scenarios

from glassnet.net import address
from glassnet.ruleset.model import Table
from glassnet.ruleset.parse_iptables import parse_iptables
from glassnet.ruleset.parse_nft import parse_nft_json, parse_nft_text
from glassnet.tracer.packet import PROTOCOLS
from glassnet.tracer.trace import Request, Trace, Tracer

SCENARIOS = list(scenarios())
FORMS = {"iptables": ("nft", "legacy"), "nftables": ("json", "text")}


def tables(row: dict[str, Any], form: str) -> list[Table]:
    """The ruleset of a scenario in one of the forms its tool lists it in."""
    if row["backend"] == "iptables":
        return parse_iptables(row["iptables_save"][form], form, "ip6" if row["ip_family"] == "IPv6" else "ip")
    if form == "json":
        return parse_nft_json(json.dumps(row["nft_json"]).encode())
    return parse_nft_text(row["nft_list_ruleset"])


def outcome(trace: Trace) -> tuple[set[str], dict[str, set[bool]]]:
    """(verdicts or endpoints, endpoint -> whether a rule rewrote the source)."""
    verdicts: set[str] = set()
    masqueraded: dict[str, set[bool]] = {}
    for way in trace.ways:
        connection = next((c[-1] for c in way.connections.values()), None)
        if way.kind in ("dropped", "rejected", "unknown"):
            verdicts.add({"dropped": "drop", "rejected": "reject"}.get(way.kind, way.kind))
        elif connection is not None and connection.translates_destination:
            endpoint = address.with_port(address.text_of(connection.reply_src, connection.bits), connection.reply_sport)
            verdicts.add(endpoint)
            rewritten = any(step.rule is not None and step.action.startswith("source ") for step in way.steps)
            masqueraded.setdefault(endpoint, set()).add(rewritten)
        else:
            verdicts.add("nomatch")
    return verdicts, masqueraded


def expected(flow: dict[str, Any]) -> set[str]:
    verdict = flow["expect_verdict"]
    if verdict == "endpoints":
        return set(flow["expect_endpoints"])
    return {"nomatch"} if verdict in ("accept", "nomatch") else {verdict}


@pytest.mark.parametrize("form", [0, 1], ids=["iptables-nft+json", "iptables-legacy+text"])
@pytest.mark.parametrize("row", SCENARIOS, ids=[row["id"] for row in SCENARIOS])
def test_scenarios_of_kube_proxy(row: dict[str, Any], form: int) -> None:
    """Each flow gets the kernel's verdict, endpoints and masquerading, whichever tool listed the rules."""
    world = lone_node(tables(row, FORMS[row["backend"]][form]), row["local_ips"])
    tracer = Tracer(world)
    wrong = []
    for flow in row["flows"]:
        bits = 128 if ":" in flow["dest_ip"] else 32
        entry = {"pod": "cni0", "external": "eth0", "node": ""}[flow["origin"]]
        trace = tracer.trace(
            Request("node", bits, PROTOCOLS[flow["protocol"]], number(flow["dest_ip"]), flow["dest_port"], number(flow["source_ip"]), entry=entry),
            replies=False,
        )  # fmt: skip
        verdicts, masqueraded = outcome(trace)
        fits = (
            verdicts == expected(flow) and trace.certain and sum(way.weight for way in trace.ways) == pytest.approx(1)
        )
        for endpoint, done in masqueraded.items():
            by_endpoint = flow.get("expect_masq_by_endpoint") or {}
            wanted = flow["expect_masq"] if flow.get("expect_masq") is not None else by_endpoint.get(endpoint)
            fits = fits and (wanted is None or done == {wanted})
        if not fits:
            wrong.append((flow["name"], flow["dest_ip"], expected(flow), verdicts, masqueraded))
    assert not wrong


# What a client sees, and the results of a trace that look so to it. A UDP sender's own node says EPERM for what its rules drop or refuse.
SEEN_AS = {
    "ok": {"ok"},
    "refused": {"refused", "rejected"},
    "timeout": {"dropped", "no-answer", "no-route", "expired", "no-neighbour", "unreachable"},
    "enetunreach": {"no-route"},
    "ehostunreach": {"no-neighbour", "expired"},
    "eperm": {"dropped", "rejected"},
}


def answering(trace: Trace, by: str, saw: str) -> bool:
    """Whether one of the ways ends at the workload that answered, with the source it saw."""
    for way in trace.ways:
        if way.result != "ok":
            continue
        random = any(c.random_port for entries in way.connections.values() for c in entries)
        source = way.packet.source
        same = not saw or source == saw or (random and source.rpartition(":")[0] == saw.rpartition(":")[0])
        if same and by in ("", way.machine.rpartition("/")[2]):
            return True
    return False


@pytest.mark.parametrize("name", CAPTURES)
def test_flows_of_a_real_cluster(name: str) -> None:
    """1,332 flows over three workers, a router and hosts outside: result, who answered, which source it saw."""
    world, tracer = capture(name)
    assert not world.notes
    wrong = []
    for flow in flows(name):
        kind, _, start = flow["from"].partition(" ")
        machine = start if kind in ("host", "node", "pod") else flow["from"]
        socket = flow.get("client_socket") or ""
        source, _, port = socket.rpartition(":")
        trace = tracer.trace(
            Request(machine, 32, PROTOCOLS[flow["protocol"].lower()], number(flow["to"]), flow["port"], number(source) if source else 0, int(port or 40000))
        )  # fmt: skip
        results = set(trace.results)
        fits = trace.certain and bool(results & SEEN_AS[flow["result"]])
        by = flow.get("answered_by") or ""
        if flow["result"] == "ok":
            named = by if not set(by) & set(". ") and by != "vm" else ""
            fits = fits and answering(trace, named, flow.get("server_saw") or "")
        if not fits:
            wrong.append((flow["from"], flow["to"], flow["port"], flow["result"], by, results))
    assert not wrong
