"""`glassnet snapshot`: everything a trace needs, in one file."""

from __future__ import annotations

import json

import click

from glassnet.cli.main import lab_option

EPILOG = """
\b
Examples:
  glassnet snapshot -o before.tar.gz              the running lab: every node, pod, host, and the API objects
  sudo glassnet snapshot -o node.tar.gz           on a node: this machine's rules, routes, connections
  sudo glassnet snapshot --kubeconfig ~/.kube/config -o node.tar.gz     with the API objects
  glassnet trace probe svc/web --snapshot before.tar.gz
"""


@click.command("snapshot", epilog=EPILOG, short_help="Write everything a trace needs into one file.")
@lab_option
@click.option("-o", "--output", metavar="FILE", required=True, help="The file to write (a compressed archive).")
@click.option(
    "--kubeconfig", metavar="FILE", help="Read this machine, and the API objects of the cluster behind this file."
)
def command(lab: str | None, output: str, kubeconfig: str | None) -> None:
    """Write rules, routes, connections, addresses, sysctls and sockets into one file.

    Of the running lab; without one, of this machine. Nothing is changed. Secrets, ConfigMaps and the values of environment variables are
    never part of it. The file holds what the tools print, so it can be unpacked and read by eye.
    """
    from glassnet.cli.worlds import take_files
    from glassnet.kernel.archive import write_archive

    files, name = take_files(lab, kubeconfig)
    write_archive(output, files)
    manifest = json.loads(files["manifest.json"])
    size = sum(map(len, files.values()))
    click.echo(
        f"{output}: {name}, {len(manifest['machines'])} machines, {sum(manifest['objects'].values())} objects, {size / 1e6:.1f} MB unpacked"
    )
    for machine, parts in manifest["not_there"].items():
        missing = [why for file, why in parts.items() if not file.startswith("ipset")]
        if missing:
            click.echo(f"  {machine}: without {'; '.join(missing)}", err=True)
    if not manifest["objects"]:
        click.echo("  without API objects: --kubeconfig FILE adds them, and rules can be traced back to them", err=True)
