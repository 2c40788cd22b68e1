"""API objects for commands that look at objects alone: of a lab, of the cluster behind a kubeconfig file, or of a snapshot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glassnet.net.errors import ApiError, LabError, ParseError

if TYPE_CHECKING:
    from glassnet.kube.kinds import Kind
    from glassnet.kube.view import View


def load_view(wanted: tuple[Kind, ...], useful: tuple[Kind, ...], snapshot: str | None, lab: str | None, kubeconfig: str | None) -> tuple[View, list[str]]:  # fmt: skip
    """A View with all objects of the kinds `wanted` and `useful`, and notes on what cannot be read: objects of a snapshot, `useful` kinds. Raises UsageError, ParseError, LabError, ApiError (what may not be read is named)."""
    if snapshot is not None:
        return _of_snapshot((*wanted, *useful), snapshot)
    return asyncio.run(_of_server(wanted, useful, kubeconfig or str(_lab(lab).kubeconfig)))


def _lab(lab: str | None) -> Any:
    from glassnet.lab.state import all_labs, running_lab

    if not lab and not any(found.running() for found in all_labs()):
        raise LabError("no lab is running: `glassnet up` brings one up, --kubeconfig FILE asks a cluster, --snapshot FILE looks at a dump")  # fmt: skip
    return running_lab(lab)


def node_file(lab: str | None, node: str, path: str) -> str | None:
    """A file of a lab's node; None when it cannot be read."""
    try:
        process = _lab(lab).process()
        inside = process["machines"][node]["pid"]
        return Path(f"/proc/{process['pid']}/root/proc/{inside}/root{path}").read_text()
    except (KeyError, OSError, UnicodeDecodeError, LabError):
        return None


def _of_snapshot(wanted: tuple[Kind, ...], snapshot: str) -> tuple[View, list[str]]:
    from glassnet.kernel.archive import read_files
    from glassnet.tracer.snapshot import read_objects

    world = read_objects(read_files(snapshot), snapshot)
    if not any(kind.plural in world.objects for kind in wanted):
        raise ParseError("it has no API objects; `glassnet snapshot --kubeconfig FILE` takes them too, or `kubectl get namespaces,services,endpointslices,pods,deployments -A -o json`", snapshot)  # fmt: skip
    return _view({kind: world.objects.get(kind.plural, []) for kind in wanted}, snapshot), world.notes


async def _of_server(wanted: tuple[Kind, ...], useful: tuple[Kind, ...], kubeconfig: str) -> tuple[View, list[str]]:
    from glassnet.client.kubeconfig import load
    from glassnet.client.rest import RestApi

    api, notes = RestApi(load(kubeconfig)), list[str]()

    async def listed(kind: Kind) -> list[dict[str, Any]]:
        try:
            return await api.list(kind)
        except ApiError as error:
            if kind not in useful:
                raise
            notes.append(f"{kind.plural} are not known: {error}")
            return []

    kinds = (*wanted, *useful)
    try:
        found = await asyncio.gather(*map(listed, kinds))
    finally:
        await api.close()
    return _view(dict(zip(kinds, found, strict=True)), kubeconfig), notes


def _view(objects: dict[Kind, list[dict[str, Any]]], source: str) -> View:
    import msgspec

    from glassnet.kube.types import decode
    from glassnet.kube.view import View

    view = View()
    for kind, items in objects.items():
        for item in items:
            try:
                view.apply(kind, decode(kind, json.dumps(item)))
            except msgspec.ValidationError as error:
                name = (item.get("metadata") or {}).get("name", "without a name")
                raise ParseError(f"{kind.name} {name}: {error}", source) from None
    return view
