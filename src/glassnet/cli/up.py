"""`glassnet up`: from the words on the command line to a lab that is up."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from glassnet.cli.main import lab_option

EPILOG = """
\b
Examples:
  glassnet up
  glassnet up -f deployment.yaml -f services/        apply manifests, wait until every pod is Ready
  glassnet up --name second --nodes 20 --proxy nftables
  glassnet up --iptables-layout classic              chains as kube-proxy 1.18 had them, for articles of that time
  kustomize build . | glassnet up -f -
  glassnet up --proxy none --cni none --routes none  nodes without a network, to run `glassnet agent` on (docs/install.md)
"""


@click.command("up", epilog=EPILOG, short_help="Bring a lab up and wait until every pod is Ready.")
@lab_option
@click.option("--profile", default="hardway", show_default=True, help="Which cluster to build: hardway.")
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    help="Manifests to apply; may be given more than once.",
)
@click.option(
    "--nodes",
    "workers",
    default=3,
    show_default=True,
    metavar="N",
    help="How many worker nodes (controllers come on top).",
)
@click.option(
    "--proxy",
    type=click.Choice(["iptables", "nftables", "none"]),
    default="iptables",
    show_default=True,
    help="How Services are spelled; none: nobody makes them work.",
)
@click.option(
    "--iptables-layout",
    type=click.Choice(["current", "classic"]),
    default="current",
    show_default=True,
    help="How iptables chains are laid out: as kube-proxy does today, or did in 1.18 (KUBE-FW-, KUBE-XLB-, KUBE-MARK-DROP).",
)
@click.option(
    "--cni",
    type=click.Choice(["hardway", "none"]),
    default="hardway",
    show_default=True,
    help="Pods' network; none: no plugins, no configuration, nodes are NotReady until somebody brings them.",
)
@click.option(
    "--routes",
    type=click.Choice(["vpc", "none"]),
    default="vpc",
    show_default=True,
    help="Who routes between the pods of different nodes; none: nobody does.",
)
@click.option(
    "--dns",
    type=click.Choice(["knot", "none"]),
    help="Who answers for names: Knot DNS behind the Service kube-dns, or nobody. [default: knot; none when another part of the network is]",
)
@click.option(
    "--addon",
    "addons",
    type=click.Choice(["ingress"]),
    multiple=True,
    help="Something on top: ingress (an Ingress controller on NGINX, namespace ingress-nginx).",
)
@click.option("--node-cidr", default="10.240.0.0/24", show_default=True, help="Network of the nodes.")
@click.option(
    "--pod-cidr", default="10.200.0.0/16", show_default=True, help="Range of the pods; every worker gets a /24 of it."
)
@click.option("--service-cidr", default="10.32.0.0/24", show_default=True, help="Range of ClusterIPs.")
@click.option("--public-cidr", default="203.0.113.0/24", show_default=True, help="Public addresses, one per machine.")
@click.option("--api-port", default=0, metavar="PORT", help="Port of the API on 127.0.0.1 (default: any free one).")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def command(lab: str | None, files: tuple[str, ...], api_port: int, quiet: bool, **words: Any) -> None:
    """Bring a lab up in the background, apply manifests, wait until every pod is Ready.

    Ends with status 0 when every pod is Ready or has settled in another state (which is then named), 1 when the lab did not come up.
    """
    from glassnet.lab.settings import Settings
    from glassnet.lab.start import read_manifests, start

    begun = time.monotonic()
    missing = "none" in (words["proxy"], words["cni"], words["routes"])
    words["addons"] = tuple(dict.fromkeys(words["addons"]))
    words["dns"] = words["dns"] or ("none" if missing else "knot")
    settings = Settings(name=lab or "lab", **words)
    manifests = read_manifests(files)
    last: dict[str, Any] = {}
    with _Display(quiet) as display:
        for event in start(settings, manifests, api_port):
            display.show(event)
            last = event
    if not quiet:
        _farewell(settings.name, last["up"], time.monotonic() - begun)


class _Display:
    """Progress: one live line on a terminal, one line per step elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._live = not quiet and sys.stderr.isatty()
        self._lines = not quiet and not self._live
        self._status: Any = None
        self._step = ""

    def __enter__(self) -> _Display:
        if self._live:
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def show(self, event: dict[str, Any]) -> None:
        text = event.get("step", "")
        if text and self._status:
            self._status.update(text)
        elif text and self._lines and event.get("name") != self._step:
            self._step = event.get("name", "")
            click.echo(text, err=True)


def _farewell(name: str, up: dict[str, Any], seconds: float) -> None:
    flag = "" if name == "lab" else f" --name {name}"
    click.echo(
        f"Lab {name!r} is up in {seconds:.1f} s: {up['machines']} machines, {up['ready']} of {up['pods']} pods Ready."
    )
    for pod, why in up["unready"]:
        click.secho(f"  not Ready: {pod}: {why}", fg="yellow", err=True)
    click.echo(f"kubeconfig: {up['kubeconfig']}")
    click.echo("Try:")
    click.echo(f"  glassnet kubectl{flag} get nodes -o wide")
    if up["proxy"] == "none":
        click.echo(f"  glassnet node{flag} worker-0 -- glassnet preflight node")
    else:
        click.echo(f"  glassnet node{flag} worker-0 -- iptables -t nat -S KUBE-SERVICES")
    click.echo(f"  glassnet host{flag} internet -- ping -c 1 {up['public']}")
