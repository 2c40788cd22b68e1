"""`glassnet kubectl`: real kubectl with the lab's kubeconfig."""

from __future__ import annotations

import os

import click

CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


@click.command("kubectl", context_settings=CONTEXT, short_help="Run real kubectl with the lab's kubeconfig.")
@click.option("--name", "lab", envvar="GLASSNET_LAB")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(lab: str | None, words: tuple[str, ...]) -> None:
    """Run real kubectl with the lab's kubeconfig: `glassnet kubectl get pods -A -o wide`.

    `--name LAB` goes before kubectl's own words; everything after is kubectl's.
    """
    from glassnet.lab.programs import find_kubectl
    from glassnet.lab.state import running_lab

    found = running_lab(lab)
    kubectl = find_kubectl()
    os.environ["KUBECONFIG"] = str(found.kubeconfig)
    os.execv(kubectl, ["kubectl", *words])
