"""The embedded server without HTTP: `kube.api.Api` in-process, and the feed that keeps a View current at every write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from glassnet.apiserver import subresources
from glassnet.apiserver.request import DeleteOptions, Request
from glassnet.apiserver.server import ApiServer, decode
from glassnet.apiserver.store import StoreEvent
from glassnet.kube import kinds, types
from glassnet.kube.kinds import Kind
from glassnet.kube.view import View

Obj = dict[str, Any]


class LocalApi:
    """Implements `kube.api.Api`; no call really suspends. Field ownership is kept only for calls that name a manager.

    `issue_token` (namespace, account, TokenRequest) answers for tokens, where there are any.
    """

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.issue_token: Callable[[str, str, Mapping[str, Any]], Obj] | None = None

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        return decode(self.server.get(kind, namespace, name))

    async def list(
        self, kind: Kind, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> list[Obj]:
        matches = self.server.select(kind, label_selector, field_selector)
        return [decode(raw) for _, raw in self.server.store.all(kind, namespace) if matches is None or matches(raw)]

    async def create(
        self, kind: Kind, namespace: str, body: Mapping[str, Any], subresource: str = "", name: str = ""
    ) -> Obj:
        if subresource == "binding":
            return subresources.bind(self.server, namespace, name, body, Request())
        if subresource == "eviction":
            return subresources.evict(self.server, namespace, name, body, Request())
        if subresource == "token" and self.issue_token is not None:
            return self.issue_token(namespace, name, body)
        return self.server.create(kind, namespace, body)

    async def update(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], subresource: str = ""
    ) -> Obj:
        if subresource == "finalize":
            return subresources.finalize(self.server, name, body, Request())
        return self.server.update(kind, namespace, name, body, subresource=subresource)

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Any,
        subresource: str = "",
        content_type: str = "application/merge-patch+json",
        field_manager: str = "",
        force: bool = False,
    ) -> Obj:
        request = Request(manager=field_manager, force=force)
        return self.server.patch(kind, namespace, name, body, content_type, request, subresource)

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        uid: str = "",
        grace: int | None = None,
        propagation: str = "Background",
    ) -> Obj:
        return self.server.delete(kind, namespace, name, DeleteOptions(uid, "", grace, propagation))


def feed(server: ApiServer, view: View) -> None:
    """Fill a View with all there is, and keep it current: it knows of every write before the writer goes on."""
    for kind in kinds.ALL:
        if kind is not kinds.EVENT:
            for _, raw in server.store.all(kind):
                view.apply(kind, types.decode(kind, raw))

    def take(event: StoreEvent) -> None:
        if event.kind is not kinds.EVENT:
            view.apply(event.kind, types.decode(event.kind, event.raw), deleted=event.type == "DELETED")

    server.store.subscribe(take)
