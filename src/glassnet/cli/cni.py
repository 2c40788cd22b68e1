"""`glassnet cni`: the CNI plugins of a node: put in place, configured, served, looked after."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glassnet.cli.cni_look import check_command, gc_command, leases_command, status_command
from glassnet.net.errors import GlassnetError, UsageError

if TYPE_CHECKING:
    from glassnet.client.kubeconfig import Access
    from glassnet.cni.ready import Wish

BIN, CONF = "/opt/cni/bin", "/etc/cni/net.d"
KINDS = ("glassnet", "kubenet", "bridge", "ptp", "hardway", "gke", "azure-cni", "aws-vpc-cni", "docker")

EPILOG = """
\b
Examples:
  glassnet cni install --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d
  glassnet cni serve --kubeconfig /etc/kubernetes/kubelet.conf
  glassnet cni conf bridge --pod-cidr 10.200.1.0/24
  glassnet cni leases
  glassnet cni check
"""


@click.group("cni", epilog=EPILOG, short_help="CNI plugins of a node: install, configure, serve, check.")
def command() -> None:
    """The CNI plugins of a node: put in place and configured for a container runtime, served by an agent; and what they left on the node:
    addresses that are given away, attachments that are not as they were made."""


for each in (leases_command, check_command, status_command, gc_command):
    command.add_command(each)


# -- conf

_WISHES = (
    click.option("--name", "network", metavar="NAME", default="", help="The network's name (default: the kind's)."),
    click.option("--pod-cidr", "pod_cidrs", metavar="CIDR", multiple=True, help="Range of this node's pods; twice for both families."),
    click.option("--bridge", metavar="NAME", default="", help="The bridge's name (default: the kind's)."),
    click.option("--mtu", type=click.IntRange(0, 65535), default=0, help="MTU of the containers' interfaces (default: the kind's)."),
    click.option("--non-masquerade-cidr", "non_masquerade", metavar="CIDR", multiple=True, help="Where pods keep their own address (kubenet and glassnet; kubenet's default is 10.0.0.0/8)."),
    click.option("--cni-version", "version", type=click.Choice(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]), default="1.1.0", show_default=True, help="The version to write, for a runtime that does not know the newest (hardway has its own)."),
    click.option("--kubeconfig", metavar="FILE", help="Take the pod CIDRs from the Node object of the cluster behind this file."),
    click.option("--node", metavar="NAME", default="", help="The Node object's name (default: this host's name)."),
)  # fmt: skip


def _wish_options(function: Any) -> Any:
    """What every ready configuration may be asked for."""
    for option in reversed(_WISHES):
        function = option(function)
    return function


def _files(kind: str, kubeconfig: str | None, node: str, words: dict[str, Any]) -> dict[str, str]:
    """The files of a ready configuration. Raises UsageError, ApiError."""
    from glassnet.cni import ready

    cidrs = tuple(words["pod_cidrs"])
    if not cidrs and kubeconfig:
        cidrs = _cidrs_of_node(kubeconfig, node)
    wish: Wish = ready.Wish(
        words["network"], cidrs, words["bridge"], words["mtu"], tuple(words["non_masquerade"]), words["version"]
    )
    return ready.files(kind, wish)


def _cidrs_of_node(kubeconfig: str, node: str) -> tuple[str, ...]:
    import asyncio

    from glassnet.agent.cni.facts import node_pod_cidrs

    return asyncio.run(node_pod_cidrs(_access(kubeconfig), _node_name(node)))


def _access(kubeconfig: str) -> Access:
    from glassnet.client.kubeconfig import load

    return load(kubeconfig)


def _node_name(node: str) -> str:
    return node or os.uname().nodename.strip().lower()


@command.command(
    "conf",
    short_help="Print a ready configuration.",
    epilog="""\b
Kinds:
  glassnet   configures itself from the node: pod CIDRs, MTU, masquerade (plugin glassnet)
  kubenet    kubenet of the kubelet up to 1.23: bridge cbr0, hairpin, other nodes by routes, masquerade once a node
  bridge     a bridge, masquerade once a container, ports of the node
  ptp        a veth pair a container and routes, no bridge; masquerade, ports of the node
  hardway    the two files of Kubernetes The Hard Way
  docker     docker's default network: bridge docker0, 172.17.0.0/16, masquerade
\b
Examples:
  glassnet cni conf kubenet --pod-cidr 10.244.1.0/24
  glassnet cni conf bridge --pod-cidr 10.200.1.0/24 --pod-cidr fd00:200:1::/64 --mtu 1450
  glassnet cni conf ptp --kubeconfig ~/.kube/config --node worker-1 > /etc/cni/net.d/10-ptp.conflist
  glassnet cni conf hardway --pod-cidr 10.200.0.0/24 --file 99-loopback.conf
""",
)
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.option(
    "--file", "wanted", metavar="NAME", help="Which file, of a kind that has several (default: the network's)."
)
@_wish_options
def conf_command(kind: str, wanted: str | None, kubeconfig: str | None, node: str, **words: Any) -> None:
    """Print a ready configuration, for a file in /etc/cni/net.d.

    The range of the pods is --pod-cidr, or that of the Node object (--kubeconfig FILE, --node NAME).
    """
    found = _files(kind, kubeconfig, node, words)
    if wanted is not None and wanted not in found:
        raise UsageError(f"--file {wanted}: {kind} has {', '.join(found)}")
    first, *others = found
    click.echo(found[wanted or first], nl=False)
    if wanted is None:
        for name in others:
            click.echo(f"glassnet: {kind} has another file: --file {name}", err=True)


# -- install and uninstall


@command.command(
    "install",
    short_help="Put the plugins into a runtime's directory.",
    epilog="""\b
Examples:
  glassnet cni install --bin-dir /opt/cni/bin
  glassnet cni install --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d
  glassnet cni install --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d --conf kubenet --pod-cidr 10.244.1.0/24
""",
)
@click.option("--bin-dir", metavar="DIR", required=True, help=f"Where the runtime looks for plugins, usually {BIN}.")
@click.option("--conf-dir", metavar="DIR", help=f"Write a ready configuration too, usually into {CONF}.")
@click.option("--conf", "kind", type=click.Choice(KINDS), default="glassnet", show_default=True, help="Which one.")
@click.option("--force", is_flag=True, help="Replace files that are not ours.")
@click.option("--socket", metavar="PATH", help="Where the agent answers (default: /run/glassnet/cni.sock).")
@_wish_options
def install_command(
    bin_dir: str,
    conf_dir: str | None,
    kind: str,
    force: bool,
    socket: str | None,
    kubeconfig: str | None,
    node: str,
    **words: Any,
) -> None:
    """Put the plugin programs into a directory, with --conf-dir a configuration too. Programs of ours that are there are renewed.

    Files that are not ours are left alone, and nothing is written then, unless --force is given.
    """
    from glassnet.agent.cni import programs
    from glassnet.agent.cni.server import SOCKET
    from glassnet.agent.cni.whole_files import read_whole, write_whole

    files = {Path(conf_dir) / n: text for n, text in _files(kind, kubeconfig, node, words).items()} if conf_dir else {}
    kept = {path for path, text in files.items() if read_whole(path) == text}
    if (others := [path for path in files if os.path.lexists(path) and path not in kept]) and not force:
        raise GlassnetError(
            f"{', '.join(map(str, others))}: there already, and different; nothing is written. Move it away, or --force replaces it"
        )
    before = [path for path in Path(bin_dir).glob("*") if path.is_file() and programs.is_ours(path)]
    names = programs.install(Path(bin_dir), force, socket=socket or SOCKET)
    click.echo(f"{bin_dir}: {', '.join(names)} ({'renewed' if before else 'new'})")
    for path, text in files.items():
        if path not in kept:
            write_whole(path, text)
        click.echo(f"{path}: network {kind}{' (as it was)' if path in kept else ''}")
    if conf_dir:
        _tell_order(Path(conf_dir), next(iter(files)).name)
    _tell_next(socket or SOCKET, kind if conf_dir else "")


def _tell_order(directory: Path, ours: str) -> None:
    from glassnet.cni.runtime import choose_file

    first = choose_file(os.listdir(directory))
    if first is not None and first != ours:
        click.echo(f"glassnet: {directory / first} comes first: runtimes take that one, not {ours}", err=True)


def _tell_next(path: str, kind: str) -> None:
    """What there is still to do."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(path)
            click.echo(f"An agent answers at {path}: the next container is joined by it.")
        except OSError:
            serve = "glassnet cni serve" + (f" --socket {path}" if path != "/run/glassnet/cni.sock" else "")
            serve += " --kubeconfig FILE" if kind == "glassnet" else ""
            click.echo(f"No agent answers at {path}: plugins work, but each call starts a Python of its own.")
            click.echo(f"Next: {serve}   (as a service: docs/design/cni-node.md has a unit file)")


@command.command(
    "uninstall",
    short_help="Remove the plugins from a runtime's directory.",
    epilog="\b\nExamples:\n  glassnet cni uninstall --bin-dir /opt/cni/bin",
)
@click.option("--bin-dir", metavar="DIR", required=True, help=f"Where they are, usually {BIN}.")
def uninstall_command(bin_dir: str) -> None:
    """Remove our plugin programs, and nothing else. Containers keep their network; to end them properly takes the plugins, so do that first."""
    from glassnet.agent.cni import programs

    gone = programs.uninstall(Path(bin_dir))
    click.echo(f"{bin_dir}: {', '.join(gone)} removed" if gone else f"{bin_dir}: nothing of glassnet's is there")


# -- serve


@command.command(
    "serve",
    short_help="Run the node's agent for the plugins.",
    epilog="""\b
Examples:
  glassnet cni serve
  glassnet cni serve --kubeconfig /etc/kubernetes/kubelet.conf --cluster-cidr 10.200.0.0/16
""",
)
@click.option("--socket", metavar="PATH", help="Where it answers (default: /run/glassnet/cni.sock).")
@click.option(
    "--kubeconfig", metavar="FILE", help="Watch this node's Node object, for the plugin glassnet to know its pod CIDRs."
)
@click.option("--node", metavar="NAME", default="", help="The Node object's name (default: this host's name).")
@click.option(
    "--cluster-cidr",
    "cluster_cidrs",
    metavar="CIDR",
    multiple=True,
    help="Range of all pods, which is not masqueraded; twice for both families.",
)
def serve_command(socket: str | None, kubeconfig: str | None, node: str, cluster_cidrs: tuple[str, ...]) -> None:
    """Answer the plugin programs of this node, in the foreground, until SIGTERM or SIGINT. Calls that have begun are brought to their end.

    Plugins work without it too; with it a call takes a fraction of the time.
    """
    import asyncio
    import logging
    from ipaddress import ip_network

    from glassnet.agent.cni.server import SOCKET
    from glassnet.agent.cni.service import CniService

    if os.geteuid() != 0:
        raise UsageError("changing a node's network takes root: run this with sudo")
    try:
        cidrs = tuple(str(ip_network(each)) for each in cluster_cidrs)
    except ValueError as error:
        raise UsageError(f"--cluster-cidr: {error}; want a network such as 10.200.0.0/16") from None
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname).1s %(message)s")
    access = _access(kubeconfig) if kubeconfig else None
    service = CniService(socket or SOCKET, access, _node_name(node), cidrs)
    reason = asyncio.run(service.run())
    logging.getLogger("glassnet").info("ended: %s; containers keep their network", reason)
