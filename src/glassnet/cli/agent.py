"""`glassnet agent`: the one process of a node."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glassnet.agent.node.configuration import OPTIONS, Option
from glassnet.net.errors import GlassnetError, UsageError

if TYPE_CHECKING:
    from glassnet.agent.node.configuration import AgentConfig
    from glassnet.client.kubeconfig import Access

EPILOG = """
\b
Examples:
  glassnet agent --config /etc/glassnet/agent.yaml
  glassnet agent --kubeconfig /etc/kubernetes/kubelet.conf --cluster-cidrs 10.200.0.0/16 --proxy-mode nftables
  glassnet agent --config agent.yaml --routes=false --print-config
  glassnet agent --cleanup
  glassnet agent --cleanup --keep-pods
"""
_TYPES: dict[str, Any] = {"text": str, "number": str, "bool": str, "list": str}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The configuration's flags. A bool may stand alone or have `=true`, `=false`."""
    for option in reversed(OPTIONS):
        function = _option(option)(function)
    return function


def _option(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    name, more = f"--{option.flag}", {"is_flag": False, "flag_value": "true"} if option.kind == "bool" else {}
    metavar = "BOOL" if option.kind == "bool" else option.kind.upper()
    return click.option(name, option.flag.replace("-", "_"), type=_TYPES[option.kind], default=None, metavar=metavar, help=option.help, **more)  # type: ignore[arg-type]  # fmt: skip


@click.command("agent", epilog=EPILOG, short_help="Run this node's agent: CNI, Service proxy, routes.")
@click.option("--config", "config_file", metavar="FILE", help="The configuration in YAML (also GLASSNET_CONFIG).")
@click.option("--print-config", is_flag=True, help="Print the whole configuration, and where each value came from; end.")  # fmt: skip
@click.option("--cleanup", is_flag=True, help="Remove everything of glassnet's from this node, say what, and end.")
@click.option("--keep-pods", is_flag=True, help="With --cleanup: leave the network of the pods that run.")
@_options
def command(config_file: str | None, print_config: bool, cleanup: bool, keep_pods: bool, **given: Any) -> None:
    """Run the agent of this node: CNI daemon, Service proxy, and routes to the pods of the other nodes. Each can be switched off.

    Every flag of the configuration is also an environment variable (GLASSNET_ and the flag's name: GLASSNET_ROUTES_MODE) and a field of the file;
    the flag overrules the variable, and that the file.

    Rules, routes and links stay when the process ends. --cleanup removes them. It refuses while pods still have a link of ours: their runtime
    needs the plugins to end them. Drain the node first (kubectl drain), or give --keep-pods: then what these pods need stays, and a later
    --cleanup removes the rest.
    """
    from glassnet.agent.node import configuration

    path = config_file or os.environ.get("GLASSNET_CONFIG", "")
    flags = {name.replace("_", "-"): value for name, value in given.items()}
    configured = configuration.load(_text(path) if path else None, path, os.environ, flags, os.uname().nodename)
    for warning in configured.warnings:
        click.echo(f"glassnet: warning: {warning}", err=True)
    if keep_pods and not cleanup:
        raise UsageError("--keep-pods goes with --cleanup")
    if print_config:
        click.echo(configuration.render(configured), nl=False)
    elif cleanup:
        _cleanup(configured.config, keep_pods)
    else:
        _run(configured.config)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {getattr(error, 'strerror', '') or error}") from None


def _access(config: AgentConfig) -> Access:
    import dataclasses

    from glassnet.client import kubeconfig

    urls = config.servers
    if config.kubeconfig:
        return kubeconfig.load(config.kubeconfig, server=urls[0] if urls else "", servers=urls[1:])
    if urls and all(url.startswith("http://") for url in urls):
        return kubeconfig.Access(urls, None)
    access = kubeconfig.in_cluster(servers=urls)
    # the Service's own address needs a proxy to lead anywhere, and that may be us
    return dataclasses.replace(access, servers=access.servers[1:]) if len(access.servers) > 1 else access


def _cleanup(config: AgentConfig, keep_pods: bool) -> None:
    import asyncio

    from glassnet.agent.node import cleanup

    removed, left, faults = asyncio.run(cleanup.cleanup(config, keep_pods))
    for line in removed:
        click.echo(f"removed {line}")
    for line in left:
        click.echo(f"left {line}")
    if faults:
        raise GlassnetError("some things could not be removed:\n  " + "\n  ".join(faults))
    if not removed and not left:
        click.echo("nothing of glassnet's is on this node")


def _run(config: AgentConfig) -> None:
    import asyncio
    import logging

    from glassnet.agent import structured_logs
    from glassnet.agent.node import agent, rights

    structured_logs.begin(config.logging.format, config.logging.level)
    if os.geteuid() != 0:
        raise UsageError("changing a node's network takes root: run this with sudo, or as a privileged DaemonSet")
    access = _access(config)
    rights.confine(config)

    async def run() -> str:
        return await agent.NodeAgent(config, access).run()

    reason = asyncio.run(run())
    logging.getLogger(agent.__name__).info("ended: %s; rules, routes and links stay (--cleanup removes them)", reason)
    sys.stderr.flush()
