"""Where commands that look at a network get it from: a snapshot, a running lab, or this machine."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import TYPE_CHECKING, Any

import click

from glassnet.cli.main import lab_option
from glassnet.net.errors import ApiError, GlassnetError, LabError, UsageError

if TYPE_CHECKING:
    from glassnet.tracer.world import World


_KUBECONFIG = "glassnet.kubeconfig"


def snapshot_options(function: Any) -> Any:
    """The options of every command that looks at a network: `--snapshot FILE`, `--name LAB`."""
    option = click.option(
        "--snapshot",
        metavar="FILE",
        help="A snapshot, or a directory of dumps (default: the running lab, else this machine).",
    )
    objects = click.option(
        "--kubeconfig",
        metavar="FILE",
        expose_value=False,
        callback=_remember,
        help="Look at this machine, with the API objects of the cluster behind this file.",
    )
    return option(objects(lab_option(function)))


def asked_kubeconfig() -> str | None:
    """The command's `--kubeconfig`."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_KUBECONFIG) if context else None


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Options that only `load_world` asks about stay out of every command's arguments."""
    context.meta[_KUBECONFIG] = value


def load_world(snapshot: str | None, lab: str | None) -> World:
    """The network to look at. Raises UsageError, ParseError, LabError."""
    from glassnet.tracer.snapshot import read_world

    if snapshot is not None:
        from glassnet.kernel.archive import read_files

        world = read_world(read_files(snapshot), snapshot)
    else:
        world = read_world(*take_files(lab, asked_kubeconfig()))
    gc.freeze()  # what is loaded stays to the end: no collection need look through it again
    return world


def take_files(lab: str | None, kubeconfig: str | None = None) -> tuple[dict[str, bytes], str]:
    """The files of a snapshot taken now, and of what: of the lab, or of this machine when none runs. Raises LabError, UsageError."""
    from glassnet.lab.state import all_labs, running_lab

    live = any(found.running() for found in all_labs())
    if (lab or live) and kubeconfig is None:
        return of_lab(running_lab(lab)), "lab"
    if not live and kubeconfig is None and not _is_node():
        raise LabError(
            "no lab is running: `glassnet up` brings one up, --snapshot FILE looks at a dump, and as root on a node `glassnet snapshot` makes one"
        )
    return asyncio.run(_of_this_machine(kubeconfig)), os.uname().nodename


def _is_node() -> bool:
    """Root on a machine with a kubelet's or a CNI's traces: nothing else is worth a look by default."""
    return os.geteuid() == 0 and (os.path.exists("/var/lib/kubelet") or os.path.exists("/etc/cni/net.d"))


def of_lab(found: Any) -> dict[str, bytes]:
    """A snapshot of a running lab."""
    from glassnet.kernel.archive import read_files
    from glassnet.lab.control import ask

    reply = ask(found, "snapshot", 120)
    if "error" in reply:
        raise LabError(reply["error"])
    return read_files(reply["file"])


async def _of_this_machine(kubeconfig: str | None) -> dict[str, bytes]:
    from datetime import UTC, datetime

    from glassnet.agent.snapshots import take
    from glassnet.kernel.host import HostMachine

    if os.geteuid() != 0:
        raise UsageError("reading a machine's rules takes root: run this with sudo")
    objects = await _objects(kubeconfig) if kubeconfig else {}
    host = HostMachine()
    try:
        return await take({host.name: (host, True)}, objects, datetime.now(UTC))
    finally:
        host.close()


async def _objects(kubeconfig: str) -> dict[str, list[dict[str, Any]]]:
    """API objects of a cluster; kinds it does not serve or does not let us read are left out. Raises GlassnetError when none can be read."""
    from glassnet.client.kubeconfig import load
    from glassnet.client.rest import RestApi
    from glassnet.kube import kinds
    from glassnet.tracer.redact import KEPT

    found: dict[str, list[dict[str, Any]]] = {}
    refused: GlassnetError | None = None
    api = RestApi(load(kubeconfig))
    try:
        for kind in kinds.ALL:
            if kind.plural not in KEPT:
                continue
            try:
                items = await api.list(kind)
            except ApiError as error:
                refused = error
                continue
            found[kind.plural] = [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in items]
    finally:
        await api.close()
    if not found and refused is not None:
        raise refused
    return found
