"""`glassnet where`: everything a Service caused on the nodes."""

from __future__ import annotations

import json
from typing import Any

import click

from glassnet.cli.worlds import load_world, snapshot_options


@click.command("where", short_help="Show everything a Service caused on the nodes.")
@click.argument("service", metavar="svc/NAME[:PORT]")
@click.option(
    "-n", "--namespace", default="default", show_default=True, metavar="NAMESPACE", help="Of names without one."
)
@click.option("-c", "--connections", is_flag=True, help="List every connection to the Service; else they are counted.")
@snapshot_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    service: str, namespace: str, connections: bool, output: str, snapshot: str | None, lab: str | None
) -> None:
    """Show every chain, rule, element and connection that a Service caused, with its place in the dump and the field behind it.

    \b
    Examples:
      glassnet where svc/web
      glassnet where svc/web:http -n demo
      glassnet where svc/kube-dns -n kube-system --snapshot dump.tar.gz -o json
    """
    from glassnet.tracer.explain import Explainer
    from glassnet.tracer.objects import Objects
    from glassnet.tracer.where import find_ports, where

    world = load_world(snapshot, lab)
    objects = Objects(world.objects)
    places = where(world, objects, Explainer(objects), find_ports(objects, service, namespace))
    if output == "json":
        click.echo(json.dumps([_plain(place) for place in places], indent=2))
    else:
        _print(places, connections)


def _plain(place: Any) -> dict[str, Any]:
    return {
        "machine": place.machine, "kind": place.kind, "where": place.where, "text": place.text, "file": place.source,
        "line": place.line, "number": place.number, "because": [each.text for each in place.because],
    }  # fmt: skip


def _print(places: list[Any], connections: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    if not places:
        click.echo("nothing on any machine")
    for machine in dict.fromkeys(place.machine for place in places):
        console.print(Text(machine, style="bold"))
        mine = [place for place in places if place.machine == machine]
        count, where = 0, ""
        for place in mine:
            if place.kind == "connection" and not connections:
                count += 1
                continue
            title = f"{place.where} {place.text}" if place.kind in ("chain", "set") else place.where
            if title != where and not (place.kind == "rule" and where.startswith(f"{place.where} (")):
                where = title
                console.print(Text(f"  {where}", style="cyan"))
            if place.kind not in ("chain", "set"):
                console.print(Text.assemble("    ", place.text))
            said = "; ".join(each.text for each in place.because)
            console.print(Text(f"      {place.at}{'  because of ' if said else ''}{said}", style="dim"))
        if count:
            console.print(Text(f"  {count} connections (--connections lists them)", style="cyan"))
