"""`glassnet explain`: whose is this chain, this rule, this address."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.text import Text

from glassnet.cli.worlds import load_world, snapshot_options

EPILOG = """
\b
Examples:
  glassnet explain KUBE-SVC-XRY76EGRC3BSCIIJ
  glassnet explain "-A KUBE-SERVICES -d 10.32.0.10/32 -p udp … -j KUBE-SVC-TCOU7JCQXEZGVUNU"
  glassnet explain 10.200.1.7
  glassnet explain 10.32.0.10:53 --snapshot dump.tar.gz -o json
"""


@click.command(
    "explain",
    epilog=EPILOG,
    short_help="Say whose a chain, a rule or an address is.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("words", nargs=-1, required=True, metavar="CHAIN|RULE|ADDRESS", type=click.UNPROCESSED)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
@snapshot_options
def command(words: tuple[str, ...], output: str, snapshot: str | None, lab: str | None) -> None:
    """Say whose a chain, a rule or an address is: the object and the field, and where it is found.

    Chains of kube-proxy are known by name in both of its modes, in those of older releases too (which kept the colon of a port without a name).
    """
    from glassnet.tracer.ask import ask
    from glassnet.tracer.explain import Explainer
    from glassnet.tracer.objects import Objects

    world = load_world(snapshot, lab)
    found = ask(world, Explainer(Objects(world.objects)), " ".join(words))
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    out = Console(highlight=False, soft_wrap=True)
    out.print(Text(found["what"], style="bold"))
    for title, key, style in (("", "says", ""), ("because", "whose", "blue"), ("on", "where", "dim")):
        for line in found[key]:
            out.print(Text(f"  {title + ' ' if title else ''}{line}", style=style))
