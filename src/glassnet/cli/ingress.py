"""`glassnet ingress`: an Ingress controller on NGINX, and its commands."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from glassnet.net.errors import UsageError

EPILOG = """
\b
Examples:
  glassnet ingress serve --kubeconfig /etc/kubernetes/ingress.conf --publish-address 192.0.2.80
  glassnet ingress serve --publish-service glassnet-ingress/glassnet-ingress --controller k8s.io/ingress-nginx
  glassnet ingress explain http://shop.example/cart
"""

# name -> module of further commands
COMMANDS = {"explain": "glassnet.cli.ingress_explain", "report": "glassnet.cli.ingress_report"}


class _Lazy(click.Group):
    """Further commands are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            found: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
            return found
        return super().get_command(ctx, cmd_name)


@click.group(
    "ingress", cls=_Lazy, epilog=EPILOG, short_help="An Ingress controller on NGINX; where a URL goes, and why."
)
def command() -> None:
    """Ingress, served by a stock NGINX whose configuration a person can read."""


_MANY: dict[str, Any] = {"multiple": True}


@command.command(
    "serve", epilog=EPILOG, short_help="Serve a cluster's Ingresses.", context_settings={"auto_envvar_prefix": "GLASSNET_INGRESS"}
)  # fmt: skip
@click.option("--kubeconfig", metavar="FILE", help="Kubeconfig file; without one, the pod's service account is used.")
@click.option("--controller", metavar="NAME", **_MANY, help="Serve the IngressClasses of this controller; glassnet.dev/ingress when none is given.")  # fmt: skip
@click.option("--ingress-class", metavar="NAME", default="nginx", show_default=True, help="Ours in the annotation kubernetes.io/ingress.class.")  # fmt: skip
@click.option("--watch-without-class", is_flag=True, help="Serve Ingresses that have no class.")
@click.option("--default-certificate", metavar="NAMESPACE/NAME", default="", help="Secret for hosts without a certificate; one signed by itself when none is given.")  # fmt: skip
@click.option("--publish-service", metavar="NAMESPACE/NAME", default="", help="Service whose addresses the Ingresses' status gets.")  # fmt: skip
@click.option("--publish-address", metavar="ADDRESS|NAME", **_MANY, help="Address or name that the Ingresses' status gets.")  # fmt: skip
@click.option("--leader-elect/--no-leader-elect", default=True, show_default=True, help="Only one replica writes status: the holder of the Lease glassnet-ingress.")  # fmt: skip
@click.option("--lease-namespace", metavar="NAMESPACE", default="", help="The Lease's namespace; the pod's when none is given.")  # fmt: skip
@click.option("--http", metavar="ADDRESS:PORT", **_MANY, help="Where to serve HTTP; port 80 of all addresses when none is given.")  # fmt: skip
@click.option("--https", metavar="ADDRESS:PORT", **_MANY, help="Where to serve HTTPS; port 443 of all addresses when none is given.")  # fmt: skip
@click.option("--proxy-protocol", is_flag=True, help="Connections begin with a PROXY protocol header.")
@click.option("--trust", metavar="ADDRESS|PREFIX", **_MANY, help="Whose word on the client's address is believed.")
@click.option("--resolver", metavar="ADDRESS", **_MANY, help="Name server for Services of type ExternalName.")
@click.option("--workers", type=click.IntRange(0, 256), default=0, show_default=True, help="NGINX's worker processes; 0 is one a core.")  # fmt: skip
@click.option("--connections", type=click.IntRange(64, 1 << 20), default=16384, show_default=True, help="Connections of one worker.")  # fmt: skip
@click.option("--user", metavar="NAME", default="", help="The workers' user, where the master is root.")
@click.option("--connection-timeout", type=click.IntRange(1, 3600), default=240, show_default=True, metavar="SECONDS", help="What a connection may take after its configuration was replaced.")  # fmt: skip
@click.option("--reload-interval", type=click.IntRange(50, 60_000), default=300, show_default=True, metavar="MS", help="Least milliseconds between reloads.")  # fmt: skip
@click.option("--old-generations", type=click.IntRange(1, 100), default=4, show_default=True, help="Replaced configurations that may still finish what they began.")  # fmt: skip
@click.option("--shutdown-delay", type=click.IntRange(0, 600), default=0, show_default=True, metavar="SECONDS", help="Serve for so long after SIGTERM.")  # fmt: skip
@click.option("--shutdown-grace", type=click.IntRange(1, 3600), default=10, show_default=True, metavar="SECONDS", help="What connections may take then.")  # fmt: skip
@click.option("--access-log", type=click.Choice(["stdout", "counted", "off"]), default="stdout", show_default=True, help="Lines of JSON; only counted for the metrics; or neither.")  # fmt: skip
@click.option("--run-directory", metavar="DIR", default="/run/glassnet/ingress", show_default=True, help="NGINX's own directory.")  # fmt: skip
@click.option("--nginx", metavar="PROGRAM", default="/usr/sbin/nginx", show_default=True, help="NGINX.")
@click.option("--bind-address", metavar="IP:PORT", default="127.0.0.1:10254", show_default=True, help="Where /healthz, /readyz, /metrics are; empty serves none.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Lines of text, or of JSON.")  # fmt: skip
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True, help="What is logged.")  # fmt: skip
def serve(kubeconfig: str | None, run_directory: str, bind_address: str, log_format: str, log_level: str, **given: Any) -> None:  # fmt: skip
    """Serve the Ingresses of a cluster until SIGTERM.

    Runs an NGINX and keeps its configuration at what the API has; NGINX itself checks each one before it comes into force. Every flag has a
    variable: GLASSNET_INGRESS_WORKERS for --workers.
    """
    import asyncio
    import logging

    from glassnet.agent import structured_logs
    from glassnet.agent.ingress.service import IngressService
    from glassnet.client import kubeconfig as kubeconfigs

    settings, publish, tuning, delay = _settings(given), _publish(given), _tuning(given), given["shutdown_delay"]
    structured_logs.begin(log_format, log_level)
    log = logging.getLogger("glassnet")
    access = kubeconfigs.load(kubeconfig) if kubeconfig else kubeconfigs.in_cluster()
    service = IngressService(access, settings, Path(run_directory), bind_address, publish=publish, tuning=tuning, delay=delay)  # fmt: skip
    log.info("ended: %s", asyncio.run(service.run()))


def _settings(given: dict[str, Any]) -> Any:
    """The settings of the flags. Raises UsageError."""
    import resource

    from glassnet.ingress.model import Settings

    base = Settings()
    _name("--default-certificate", given["default_certificate"])
    for flag in ("http", "https"):
        for text in given[flag]:
            _listen(f"--{flag}", text)
    return base._replace(
        controllers=given["controller"] or base.controllers,
        class_name=given["ingress_class"],
        watch_without_class=given["watch_without_class"],
        default_certificate=given["default_certificate"],
        http=given["http"] or base.http,
        https=given["https"] or base.https,
        proxy_protocol=given["proxy_protocol"],
        trusted=tuple(_network("--trust", text) for text in given["trust"]),
        resolvers=tuple(_address("--resolver", text) for text in given["resolver"]),
        workers=given["workers"],
        connections=min(
            given["connections"], resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 4
        ),  # NGINX asks for four files each
        user=given["user"],
        shutdown=given["connection_timeout"],
    )


def _publish(given: dict[str, Any]) -> Any:
    from glassnet.agent.ingress.service import Publish
    from glassnet.kube.view import Key

    service = _name("--publish-service", given["publish_service"])
    addresses = tuple(_place(text) for text in given["publish_address"])
    return Publish(Key(*service) if service else None, addresses, given["lease_namespace"], given["leader_elect"])


def _tuning(given: dict[str, Any]) -> Any:
    from glassnet.agent.ingress.access import to_stdout
    from glassnet.agent.ingress.nginx import Limits
    from glassnet.agent.ingress.part import Tuning

    limits = Limits(given["old_generations"], grace=float(given["shutdown_grace"]))
    out = to_stdout if given["access_log"] == "stdout" else None
    return Tuning(given["reload_interval"] / 1000, limits, out, given["access_log"] != "off", given["nginx"])


def _name(flag: str, text: str) -> tuple[str, str] | None:
    """NAMESPACE/NAME. Raises UsageError."""
    namespace, slash, name = text.partition("/")
    if text and not (namespace and slash and name and "/" not in name):
        raise UsageError(f"{flag} {text}: it must be NAMESPACE/NAME")
    return (namespace, name) if text else None


def _place(text: str) -> dict[str, str]:
    """An address, or a name of DNS. Raises UsageError."""
    from ipaddress import ip_address

    try:
        return {"ip": str(ip_address(text))}
    except ValueError:
        labels = text.split(".")
        if not all(label and label.replace("-", "").isalnum() for label in labels) or labels[-1].isdigit():
            raise UsageError(f"--publish-address {text}: no address, and no name of DNS") from None
        return {"hostname": text.lower()}


def _network(flag: str, text: str) -> str:
    from ipaddress import ip_network

    try:
        return str(ip_network(text, strict=False))
    except ValueError as error:
        raise UsageError(f"{flag} {text}: {error}; an address or a prefix such as 10.0.0.0/8") from None


def _address(flag: str, text: str) -> str:
    from ipaddress import ip_address

    try:
        found = ip_address(text.strip("[]"))
    except ValueError as error:
        raise UsageError(f"{flag} {text}: {error}") from None
    return f"[{found}]" if found.version == 6 else str(found)


def _listen(flag: str, text: str) -> None:
    """ADDRESS:PORT. Raises UsageError."""
    address, _, port = text.rpartition(":")
    if not (port.isdigit() and 0 < int(port) < 65536) or not address:
        raise UsageError(f"{flag} {text}: it must be ADDRESS:PORT, such as 0.0.0.0:80 or [::]:80")
    _address(flag, address)
