"""The API over HTTP: paths, content types, lists, watches. Every verb itself is in `server.py`."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
import yaml
from aiohttp import web

from glassnet import __version__
from glassnet.apiserver import protobuf, schema, subresources
from glassnet.apiserver.auth import User
from glassnet.apiserver.request import DeleteOptions, Request
from glassnet.apiserver.schema.errors import bad_request
from glassnet.apiserver.server import ApiServer, decode
from glassnet.apiserver.watch import Watch, WatchOptions
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

VERSION = {
    "major": "1", "minor": "36", "gitVersion": "v1.36.2+glassnet", "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-06-01T00:00:00Z",
    "goVersion": "", "compiler": f"glassnet {__version__}", "platform": "linux/amd64",
}  # fmt: skip
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MAX_BODY = 3 * 1024 * 1024  # as etcd and the real server have it
SERVER, USER = web.AppKey("server", ApiServer), web.RequestKey("user", User)


def build_app(
    server: ApiServer,
    authenticate: Callable[[web.Request], User | None],
    authorize: Callable[[User, web.Request], None],
    routes: Iterable[web.RouteDef] = (),
) -> web.Application:
    """The aiohttp application. `routes` are those of discovery, OpenAPI and streams; `authorize` raises ApiError 403."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            user = authenticate(request)
            if user is None:
                raise ApiError(401, "Unauthorized", "Unauthorized")
            request[USER] = user
            authorize(user, request)
            return await handler(request)
        except ApiError as error:
            return answer(error.to_status(), error.status)
        except web.HTTPException as error:
            return answer(_of_http(error, request).to_status(), error.status)

    app = web.Application(middlewares=[guard], client_max_size=_MAX_BODY)
    app[SERVER] = server
    app.add_routes(list(routes))
    for path in ("/healthz", "/livez", "/readyz"):
        app.router.add_get(path, _ok)
    app.router.add_get("/version", _version)
    for kind in kinds.ALL:
        base = f"/api/{kind.version}" if not kind.group else f"/apis/{kind.group}/{kind.version}"
        _add_kind(app, kind, base)
    return app


def _add_kind(app: web.Application, kind: Kind, base: str) -> None:
    places = [f"{base}/{kind.plural}"]
    if kind.namespaced:
        places = [f"{base}/namespaces/{{namespace}}/{kind.plural}", f"{base}/{kind.plural}"]
    resource = Resource(kind)
    for place in places:
        app.router.add_get(place, resource.list, allow_head=False)
    app.router.add_post(places[0], resource.create)
    app.router.add_delete(places[0], resource.delete_collection)
    one = places[0] + "/{name}"
    app.router.add_get(one, resource.get, allow_head=False)
    app.router.add_put(one, resource.update)
    app.router.add_patch(one, resource.patch)
    app.router.add_delete(one, resource.delete)
    # named, as /api/v1/namespaces/NAMESPACE/pods is a collection and no subresource of a Namespace
    sub = one + "/{subresource:status|scale|finalize|binding|eviction}"
    app.router.add_get(sub, resource.get, allow_head=False)
    app.router.add_put(sub, resource.update)
    app.router.add_patch(sub, resource.patch)
    app.router.add_post(sub, resource.post_subresource)


def answer(body: Any, status: int = 200, warnings: Iterable[str] = ()) -> web.Response:
    """A JSON answer; bytes are taken for JSON already."""
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    response = web.Response(body=raw, status=status, content_type="application/json")
    for text in warnings:
        response.headers.add("Warning", '299 - "' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return response


def _of_http(error: web.HTTPException, request: web.Request) -> ApiError:
    if error.status == 404:
        return ApiError(404, "NotFound", "the server could not find the requested resource")
    if error.status == 405:
        return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    if error.status == 413:
        return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {_MAX_BODY}")
    return ApiError(error.status, "BadRequest", error.reason or "bad request")


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _version(_: web.Request) -> web.Response:
    return answer(VERSION)


async def read_body(request: web.Request) -> Any:
    """The request's object, from JSON, YAML or protobuf. Raises ApiError 400."""
    raw = await request.read()
    kind = request.content_type
    if not raw:
        return {}
    if raw.startswith(protobuf.MAGIC):
        return protobuf.decode_object(raw)
    try:
        if "yaml" in kind:
            return yaml.safe_load(raw)
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, yaml.YAMLError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from None


def options_of(request: web.Request) -> Request:
    """The write options in the query; a manager is always named: the client's own word, or its program."""
    query = request.query
    validation = query.get("fieldValidation", "Warn")
    if validation not in ("Strict", "Warn", "Ignore"):
        raise bad_request(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        )
    if query.get("dryRun", "All") != "All":
        raise bad_request(f'dryRun: Unsupported value: "{query["dryRun"]}": supported values: "All"')
    agent = request.headers.get("User-Agent", "unknown").split("/")[0].split(" ")[0]
    return Request(
        user=request[USER].name,
        manager=query.get("fieldManager") or agent or "unknown",
        dry_run="dryRun" in query,
        validation=validation,
        force=query.get("force") in ("true", "1"),
    )


class Resource:
    """The handlers of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    # -- reading

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET of one object or of a subresource."""
        server, (namespace, name, sub) = request.app[SERVER], _place(request)
        if sub == "scale" and self.kind in subresources.SCALABLE:
            return answer(subresources.get_scale(server, self.kind, namespace, name))
        if sub and not (sub == "status" and self.kind in schema.WITH_STATUS):
            raise subresources.unsupported(self.kind, sub)
        raw = server.get(self.kind, namespace, name)
        if form := _table_form(request):
            found = schema.table(self.kind, [decode(raw)], server.now(), form)
            found["metadata"]["resourceVersion"] = decode(raw)["metadata"]["resourceVersion"]
            return answer(found)
        return answer(raw)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """GET of a collection: a list, or a watch."""
        server, query, namespace = request.app[SERVER], request.query, request.match_info.get("namespace", "")
        matches = server.select(self.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if query.get("watch") in ("true", "1"):
            return await self._watch(request, server, namespace, matches)
        revision, start, limit = _window(query, server)
        found = server.store.all_at(self.kind, namespace, revision)
        chosen = [(key, raw) for key, raw in found if (not start or key > start) and (matches is None or matches(raw))]
        metadata: dict[str, Any] = {"resourceVersion": str(revision)}
        if limit and len(chosen) > limit:
            metadata["remainingItemCount"] = len(chosen) - limit
            chosen = chosen[:limit]
            metadata["continue"] = _token(revision, chosen[-1][0])
        if form := _table_form(request):
            table = schema.table(self.kind, [decode(raw) for _, raw in chosen], server.now(), form)
            return answer({**table, "metadata": metadata})
        head = msgspec.json.encode(
            {"kind": f"{self.kind.name}List", "apiVersion": self.kind.api_version, "metadata": metadata}
        )
        return answer(head[:-1] + b',"items":[' + b",".join(raw for _, raw in chosen) + b"]}")

    async def _watch(
        self, request: web.Request, server: ApiServer, namespace: str, matches: Callable[[bytes], bool] | None
    ) -> web.StreamResponse:
        query = request.query
        options = WatchOptions(
            namespace=namespace,
            revision=_number(query, "resourceVersion"),
            bookmarks=query.get("allowWatchBookmarks") in ("true", "1"),
            initial_events=query.get("sendInitialEvents") in ("true", "1"),
            timeout=float(_number(query, "timeoutSeconds") or 1800),
        )
        form = _table_form(request)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        first = True
        with contextlib.suppress(ConnectionResetError):
            try:
                async for kind, raw in Watch(server.store, self.kind, matches, options).events():
                    shown = raw
                    if form and kind != "BOOKMARK":
                        table = schema.table(self.kind, [decode(raw)], server.now(), form)
                        if not first:
                            table["columnDefinitions"] = None
                        first = False
                        shown = msgspec.json.encode(table)
                    await response.write(b'{"type":"' + kind.encode() + b'","object":' + shown + b"}\n")
            except ApiError as error:
                await response.write(msgspec.json.encode({"type": "ERROR", "object": error.to_status()}) + b"\n")
            await response.write_eof()
        return response

    # -- writing

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST to a collection."""
        options = options_of(request)
        body = await read_body(request)
        made = request.app[SERVER].create(self.kind, request.match_info.get("namespace", ""), body, options)
        return self._shown(request, made, 201, options)

    async def update(self, request: web.Request) -> web.StreamResponse:
        """PUT of an object or of its status, scale, finalizers."""
        server, (namespace, name, sub), options = request.app[SERVER], _place(request), options_of(request)
        body = await read_body(request)
        if sub == "scale" and self.kind in subresources.SCALABLE:
            return answer(subresources.put_scale(server, self.kind, namespace, name, body, options))
        if sub == "finalize" and self.kind is kinds.NAMESPACE:
            return answer(subresources.finalize(server, name, body, options))
        self._check_subresource(sub)
        return self._shown(request, server.update(self.kind, namespace, name, body, options, sub), 200, options)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """PATCH, of all four types."""
        server, (namespace, name, sub), options = request.app[SERVER], _place(request), options_of(request)
        body = await read_body(request)
        if sub == "scale" and self.kind in subresources.SCALABLE:
            return answer(
                subresources.patch_scale(server, self.kind, namespace, name, body, request.content_type, options)
            )
        self._check_subresource(sub)
        if request.content_type == "application/apply-patch+yaml" and "fieldManager" not in request.query:
            options.manager = ""
        existed = server.store.get(self.kind, (namespace, name)) is not None  # type: ignore[arg-type]
        changed = server.patch(self.kind, namespace, name, body, request.content_type, options, sub)
        return self._shown(request, changed, 200 if existed else 201, options)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """DELETE of one object: a Status when it is gone, the object while something holds it."""
        server, (namespace, name, _) = request.app[SERVER], _place(request)
        options, write = await _delete_options(request)
        found = server.delete(self.kind, namespace, name, options, write)
        if self.kind is kinds.POD or server.store.get(self.kind, (namespace, name)) is not None:  # type: ignore[arg-type]
            return self._shown(request, found, 200, write)
        details = {"name": name, "group": self.kind.group, "kind": self.kind.plural, "uid": found["metadata"]["uid"]}
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {k: v for k, v in details.items() if v},
        }
        return answer(status)

    async def delete_collection(self, request: web.Request) -> web.StreamResponse:
        """DELETE of all objects that the selectors match."""
        server, query, namespace = request.app[SERVER], request.query, request.match_info.get("namespace", "")
        matches = server.select(self.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        options, write = await _delete_options(request)
        for key, raw in server.store.all(self.kind, namespace):
            if matches is None or matches(raw):
                with contextlib.suppress(ApiError):
                    server.delete(self.kind, key.namespace, key.name, options, write)
        return answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    async def post_subresource(self, request: web.Request) -> web.StreamResponse:
        """POST to binding or eviction."""
        server, (namespace, name, sub), options = request.app[SERVER], _place(request), options_of(request)
        if self.kind is kinds.POD and sub in ("binding", "eviction"):
            body = await read_body(request)
            act = subresources.bind if sub == "binding" else subresources.evict
            return answer(act(server, namespace, name, body, options), 201)
        raise subresources.unsupported(self.kind, sub)

    def _check_subresource(self, sub: str) -> None:
        if sub and not (sub == "status" and self.kind in schema.WITH_STATUS):
            raise subresources.unsupported(self.kind, sub)

    def _shown(self, request: web.Request, obj: dict[str, Any], status: int, options: Request) -> web.Response:
        if form := _table_form(request):
            return answer(schema.table(self.kind, [obj], request.app[SERVER].now(), form), status, options.warnings)
        return answer(obj, status, options.warnings)


def _place(request: web.Request) -> tuple[str, str, str]:
    info = request.match_info
    return info.get("namespace", ""), info["name"], info.get("subresource", "")


def _table_form(request: web.Request) -> str:
    """Value of includeObject when the client wants a Table, "" otherwise."""
    if any("as=Table" in part and "v=v1beta1" not in part for part in request.headers.get("Accept", "").split(",")):
        return request.query.get("includeObject", "Metadata")
    return ""


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    if not text.isdigit():
        raise bad_request(f'{name}: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _token(revision: int, key: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode({"rv": revision, "start": list(key)})).decode().rstrip("=")


def _window(query: Mapping[str, str], server: ApiServer) -> tuple[int, tuple[str, str] | None, int]:
    """(revision to list at, key to start after, limit) of a list request."""
    limit = _number(query, "limit") or 0
    if token := query.get("continue"):
        try:
            found = msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            return int(found["rv"]), (found["start"][0], found["start"][1]), limit
        except (ValueError, KeyError, IndexError, TypeError):
            raise bad_request("continue key is not valid") from None
    wanted = _number(query, "resourceVersion") or 0
    if query.get("resourceVersionMatch") == "Exact" and wanted:
        return wanted, None, limit
    if wanted > server.store.revision:
        raise ApiError(504, "Timeout", f"Too large resource version: {wanted}, current: {server.store.revision}")
    return server.store.revision, None, limit


async def _delete_options(request: web.Request) -> tuple[DeleteOptions, Request]:
    body = await read_body(request)
    body = body if isinstance(body, dict) else {}
    query = request.query
    preconditions = body.get("preconditions") or {}
    grace = body.get("gracePeriodSeconds")
    if grace is None:
        grace = _number(query, "gracePeriodSeconds")
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
    if propagation not in ("", "Background", "Foreground", "Orphan"):
        raise bad_request(f'propagationPolicy: Unsupported value: "{propagation}"')
    write = Request(user=request[USER].name, dry_run="dryRun" in query or bool(body.get("dryRun")))
    return DeleteOptions(
        preconditions.get("uid") or "", preconditions.get("resourceVersion") or "", grace, propagation
    ), write
