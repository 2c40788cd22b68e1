"""What handlers find on a request: the server, who asks, where it goes, how a write is to be treated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from glassnet.apiserver.http_body import read_body
from glassnet.apiserver.listing import number
from glassnet.apiserver.request import DeleteOptions, Request, dry_run
from glassnet.apiserver.request import delete_options as read_delete_options
from glassnet.apiserver.schema.errors import bad_request
from glassnet.apiserver.server import APPLY, ApiServer
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SERVER, USER = web.AppKey("server", ApiServer), "user"
WATCHES = web.AppKey("watches", Counter[tuple[str, Kind]])  # how many are open, by user and kind
_MANAGER_LIMIT = 128


def place(request: web.Request) -> tuple[str, str, str]:
    """(namespace, name, subresource) of the path."""
    info = request.match_info
    return info.get("namespace", ""), info.get("name", ""), info.get("subresource", "")


def options_of(request: web.Request) -> Request:
    """The write options in the query. A manager is always named, the client's own word or its program; for an apply only the former counts.

    Raises ApiError 400, 422.
    """
    query, applying = request.query, request.content_type == APPLY
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise bad_request(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        )
    agent = request.headers.get("User-Agent", "unknown").split("/")[0].split(" ")[0]
    manager = query.get("fieldManager", "")
    if len(manager.encode()) > _MANAGER_LIMIT:
        raise _options_error(f"fieldManager: Too long: may not be more than {_MANAGER_LIMIT} bytes")
    if "force" in query and not applying:
        raise _options_error("force: Forbidden: may not be specified for non-apply patch")
    return Request(
        user=request[USER].name,
        manager=manager if applying else (manager or agent or "unknown")[:_MANAGER_LIMIT],
        dry_run=dry_run(query.getall("dryRun", [])),
        validation=validation,
        force=query.get("force") in ("true", "1"),
    )


async def delete_options(request: web.Request) -> tuple[DeleteOptions, Request]:
    """Options of a delete: the body's, and the query's for what the body leaves out. Raises ApiError 400, 422."""
    sent: Any = await read_body(request)
    if not isinstance(sent, dict):
        raise bad_request("the object provided is unrecognized (must be of type DeleteOptions)")
    query, body = request.query, dict(sent)
    if body.get("gracePeriodSeconds") is None:
        body["gracePeriodSeconds"] = number(query, "gracePeriodSeconds")
    body["propagationPolicy"] = body.get("propagationPolicy") or query.get("propagationPolicy")
    body["dryRun"] = body.get("dryRun") or query.getall("dryRun", [])
    options, dry = read_delete_options(body)
    return options, Request(user=request[USER].name, dry_run=dry)


def _options_error(text: str) -> ApiError:
    return ApiError(422, "Invalid", f'PatchOptions.meta.k8s.io "" is invalid: {text}')
