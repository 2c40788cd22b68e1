"""`glassnet break`: faults that real clusters have, made in the lab's real kernel and API."""

from __future__ import annotations

import click

from glassnet.cli.main import lab_option
from glassnet.net.errors import LabError, UsageError

EPILOG = """
\b
Examples:
  glassnet break --list
  glassnet break hairpin --node worker-0
  glassnet mend hairpin
"""


@click.command("break", epilog=EPILOG, short_help="Make one of the faults that real clusters have.")
@lab_option
@click.option("--node", metavar="NODE", default="", help="The node it happens on (default: the first worker).")
@click.option("--list", "listing", is_flag=True, help="List the faults, and which of them the lab has now.")
@click.argument("fault", required=False)
def command(lab: str | None, node: str, listing: bool, fault: str | None) -> None:
    """Make a fault in the running lab: a real change of its kernel's state or its API's, with real effects.

    What the fault needs to show itself (a pod, a Service) is made in the namespace glassnet-faults. `glassnet mend` undoes all of it.
    """
    from glassnet.lab.control import ask
    from glassnet.lab.state import running_lab

    if listing:
        _list(lab)
        return
    if fault is None:
        raise UsageError("which fault? `glassnet break --list` has them all")
    reply = ask(running_lab(lab), "break", 120, fault=fault, node=node)
    if "error" in reply:
        raise LabError(reply["error"])
    told, *see = reply["told"]
    click.echo(f"{reply['fault']}, on {reply['node']}: {told}.")
    for line in see:
        click.echo(f"  to see it:   {line}")
    click.echo(f"  to undo it:  glassnet mend {reply['fault']}")


def _list(lab: str | None) -> None:
    """The library; a running lab's faults are marked."""
    from glassnet.lab.faults.journal import records
    from glassnet.lab.faults.registry import FAULTS
    from glassnet.lab.state import all_labs, running_lab

    live = [found for found in all_labs() if found.running()]
    broken = records(running_lab(lab)) if lab or len(live) == 1 else {}
    width = max(map(len, FAULTS))
    for fault in FAULTS.values():
        where = f" (broken, on {broken[fault.name]['node']})" if fault.name in broken else ""
        click.echo(f"{fault.name:{width}}  {fault.text}{where}")
