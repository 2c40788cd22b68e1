"""`glassnet status`: which labs there are, and what they weigh."""

from __future__ import annotations

import json
from typing import Any

import click

from glassnet.cli.main import lab_option


@click.command("status", short_help="Show the labs, their machines and pods.")
@lab_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(lab: str | None, output: str) -> None:
    """Show the labs of this user: whether they run, their machines, pods, proxy mode, memory.

    \b
    Examples:
      glassnet status
      glassnet status -o json | jq '.[0].machines'
    """
    from glassnet.lab.control import ask
    from glassnet.lab.state import all_labs, lab_dir

    labs = [lab_dir(lab)] if lab else all_labs()
    reports: list[dict[str, Any]] = [
        ask(each, "status") if each.running() else {"name": each.name, "state": "not running"}
        for each in labs
        if each.path.exists()
    ]
    if output == "json":
        click.echo(json.dumps(reports, indent=2))
    elif not reports:
        click.echo("No lab. `glassnet up` brings one up.")
    else:
        _print(reports)


def _print(reports: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for report in reports:
        if report["state"] == "not running":
            click.echo(
                f"lab {report['name']!r} was killed; `glassnet up` resumes it, `glassnet down {report['name']}` removes it"
            )
            continue
        click.echo(
            f"lab {report['name']!r} is up: {report['ready']} of {report['pods']} pods Ready, {report['services']} services, "
            f"proxy {report['proxy']}, {report['memory_mb']} MB"
        )
        absent = [part for part in ("cni", "proxy", "routes") if report[part] == "none"]
        if absent:
            click.echo(f"no {', no '.join(absent)} of the lab's own: yours to bring (docs/install.md)")
        if (balancer := report.get("load_balancer", {"kind": "none"}))["kind"] != "none":
            ill = f", not well: {', '.join(balancer['unhealthy'])}" if balancer["unhealthy"] else ""
            waiting = f", {balancer['waiting']} without an address" if balancer["waiting"] else ""
            click.echo(
                f"load balancer {balancer['kind']} ({', '.join(balancer['addresses'])}): {balancer['services']} services{waiting}, "
                f"{balancer['nodes']} nodes{ill}; probes and deadlines {balancer['speed']} times as fast as real ones"
            )
        click.echo(f"API https://127.0.0.1:{report['api_port']}  kubeconfig {report['kubeconfig']}")
        for watch in report["watches"]:
            if watch["error"]:
                heard = f"nothing heard of {watch['resource']} for {watch['silent_s']:.0f} s, since {watch['error']}"
                click.echo(f"agents: {heard}; rules and routes stay as they are")
        table = Table(box=None, pad_edge=False)
        for heading in ("MACHINE", "ROLE", "ADDRESS", "PUBLIC", "POD CIDR", "PODS"):
            table.add_column(heading)
        for machine in report["machines"]:
            table.add_row(*(str(machine[key]) for key in ("name", "role", "address", "public", "pod_cidr", "pods")))
        console.print(table)
