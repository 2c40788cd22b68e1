"""`glassnet down`: end a lab, or all of them."""

from __future__ import annotations

import click

from glassnet.cli.main import lab_option


@click.command("down", short_help="End a lab and remove everything it made.")
@click.argument("name", required=False)
@lab_option
@click.option("--all", "everything", is_flag=True, help="Every lab of this user, running or left behind.")
def command(name: str | None, lab: str | None, everything: bool) -> None:
    """End a lab: its processes, namespaces and files. Also cleans up after one that was killed.

    \b
    Examples:
      glassnet down              the only lab there is
      glassnet down second
      glassnet down --all
    """
    from glassnet.lab.state import all_labs, end, lab_dir
    from glassnet.net.errors import LabError

    wanted = None if everything else name or lab
    labs = [lab_dir(wanted)] if wanted else all_labs()
    if not everything and not wanted and len(labs) > 1:
        raise LabError(f"there are {len(labs)} labs ({', '.join(each.name for each in labs)}); name one, or use --all")
    if not labs and not everything:
        raise LabError("there is no lab")
    for each in labs:
        if end(each):
            click.echo(f"Lab {each.name!r} is gone.")
        elif wanted:
            raise LabError(f"there is no lab {wanted!r}; `glassnet status` shows those there are")
