"""`glassnet ingress report`: what of ingress-nginx's manifests works here, and what not."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

EPILOG = """
\b
Examples:
  glassnet ingress report -f manifests/
  kubectl get ingress,ingressclass,configmap,service -A -o yaml | glassnet ingress report -f -
  glassnet ingress report -f shop.yaml -o json | jq '.objects[] | select(.level == "dangerous")'
"""
_STYLES = {"supported": "green", "differs": "yellow", "refused": "red", "dangerous": "bold red"}


@click.command("report", epilog=EPILOG, short_help="What of ingress-nginx's manifests works here.")
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE|DIR|-", help="Manifests: files, directories, or standard input.")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Show what is supported without a difference too.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(files: tuple[str, ...], every: bool, output: str) -> None:
    """Say for each Ingress, IngressClass and ConfigMap of ingress-nginx what is supported, differs, is refused, or is dangerous to move.

    Nothing is applied and no cluster is asked. The status is 1 when something is refused or dangerous, and 0 otherwise.
    """
    from glassnet.ingress.report import Level, report
    from glassnet.lab.start import read_manifests

    entries = report(read_manifests(files))
    if output == "json":
        click.echo(json.dumps({"objects": [_plain(each) for each in entries]}, indent=2))
    else:
        _print(entries, every)
    sys.exit(1 if any(each.level >= Level.REFUSED for each in entries) else 0)


def _plain(each: Any) -> dict[str, Any]:
    return {
        "kind": each.kind, "namespace": each.key.namespace, "name": each.key.name, "place": each.place, "level": each.level.name.lower(),
        "findings": [{"level": one.level.name.lower(), "what": one.what, "message": one.message} for one in each.findings],
    }  # fmt: skip


def _print(entries: list[Any], every: bool) -> None:
    from collections import Counter

    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    for each in entries:
        level = each.level.name.lower()
        name = f"{each.key.namespace}/{each.key.name}" if each.key.namespace else each.key.name
        console.print(Text.assemble((f"{level:<9}", _STYLES[level]), (f"  {each.kind} {name}", "bold"), (f"  {each.place}", "dim")))  # fmt: skip
        width = max((len(one.what) for one in each.findings if one.message or every), default=0)
        for one in each.findings:
            if one.message or every:
                console.print(Text.assemble((f"  {one.level.name.lower():<9}", _STYLES[one.level.name.lower()]), f"  {one.what:<{min(width, 40)}}  {one.message}".rstrip()))  # fmt: skip
    counts = Counter(each.level.name.lower() for each in entries)
    if not entries:
        click.echo("no Ingress, IngressClass or ConfigMap of ingress-nginx in these files")
        return
    click.echo(", ".join(f"{counts[level]} {level}" for level in _STYLES if counts[level]) + f" of {len(entries)} objects")  # fmt: skip
