"""The handlers of one kind: every HTTP method of its collection, its objects and their subresources."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from glassnet.apiserver import http_watch, listing, schema, subresources
from glassnet.apiserver.http_answer import answer, form_of, include_object, partial
from glassnet.apiserver.http_body import read_body, unsupported
from glassnet.apiserver.http_context import SERVER, delete_options, options_of, place
from glassnet.apiserver.listing import ListOptions, flag, list_options, watch_options
from glassnet.apiserver.request import Request
from glassnet.apiserver.server import APPLY, JSON_PATCH, MERGE_PATCH, STRATEGIC, decode
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import Key
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
_PATCHES = (JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY)


class Resource:
    """The handlers of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    # -- reading

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET of one object or of a subresource."""
        server, (namespace, name, sub) = request.app[SERVER], place(request)
        listing.reached(server.store, listing.number(request.query, "resourceVersion"))
        if sub == "scale" and self.kind in subresources.SCALABLE:
            return answer(subresources.get_scale(server, self.kind, namespace, name))
        self._check_subresource(sub)
        raw = server.get(self.kind, namespace, name)
        return self._shown(request, decode(raw), 200, Request()) if form_of(request).view else answer(raw)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """GET of a collection: a list, or a watch."""
        server, query, namespace = request.app[SERVER], request.query, place(request)[0]
        if flag(query, "watch"):
            matches = server.select(self.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            options = watch_options(query, namespace, server.store)
            return await http_watch.stream(request, server, self.kind, matches, options)
        page, view = server.list(self.kind, namespace, list_options(query)), form_of(request).view
        if view == "Table":
            objects = [decode(raw) for raw in page.items]
            table = schema.table(self.kind, objects, server.now(), include_object(request))
            return answer({**table, "metadata": page.metadata})
        items = page.items
        head: Obj = {"kind": f"{self.kind.name}List", "apiVersion": self.kind.api_version, "metadata": page.metadata}
        if view == "Metadata":
            head |= {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
            items = [msgspec.json.encode(partial(decode(raw))) for raw in items]
        return answer(_joined(head, items))

    # -- writing

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST to a collection."""
        options = options_of(request)
        body = await self._body(request, options)
        return self._shown(
            request, request.app[SERVER].create(self.kind, place(request)[0], body, options), 201, options
        )

    async def update(self, request: web.Request) -> web.StreamResponse:
        """PUT of an object or of its status, scale, finalizers."""
        server, (namespace, name, sub), options = request.app[SERVER], place(request), options_of(request)
        body = await self._body(request, options)
        if sub == "scale" and self.kind in subresources.SCALABLE:
            return answer(subresources.put_scale(server, self.kind, namespace, name, body, options))
        if sub == "finalize" and self.kind is kinds.NAMESPACE:
            return answer(subresources.finalize(server, name, body, options))
        self._check_subresource(sub)
        existed = server.store.get(self.kind, Key(namespace, name)) is not None
        found = server.update(self.kind, namespace, name, body, options, sub)
        return self._shown(request, found, 200 if existed else 201, options)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """PATCH, of all four types."""
        server, (namespace, name, sub), form = request.app[SERVER], place(request), request.content_type
        if form not in _PATCHES:
            raise unsupported(_PATCHES)
        options = options_of(request)
        body = await self._body(request, options)
        if sub == "scale" and self.kind in subresources.SCALABLE:
            return answer(subresources.patch_scale(server, self.kind, namespace, name, body, form, options))
        self._check_subresource(sub)
        existed = server.store.get(self.kind, Key(namespace, name)) is not None
        changed = server.patch(self.kind, namespace, name, body, form, options, sub)
        return self._shown(request, changed, 200 if existed else 201, options)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """DELETE of one object: a Status when it is gone, the object while something holds it."""
        server, (namespace, name, sub) = request.app[SERVER], place(request)
        if sub:
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        options, write = await delete_options(request)
        found = server.delete(self.kind, namespace, name, options, write)
        if self.kind is kinds.POD or server.store.get(self.kind, Key(namespace, name)) is not None:
            return self._shown(request, found, 200, write)
        details = {"name": name, "group": self.kind.group, "kind": self.kind.plural, "uid": found["metadata"]["uid"]}
        return answer({**_SUCCESS, "details": {k: v for k, v in details.items() if v}}, 200, write.warnings)

    async def delete_collection(self, request: web.Request) -> web.StreamResponse:
        """DELETE of all objects that the selectors match; the list of them."""
        server, query, namespace = request.app[SERVER], request.query, place(request)[0]
        chosen = ListOptions(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        page = server.list(self.kind, namespace, chosen)
        options, write = await delete_options(request)
        for raw in page.items:
            metadata = decode(raw)["metadata"]
            try:
                server.delete(self.kind, metadata.get("namespace", ""), metadata["name"], options, write)
            except ApiError as error:
                if error.status != 404:  # gone by itself, as the last of its owners went
                    raise
        head = {"kind": f"{self.kind.name}List", "apiVersion": self.kind.api_version, "metadata": page.metadata}
        return answer(_joined(head, page.items), 200, dict.fromkeys(write.warnings))

    async def post_subresource(self, request: web.Request) -> web.StreamResponse:
        """POST to binding or eviction."""
        server, (namespace, name, sub), options = request.app[SERVER], place(request), options_of(request)
        if self.kind is kinds.POD and sub in ("binding", "eviction"):
            body = await self._body(request, options)
            act = subresources.bind if sub == "binding" else subresources.evict
            return answer(act(server, namespace, name, body, options), 201)
        raise subresources.unsupported(self.kind, sub)

    def _check_subresource(self, sub: str) -> None:
        if sub and not (sub == "status" and self.kind in schema.WITH_STATUS):
            raise subresources.unsupported(self.kind, sub)

    async def _body(self, request: web.Request, options: Request) -> Any:
        return await read_body(request, None if options.validation == "Ignore" else options.duplicates)

    def _shown(self, request: web.Request, obj: Obj, status: int, options: Request) -> web.Response:
        view = form_of(request).view
        if view == "Table":
            table = schema.table(self.kind, [obj], request.app[SERVER].now(), include_object(request))
            table["metadata"] = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return answer(table, status, options.warnings)
        return answer(partial(obj) if view else obj, status, options.warnings)


_SUCCESS: Obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def _joined(head: Obj, items: list[bytes]) -> bytes:
    """A list of objects, put together from their JSON as it is stored."""
    return msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(items) + b"]}"
