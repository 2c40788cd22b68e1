"""`glassnet trace`: where a packet goes, by which rule, and on whose behalf."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from glassnet.cli.worlds import load_world, snapshot_options

if TYPE_CHECKING:
    from glassnet.cli.live import Live

EPILOG = """
\b
FROM  a pod (probe, demo/probe, deploy/web), a node (worker-0), a host of the snapshot, `internet`, or an address.
TO    svc/NAME[:PORT], a pod or node with a port (worker-0:30080), or ADDRESS:PORT.
\b
Exit status: 0 every packet arrives and is answered, 1 some or all do not, 3 not known, 4 (--live) the kernel did otherwise.
\b
Examples:
  glassnet trace probe svc/web
  glassnet trace internet worker-1:30080 --rules
  glassnet trace worker-0 svc/kube-dns:dns -n kube-system --proto udp
  glassnet trace probe 10.200.1.7 --proto icmp -o json
  glassnet trace 203.0.113.9 svc/web --via worker-2
  glassnet trace internet svc/web -o svg > path.svg    a column a machine, its chains, what changes, the answer
  glassnet trace probe svc/web --snapshot dump.tar.gz
  glassnet trace probe svc/web --live
"""
PROTOCOLS = ("tcp", "udp", "sctp", "icmp")


@click.command("trace", epilog=EPILOG, short_help="Say where a packet goes, by which rule, and on whose behalf.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--proto", type=click.Choice(PROTOCOLS), help="Protocol (default: the Service port's, else tcp).")
@click.option(
    "-n", "--namespace", default="default", metavar="NS", help="Namespace of names without one (default: default)."
)
@click.option("--via", metavar="NODE", help="The node at which a packet from outside enters.")
@click.option("--sport", type=click.IntRange(1, 65535), default=40000, help="Source port (default 40000).")
@click.option("--size", type=click.IntRange(28, 65535), default=60, help="Length of the packet in bytes (default 60).")
@click.option(
    "--existing", is_flag=True, help="Take the dumped connections into account: the packet may belong to one."
)
@click.option(
    "--rules", "show_rules", is_flag=True, help="Show every rule as it is written, not only those that decide."
)
@click.option(
    "--live", is_flag=True, help="Send that very packet too, and compare the kernel's own trace rule by rule."
)
@click.option("-o", "--output", type=click.Choice(["text", "json", "svg"]), default="text", help="Form of the answer.")
@snapshot_options
def command(
    source: str, target: str, proto: str | None, namespace: str, via: str | None, sport: int, size: int, existing: bool,
    show_rules: bool, live: bool, output: str, snapshot: str | None, lab: str | None,
) -> None:  # fmt: skip
    """Follow the first packet of a connection from FROM to TO through the real rules, routes and bridges, and its answer back.

    Every way it may take is shown with its probability; each step with the rule as written and the object and field that caused it.
    """
    from dataclasses import replace

    from glassnet.tracer.explain import Explainer
    from glassnet.tracer.names import Names
    from glassnet.tracer.objects import Objects
    from glassnet.tracer.report import exit_status, trace_report
    from glassnet.tracer.trace import Tracer

    sending = _live(snapshot, lab) if live else None
    world = sending.world if sending else load_world(snapshot, lab)
    sport = sending.source_port(sport) if sending else sport
    objects = Objects(world.objects)
    request = Names(world, objects, namespace).request(source, target, proto or "", via or "", sport, size)
    trace = Tracer(world).trace(replace(request, existing=existing))
    report = trace_report(trace, world, Explainer(objects))
    if sending:
        report["live"] = sending.send(trace)
    _show(report, output, show_rules)
    sys.exit(exit_status(report))


def _live(snapshot: str | None, lab: str | None) -> Live:
    from glassnet.cli.live import Live

    return Live(snapshot, lab)


def _show(report: dict[str, Any], output: str, show_rules: bool) -> None:
    if output == "json":
        click.echo(json.dumps(report, indent=2))
    elif output == "svg":
        from glassnet.tracer.drawing.journey_svg import journey_svg

        click.echo(journey_svg(report))
    else:
        from glassnet.cli.show_trace import show

        show(report, show_rules)
        if "live" in report:
            from glassnet.cli.live import show_live

            show_live(report["live"], report["request"])
