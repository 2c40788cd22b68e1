"""`glassnet map`: the network as it is, as text or a picture."""

from __future__ import annotations

import click

from glassnet.cli.worlds import load_world, snapshot_options

EPILOG = """
\b
Examples:
  glassnet map
  glassnet map -o svg > network.svg
  glassnet map --name second -o svg > second.svg
  glassnet map --snapshot dump.tar.gz
  sudo glassnet map --kubeconfig ~/.kube/config     this node, with the objects of its cluster
"""


@click.command("map", epilog=EPILOG, short_help="Draw the network: nodes, bridges, pods, addresses, routes, Services.")
@click.option("-o", "--output", type=click.Choice(["text", "svg"]), default="text", help="Form of the map.")
@snapshot_options
def command(output: str, snapshot: str | None, lab: str | None) -> None:
    """Draw the network of a lab, of this node, or of a snapshot: who is on which network, routers and routes, nodes with their bridges, links and
    pods, and the addresses of Services.

    The picture is drawn for light and dark pages; what is too much for it is counted.
    """
    from glassnet.tracer.drawing.network import network_of

    found = network_of(load_world(snapshot, lab))
    if output == "svg":
        from glassnet.tracer.drawing.map_svg import map_svg

        click.echo(map_svg(found))
    else:
        from glassnet.tracer.drawing.map_text import map_text

        click.echo(map_text(found), nl=False)
