"""Carrying changes out: values from pure code become calls of the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from glassnet.kube import kinds
from glassnet.kube.api import Api
from glassnet.kube.change import Bind, Change, Create, Delete, Patch, Record
from glassnet.net.errors import ApiError

_MERGE, _STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


class Writer:
    """Carries changes out through an Api, and keeps Events short by counting repetitions."""

    def __init__(self, api: Api, now: Callable[[], datetime]) -> None:
        self._api, self._now = api, now
        self._events: dict[tuple[str, str, str], tuple[str, str, int]] = {}
        self._numbers = 0

    async def carry_out(self, change: Change) -> None:
        """One change. Raises ApiError; what is gone already counts as deleted."""
        match change:
            case Create():
                await self._create(change)
            case Patch():
                body = change.body
                if change.resource_version:
                    body = {
                        **body,
                        "metadata": {**body.get("metadata", {}), "resourceVersion": change.resource_version},
                    }
                form = _STRATEGIC if change.strategic else _MERGE
                await self._api.patch(change.kind, change.namespace, change.name, body, change.subresource, form)
            case Delete():
                try:
                    await self._api.delete(
                        change.kind, change.namespace, change.name, change.uid, change.grace, change.propagation
                    )
                except ApiError as error:
                    if error.status not in (404, 409):
                        raise
            case Bind():
                body = {
                    "metadata": {"name": change.name, "uid": change.uid},
                    "target": {"kind": "Node", "name": change.node},
                }
                await self._api.create(kinds.POD, change.namespace, body, "binding", change.name)
            case Record():
                await self.record(change)

    async def _create(self, change: Create) -> None:
        try:
            made = await self._api.create(change.kind, change.namespace, change.body)
        except ApiError as error:
            if change.announce is not None and error.status not in (404, 409):
                said = f"Error creating: {error}"
                await self.record(replace(change.announce, type="Warning", reason="FailedCreate", message=said))
            raise
        if change.announce is not None:
            said = change.announce.message.replace("{name}", made["metadata"]["name"])
            await self.record(replace(change.announce, message=said))

    async def record(self, change: Record) -> None:
        """Write an Event, or count one up that says the same of the same object."""
        about = change.regarding
        key = (
            str(about.get("uid") or about.get("name")) + str(about.get("fieldPath", "")),
            change.reason,
            change.message,
        )
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = str(about.get("namespace") or "default")
        if key in self._events:
            name, where, count = self._events[key]
            self._events[key] = (name, where, count + 1)
            try:
                await self._api.patch(kinds.EVENT, where, name, {"count": count + 1, "lastTimestamp": stamp})
                return
            except ApiError:
                del self._events[key]
        self._numbers += 1
        name = f"{about.get('name')}.{int(self._now().timestamp() * 1e6):x}{self._numbers:x}"
        try:
            await self._api.create(kinds.EVENT, namespace, _event(change, name, stamp, about))
        except ApiError as error:
            if error.status not in (403, 404):  # the namespace is on its way out: nobody will read it
                raise
            return
        if len(self._events) > 2000:
            self._events.pop(next(iter(self._events)))
        self._events[key] = (name, namespace, 1)


def _event(change: Record, name: str, stamp: str, about: Mapping[str, Any]) -> dict[str, Any]:
    component, _, host = change.source.partition(", ")
    return {
        "metadata": {"name": name},
        "involvedObject": dict(about),
        "type": change.type,
        "reason": change.reason,
        "message": change.message,
        "source": {"component": component, **({"host": host} if host else {})},
        "reportingComponent": component,
        "reportingInstance": host,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
