"""The command's root: finds subcommands when they are called, turns GlassnetError into one line and exit status 1."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from glassnet import __version__
from glassnet.net.errors import GlassnetError, UsageError

# name -> (module, short help). Modules load only when their command runs: `glassnet node … -- CMD` must feel like a shell.
COMMANDS = {
    "up": ("glassnet.cli.up", "Bring a lab up and wait until every pod is Ready."),
    "profiles": ("glassnet.cli.profiles", "List the clusters a lab can be; print their files."),
    "down": ("glassnet.cli.down", "End a lab and remove everything it made."),
    "status": ("glassnet.cli.status", "Show the labs, their machines and pods."),
    "node": ("glassnet.cli.node", "Run a command, or a shell, on a node of the lab."),
    "host": ("glassnet.cli.host", "Run a command on a host outside the cluster (internet, vpc-router, …)."),
    "kubectl": ("glassnet.cli.kubectl", "Run real kubectl with the lab's kubeconfig."),
    "lab": ("glassnet.cli.lab", "Change a running lab: its proxy mode."),
    "agent": ("glassnet.cli.agent", "Run this node's agent: CNI, Service proxy, routes."),
    "proxy": ("glassnet.cli.proxy", "Run the Service proxy of this node, in place of kube-proxy."),
    "controller": ("glassnet.cli.controller", "Run the cluster's controller: conditions of Nodes' networks."),
    "dns": ("glassnet.cli.dns", "The cluster's DNS server."),
    "ingress": ("glassnet.cli.ingress", "An Ingress controller on NGINX; where a URL goes, and why."),
    "cni": ("glassnet.cli.cni", "CNI plugins of a node: install, configure, serve, check."),
    "map": ("glassnet.cli.map", "Draw the network: nodes, bridges, pods, addresses, routes, Services."),
    "trace": ("glassnet.cli.trace", "Say where a packet goes, by which rule, and on whose behalf."),
    "doctor": ("glassnet.cli.doctor", "Look the whole network over for known faults."),
    "where": ("glassnet.cli.where", "List everything a Service caused on each node."),
    "diff": ("glassnet.cli.diff", "Say what changed between two snapshots, and whose doing it was."),
    "drift": ("glassnet.cli.drift", "Say what the nodes' rules should be and are not, per object."),
    "explain": ("glassnet.cli.explain", "Say whose a chain, a rule or an address is."),
    "reach": ("glassnet.cli.reach", "Say which pods reach which Services, as a matrix."),
    "conntrack": ("glassnet.cli.conntrack", "Read the connection table: whose entries, which are wrong, how full."),
    "snapshot": ("glassnet.cli.snapshot", "Write everything a trace needs into one file."),
    "break": ("glassnet.cli.break_", "Make one of the faults that real clusters have."),
    "mend": ("glassnet.cli.mend", "Undo a fault, exactly."),
    "preflight": ("glassnet.cli.preflight", "Say what this machine lacks for a lab, or as a node."),
}

EPILOG = """
\b
Examples:
  glassnet up                                   three controllers, three workers, a router, the internet
  glassnet kubectl get nodes -o wide
  glassnet node worker-0 -- iptables -t nat -S
  glassnet host internet -- curl -s http://203.0.113.20:30080
  glassnet down
"""


class Lazy(click.Group):
    """A group whose commands are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Lazy, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="glassnet")
@click.option("--name", "lab", metavar="NAME", help="The lab that the command is about (also GLASSNET_LAB).")
def root(lab: str | None) -> None:
    """glassnet: a Kubernetes network you can see through.

    A whole cluster's network out of network namespaces on this machine: real kernel, real kubectl.
    """
    if lab:
        os.environ["GLASSNET_LAB"] = lab


def lab_option(function: Any) -> Any:
    """The `--name` option of every command that works on one lab."""
    return click.option(
        "--name",
        "lab",
        envvar="GLASSNET_LAB",
        metavar="NAME",
        help="The lab (default: GLASSNET_LAB, or the only one running).",
    )(function)


def main() -> None:
    """Entry point: exit status 0, 1 for an error of ours, 2 for wrong usage, otherwise that of the command run inside."""
    try:
        root(standalone_mode=True)
    except UsageError as error:
        _fail(error, 2)
    except GlassnetError as error:
        _fail(error, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _fail(error: GlassnetError, status: int) -> None:
    click.echo(f"glassnet: {error}", err=True)
    sys.exit(status)
