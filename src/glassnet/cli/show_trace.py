"""A trace for a person at a terminal: the ways as one tree, what they have in common told once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from glassnet.tracer.report import WORDS, headline

_COLOURS = {"ok": "green", "delivered": "green", "left": "cyan", "unknown": "yellow"}
_QUIET = ("jump", "goto", "goes on", "return")


@dataclass(slots=True)
class Node:
    """A run of steps shared by the ways below it."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    ways: list[dict[str, Any]] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    @property
    def share(self) -> float:
        return float(sum(way["share"] for way in self.ways))


def show(report: dict[str, Any], show_rules: bool, console: Console | None = None) -> None:
    """Print a trace report (see `tracer.report`)."""
    out = console or Console(highlight=False, soft_wrap=True)
    request = report["request"]
    port = f":{request['port']}" if request["port"] else ""
    whose = f" ({request['whose'][0]})" if request["whose"] else ""
    out.print(
        Text.assemble(
            (f"{request['protocol']} ", "bold"),
            (request["from"], "bold"),
            " → ",
            (f"{request['to']}{port}", "bold"),
            (whose, "dim"),
        )
    )
    out.print(Text(headline(report), style=_headline_style(report)))
    for note in report["notes"]:
        out.print(Text(f"! {note}", style="yellow"))
    out.print()
    root = _grow(report["ways"], 0)
    _print(out, root, 0, show_rules, {"machine": ""})
    _answers(out, report["ways"], show_rules)


def _headline_style(report: dict[str, Any]) -> str:
    if not report["certain"]:
        return "bold yellow"
    results = set(report["results"])
    return "bold green" if results <= {"ok", "delivered", "left"} else "bold red"


def _grow(ways: list[dict[str, Any]], depth: int) -> Node:
    """The tree of the ways' steps from `depth` on."""
    node = Node(ways=ways)
    while True:
        heads = {_key(way["steps"][depth]) if depth < len(way["steps"]) else None for way in ways}
        if len(heads) != 1 or None in heads:
            break
        node.steps.append(ways[0]["steps"][depth])
        depth += 1
    if len(ways) > 1:
        groups: dict[Any, list[dict[str, Any]]] = {}
        for index, way in enumerate(ways):
            key = _key(way["steps"][depth]) if depth < len(way["steps"]) else index
            groups.setdefault(key, []).append(way)
        node.children = (
            [_grow(group, depth) for group in groups.values()] if len(groups) > 1 else [_alone(w, depth) for w in ways]
        )
    return node


def _alone(way: dict[str, Any], depth: int) -> Node:
    return Node(way["steps"][depth:], [way])


def _key(step: dict[str, Any]) -> tuple[str, ...]:
    return (step["machine"], step["kind"], step.get("chain", ""), step["action"], step["packet"])


def _print(out: Console, node: Node, depth: int, show_rules: bool, state: dict[str, str]) -> None:
    pad = "  " * depth
    for step in node.steps:
        _step(out, step, pad, show_rules, state)
    if node.children:
        told: dict[tuple[str, ...], str] = {}
        for child in node.children:
            share = f"{child.share:.0%}" if child.share >= 0.01 else f"{child.share:.2%}"
            doubts = child.ways[0]["doubts"]
            label = f"{share} of the packets" if not doubts else f"{doubts[-1]}"
            shape = _shape(child)
            if shape in told and not show_rules:
                _like(out, child, f"{pad}├─ {label}", told[shape])
                continue
            told[shape] = child.ways[0]["end"]["machine"]
            out.print(Text(f"{pad}├─ {label}", style="bold"))
            _print(out, child, depth + 2, show_rules, dict(state))
    else:
        _end(out, node.ways[0], pad)


def _shape(node: Node) -> tuple[str, ...]:
    """What a branch looks like without its names: branches of one shape differ in the endpoint alone."""
    way = node.ways[0]
    if node.children:
        return (str(id(node)),)
    steps = [f"{s['kind']} {s.get('hook', '')} {_kind_of_chain(s)} {s['action'].split()[0]}" for s in node.steps]
    return (way["result"], way["end"]["kind"], *steps)


def _kind_of_chain(step: dict[str, Any]) -> str:
    """`nat KUBE-SEP` of `nat KUBE-SEP-2XJHFL…`: which kind of chain it is."""
    return str(step.get("chain", "")).rpartition("-")[0]


def _like(out: Console, node: Node, label: str, other: str) -> None:
    """A branch that goes as another one did, in two lines."""
    way = node.ways[0]
    end = way["end"]
    on = f" on {end['node']}" if end["node"] else ""
    line = Text(f"{label}, in the same way as to {other}: ", style="bold")
    line.append(f"{WORDS.get(end['kind'], end['kind'])} ", style=f"bold {_COLOURS.get(end['kind'], 'red')}")
    line.append(f"at {end['machine']}{on}: {end['packet']}")
    out.print(line)
    reasons = [text for step in node.steps for text in step.get("because", ()) if text.startswith("EndpointSlice")]
    for text in list(dict.fromkeys(reasons)):
        out.print(Text(f"{'':{len(label) - len(label.lstrip()) + 6}}because {text}", style="blue"))


def _step(out: Console, step: dict[str, Any], pad: str, show_rules: bool, state: dict[str, str]) -> None:
    if step["machine"] != state["machine"]:
        state["machine"] = step["machine"]
        out.print(Text(f"{pad}{step['machine']}", style="bold cyan"))
    rule = step.get("rule")
    quiet = rule is not None and step["action"].startswith(_QUIET) and not step.get("because")
    if (quiet and not show_rules) or (step["kind"] == "conntrack" and not show_rules):
        return
    line = Text(f"{pad}  ")
    line.append(f"{step.get('hook', ''):<12}", style="dim")
    if "chain" in step:
        line.append(f"{step['chain']}  ", style="magenta")
    line.append(step["action"])
    if "route" in step and step["route"] not in step["action"]:
        line.append(f"  [{step['route']}]", style="dim")
    out.print(line)
    if rule is not None and (show_rules or not quiet):
        place = f"   {rule['file']}:{rule['line']}" if show_rules and "file" in rule else ""
        out.print(Text(f"{pad}{'':14}{rule['text']}{place}", style="dim"))
    for text in step.get("because", ()):
        out.print(Text(f"{pad}{'':14}because {text}", style="blue"))


def _end(out: Console, way: dict[str, Any], pad: str) -> None:
    end, result = way["end"], way["result"]
    where = f"{end['machine_kind']} {end['machine']}" if end["machine_kind"] else end["machine"]
    on = f" on {end['node']}" if end["node"] else ""
    said = WORDS.get(end["kind"], end["kind"])
    line = Text(f"{pad}  ● ")
    line.append(f"{said} ", style=f"bold {_COLOURS.get(end['kind'], 'red')}")
    line.append(f"at {where}{on}: {end['packet']}")
    out.print(line)
    if end["detail"]:
        out.print(Text(f"{pad}    {end['detail']}", style="dim"))
    answer = way.get("answer")
    if answer is not None and result == "no-answer":
        line = Text(f"{pad}  ● ")
        line.append("the answer is lost ", style="bold red")
        line.append(f"at {answer['end']['machine']}: {answer['end']['detail']}")
        out.print(line)


def _answers(out: Console, ways: list[dict[str, Any]], show_rules: bool) -> None:
    """The way of the answers: those of all ways that look alike are told once, by what changes on them."""
    shown: dict[tuple[str, ...], int] = {}
    for way in ways:
        answer = way.get("answer")
        if answer is None:
            continue
        key = (
            answer["result"],
            answer["end"]["kind"],
            *(f"{s['kind']} {s.get('hook', '')}" for s in answer["steps"] if s["kind"] != "rule"),
        )
        shown[key] = shown.get(key, 0) + 1
        if shown[key] > 1 and not show_rules:
            continue
        out.print()
        out.print(Text(f"answer from {way['end']['machine']}", style="bold"))
        state = {"machine": ""}
        for step in answer["steps"]:
            if show_rules or step["kind"] in ("nat", "route", "send", "bridge"):
                _step(out, step, "", show_rules, state)
        end = answer["end"]
        good = answer["result"] == "ok" or end["kind"] == "delivered"
        line = Text("  ● ")
        line.append("comes home " if good else "is lost ", style="bold green" if good else "bold red")
        line.append(f"at {end['machine']}: {end['packet']}")
        out.print(line)
        if end["detail"] and not good:
            out.print(Text(f"    {end['detail']}", style="dim"))
        for name, entries in answer["connections"].items():
            for entry in entries:
                out.print(Text(f"    connection on {name}: {entry}", style="dim"))
    rest = sum(count - 1 for count in shown.values())
    if rest and not show_rules:
        out.print(Text(f"({rest} more answers take ways like these; --rules shows all)", style="dim"))
