"""`glassnet controller`: the flags of the cluster's controller, and what it starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from glassnet.net.errors import UsageError

EPILOG = """
\b
Examples:
  glassnet controller --kubeconfig /etc/kubernetes/glassnet-controller.conf
  glassnet controller --config /etc/glassnet/controller.yaml --print-config
  GLASSNET_LOG_FORMAT=json glassnet controller --config /etc/glassnet/controller.yaml
  glassnet controller --allocate-pod-cidrs --cluster-cidr 10.244.0.0/16,fd00:10:244::/48
"""


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    from glassnet.agent.cluster.configuration import FLAGS

    for name, (_, kind, text) in reversed(FLAGS.items()):
        more: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind == "bool" else {}
        parameter = name.replace("-", "_")
        function = click.option(f"--{name}", parameter, default=None, metavar=kind.upper(), help=text, **more)(function)
    return function


@click.command("controller", epilog=EPILOG, short_help="Run the cluster's controller: conditions of Nodes' networks.")
@click.option("--config", "config_file", metavar="FILE", help="The configuration in YAML (also GLASSNET_CONFIG).")  # fmt: skip
@click.option("--print-config", is_flag=True, help="Print the whole configuration, defaults included, and end.")
@_options
def command(config_file: str | None, print_config: bool, **given: Any) -> None:
    """Run the cluster's controller.

    Keeps the NetworkUnavailable condition of every Node right, and, when asked, gives Nodes their pod CIDRs. Of several controllers one
    works, as the Lease says; the others take over when it ends or falls silent.

    Every flag has a variable of the same name: GLASSNET_LOG_FORMAT for --log-format. Flags overrule the environment, that the file.
    """
    import asyncio
    import dataclasses
    import logging

    from glassnet.agent import structured_logs
    from glassnet.agent.cluster import configuration as configs

    flags = {name.replace("_", "-"): value for name, value in given.items()}
    path = config_file or os.environ.get("GLASSNET_CONFIG", "")
    config = configs.load(_text(path) if path else None, path, os.environ, flags)
    if print_config:
        import yaml

        click.echo(yaml.safe_dump(configs.to_dict(config), sort_keys=False), nl=False)
        return
    from glassnet.agent.cluster.controller import Controller
    from glassnet.client import kubeconfig

    structured_logs.begin(config.logging.format, config.logging.level)
    access = kubeconfig.load(config.kubeconfig) if config.kubeconfig else kubeconfig.in_cluster()
    if config.servers:
        access = dataclasses.replace(access, servers=config.servers)

    async def run() -> str:
        return await Controller(config, access).run()

    logging.getLogger("glassnet").info("ended: %s", asyncio.run(run()))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from None
