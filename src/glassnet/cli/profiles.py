"""`glassnet profiles`: the clusters a lab can be, and their files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from glassnet.lab.profiles.model import Profile

EPILOG = """
\b
Examples:
  glassnet profiles
  glassnet profiles -o json | jq -r '.[].name'
  glassnet profiles show aks-kubenet > my.yaml       a copy to change
  glassnet up --profile ./my.yaml
"""
OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group(
    "profiles",
    epilog=EPILOG,
    invoke_without_command=True,
    short_help="List the clusters a lab can be; print their files.",
)
@OUTPUT
@click.pass_context
def command(context: click.Context, output: str) -> None:
    """List the profiles that come with glassnet: what each is, its nodes, ranges, CNI and proxy, and where it is from.

    `glassnet up --profile NAME` brings one up.
    """
    if context.invoked_subcommand is not None:
        return
    from glassnet.lab.profiles import catalog

    found = [catalog.load(name) for name in catalog.names()]
    if output == "json":
        click.echo(json.dumps([_facts(profile) for profile in found], indent=2))
        return
    for number, profile in enumerate(found):
        click.echo(("" if number == 0 else "\n") + click.style(profile.name, bold=True) + f"  {profile.text}")
        for title, value in _lines(profile):
            click.echo(f"  {title:<9} {value}")


@command.command("show", epilog=EPILOG)
@click.argument("name", metavar="NAME|FILE")
@OUTPUT
def show(name: str, output: str) -> None:
    """Print a profile's file, which can be changed and given to `glassnet up --profile ./FILE`; as JSON: with every default filled in.

    A file of yours is checked, as `glassnet up` would.
    """
    from glassnet.lab.profiles import catalog
    from glassnet.lab.profiles.reading import read

    text, source = catalog.text_of(name)
    profile = read(text, source)
    if output == "json":
        import msgspec

        click.echo(json.dumps(msgspec.to_builtins(profile), indent=2))
    else:
        click.echo(text, nl=not text.endswith("\n"))


def _facts(profile: Profile) -> dict[str, Any]:
    part = profile.networks
    return {
        "name": profile.name,
        "text": profile.text,
        "nodes": profile.workers.count,
        "nodeNetwork": part.nodes,
        "podNetwork": part.pods,
        "serviceNetwork": part.services,
        "ipFamily": part.ip_family,
        "cni": profile.cni.conf,
        "proxy": profile.proxy.mode,
        "iptablesLayout": profile.proxy.iptables_layout,
        "loadBalancer": profile.load_balancer.kind,
        "source": list(profile.source),
    }


def _lines(profile: Profile) -> list[tuple[str, str]]:
    from glassnet.lab.profiles.names import shown

    part, proxy = profile.networks, profile.proxy
    layout = f", chains of the {proxy.iptables_layout} layout" if proxy.iptables_layout != "current" else ""
    pods = part.pods or "on the nodes' network"
    return [
        ("nodes", f"{profile.workers.count}: {shown(profile.workers.name)}"),
        ("networks", f"nodes {part.nodes}, pods {pods}, Services {part.services}"),
        ("CNI", profile.cni.conf),
        ("proxy", f"{proxy.mode}{layout}"),
        ("balancer", profile.load_balancer.kind),
        ("from", ", ".join(profile.source) or "nowhere"),
    ]
