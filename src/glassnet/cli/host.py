"""`glassnet host`: a command on a machine outside the cluster."""

from __future__ import annotations

import sys

import click

from glassnet.cli.main import lab_option
from glassnet.cli.node import CONTEXT, enter


@click.command(
    "host",
    context_settings=CONTEXT,
    short_help="Run a command on a host outside the cluster (internet, vpc-router, …).",
)
@lab_option
@click.argument("host")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD…]")
def command(lab: str | None, host: str, words: tuple[str, ...]) -> None:
    """Run a command on a machine that is no node of the cluster: `internet`, the VPC router, the fabric between the nodes, the cloud's load balancer.

    \b
    Examples:
      glassnet host internet -- curl -s http://203.0.113.20:30080
      glassnet host vpc-router -- ip route
    """
    sys.exit(enter(lab, host, words, ("router", "internet", "fabric", "cloud")))
