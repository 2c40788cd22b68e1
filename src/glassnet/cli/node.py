"""`glassnet node`: the articles' node shell."""

from __future__ import annotations

import sys

import click

from glassnet.cli.main import lab_option

CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command("node", context_settings=CONTEXT, short_help="Run a command, or a shell, on a node of the lab.")
@lab_option
@click.argument("node")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD…]")
def command(lab: str | None, node: str, words: tuple[str, ...]) -> None:
    """Run a command on a node, in its network, mount, PID and UTS namespaces; without one, a shell. Ends with the command's status.

    \b
    Examples:
      glassnet node worker-0
      glassnet node worker-0 -- conntrack -L
      glassnet node worker-1 -- ip route
    """
    sys.exit(enter(lab, node, words, ("controller", "worker")))


def enter(lab: str | None, machine: str, words: tuple[str, ...], roles: tuple[str, ...]) -> int:
    """Run `words` on a machine of the lab that has one of `roles`; its exit status."""
    from glassnet.kernel.enter import exec_in
    from glassnet.lab.state import running_lab
    from glassnet.net.errors import LabError

    found = running_lab(lab)
    process = found.process()
    machines = {name: each for name, each in process.get("machines", {}).items() if each["role"] in roles}
    if machine not in machines:
        raise LabError(f"lab {found.name!r} has no {machine!r} here; it has: {', '.join(machines)}")
    if words and words[0] == "--":
        words = words[1:]
    return exec_in(f"/proc/{process['pid']}/root/proc/{machines[machine]['pid']}", list(words) or ["bash", "-i"])
