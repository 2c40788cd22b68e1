"""`glassnet lab`: what can be changed while a lab runs."""

from __future__ import annotations

import click

from glassnet.cli.main import lab_option
from glassnet.net.errors import LabError, UsageError

EPILOG = """
\b
Examples:
  glassnet lab proxy nftables
  glassnet lab proxy iptables --layout classic
  glassnet lab --name second proxy iptables
"""


@click.group("lab", epilog=EPILOG, short_help="Change a running lab: its proxy mode.")
@lab_option
@click.pass_context
def command(context: click.Context, lab: str | None) -> None:
    """Change a running lab."""
    context.obj = lab


PROXY_EPILOG = """
\b
Examples:
  glassnet lab proxy nftables
  glassnet lab proxy iptables
  glassnet lab proxy iptables --layout classic    the chains of kube-proxy 1.18: KUBE-FW-, KUBE-XLB-, KUBE-MARK-DROP
  glassnet lab proxy iptables --layout current
  glassnet lab proxy none          end them, as kube-proxy is ended: rules stay and nobody changes them
"""


@command.command("proxy", epilog=PROXY_EPILOG, short_help="Have every node's Service proxy in another mode, or ended.")
@click.argument("mode", type=click.Choice(["iptables", "nftables", "none"]))
@click.option(
    "--layout",
    type=click.Choice(["current", "classic"]),
    help="How the iptables chains are laid out: as kube-proxy does today, or did in 1.18 (default: as they are).",
)
@click.pass_obj
def proxy(lab: str | None, mode: str, layout: str | None) -> None:
    """Have every node's Service proxy in another mode.

    New rules are in place before the old ones go, and no established connection breaks. A lab that is resumed keeps the mode.

    `none` ends the proxies and leaves their rules as they are, for another (glassnet agent, kube-proxy) to take over. A mode brings them back.
    """
    from glassnet.lab.control import ask
    from glassnet.lab.state import running_lab

    if layout and mode != "iptables":
        raise UsageError(f"--layout {layout} is about iptables chains: glassnet lab proxy iptables --layout {layout}")
    reply = ask(running_lab(lab), "proxy", 90, mode=mode, layout=layout or "")
    if "error" in reply:
        raise LabError(reply["error"])
    if mode == "none":
        click.echo(
            f"No node has a Service proxy of the lab's now; what rules there are stay ({reply['seconds']:.2f} s)."
        )
        return
    how = ", classic layout" if mode == "iptables" and reply["layout"] == "classic" else ""
    click.echo(f"Every node's Services are in {reply['mode']}{how} now ({reply['seconds']:.2f} s).")
