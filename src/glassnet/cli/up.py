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
  glassnet up --profile gke --ip-family dual
  glassnet up --load-balancer floating-ip            Services of type LoadBalancer get an address from outside
  glassnet profiles show aks-kubenet > my.yaml; glassnet up --profile ./my.yaml
  glassnet up --proxy none --cni none --routes none  nodes without a network, to run `glassnet agent` on (docs/install.md)
"""


@click.command("up", epilog=EPILOG, short_help="Bring a lab up and wait until every pod is Ready.")
@lab_option
@click.option(
    "--profile",
    default="hardway",
    show_default=True,
    metavar="NAME|FILE",
    help="Which cluster to build: a name of `glassnet profiles`, or a file such as it shows (./my.yaml).",
)
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
    type=click.IntRange(min=1),
    metavar="N",
    help="How many worker nodes (controllers come on top). [default: as the profile has it; hardway: 3]",
)
@click.option(
    "--proxy",
    type=click.Choice(["iptables", "nftables", "none"]),
    help="How Services are spelled; none: nobody makes them work. [default: as the profile has it; hardway: iptables]",
)
@click.option(
    "--iptables-layout",
    type=click.Choice(["current", "classic"]),
    help="How iptables chains are laid out: as kube-proxy does today, or did in 1.18 (KUBE-FW-, KUBE-XLB-, KUBE-MARK-DROP). [default: as the profile has it; hardway: current]",
)
@click.option(
    "--cni",
    metavar="NAME|none",
    help="Pods' network, a ready configuration (`glassnet cni conf --help`) in place of the profile's; none: no plugins, no configuration, nodes are NotReady until somebody brings them.",
)
@click.option(
    "--routes",
    type=click.Choice(["vpc", "none"]),
    help="Who routes between the pods of different nodes; none: nobody does. [default: as the profile has it; hardway: vpc]",
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
@click.option(
    "--ip-family",
    type=click.Choice(["ipv4", "dual"]),
    help="dual: nodes, pods and Services have IPv6 addresses too. [default: as the profile has it; ipv4]",
)
@click.option(
    "--load-balancer",
    type=click.Choice(["floating-ip", "pass-through", "node-port-targets", "none"]),
    help="The cloud's load balancer at the VPC's edge, for Services of type LoadBalancer (docs/design/cloud-load-balancer.md). [default: as the profile has it; hardway: none]",
)
@click.option(
    "--cloud-speed",
    type=click.IntRange(1, 100),
    metavar="N",
    help="How many times faster than in the real cloud its health probes and deadlines are. [default: 10]",
)
@click.option(
    "--node-cidr", metavar="CIDR", help="Network of the nodes. [default: the profile's; hardway: 10.240.0.0/24]"
)
@click.option(
    "--pod-cidr",
    metavar="CIDR",
    help="Range of the pods; every worker gets a part of it. [hardway: 10.200.0.0/16, a /24 each]",
)
@click.option("--service-cidr", metavar="CIDR", help="Range of ClusterIPs. [hardway: 10.32.0.0/24]")
@click.option("--public-cidr", metavar="CIDR", help="Public addresses, one per machine. [hardway: 203.0.113.0/24]")
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
    settings = Settings(name=lab or "lab", **{name: word for name, word in words.items() if word is not None})
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
        click.echo(f"  glassnet node{flag} {up['worker']} -- glassnet preflight node")
    else:
        click.echo(f"  glassnet node{flag} {up['worker']} -- iptables -t nat -S KUBE-SERVICES")
    click.echo(f"  glassnet host{flag} internet -- ping -c 1 {up['public']}")
