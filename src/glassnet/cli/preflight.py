"""`glassnet preflight`: what a machine lacks for a lab, or for being a node."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from glassnet.kernel.node_checks import Result

EPILOG = """
\b
Examples:
  glassnet preflight                                       what a lab needs
  glassnet preflight node                                  what glassnet agent needs of this node
  glassnet preflight node --kubeconfig /etc/kubernetes/kubelet.conf -o json
"""
_MARKS = {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "error": ("error  ", "red")}


@click.group("preflight", invoke_without_command=True, epilog=EPILOG, short_help="Say what this machine lacks for a lab, or as a node.")  # fmt: skip
@click.pass_context
def command(context: click.Context) -> None:
    """Try out what a lab needs of this machine (kernel features, programs) and name what is missing. Status 1 when something is.

    `glassnet preflight node` does so for a node of a real cluster.

    Nothing of the machine is changed: features are tried in namespaces that are gone right after.
    """
    if context.invoked_subcommand is None:
        _lab()


def _lab() -> None:
    from glassnet.kernel.preflight import findings

    bad = 0
    for finding in findings():
        bad += not finding.ok
        mark = click.style("ok     ", fg="green") if finding.ok else click.style("missing", fg="red")
        click.echo(f"{mark} {finding.name}: {finding.detail}")
        if not finding.ok:
            click.echo(f"        {finding.remedy}")
    sys.exit(1 if bad else 0)


@command.command(
    "node", epilog=EPILOG, short_help="Say what this node lacks for glassnet agent, and what is in its way."
)
@click.option(
    "--kubeconfig", metavar="FILE", help="Compare the clock with that of the API server behind this file, too."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def node(kubeconfig: str | None, output: str) -> None:
    """Look this node over: kernel, settings, other proxies, networks and firewalls, MTU, clock, directories, ports.

    Each finding is ok, a warning or an error, with the way out. Status 1 when there is an error. Nothing of the node is changed.
    """
    found = []
    for result in asyncio.run(_node(kubeconfig)):
        found.append(result)
        if output == "text":
            text, colour = _MARKS[result.verdict]
            click.echo(f"{click.style(text, fg=colour)} {result.check}: {result.found}")
            if result.remedy:
                click.echo(f"        {result.remedy}")
    errors = sum(result.verdict == "error" for result in found)
    if output == "json":
        click.echo(json.dumps({"errors": errors, "results": [result._asdict() for result in found]}, indent=2))
    sys.exit(1 if errors else 0)


async def _node(kubeconfig: str | None) -> list[Result]:
    from glassnet.agent.cluster.server_clock import clock_difference
    from glassnet.client.kubeconfig import load
    from glassnet.kernel.host import HostMachine
    from glassnet.kernel.node_checks import clock, results

    host = HostMachine()
    try:
        found = [result async for result in results(host)]
    finally:
        host.close()
    if kubeconfig:
        found.append(clock.judge_difference(await clock_difference(load(kubeconfig))))
    return found
