"""`glassnet dns`: the cluster's DNS server, and its commands."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from glassnet.net.errors import UsageError

EPILOG = """
\b
Examples:
  glassnet dns serve --kubeconfig /etc/kubernetes/dns.conf --upstream 192.0.2.53
  glassnet dns serve --stub-domain corp.example=10.1.0.53,10.1.0.54 --transfer-to 10.0.0.0/8
  GLASSNET_DNS_TTL=30 glassnet dns serve
"""

COMMANDS = {"explain": "glassnet.cli.dns_explain"}  # name -> module of further commands


class _Lazy(click.Group):
    """Further commands are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            found: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
            return found
        return super().get_command(ctx, cmd_name)


@click.group("dns", cls=_Lazy, epilog=EPILOG, short_help="The cluster's DNS server.")
def command() -> None:
    """The cluster's DNS: Services by name, as the Kubernetes DNS specification says, served by Knot DNS."""


_MANY: dict[str, Any] = {"multiple": True}


@command.command(
    "serve", epilog=EPILOG, short_help="Serve the cluster's names.", context_settings={"auto_envvar_prefix": "GLASSNET_DNS"}
)  # fmt: skip
@click.option("--kubeconfig", metavar="FILE", help="Kubeconfig file; without one, the pod's service account is used.")
@click.option("--cluster-domain", metavar="NAME", default="cluster.local", show_default=True, help="The cluster's domain.")  # fmt: skip
@click.option("--ttl", type=click.IntRange(0, 3600), default=5, show_default=True, help="Seconds for which an answer may be kept.")  # fmt: skip
@click.option("--pods", type=click.Choice(["insecure", "disabled"]), default="insecure", show_default=True, help="Names such as 10-0-0-1.NAMESPACE.pod: answered from the name alone, or not at all.")  # fmt: skip
@click.option("--listen", metavar="ADDRESS[:PORT]", **_MANY, help="Where to answer; all addresses, port 53, when none is given.")  # fmt: skip
@click.option("--upstream", metavar="ADDRESS[:PORT]", **_MANY, help="Server for other names, the best first. Without one those of --resolv-conf.")  # fmt: skip
@click.option("--resolv-conf", metavar="FILE", default="/etc/resolv.conf", show_default=True, help="Upstreams, when none is given; empty for none.")  # fmt: skip
@click.option("--stub-domain", metavar="DOMAIN=ADDRESS,…", **_MANY, help="Servers for the names of a domain.")
@click.option("--transfer-to", metavar="ADDRESS|PREFIX", **_MANY, help="Who may transfer the zones.")
@click.option("--service", metavar="NAMESPACE/NAME", default="kube-system/kube-dns", show_default=True, help="The Service before this server.")  # fmt: skip
@click.option("--udp-workers", type=click.IntRange(1, 255), default=16, show_default=True, help="Threads for UDP.")
@click.option("--tcp-workers", type=click.IntRange(1, 255), default=4, show_default=True, help="Threads for TCP.")
@click.option("--upstream-timeout", type=click.IntRange(50, 30_000), default=2000, show_default=True, metavar="MS", help="Milliseconds that an upstream may take.")  # fmt: skip
@click.option("--lameduck", type=click.FloatRange(0, 60), default=5, show_default=True, metavar="SECONDS", help="How long to go on answering after SIGTERM, not ready any more: nobody's query is lost while the Service's rules change.")  # fmt: skip
@click.option("--run-directory", metavar="DIR", default="/run/glassnet/dns", show_default=True, help="The server's own directory.")  # fmt: skip
@click.option("--bind-address", metavar="IP:PORT", default="127.0.0.1:10269", show_default=True, help="Where /healthz, /readyz, /metrics are; empty serves none.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Lines of text, or of JSON.")  # fmt: skip
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True, help="What is logged.")  # fmt: skip
def serve(kubeconfig: str | None, run_directory: str, bind_address: str, lameduck: float, log_format: str, log_level: str, **given: Any) -> None:  # fmt: skip
    """Serve the names of a cluster's Services until SIGTERM.

    Runs a Knot DNS server and keeps its records at what the API has. Until the first complete lists are there it answers SERVFAIL. Every
    flag has a variable: GLASSNET_DNS_TTL for --ttl.
    """
    import asyncio
    import logging

    from glassnet.agent import structured_logs
    from glassnet.agent.dns.service import DnsService
    from glassnet.client import kubeconfig as kubeconfigs

    settings = _settings(**given)
    structured_logs.begin(log_format, log_level)
    log = logging.getLogger("glassnet")
    access = kubeconfigs.load(kubeconfig) if kubeconfig else kubeconfigs.in_cluster()
    log.info("ended: %s", asyncio.run(DnsService(access, settings, Path(run_directory), bind_address, lameduck).run()))


def _settings(*, cluster_domain: str, ttl: int, pods: str, listen: tuple[str, ...], upstream: tuple[str, ...], resolv_conf: str, stub_domain: tuple[str, ...], transfer_to: tuple[str, ...], service: str, udp_workers: int, tcp_workers: int, upstream_timeout: int) -> Any:  # fmt: skip
    """The settings of the flags. Raises UsageError."""
    import logging

    from glassnet.agent.dns.service import own_addresses
    from glassnet.dns import settings as checks

    text = ""
    if not upstream and resolv_conf:
        try:
            text = Path(resolv_conf).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--resolv-conf {resolv_conf}: {error}; --upstream names servers, --resolv-conf '' goes without any") from None  # fmt: skip
    found = checks.settings(
        domain=cluster_domain, ttl=ttl, pods=pods, listen=listen, stubs=stub_domain, transfer_to=transfer_to, own_service=service,
        udp_workers=udp_workers, tcp_workers=tcp_workers, upstream_timeout=upstream_timeout,
    )  # fmt: skip
    found, wrong = checks.with_upstreams(found, upstream, text, own_addresses())
    for line in wrong:
        logging.getLogger("glassnet").warning("%s: %s", resolv_conf, line)
    return found
