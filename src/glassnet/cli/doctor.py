"""`glassnet doctor`: what is wrong in a cluster's network, and what mends it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from glassnet.cli.worlds import load_world, snapshot_options

if TYPE_CHECKING:
    from glassnet.tracer.doctor import Finding
    from glassnet.tracer.world import World

EPILOG = """
\b
Exit status: 0 nothing found (or nothing but notes of severity info), 1 something is wrong.
\b
Examples:
  glassnet doctor
  glassnet doctor --snapshot dump.tar.gz -o json
  glassnet doctor -o json | jq -r '.findings[].remedy[]'
"""
_STYLE = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


@click.command("doctor", epilog=EPILOG, short_help="Find what is wrong in the network, and say what mends it.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
@snapshot_options
def command(output: str, snapshot: str | None, lab: str | None) -> None:
    """Look the whole network over for the faults users run into: packets that rules, routes, bridges, stale connections or settings lose.

    Each finding names the object it is about, the evidence (rules with file and line, sysctls, connection entries) and the remedy.
    """
    from glassnet.tracer.doctor import CHECKS, diagnose

    world = load_world(snapshot, lab)
    findings = diagnose(world)
    if output == "json":
        body = {"findings": [each.plain() for each in findings], "checks": list(CHECKS), "notes": world.notes}
        click.echo(json.dumps(body, indent=2))
    else:
        _print(world, findings, len(CHECKS))
    sys.exit(1 if any(each.severity != "info" for each in findings) else 0)


def _print(world: World, findings: list[Finding], checks: int) -> None:
    from rich.console import Console
    from rich.text import Text

    from glassnet.tracer.machine import NODE

    nodes = len(world.of_kind(NODE))
    console = Console(highlight=False, soft_wrap=True)
    for each in findings:
        title = Text.assemble((f"{each.severity:<8}", _STYLE[each.severity]), " ", (each.title, "bold"))
        console.print(title)
        console.print(Text(f"         {each.pain}: {each.object}", style="dim"))
        for line in each.evidence:
            console.print(Text(f"         {line}"))
        for line in each.remedy:
            console.print(Text(f"       > {line}", style="green"))
        console.print()
    for note in world.notes:
        click.echo(f"glassnet: not known: {note}", err=True)
    where = f"{checks} checks on {nodes} node{'' if nodes == 1 else 's'}"
    if not findings:
        click.echo(f"Nothing found: {where}.")
        return
    counts = [f"{count} {name}" for name in _STYLE if (count := sum(each.severity == name for each in findings))]
    click.echo(f"Found: {', '.join(counts)}; {where}.")
