"""`glassnet mend`: undoes what `glassnet break` made."""

from __future__ import annotations

import click

from glassnet.cli.main import lab_option
from glassnet.net.errors import LabError, UsageError

EPILOG = """
\b
Examples:
  glassnet mend hairpin
  glassnet mend --all
"""


@click.command("mend", epilog=EPILOG, short_help="Undo a fault, exactly.")
@lab_option
@click.option("--all", "everything", is_flag=True, help="Every fault the lab has.")
@click.argument("fault", required=False)
def command(lab: str | None, everything: bool, fault: str | None) -> None:
    """Undo a fault that `glassnet break` made: what was there is there again, what it made is gone."""
    from glassnet.lab.control import ask
    from glassnet.lab.state import running_lab

    if (fault is None) != everything:
        raise UsageError("name one fault, or --all; `glassnet break --list` shows which the lab has")
    reply = ask(running_lab(lab), "mend", 120, fault=fault or "")
    if "error" in reply:
        raise LabError(reply["error"])
    click.echo(f"mended: {', '.join(reply['mended'])}" if reply["mended"] else "nothing is broken")
