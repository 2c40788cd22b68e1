"""Makes a snapshot: the dumps of one or several machines, the API objects, and a manifest that says what is in it and what is not."""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from glassnet import __version__
from glassnet.kernel.api import Host
from glassnet.kernel.capture import capture
from glassnet.tracer.redact import KEPT, pods_by_address, redacted

FORMAT = 1


async def take(
    machines: Mapping[str, tuple[Host, bool]], objects: Mapping[str, Iterable[dict[str, Any]]], now: datetime
) -> dict[str, bytes]:
    """Files of a snapshot. `machines`: name -> (machine, whether it is a node of the cluster); `objects`: plural kind -> objects."""
    kept = {kind: [redacted(item) for item in objects.get(kind, ())] for kind in KEPT if kind in objects}
    pods = pods_by_address(kept.get("pods", ()))
    files: dict[str, bytes] = {}
    missing: dict[str, dict[str, str]] = {}

    async def one(name: str, host: Host, is_node: bool) -> None:
        found, failed = await capture(host, pods if is_node else None)
        folder = name if is_node else f"hosts/{name}"
        files.update({f"{folder}/{part}": data for part, data in found.items()})
        missing[name] = failed

    await asyncio.gather(*(one(name, host, is_node) for name, (host, is_node) in machines.items()))
    if kept:
        files["cluster.json"] = json.dumps(kept, separators=(",", ":")).encode()
    manifest = {
        "format": FORMAT,
        "made_by": f"glassnet {__version__}",
        "taken": now.isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machines": {name: "node" if is_node else "host" for name, (_, is_node) in machines.items()},
        "objects": {kind: len(items) for kind, items in kept.items()},
        "not_there": missing,
    }
    files["manifest.json"] = json.dumps(manifest, indent=1).encode()
    return files
