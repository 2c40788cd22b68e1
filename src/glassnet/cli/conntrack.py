"""`glassnet conntrack`: the connection table, joined to pods, Services and nodes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glassnet.cli.worlds import load_world, snapshot_options
from glassnet.net.errors import ParseError, UsageError

if TYPE_CHECKING:
    from glassnet.tracer.conntrack_report import Classified
    from glassnet.tracer.world import World

EPILOG = """
\b
Examples:
  glassnet conntrack list --service demo/web
  glassnet conntrack top --by pod
  glassnet conntrack check --snapshot dump.tar.gz
  glassnet conntrack plan --rate 5000
"""
_STYLES = {"healthy": "green", "unreplied": "yellow", "hairpin": "cyan"}


@click.group(
    "conntrack", epilog=EPILOG, short_help="Read the connection table: whose entries, which are wrong, how full."
)
def command() -> None:
    """Read the connection table of every node: whose each entry is, which are wrong and why, how full the table is."""


def _classified(world: World) -> Iterator[tuple[str, Classified]]:
    """(node, entry) of all nodes. Lines that cannot be read are told on standard error."""
    from glassnet.netstack.parse_conntrack import parse_conntrack_lenient
    from glassnet.tracer.cluster_facts import facts_from
    from glassnet.tracer.conntrack_report import classify

    facts = facts_from([item for items in world.objects.values() for item in items])
    tables = [(m.name, file, data) for m in world.of_kind("node") for file, data in m.tables]
    if not tables:
        raise UsageError("no dump of a connection table here: `conntrack -L -o extended` into NODE/conntrack.txt")
    for node, file, data in tables:
        entries, errors = parse_conntrack_lenient(data.decode("utf-8", "replace"), file)
        _complain(errors)
        for each in classify(entries, facts, node):
            yield node, each


def _complain(errors: list[ParseError]) -> None:
    for error in errors[:5]:
        click.echo(f"! {error}; this entry is left out", err=True)
    if len(errors) > 5:
        click.echo(f"! {len(errors) - 5} more lines cannot be read", err=True)


def _row(node: str, each: Classified) -> dict[str, Any]:
    entry = each.entry
    return {
        "node": node,
        "protocol": entry.protocol,
        "state": entry.state,
        "original": f"{entry.original.src}:{entry.original.sport} > {entry.original.dst}:{entry.original.dport}",
        "reply": f"{entry.reply.src}:{entry.reply.sport} > {entry.reply.dst}:{entry.reply.dport}",
        "client": each.client.name or each.client.kind,
        "server": each.server.name or each.server.kind,
        "service": each.service,
        "via": each.via,
        "class": each.kind,
        "reason": each.reason,
        "command": each.command,
    }


@command.command(
    "list",
    short_help="Every entry, with whose it is.",
    epilog="\b\nExamples:\n  glassnet conntrack list --service demo/web\n  glassnet conntrack list --class stale-endpoint -o json",
)
@click.option("--service", metavar="NS/NAME", help="Entries of one Service only.")
@click.option("--pod", metavar="NS/NAME", help="Entries of one pod only.")
@click.option(
    "--class",
    "kind",
    metavar="CLASS",
    help="Entries of one class only (healthy, stale-endpoint, before-rules, hairpin, clash, orphan, unreplied).",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
@snapshot_options
def list_command(
    service: str | None, pod: str | None, kind: str | None, output: str, snapshot: str | None, lab: str | None
) -> None:
    """Every entry of every node, joined to pods, Services and nodes, and classified."""
    rows = [_row(node, each) for node, each in _classified(load_world(snapshot, lab))]
    rows = [
        row for row in rows
        if (not service or row["service"] == service or row["service"].startswith(f"{service}:"))
        and (not pod or pod in (row["client"], row["server"])) and (not kind or row["class"] == kind)
    ]  # fmt: skip
    if output == "json":
        click.echo(json.dumps(rows, indent=1))
        return
    out = Console(highlight=False, soft_wrap=True)
    for row in rows:
        line = Text(f"{row['node']}  {row['protocol']:<5}{row['state'] or '':<12}")
        line.append(f"{row['client']} → {row['service'] or row['server']}", style="bold")
        line.append(f"{' by ' + row['via'] if row['via'] else ''} → {row['server']}  ")
        line.append(row["class"], style=_STYLES.get(row["class"], "red"))
        out.print(line)
        out.print(Text(f"    {row['original']}   answers {row['reply']}", style="dim"))
    out.print(Text(f"{len(rows)} entries"))


@command.command(
    "top",
    short_help="Who has most entries.",
    epilog="\b\nExamples:\n  glassnet conntrack top --by service\n  glassnet conntrack top --by source -c 5",
)
@click.option(
    "--by",
    type=click.Choice(["pod", "service", "node", "source", "destination"]),
    default="pod",
    help="What to count by.",
)
@click.option("-c", "--count", type=click.IntRange(1), default=15, help="How many (default 15).")
@snapshot_options
def top_command(by: str, count: int, snapshot: str | None, lab: str | None) -> None:
    """Who fills the table."""
    from glassnet.netstack.parse_conntrack import parse_conntrack_lenient
    from glassnet.tracer.cluster_facts import facts_from
    from glassnet.tracer.conntrack_report import top

    world = load_world(snapshot, lab)
    facts = facts_from([item for items in world.objects.values() for item in items])
    entries = [
        e
        for m in world.of_kind("node")
        for file, data in m.tables
        for e in parse_conntrack_lenient(data.decode("utf-8", "replace"), file)[0]
    ]
    table = Table("", by, "entries", box=None)
    for index, found in enumerate(top(entries, facts, by)[:count], 1):
        table.add_row(str(index), found.name, str(found.entries))
    Console(highlight=False).print(table)


@command.command(
    "check",
    short_help="Entries that are wrong, and how full the tables are.",
    epilog="\b\nExamples:\n  glassnet conntrack check\n  glassnet conntrack check --snapshot dump.tar.gz",
)
@snapshot_options
def check_command(snapshot: str | None, lab: str | None) -> None:
    """Count the classes per node, show every entry that is wrong with the command that deletes it, and the pressure on each table.

    Exit status 1 when an entry is stale, orphaned, or was made before the rules, or when a table is nearly full.
    """
    from glassnet.tracer.conntrack_capacity import parse_conntrack_stats, pressure

    world = load_world(snapshot, lab)
    out = Console(highlight=False, soft_wrap=True)
    counts: dict[str, dict[str, int]] = {}
    wrong: list[tuple[str, Classified]] = []
    for node, each in _classified(world):
        counts.setdefault(node, {}).setdefault(each.kind, 0)
        counts[node][each.kind] += 1
        if each.kind in ("stale-endpoint", "before-rules", "orphan", "clash"):
            wrong.append((node, each))
    full = False
    for machine in world.of_kind("node"):
        kinds = counts.get(machine.name, {})
        stats = parse_conntrack_stats(machine.statistics) if machine.statistics else None
        found = pressure(machine.stack.sysctls, sum(kinds.values()), stats)
        full = full or found.verdict in ("critical", "full")
        words = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "no entries"
        maximum = f" of {found.maximum}" if found.maximum else ""
        out.print(
            Text.assemble((machine.name, "bold"), f": {words}; table: {found.count}{maximum} entries, {found.verdict}")
        )
        for reason in found.reasons:
            out.print(Text(f"    {reason}", style="dim"))
    for node, each in wrong[:50]:
        row = _row(node, each)
        out.print(Text.assemble((f"{each.kind} ", "bold red"), f"on {node}: {row['protocol']} {row['original']}"))
        out.print(Text(f"    {each.reason}"))
        if each.command:
            out.print(
                Text(f"    {each.command}   ({each.effect})" if each.effect else f"    {each.command}", style="blue")
            )
    if len(wrong) > 50:
        out.print(Text(f"{len(wrong) - 50} more; `glassnet conntrack list --class …` shows them"))
    sys.exit(1 if full or any(each.kind != "clash" for _, each in wrong) else 0)


@command.command(
    "plan",
    short_help="How many connections a second a table stands, and how large it must be.",
    epilog="\b\nExamples:\n  glassnet conntrack plan --max 131072 --timeout 120\n  glassnet conntrack plan --rate 5000\n  glassnet conntrack plan --snapshot dump.tar.gz",
)
@click.option(
    "--max", "maximum", type=click.IntRange(1), help="Size of the table (default: the node's nf_conntrack_max)."
)
@click.option(
    "--timeout", type=click.IntRange(1), help="Seconds an entry stays after the end (default: the node's own)."
)
@click.option("--duration", type=click.FloatRange(0), default=0.0, help="Seconds a connection lasts.")
@click.option("--rate", type=click.FloatRange(0), help="Connections a second that are wanted.")
@click.option(
    "--kind",
    type=click.Choice(["tcp", "tcp-reset", "tcp-abandoned", "udp", "udp-stream", "icmp"]),
    default="tcp",
    help="Kind of traffic (default tcp).",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
@snapshot_options
def plan_command(
    maximum: int | None,
    timeout: int | None,
    duration: float,
    rate: float | None,
    kind: str,
    output: str,
    snapshot: str | None,
    lab: str | None,
) -> None:
    """Connections a second = entries of the table / seconds an entry lives; and the other way round.

    With --max and --timeout nothing else is asked; otherwise the sysctls of the nodes are used, each node for itself.
    """
    from glassnet.tracer.conntrack_capacity import plan

    nodes: dict[str, dict[str, str]] = {"": {}}
    if maximum is None or snapshot is not None:
        nodes = {m.name: m.stack.sysctls for m in load_world(snapshot, lab).of_kind("node")}
    found = {
        name: plan(sysctls or None, kind=kind, duration=duration, wanted=rate, maximum=maximum, timeout=timeout)
        for name, sysctls in nodes.items()
    }
    if output == "json":
        click.echo(json.dumps({name: dataclasses.asdict(each) for name, each in found.items()}, indent=1, default=str))
        return
    for name, each in found.items():
        where = f"{name}: " if name else ""
        click.echo(
            f"{where}{each.maximum:,} entries / {each.lifetime:g} s = {int(each.rate):,} connections a second ({(each.memory or 0) / 1e6:.0f} MB)"
        )
        if each.wanted:
            click.echo(
                f"  {each.wanted:,.0f} a second need {each.needed:,} entries: {'enough' if each.enough else 'not enough'}"
            )
            click.echo(
                f"  advised: net.netfilter.nf_conntrack_max={each.advised_maximum}, buckets {each.advised_buckets} ({(each.advised_memory or 0) / 1e6:.0f} MB)"
            )
        click.echo(
            f"  one masquerading address to one destination: {each.snat_ports:,} ports, {int(each.snat_rate):,} connections a second"
        )
