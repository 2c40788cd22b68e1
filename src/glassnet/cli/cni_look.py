"""`glassnet cni leases`, `check`, `status`, `gc`: what CNI left on a node, and whether it is as it should be."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glassnet.cli.main import lab_option
from glassnet.net.errors import GlassnetError, UsageError

if TYPE_CHECKING:
    from glassnet.agent.cni.inventory import NodeInventory, Verdict
    from glassnet.cni.inventory import Row
    from glassnet.cni.request import Attachment

_PAUSE = 2.0  # seconds between the two looks at what is to be released


def _node_options(function: Any) -> Any:
    """Which node: a lab's, or this machine."""
    option = click.option("--node", metavar="NODE", help="A node of the lab (default: this machine).")
    return lab_option(option(function))


def _on_node(lab: str | None, node: str | None, *words: str) -> None:
    """With `--node` the command runs there, in the node's own namespaces, and this one ends with its status."""
    if node is None:
        _must_have_cni()
        if os.geteuid() != 0:
            raise UsageError(
                "reading a machine's network namespaces takes root: run this with sudo, or --node NODE looks at a lab's"
            )
        return
    import glassnet
    from glassnet.cli.node import enter

    place = f"PYTHONPATH={Path(glassnet.__file__).parent.parent}"
    command = ("env", place, *_terminal(), sys.executable, "-m", "glassnet", "cni", *words)
    sys.exit(enter(lab, node, command, ("controller", "worker")))


def _must_have_cni() -> None:
    """A machine that runs labs and no containers of its own is hardly meant."""
    from glassnet.lab.state import all_labs

    if not any(map(os.path.exists, ("/etc/cni/net.d", "/var/lib/cni"))) and any(
        found.running() for found in all_labs()
    ):
        raise UsageError("this machine has no CNI, and a lab runs: --node worker-0 looks at a node of it")


def _terminal() -> tuple[str, ...]:
    return tuple(f"{name}={os.environ[name]}" for name in ("NO_COLOR", "FORCE_COLOR") if name in os.environ)


def _inventory() -> NodeInventory:
    import time

    from glassnet.agent.cni.alone import Here
    from glassnet.agent.cni.inventory import NodeInventory

    return NodeInventory(Here(), time.time)


# -- leases


@click.command(
    "leases",
    short_help="Which addresses are given away, to whom, and which leaked.",
    epilog="""\b
Exit status: 0, or 1 when addresses leaked that are still not released.
\b
Examples:
  glassnet cni leases --node worker-0
  glassnet cni leases --json | jq -r '.[] | select(.state == "leaked") | .address'
  sudo glassnet cni leases --release-leaked
""",
)
@_node_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--leaked", is_flag=True, help="Those that leaked only.")
@click.option(
    "--release-leaked", is_flag=True, help="Give back what leaked: seen at two looks, and older than a minute."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def leases_command(
    lab: str | None, node: str | None, as_json: bool, leaked: bool, release_leaked: bool, yes: bool
) -> None:
    """Every address that CNI gave away on a node: to which pod, since when, and whether anybody still has it.

    Alive is an address that some network namespace has, or whose veth pair is up. All else leaked, for the reason that is told.
    """
    from glassnet.cni import inventory

    flags = [("--json", as_json), ("--leaked", leaked), ("--release-leaked", release_leaked), ("--yes", yes)]
    _on_node(lab, node, "leases", *(word for word, given in flags if given))
    node_inventory = _inventory()
    found = inventory.rows(node_inventory.facts())
    if release_leaked:
        _release(node_inventory, found, yes)
        found = inventory.rows(node_inventory.facts())
    lost = [row for row in found if row.state == inventory.LEAKED]
    shown = lost if leaked else found
    if as_json:
        click.echo(json.dumps([_plain(row) for row in shown], indent=1))
    else:
        _print(shown, len(found), len(lost))
    sys.exit(1 if lost else 0)


def _plain(row: Row) -> dict[str, Any]:
    return {
        "address": row.address,
        "network": row.network,
        "pod": row.pod,
        "containerID": row.holder.container_id,
        "ifname": row.holder.ifname,
        "age": round(row.age, 1),
        "state": row.state,
        "why": row.why,
    }


def _print(shown: list[Row], total: int, lost: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    if shown:
        table = Table(
            "address",
            "network",
            "pod",
            "container",
            "interface",
            "age",
            "state",
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
        )
        for row in shown:
            container, style = row.holder.container_id[:13], "green" if row.state == "alive" else "red"
            state = row.state if row.state == "alive" else f"{row.state}: {row.why}"
            table.add_row(
                row.address,
                row.network,
                row.pod or "-",
                container,
                row.holder.ifname or "-",
                _age(row.age),
                Text(state, style),
            )
        console.width = max(console.width, 200)  # a line a lease: what is cut off cannot be read or searched for
        with console.capture() as text:
            console.print(table)
        click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))
    console.print(f"{_count(total, 'address')} given away, {lost} leaked")


def _count(number: int, name: str) -> str:
    """A number of things, in the right form of their name."""
    return f"{number} {name}" if number == 1 else f"{number} {name}{'es' if name.endswith('s') else 's'}"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def _release(node_inventory: NodeInventory, first: list[Row], yes: bool) -> None:
    """Give back what leaked, after a second look. Raises GlassnetError for what could not be."""
    import time

    from glassnet.cni import inventory

    lost = [row for row in first if row.state == inventory.LEAKED]
    old = [row for row in lost if row.settled]
    if young := len(lost) - len(old):
        click.echo(
            f"{young} that leaked are younger than a minute: their containers may be starting; they are left alone",
            err=True,
        )
    if not old:
        return
    if not yes:
        for row in old:
            click.echo(f"{row.address} of {row.network}: {row.why}", err=True)
        click.confirm(f"Give back {_count(len(old), 'address')}?", abort=True, err=True)
    time.sleep(_PAUSE)
    wanted = inventory.releasable(old, inventory.rows(node_inventory.facts()))
    problems = node_inventory.release(wanted)
    click.echo(f"{_count(len(wanted) - len(problems), 'address')} given back", err=True)
    if problems:
        raise GlassnetError("some could not be given back:\n" + "\n".join(problems))


# -- check and status


@click.command(
    "check",
    short_help="Hold every attachment against what ADD made.",
    epilog="""\b
Exit status: 0 all is as it was made, 1 something is off.
\b
Examples:
  glassnet cni check --node worker-0
  glassnet cni check --node worker-0 demo/web-6d4cf56db6-x2x7n
  sudo glassnet cni check kubenet
""",
)
@_node_options
@click.argument("wanted", metavar="[NETWORK|POD|CONTAINER]", default="")
def check_command(lab: str | None, node: str | None, wanted: str) -> None:
    """CHECK of every attachment of a node, with the result that ADD gave, and STATUS of every network.

    What is off is told with a command that shows it and one that mends it.
    """
    _on_node(lab, node, "check", *([wanted] if wanted else []))
    node_inventory = _inventory()
    found = list(node_inventory.check(wanted))
    states = [] if wanted else list(node_inventory.status())
    if wanted and not found:
        raise GlassnetError(f"no attachment of {wanted!r} was kept on this node; `glassnet cni check` tells of all")
    _tell(found, states)


@click.command(
    "status",
    short_help="Ask every network whether it can join containers.",
    epilog="\b\nExit status: 0 every network can, 1 one cannot.\n\b\nExamples:\n  glassnet cni status --node worker-0",
)
@_node_options
def status_command(lab: str | None, node: str | None) -> None:
    """STATUS of every network in /etc/cni/net.d: are there addresses left, is the bridge up, does the node forward."""
    _on_node(lab, node, "status")
    _tell([], list(_inventory().status()))


def _tell(attachments: list[Verdict], networks: list[Verdict]) -> None:
    from rich.console import Console
    from rich.text import Text

    from glassnet.cni import inventory

    console = Console(highlight=False, soft_wrap=True)
    for each in (*attachments, *networks):
        mark, style = ("off", "bold red") if each.fault else ("ok", "green")
        console.print(
            Text.assemble((f"{mark:<4}", style), f"{each.about}", f"  network {each.network}" if each.network else "")
        )
        if each.fault:
            console.print(Text(f"      {each.fault}{f' ({each.details})' if each.details else ''}"))
            shown = inventory.advice(each.fault, each.netns)
            console.print(Text(f"    ? {shown.show}", style="dim"))
            console.print(Text(f"    > {shown.mend}", style="green"))
    off = sum(bool(each.fault) for each in (*attachments, *networks))
    counts = [_count(len(group), name) for group, name in ((attachments, "attachment"), (networks, "network")) if group]
    console.print(f"{' and '.join(counts) or 'nothing to check'}: {f'{off} off' if off else 'all as it should be'}")
    sys.exit(1 if off else 0)


# -- gc


@click.command(
    "gc",
    short_help="Take away what a network has of containers that are gone.",
    epilog="""\b
Examples:
  sudo glassnet cni gc bridge --alive
  sudo glassnet cni gc bridge --valid containers.json       [{"containerID": "…", "ifname": "eth0"}, …]
""",
)
@_node_options
@click.argument("network", metavar="NETWORK")
@click.option("--valid", "file", type=click.File(), help="A JSON list of the attachments that live.")
@click.option(
    "--alive", is_flag=True, help="Keep whatever has a namespace, an address in use or a veth pair that is up."
)
def gc_command(lab: str | None, node: str | None, network: str, file: Any, alive: bool) -> None:
    """GC of a network: interfaces, addresses and rules of containers that are not in the list go."""
    if bool(file) == alive:
        raise UsageError("which attachments live? --valid FILE lists them, --alive looks for them")
    if node is not None and file is not None:
        raise UsageError(f"--valid is for the node's own shell: glassnet node {node} -- glassnet cni gc …")
    _on_node(lab, node, "gc", network, "--alive")
    node_inventory = _inventory()
    valid = _valid(file) if file else _living(node_inventory, network)
    problems = node_inventory.collect(node_inventory.network(network), valid)
    if problems:
        raise GlassnetError(f"GC of {network}:\n" + "\n".join(problems))
    click.echo(f"{network}: what is not of {len(valid)} attachments that live has been taken away")


def _living(node_inventory: NodeInventory, network: str) -> list[Attachment]:
    from glassnet.cni import inventory

    return inventory.living(node_inventory.facts(), network)


def _valid(file: Any) -> list[Attachment]:
    from glassnet.cni.request import Attachment

    try:
        body = json.load(file)
        return [Attachment(str(one["containerID"]), str(one["ifname"])) for one in body]
    except (ValueError, TypeError, KeyError):
        raise UsageError(f'--valid {file.name}: want a list [{{"containerID": "…", "ifname": "eth0"}}, …]') from None
