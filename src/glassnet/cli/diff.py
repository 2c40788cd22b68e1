"""`glassnet diff`: what changed between two snapshots."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from glassnet.cli.worlds import load_world

_STYLES = {"added": "green", "removed": "red", "changed": "yellow"}
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command("diff", short_help="Show what changed between two snapshots, by the object whose doing it was.")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.option(
    "--flow", default="", metavar='"FROM TO"', help="Trace this request in both, and say where its way changed."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(old: str, new: str, flow: str, output: str) -> None:
    """Compare two snapshots: objects, rules, elements, routes, links, addresses, sysctls, grouped by the object whose doing each change was.

    The status is 1 when something differs.

    \b
    Examples:
      glassnet diff before.tar.gz after.tar.gz
      glassnet diff before.tar.gz after.tar.gz --flow "demo/probe svc/web:http"
      glassnet diff monday/ friday/ -o json
    """
    from glassnet.tracer.diff import diff

    found = diff(load_world(old, None), load_world(new, None), flow)
    if output == "json":
        click.echo(json.dumps(_plain(found), indent=2))
    else:
        _print(found)
    sys.exit(1 if found else 0)


def _plain(found: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "machines": [{"name": name, "kind": kind} for name, kind in found.machines],
        "objects": [
            {
                "kind": each.kind,
                "object": each.object.text,
                "fields": [{"path": path, "before": old, "after": new} for path, old, new in each.fields],
            }
            for each in found.objects
        ],
        "changes": [
            {
                "machine": each.machine,
                "kind": each.kind,
                "what": each.what,
                "where": each.where,
                "subject": each.subject.text,
                "before": [line._asdict() for line in each.before],
                "after": [line._asdict() for line in each.after],
            }
            for each in found.changes
        ],
    }
    flow = found.flow
    if flow is not None:
        body["flow"] = {
            "title": flow.title, "before": flow.before, "after": flow.after, "ends": [list(each) for each in flow.ends],
            "step": list(flow.step), "because": [each.text for each in flow.because], "fault": flow.fault, "same": flow.same,
        }  # fmt: skip
    return body


def _print(found: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    if found.flow is not None:
        _print_flow(console, found.flow)
    for name, kind in found.machines:
        console.print(Text(f"{_SIGNS[kind]} machine {name}", style=_STYLES[kind]))
    for subject, objects, changes in found.by_object():
        console.print(Text(subject.text or "nobody known", style="bold"))
        for each in objects:
            console.print(Text(f"  {_SIGNS[each.kind]} the object was {each.kind}", style=_STYLES[each.kind]))
            for path, old, new in each.fields:
                console.print(Text(f"      {path}: {_short(old)} -> {_short(new)}"))
        for each in changes:
            console.print(Text(f"  {_SIGNS[each.kind]} {each.machine}: {each.what} {each.where}".rstrip(), style=_STYLES[each.kind]))  # fmt: skip
            for line in each.before:
                console.print(Text.assemble(f"      - {line.text}", (f"  {line.at}", "dim")))
            for line in each.after:
                console.print(Text.assemble(f"      + {line.text}", (f"  {line.at}", "dim")))
    if not found:
        click.echo("no difference")


def _print_flow(console: Any, flow: Any) -> None:
    from rich.text import Text

    console.print(Text(f"flow {flow.title}", style="bold"))
    if flow.fault:
        console.print(Text(f"  {flow.fault}", style="red"))
    if flow.same:
        console.print(Text("  takes the same way in both"))
        return
    for word, results, ends in (("before", flow.before, flow.ends[0]), ("after", flow.after, flow.ends[1])):
        said = ", ".join(f"{name} {share:.0%}" for name, share in results.items())
        console.print(Text(f"  {word:6}  {said or 'unknown'}"))
        for end in ends:
            console.print(Text(f"            {end}", style="dim"))
    if any(flow.step):
        console.print(Text("  the ways part at"))
        console.print(Text(f"      - {flow.step[0] or '(the way ended)'}", style="red"))
        console.print(Text(f"      + {flow.step[1] or '(the way ended)'}", style="green"))
    for each in flow.because:
        console.print(Text(f"      because of {each.text}", style="dim"))


def _short(value: Any) -> str:
    text = json.dumps(value, default=str) if value is not None else "(absent)"
    return text if len(text) <= 120 else f"{text[:117]}..."
