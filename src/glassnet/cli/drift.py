"""`glassnet drift`: what the nodes have against what the API asks for."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from glassnet.cli.worlds import load_world, snapshot_options

_SIGNS = {"missing": ("-", "red"), "extra": ("+", "yellow"), "changed": ("~", "magenta"), "intruder": ("!", "bold red")}


@click.command("drift", short_help="Show where the nodes' rules differ from what the API asks for.")
@snapshot_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(output: str, snapshot: str | None, lab: str | None) -> None:
    """Compute anew which rules the Services ask for, and show for each object what is missing, too much or changed on the nodes.

    Compares kube-proxy's iptables chains, kube-proxy's nftables table, and glassnet's own. The status is 1 when something differs.

    \b
    Examples:
      glassnet drift
      glassnet drift --snapshot dump.tar.gz
      glassnet drift -o json | jq '.deviations[] | select(.kind == "intruder")'
    """
    from glassnet.tracer.drift import check

    found = check(load_world(snapshot, lab))
    if output == "json":
        body = {
            "compared": found.compared,
            "notes": found.notes,
            "deviations": [_plain(each) for each in found.deviations],
        }
        click.echo(json.dumps(body, indent=2))
    else:
        _print(found)
    sys.exit(1 if found.deviations else 0)


def _plain(each: Any) -> dict[str, Any]:
    return {
        "machine": each.machine, "kind": each.kind, "where": each.where, "subject": each.subject.text, "owner": each.owner,
        "note": each.note, "expected": list(each.expected),
        "found": [{"text": line.text, "file": line.source, "line": line.line} for line in each.found],
    }  # fmt: skip


def _print(found: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    for note in found.notes:
        console.print(Text(f"note: {note}", style="dim"))
    groups: dict[str, list[Any]] = {}
    for each in found.deviations:
        groups.setdefault(each.subject.text, []).append(each)
    for subject, deviations in groups.items():
        console.print(Text(subject, style="bold"))
        for each in deviations:
            sign, style = _SIGNS[each.kind]
            note = f" ({each.note})" if each.note else ""
            console.print(Text(f"  {sign} {each.machine}: {each.kind} in {each.where}{note}", style=style))
            for text in each.expected:
                console.print(Text(f"      should be  {text}"))
            for line in each.found:
                console.print(Text.assemble(f"      is there   {line.text}", (f"  {line.at}", "dim")))
    compared = sum(map(len, found.compared.values()))
    if not found.deviations and compared:
        click.echo(f"no difference: {compared} sets of rules on {len(found.compared)} nodes are what the API asks for")
    elif found.deviations:
        click.echo(f"{len(found.deviations)} differences, about {len(groups)} objects, on {len({d.machine for d in found.deviations})} nodes")  # fmt: skip
