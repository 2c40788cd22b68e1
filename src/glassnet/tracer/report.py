"""A trace as plain values, for JSON and for whoever prints it: every step with its rule as written and the objects behind it."""

from __future__ import annotations

from typing import Any

from glassnet.net import address
from glassnet.tracer.explain import Explainer
from glassnet.tracer.packet import PROTOCOL_NAMES, Step
from glassnet.tracer.path import DELIVERED
from glassnet.tracer.trace import Request, Trace, Way
from glassnet.tracer.world import World

WORDS = {
    "ok": "delivered, and answered",
    "delivered": "delivered",
    "refused": "refused: nothing listens there",
    "rejected": "rejected by a rule",
    "dropped": "dropped",
    "no-answer": "delivered, but the answer is lost",
    "no-route": "no route",
    "unreachable": "refused by a route",
    "no-neighbour": "nobody answers on the link",
    "expired": "goes round in a loop",
    "left": "leaves the snapshot",
    "unknown": "not known",
}


def trace_report(trace: Trace, world: World, explainer: Explainer) -> dict[str, Any]:
    """The whole trace. Shares are fractions of the packets; `certain` is False when something on the way is not known."""
    return {
        "request": _request(trace.request, explainer),
        "results": {name: round(share, 6) for name, share in sorted(trace.results.items())},
        "certain": trace.certain,
        "ways": [way_report(way, world, explainer) for way in trace.ways],
        "notes": [*world.notes, *trace.notes],
    }


def _request(request: Request, explainer: Explainer) -> dict[str, Any]:
    text = address.text_of(request.dst, request.bits)
    return {
        "title": request.title,
        "from": request.machine if not request.entry else address.text_of(request.source, request.bits),
        "enters": f"{request.machine} {request.entry}" if request.entry else "",
        "protocol": PROTOCOL_NAMES.get(request.protocol, str(request.protocol)),
        "to": text,
        "port": request.dport,
        "whose": [each.text for each in explainer.objects.find_address(text)],
    }


def way_report(way: Way, world: World, explainer: Explainer) -> dict[str, Any]:
    """One way, with the answer's way inside."""
    machine = world.machines.get(way.machine)
    found: dict[str, Any] = {
        "share": round(way.weight, 6),
        "result": way.result,
        "doubts": list(way.doubts),
        "end": {
            "machine": way.machine,
            "kind": way.kind,
            "machine_kind": machine.kind if machine else "",
            "node": machine.node if machine else "",
            "detail": way.detail,
            "packet": way.packet.text,
        },
        "steps": [step_report(step, explainer) for step in way.steps],
        "connections": {name: [c.text for c in entries] for name, entries in way.connections.items()},
    }
    if way.reply is not None:
        found["answer"] = way_report(way.reply, world, explainer)
    return found


def step_report(step: Step, explainer: Explainer) -> dict[str, Any]:
    """One step."""
    found: dict[str, Any] = {"machine": step.machine, "kind": step.kind}
    if step.hook:
        found["hook"] = step.hook
    if step.device:
        found["device"] = step.device
    if step.chain:
        found["route" if step.kind == "route" else "chain"] = step.chain
    found |= {"action": step.action, "packet": step.packet}
    rule = step.rule
    if rule is not None:
        table = rule.chain.table
        found["rule"] = {
            "text": rule.text,
            "number": rule.number,
            "table": f"{table.family} {table.name}",
            "tool": table.tool,
        }
        if rule.line:
            found["rule"] |= {"file": table.source, "line": rule.line}
        if rule.handle:
            found["rule"]["handle"] = rule.handle
    because = [each.text for each in explainer.because(step)]
    if because:
        found["because"] = because
    return found


def headline(report: dict[str, Any]) -> str:
    """The result in one line."""
    results = report["results"]
    if not report["certain"]:
        return "not certain: " + ", ".join(f"{name} in one case" for name in results)
    if len(results) == 1:
        (name,) = results
        ways = len({way["end"]["machine"] for way in report["ways"]})
        more = f" ({ways} possible ends)" if ways > 1 else ""
        return f"{WORDS.get(name, name)}{more}"
    return ", ".join(
        f"{share:.0%} {WORDS.get(name, name)}" for name, share in sorted(results.items(), key=lambda item: -item[1])
    )


def exit_status(report: dict[str, Any]) -> int:
    """0 every packet is answered, 1 some or all are not, 3 not known, 4 the kernel did otherwise (`live`)."""
    if report.get("live", {}).get("verdict") == "differs":
        return 4
    if not report["certain"] or "unknown" in report["results"]:
        return 3
    good = set(report["results"]) <= {"ok", DELIVERED} or set(report["results"]) == {"left"}
    return 0 if good else 1
