"""`glassnet proxy`: kube-proxy's command line, and what it starts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from glassnet.net.errors import GlassnetError, UsageError
from glassnet.proxy.config_flags import FLAGS, Flag

EPILOG = """
\b
Examples:
  glassnet proxy --kubeconfig /etc/kubernetes/proxy.conf --proxy-mode nftables --cluster-cidr 10.200.0.0/16
  glassnet proxy --config /var/lib/kube-proxy/config.yaml
  glassnet proxy --config config.yaml --write-config-to full.yaml
  glassnet proxy --cleanup
"""
_TYPES: dict[str, Any] = {"text": str, "number": int, "bool": bool, "list": str, "gates": str}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """kube-proxy's flags. A bool may stand alone or have `=true`, as Go's flags do."""
    for flag in reversed(FLAGS):
        function = _option(flag)(function)
    return function


def _option(flag: Flag) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    name = flag.name.replace("-", "_")
    if flag.kind == "bool":
        return click.option(f"--{flag.name}", name, is_flag=False, flag_value="true", type=bool, default=None, help=flag.help)  # fmt: skip
    names = ("-v", "--v") if flag.name == "v" else (f"--{flag.name}",)
    return click.option(*names, name, type=_TYPES[flag.kind], default=None, metavar=flag.kind.upper(), help=flag.help)


@click.command("proxy", epilog=EPILOG, short_help="Run the Service proxy of this node, in place of kube-proxy.")
@click.option("--config", "config_file", metavar="FILE", help="A KubeProxyConfiguration (v1alpha1); most flags are ignored then.")  # fmt: skip
@click.option("--lenient", is_flag=True, help="Unknown fields of --config are warnings, as with kube-proxy.")
@click.option("--write-config-to", metavar="FILE", help="Write the whole configuration, defaults included, and end.")
@click.option(
    "--cleanup", is_flag=True, help="Remove our rules from this node (those of one mode with --proxy-mode), and end."
)
@click.option("--init-only", is_flag=True, help="Make the settings that need all rights (conntrack), and end.")
@click.option("--master", metavar="URL", help="Address of the API server; overrules the kubeconfig's.")
@click.option(
    "--iptables-tool",
    type=click.Choice(["auto", "nft", "legacy"]),
    default="auto",
    show_default=True,
    help="Which of the two iptables; auto takes the one the node uses already.",
)
@_options
def command(
    config_file: str | None,
    lenient: bool,
    write_config_to: str | None,
    cleanup: bool,
    init_only: bool,
    master: str | None,
    iptables_tool: str,
    **given: Any,
) -> None:
    """Run the Service proxy of this node.

    Takes kube-proxy's configuration file and flags, serves its ports and paths, and takes over from it: rules that are there already are
    kept. They stay when the process ends; --cleanup removes them.

    Back to kube-proxy without a lost connection: end this process, start kube-proxy, and when its rules are there, remove those of the
    nftables mode with --cleanup --proxy-mode nftables (kube-proxy's iptables mode takes over the chains of ours by itself).
    """
    from glassnet.proxy import config as configs
    from glassnet.proxy import config_flags

    base = configs.ProxyConfig()
    warnings: list[str] = []
    if config_file:
        base, warnings = configs.parse(_text(config_file), config_file, lenient)
    flags = {name.replace("_", "-"): value for name, value in given.items()}
    config, more = config_flags.apply(base, flags, bool(config_file))
    for warning in (*warnings, *more):
        click.echo(f"glassnet: warning: {warning}", err=True)
    if write_config_to:
        _write(write_config_to, configs.to_dict(config))
    elif cleanup:
        _cleanup([config.mode] if config.mode else ["iptables", "nftables"])
    else:
        _run(config, init_only, master or "", "" if iptables_tool == "auto" else iptables_tool, config_file or "")


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from None


def _write(path: str, body: dict[str, Any]) -> None:
    import yaml

    try:
        Path(path).write_text(yaml.safe_dump(body, sort_keys=False))
    except OSError as error:
        raise UsageError(f"--write-config-to {path}: {error.strerror}") from None
    click.echo(f"wrote {path}", err=True)


def _cleanup(modes: list[str]) -> None:
    import asyncio

    from glassnet.agent.proxy import settings as proxy_settings

    faults = asyncio.run(proxy_settings.cleanup(modes))
    if faults:
        raise GlassnetError("some rules could not be removed:\n" + "\n".join(faults))


def _run(config: Any, init_only: bool, master: str, tool: str, config_file: str) -> None:
    import asyncio
    import logging

    from glassnet.agent.proxy import service
    from glassnet.agent.proxy import settings as proxy_settings
    from glassnet.client import kubeconfig
    from glassnet.kernel.host import HostMachine

    level = logging.DEBUG if config.logging.verbosity >= 2 else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname).1s %(message)s")
    if init_only:
        machine = HostMachine()
        proxy_settings.own_settings(config, machine)
        machine.close()
        return
    path = config.client_connection.kubeconfig
    if path or master:
        access = kubeconfig.load(path, server=master) if path else kubeconfig.Access((master.rstrip("/"),), None)
    else:
        access = kubeconfig.in_cluster()

    async def run() -> str:
        return await service.NodeProxy(config, access, iptables_tool=tool, config_file=config_file).run()

    reason = asyncio.run(run())
    logging.getLogger("glassnet").info("ended: %s; rules stay (--cleanup removes them)", reason)
