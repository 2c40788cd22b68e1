"""The API over HTTP: paths, and how errors are told. The handlers are in `http_resource.py`, every verb itself in `server.py`."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable

from aiohttp import web

from glassnet import __version__
from glassnet.apiserver.auth import User
from glassnet.apiserver.http_answer import answer, form_of, shaped
from glassnet.apiserver.http_body import read_body
from glassnet.apiserver.http_context import SERVER, USER, WATCHES, Handler
from glassnet.apiserver.http_resource import Resource
from glassnet.apiserver.server import ApiServer
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

__all__ = ["SERVER", "USER", "VERSION", "Handler", "answer", "build_app", "read_body"]
VERSION = {
    "major": "1", "minor": "36", "gitVersion": "v1.36.2+glassnet", "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-06-01T00:00:00Z",
    "goVersion": "", "compiler": f"glassnet {__version__}", "platform": "linux/amd64",
}  # fmt: skip
_MAX_BODY = 3 * 1024 * 1024  # as etcd and the real server have it
_log = logging.getLogger(__name__)


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
            found = await handler(request)
        except ApiError as error:
            found = answer(error.to_status(), error.status)
            if seconds := error.details.get("retryAfterSeconds"):
                found.headers["Retry-After"] = str(seconds)
        except web.HTTPException as error:
            found = answer(_of_http(error).to_status(), error.status)
        except ConnectionError:
            raise  # nobody is there to be told
        except Exception as error:
            _log.exception("%s %s", request.method, request.path_qs)
            found = answer(_internal(error).to_status(), 500)
        return shaped(request, found) if isinstance(found, web.Response) else found

    app = web.Application(middlewares=[guard], client_max_size=_MAX_BODY)
    app[SERVER], app[WATCHES] = server, Counter()
    app.add_routes(list(routes))
    for path in ("/healthz", "/livez", "/readyz"):
        app.router.add_get(path, _ok)
    app.router.add_get("/version", _version)
    app.router.add_get("/metrics", _metrics)
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
        app.router.add_get(place, _negotiated(resource.list), allow_head=False)
    app.router.add_post(places[0], _negotiated(resource.create))
    app.router.add_delete(places[0], _negotiated(resource.delete_collection))
    one = places[0] + "/{name}"
    # named, as /api/v1/namespaces/NAMESPACE/pods is a collection and no subresource of a Namespace
    sub = one + "/{subresource:status|scale|finalize|binding|eviction}"
    for path in (one, sub):
        app.router.add_get(path, _negotiated(resource.get), allow_head=False)
        app.router.add_put(path, _negotiated(resource.update))
        app.router.add_patch(path, _negotiated(resource.patch))
    app.router.add_delete(one, _negotiated(resource.delete))
    app.router.add_post(sub, _negotiated(resource.post_subresource))


def _negotiated(handler: Handler) -> Handler:
    """The handler, reached only by who can read its answer: a write that could not be told of is not done."""

    async def checked(request: web.Request) -> web.StreamResponse:
        form_of(request)
        return await handler(request)

    return checked


def _of_http(error: web.HTTPException) -> ApiError:
    if error.status == 404:
        return ApiError(404, "NotFound", "the server could not find the requested resource")
    if error.status == 405:
        return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    if error.status == 413:
        return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {_MAX_BODY}")
    return ApiError(error.status, "BadRequest", error.reason or "bad request")


def _internal(error: Exception) -> ApiError:
    """The 500 answer to a fault of ours, with what went wrong; the log has where."""
    return ApiError(
        500,
        "InternalError",
        f"Internal error occurred: {type(error).__name__}: {error}",
        {"causes": [{"message": str(error)}]},
    )


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _version(_: web.Request) -> web.Response:
    return answer(VERSION)


async def _metrics(request: web.Request) -> web.Response:
    """Open watches under the real server's name for them, told apart by user as well."""
    lines = ["# HELP apiserver_longrunning_requests Watches that are open now", "# TYPE apiserver_longrunning_requests gauge"]  # fmt: skip
    lines += [
        f'apiserver_longrunning_requests{{verb="WATCH",group="{kind.group}",version="{kind.version}",resource="{kind.plural}",user={json.dumps(user)}}} {count}'
        for (user, kind), count in sorted(request.app[WATCHES].items())
    ]
    return web.Response(text="\n".join(lines) + "\n")
