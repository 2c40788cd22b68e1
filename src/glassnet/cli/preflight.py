"""`glassnet preflight`."""

from __future__ import annotations

import sys

import click


@click.command("preflight", short_help="Say what this machine lacks for a lab, and how to get it.")
def command() -> None:
    """Try out what a lab needs of this machine (kernel features, programs) and name what is missing. Status 1 when something is.

    Nothing of the machine is changed: features are tried in namespaces that are gone right after.
    """
    from glassnet.kernel.preflight import findings

    bad = 0
    for finding in findings():
        bad += not finding.ok
        mark = click.style("ok     ", fg="green") if finding.ok else click.style("missing", fg="red")
        click.echo(f"{mark} {finding.name}: {finding.detail}")
        if not finding.ok:
            click.echo(f"        {finding.remedy}")
    sys.exit(1 if bad else 0)
