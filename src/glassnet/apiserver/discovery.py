"""Discovery: which groups, versions and resources there are, as kubectl asks at its start. And what has no object: reviews of oneself, tokens.

Source: Kubernetes API concepts, "API discovery"; KEP-3352 (aggregated discovery).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from glassnet.apiserver import admission, roles, schema, subresources
from glassnet.apiserver.auth import STREAMS, Attributes, Tokens, User, allowed
from glassnet.apiserver.http import SERVER, USER, Handler, answer, read_body
from glassnet.apiserver.lifecycle import stamp
from glassnet.apiserver.schema.errors import bad_request
from glassnet.apiserver.server import ApiServer, decode
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.net.errors import ApiError

Obj = dict[str, Any]
AUTHORIZATION, AUTHENTICATION = "authorization.k8s.io", "authentication.k8s.io"
YEAR = 365 * 24 * 3600  # seconds
_WRITES = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_CHANGES = ("get", "patch", "update")


class Response(NamedTuple):
    """Kind of the object a resource answers with."""

    group: str
    version: str
    name: str


class Sub(NamedTuple):
    """A subresource: its name, the kind it speaks, its verbs."""

    name: str
    response: Response
    verbs: tuple[str, ...]


class Entry(NamedTuple):
    """One resource of a group-version with its subresources."""

    plural: str
    response: Response
    namespaced: bool
    verbs: tuple[str, ...]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subs: tuple[Sub, ...] = ()


def _subs(kind: Kind) -> tuple[Sub, ...]:
    own = Response(kind.group, kind.version, kind.name)
    found: list[Sub] = []
    if kind is kinds.POD:
        found += [
            Sub("attach", Response("", "v1", "PodAttachOptions"), ("create", "get")),
            Sub("binding", Response("", "v1", "Binding"), ("create",)),
            Sub("eviction", Response("policy", "v1", "Eviction"), ("create",)),
            Sub("exec", Response("", "v1", "PodExecOptions"), ("create", "get")),
            Sub("log", own, ("get",)),
            Sub("portforward", Response("", "v1", "PodPortForwardOptions"), ("create", "get")),
        ]
    if kind is kinds.NAMESPACE:
        found.append(Sub("finalize", own, ("update",)))
    if kind in subresources.SCALABLE:
        found.append(Sub("scale", Response("autoscaling", "v1", "Scale"), _CHANGES))
    if kind in schema.WITH_STATUS:
        found.append(Sub("status", own, _CHANGES))
    if kind is kinds.SERVICE_ACCOUNT:
        found.append(Sub("token", Response(AUTHENTICATION, "v1", "TokenRequest"), ("create",)))
    return tuple(found)


def _entries() -> dict[tuple[str, str], list[Entry]]:
    """(group, version) -> its resources, core first."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for kind in kinds.ALL:
        entry = Entry(
            kind.plural,
            Response(kind.group, kind.version, kind.name),
            kind.namespaced,
            _WRITES,
            kind.short_names,
            kind.categories,
            _subs(kind),
        )
        found.setdefault((kind.group, kind.version), []).append(entry)
    for group, name in ((AUTHENTICATION, "SelfSubjectReview"), (AUTHORIZATION, "SelfSubjectAccessReview")):
        found[group, "v1"] = [Entry(name.lower() + "s", Response(group, "v1", name), False, ("create",))]
    return found


ENTRIES = _entries()


def routes(tokens: Tokens | None = None) -> list[web.RouteDef]:
    """Routes of /api, /apis and below, of the reviews of oneself, and of service accounts' tokens, which `tokens` issues."""

    async def token(request: web.Request) -> web.StreamResponse:
        if tokens is None:
            raise subresources.unsupported(kinds.SERVICE_ACCOUNT, "token")
        return answer(_issue(tokens, request, await read_body(request)), 201)

    found = [
        web.get("/api", _root("core"), allow_head=False),
        web.get("/apis", _root("groups"), allow_head=False),
        web.post(f"/apis/{AUTHORIZATION}/v1/selfsubjectaccessreviews", _access_review),
        web.post(f"/apis/{AUTHENTICATION}/v1/selfsubjectreviews", _self_review),
        web.post("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", token),
    ]
    for group, version in ENTRIES:
        base = f"/apis/{group}" if group else "/api"
        found.append(web.get(f"{base}/{version}", _fixed(resource_list(group, version)), allow_head=False))
        if group:
            found.append(
                web.get(base, _fixed({"kind": "APIGroup", "apiVersion": "v1", **_group(group)}), allow_head=False)
            )
    return found


def _fixed(body: Obj) -> Handler:
    raw = msgspec.json.encode(body)

    async def handler(request: web.Request) -> web.StreamResponse:
        return tagged(request, raw)

    return handler


def _root(which: str) -> Handler:
    core = which == "core"

    async def handler(request: web.Request) -> web.StreamResponse:
        version = _aggregated_version(request.headers.get("Accept", ""))
        response = tagged(request, _root_document(version, core))
        response.headers["Vary"] = "Accept"
        if version and response.status == 200:
            kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            response.headers["Content-Type"] = kind
        return response

    return handler


@cache
def _root_document(version: str, core: bool) -> bytes:
    """/api or /apis as JSON: aggregated, or in the older form where `version` is ""."""
    if version:
        return msgspec.json.encode(aggregated(version, core))
    return msgspec.json.encode(api_versions() if core else group_list())


def tagged(request: web.Request, raw: bytes) -> web.Response:
    """A JSON document with its ETag (RFC 9110, section 8.8.3), or 304 for a client that has it already."""
    tag = f'"{hashlib.sha256(raw).hexdigest().upper()}"'
    known = [word.strip().removeprefix("W/") for word in request.headers.get("If-None-Match", "").split(",")]
    response = web.Response(status=304) if tag in known or "*" in known else answer(raw)
    response.headers["ETag"] = tag
    return response


def _aggregated_version(accept: str) -> str:
    """The first version of aggregated discovery that a client accepts in JSON, "" when it wants the older form."""
    for offer in accept.split(","):
        media, *rest = (part.strip() for part in offer.split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        if media not in ("application/json", "*/*"):
            continue
        if "as" not in parameters:
            return ""
        if parameters["as"] == "APIGroupDiscoveryList" and parameters.get("v") in ("v2", "v2beta1"):
            return parameters["v"]
    return ""


# -- the older form


def api_versions() -> Obj:
    """APIVersions of /api."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list() -> Obj:
    """APIGroupList of /apis."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in _groups()]}


def _groups() -> list[str]:
    return [group for group in dict.fromkeys(group for group, _ in ENTRIES) if group]


def _group(name: str) -> Obj:
    versions = [{"groupVersion": f"{name}/{v}", "version": v} for group, v in ENTRIES if group == name]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resource_list(group: str, version: str) -> Obj:
    """APIResourceList of one group-version."""
    found: list[Obj] = []
    for entry in ENTRIES[group, version]:
        found.append(_resource(entry))
        found += [_subresource(entry, sub) for sub in entry.subs]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": found}


def _resource(entry: Entry) -> Obj:
    found: Obj = {
        "name": entry.plural,
        "singularName": entry.response.name.lower(),
        "namespaced": entry.namespaced,
        "kind": entry.response.name,
        "verbs": list(entry.verbs),
    }
    if entry.short_names:
        found["shortNames"] = list(entry.short_names)
    if entry.categories:
        found["categories"] = list(entry.categories)
    return found


def _subresource(entry: Entry, sub: Sub) -> Obj:
    found: Obj = {
        "name": f"{entry.plural}/{sub.name}",
        "singularName": "",
        "namespaced": entry.namespaced,
        "kind": sub.response.name,
        "verbs": list(sub.verbs),
    }
    if sub.response[:2] != entry.response[:2]:
        found |= {"group": sub.response.group, "version": sub.response.version}
    return found


# -- the aggregated form


def aggregated(version: str, core: bool) -> Obj:
    """APIGroupDiscoveryList (`version` v2 or v2beta1) of the core group or of all the others."""
    items = [
        {
            "metadata": {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None},
            "versions": [_version(name, v) for group, v in ENTRIES if group == name],
        }
        for name in ([""] if core else _groups())
    ]
    api_version = f"apidiscovery.k8s.io/{version}"
    return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def _version(group: str, version: str) -> Obj:
    found = list(_discovered(group, version))
    return {"version": version, "freshness": "Current", "resources": found}


def _discovered(group: str, version: str) -> Iterator[Obj]:
    for entry in ENTRIES[group, version]:
        found: Obj = {
            "resource": entry.plural,
            "responseKind": _kind(entry.response),
            "scope": "Namespaced" if entry.namespaced else "Cluster",
            "singularResource": entry.response.name.lower(),
            "verbs": list(entry.verbs),
        }
        if entry.short_names:
            found["shortNames"] = list(entry.short_names)
        if entry.categories:
            found["categories"] = list(entry.categories)
        if entry.subs:
            found["subresources"] = [
                {"subresource": sub.name, "responseKind": _kind(sub.response), "verbs": list(sub.verbs)}
                for sub in entry.subs
            ]
        yield found


def _kind(response: Response) -> Obj:
    return {"group": response.group, "version": response.version, "kind": response.name}


# -- reviews of oneself


class _Resource(msgspec.Struct):
    """ResourceAttributes, as far as rules look at them."""

    verb: str = ""
    group: str = ""
    name: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""


class _NonResource(msgspec.Struct):
    """NonResourceAttributes."""

    path: str = ""
    verb: str = ""


class _AccessSpec(msgspec.Struct, rename="camel"):
    resource_attributes: _Resource | None = None
    non_resource_attributes: _NonResource | None = None


class _TokenSpec(msgspec.Struct, rename="camel"):
    audiences: list[str] | None = None
    expiration_seconds: int | None = None


_Spec = TypeVar("_Spec", _AccessSpec, _TokenSpec)


def _spec(body: Any, form: type[_Spec]) -> tuple[Obj, _Spec]:
    """An object's spec, as sent and as read. Raises ApiError 400."""
    raw = body.get("spec") if isinstance(body, dict) else None
    raw = {} if raw is None else raw
    try:
        return raw, msgspec.convert(raw, form)
    except msgspec.ValidationError as error:
        raise bad_request(f"the object provided is unrecognized: spec: {error}") from None


async def _access_review(request: web.Request) -> web.StreamResponse:
    spec, read = _spec(await read_body(request), _AccessSpec)
    user: User = request[USER]
    resource, other = read.resource_attributes, read.non_resource_attributes
    if (resource is None) == (other is None):
        raise bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")
    if resource is not None:
        verb = "create" if resource.subresource in STREAMS else resource.verb
        wanted = Attributes(verb, resource.group, resource.resource, resource.namespace, resource.name, resource.subresource)  # fmt: skip
        may = roles.permitted(request.app[SERVER], user, wanted)
    else:
        may = allowed(user, other.verb if other else "", "")
    return answer(
        {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": f"{AUTHORIZATION}/v1",
            "metadata": {"creationTimestamp": None},
            "spec": spec,
            "status": {"allowed": may},
        },
        201,
    )


async def _self_review(request: web.Request) -> web.StreamResponse:
    user: User = request[USER]
    info: Obj = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    return answer(
        {
            "kind": "SelfSubjectReview",
            "apiVersion": f"{AUTHENTICATION}/v1",
            "metadata": {"creationTimestamp": stamp(request.app[SERVER].now())},
            "status": {"userInfo": info},
        },
        201,
    )


def _issue(tokens: Tokens, request: web.Request, body: Any) -> Obj:
    return issue_token(tokens, request.app[SERVER], request.match_info["namespace"], request.match_info["name"], body)


def issue_token(tokens: Tokens, server: ApiServer, namespace: str, name: str, body: Any) -> Obj:
    """serviceaccounts/token: a TokenRequest with its token. Raises ApiError 400, 404, 422."""
    account = decode(server.get(kinds.SERVICE_ACCOUNT, namespace, name))
    spec, read = _spec(body, _TokenSpec)
    seconds = 3600 if read.expiration_seconds is None else read.expiration_seconds
    if not 600 <= seconds <= 1 << 32:
        why = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes or more than 2^32 seconds"
        raise ApiError(
            422, "Invalid", f'TokenRequest "{name}" is invalid: spec.expirationSeconds: {why}', {"name": name}
        )
    now, uid = server.now(), account["metadata"]["uid"]
    lasts = YEAR if seconds == admission.EXPIRES else seconds  # as --service-account-extend-token-expiration has it
    audiences = read.audiences or ["https://kubernetes.default.svc.cluster.local"]
    return {
        "kind": "TokenRequest",
        "apiVersion": f"{AUTHENTICATION}/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": stamp(now)},
        "spec": {**spec, "audiences": audiences, "expirationSeconds": seconds},
        "status": {
            "token": tokens.issue(namespace, name, uid, now, lasts, audiences),
            "expirationTimestamp": stamp(now + timedelta(seconds=seconds)),
        },
    }
