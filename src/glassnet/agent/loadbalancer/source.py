"""Where the pools come from: a ConfigMap, or a file. What cannot be read changes nothing; it is told, and what was known goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glassnet.kube import kinds, narrow, types
from glassnet.kube.change import Record
from glassnet.kube.kinds import Kind
from glassnet.kube.types import Meta, Node, NodeSpec, NodeStatus
from glassnet.kube.view import Event, Key, View
from glassnet.loadbalancer import pools
from glassnet.loadbalancer.pools import KEY, NAME, Pools
from glassnet.loadbalancer.status import SOURCE
from glassnet.net.errors import ParseError

log = logging.getLogger(__name__)
SELECTOR = f"metadata.name={NAME}"
"""Field selector of the ConfigMap."""
LOOK = 2.0  # seconds between looks at a file


def decode(kind: Kind, raw: bytes) -> Any:
    """An object with what load balancers look at: Nodes with all their labels and whether they are ready, all else as proxies see it.

    Raises msgspec.ValidationError.
    """
    if kind is not kinds.NODE:
        return narrow.decode(kind, raw)
    node: Node = types.decode(kind, raw)
    meta, status = node.metadata, node.status
    own = Meta(
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        creation_timestamp=meta.creation_timestamp,
        deletion_timestamp=meta.deletion_timestamp,
        labels=meta.labels,
    )
    spec = NodeSpec(node.spec.pod_cidr, node.spec.pod_cidrs, node.spec.taints)
    ready = tuple(types.Condition(each.type, each.status) for each in status.conditions if each.type == "Ready")
    addresses = tuple(a for a in status.addresses if a.type in ("InternalIP", "ExternalIP"))
    return Node(own, spec, NodeStatus(addresses, ready))


class PoolsSource:
    """`pools` is what holds now; None until something readable was there. `changed` is called whenever it is another.

    Watch the ConfigMap `NAME` of a namespace into the View, or give a file.
    """

    def __init__(
        self, view: View, namespace: str, file: str, report: Callable[[Record], None], changed: Callable[[], None]
    ) -> None:
        self._view, self._key, self._file = view, Key(namespace, NAME), file
        self._report, self._changed = report, changed
        self._seen: str | None = None
        self.pools: Pools | None = None
        self.fault = ""

    async def run(self) -> None:
        """Until cancelled."""
        unsubscribe = self._view.subscribe(self._on_event, replay=False)
        try:
            while True:
                self.look()
                await asyncio.sleep(LOOK)
        finally:
            unsubscribe()

    def _on_event(self, event: Event) -> None:
        if event.kind is kinds.CONFIG_MAP and event.key == self._key:
            self.look()

    def look(self) -> None:
        """Read what is there now."""
        try:
            text, source = self._read()
        except (OSError, UnicodeDecodeError) as error:
            self._tell(f"{self._file}: {getattr(error, 'strerror', '') or error}")
            return
        if text is None:
            if self.pools is not None:
                self._tell(f"{source} has gone; its pools stay as they were (an empty list of pools takes them away)")
            return
        if text == self._seen:
            return
        self._seen = text
        try:
            found = pools.parse(text, source)
        except ParseError as error:
            self._tell(str(error))
            return
        self.fault = ""
        if found != self.pools:
            self.pools = found
            log.info("%s: %d pools", source, len(found.pools))
            self._changed()

    def _read(self) -> tuple[str | None, str]:
        if self._file:
            return Path(self._file).read_text(), self._file
        found = self._view.config_maps.get(self._key)
        source = f"ConfigMap {self._key}, {KEY}"
        return (found.data.get(KEY) if found is not None else None), source

    def _tell(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            log.warning("load balancer pools: %s", fault)
            self.tell("BadConfiguration", fault)

    def tell(self, reason: str, text: str) -> None:
        """An Event about the configuration."""
        found = self._view.config_maps.get(self._key)
        about = {"apiVersion": "v1", "kind": "ConfigMap", "namespace": self._key.namespace, "name": self._key.name}
        self._report(
            Record({**about, "uid": found.metadata.uid if found else ""}, "Warning", reason, text[:1024], SOURCE)
        )
