"""`glassnet reach`: who reaches which Service."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console
from rich.text import Text

from glassnet.cli.worlds import load_world, snapshot_options
from glassnet.net.errors import UsageError

EPILOG = """
\b
Exit status: 0 every pod reaches every Service, 1 some do not, 3 something is not known.
\b
Examples:
  glassnet reach
  glassnet reach --from demo --to demo/web
  glassnet reach --snapshot dump.tar.gz -o svg > reach.svg
"""
_STYLES = {"ok": "green", "mixed": "yellow", "unknown": "yellow"}


@click.command("reach", epilog=EPILOG, short_help="Say which pods reach which Services, as a matrix.")
@click.option("--from", "sources", metavar="NS[/POD]", help="Pods of one namespace, or one pod (default: all).")
@click.option("--to", "targets", metavar="NS[/NAME]", help="Services of one namespace, or one Service (default: all).")
@click.option("-o", "--output", type=click.Choice(["text", "json", "svg"]), default="text", help="Form of the answer.")
@snapshot_options
def command(sources: str | None, targets: str | None, output: str, snapshot: str | None, lab: str | None) -> None:
    """Trace every pod against every Service port, and show who gets an answer."""
    from glassnet.tracer.objects import Objects
    from glassnet.tracer.reach import LETTERS, reach
    from glassnet.tracer.reach_picture import picture
    from glassnet.tracer.trace import Tracer

    world = load_world(snapshot, lab)
    objects = Objects(world.objects)
    pods = [m for m in world.of_kind("pod") if not sources or m.name == sources or m.name.startswith(f"{sources}/")]
    ports = [p for p in objects.ports if not targets or f"{p.namespace}/{p.name}" == targets or p.namespace == targets]
    if not pods or not ports:
        what = "no pods" if not pods else "no Services"
        raise UsageError(f"{what} of that name here; a snapshot needs API objects for this (--kubeconfig)")
    matrix = reach(world, objects, Tracer(world), pods, ports)
    if output == "json":
        rows = [
            {"from": pod, "to": port, "result": cell.result, "shares": dict(cell.shares), "why": cell.why}
            for pod, line in zip(matrix.pods, matrix.cells, strict=True)
            for port, cell in zip(matrix.ports, line, strict=True)
        ]
        click.echo(
            json.dumps({"pods": matrix.pods, "ports": matrix.ports, "counts": matrix.counts(), "cells": rows}, indent=1)
        )
    elif output == "svg":
        click.echo(picture(matrix))
    else:
        out = Console(highlight=False, soft_wrap=True)
        wide = max(map(len, matrix.pods))
        for index, port in enumerate(matrix.ports):
            out.print(Text(" " * (wide + 1) + "│" * index + f"┌ {port}", style="dim"))
        for pod, line in zip(matrix.pods, matrix.cells, strict=True):
            text = Text(f"{pod:<{wide}} ")
            for cell in line:
                text.append(LETTERS.get(cell.result, "!"), style=_STYLES.get(cell.result, "red"))
            out.print(text)
        legend = ", ".join(
            f"{LETTERS.get(name, '!')} {name} {count}" for name, count in sorted(matrix.counts().items())
        )
        out.print(Text(f"\n{len(matrix.pods)} pods x {len(matrix.ports)} Service ports: {legend}"))
    counts = matrix.counts()
    sys.exit(3 if "unknown" in counts else 0 if set(counts) <= {"ok"} else 1)
