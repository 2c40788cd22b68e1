"""Who is it, and may it? Client certificates of our authority, tokens of service accounts; nothing without credentials."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from glassnet.net.errors import ApiError

MASTERS, NODES, AUTHENTICATED = "system:masters", "system:nodes", "system:authenticated"
ACCOUNTS = "system:serviceaccounts"
READS = ("get", "list", "watch")
AGENT = "system:serviceaccount:glassnet-system:glassnet-agent"  # glassnet's own agents: what they read and write, and no more
_AGENT_MAY = dict.fromkeys(("nodes", "services", "endpointslices", "servicecidrs", "namespaces"), READS) | {"events": ("create", "patch")}  # fmt: skip
CLOUD = "system:cloud-controller-manager"  # the user whose rights a cloud's controllers have
_CLOUD_MAY = {"nodes": READS, "services": (*READS, "patch"), "endpointslices": READS, "events": ("create", "patch")}
STREAMS = ("exec", "attach", "portforward")
SELF_REVIEWS = ("selfsubjectaccessreviews", "selfsubjectreviews")
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):[^:]+")


class User(NamedTuple):
    """An authenticated client."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


def ssl_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """TLS of the server: asks for a client certificate of our authority and checks it when there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


class Tokens:
    """Bearer tokens of service accounts: signed, JWT-shaped (RFC 7519, HS256), so that nothing has to be stored."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, namespace: str, name: str, uid: str, now: datetime, seconds: int, audiences: list[str]) -> str:
        """A token of a service account that is good for `seconds`."""
        claims = {
            "iss": "https://kubernetes.default.svc.cluster.local",
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "aud": audiences,
            "iat": int(now.timestamp()),
            "exp": int(now.timestamp()) + seconds,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
        }
        signed = f"{_b64(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{_b64(json.dumps(claims).encode())}"
        return f"{signed}.{_b64(self._sign(signed))}"

    def user(self, token: str, now: datetime) -> User | None:
        """The user a token stands for; None when it is not ours or has expired."""
        signed, _, signature = token.rpartition(".")
        if not token.isascii() or not hmac.compare_digest(_b64(self._sign(signed)), signature):
            return None
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "==="))
        if claims["exp"] < now.timestamp():
            return None
        account = claims["kubernetes.io"]
        groups = (ACCOUNTS, f"{ACCOUNTS}:{account['namespace']}", AUTHENTICATED)
        return User(claims["sub"], groups, account["serviceaccount"]["uid"])

    def _sign(self, text: str) -> bytes:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).digest()


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def authenticate(request: web.Request, tokens: Tokens, now: datetime) -> User | None:
    """The client behind a request, None without good credentials. Raises ApiError 403 for an impersonation that is not allowed."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    user = tokens.user(token.strip(), now) if scheme.lower() == "bearer" else _certified(request)
    return impersonated(user, request) if user else None


def _certified(request: web.Request) -> User | None:
    """The user of the client certificate, which TLS has checked already: its common name, its organizations as groups."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    if not certificate:
        return None
    fields: dict[str, list[str]] = {}
    for part in certificate.get("subject", ()):
        for name, value in part:
            fields.setdefault(name, []).append(value)
    names = fields.get("commonName")
    return User(names[0], (*fields.get("organizationName", []), AUTHENTICATED)) if names else None


def impersonated(user: User, request: web.Request) -> User:
    """The user that kubectl's --as, --as-group and --as-uid name, else `user`. Raises ApiError 400, 403.

    Source: Kubernetes documentation, "User impersonation". Only system:masters may.
    """
    headers = request.headers
    name, groups = headers.get("Impersonate-User", ""), tuple(headers.getall("Impersonate-Group", ()))
    uid = headers.get("Impersonate-Uid", "")
    if not name:
        if groups or uid:
            raise ApiError(
                400, "BadRequest", "Impersonate-Group and Impersonate-Uid need an Impersonate-User (kubectl --as)"
            )
        return user
    if MASTERS not in user.groups:
        raise forbidden(user, Attributes("impersonate", "", "users", "", name))
    if not groups and (match := _ACCOUNT.fullmatch(name)):
        groups = (ACCOUNTS, f"{ACCOUNTS}:{match[1]}")
    return User(name, tuple(dict.fromkeys((*groups, AUTHENTICATED))), uid)


class Attributes(NamedTuple):
    """What a request is about, in the words of authorization: verb, resource, place."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def _selected(request: web.Request) -> str:
    """The one object that a list or watch is restricted to by a field selector: a role for its name allows that (Kubernetes, "Using RBAC")."""
    path, _, name = request.query.get("fieldSelector", "").partition("=")
    return name.lstrip("=") if path == "metadata.name" and "," not in name else ""


def attributes(request: web.Request) -> Attributes | None:
    """What a request wants of which resource, read off the route that serves it; None where no resource is concerned."""
    place = request.match_info.route.resource
    parts = place.canonical.strip("/").split("/") if place else [""]
    if parts[0] not in ("api", "apis"):
        return None
    group, rest = ("", parts[2:]) if parts[0] == "api" else ("".join(parts[1:2]), parts[3:])
    if rest[:2] == ["namespaces", "{namespace}"]:
        rest = rest[2:]
    if not rest:
        return None
    info = request.match_info
    name, subresource = info.get("name", "") or _selected(request), info.get("subresource", "".join(rest[2:3]))
    verb = _VERBS.get(request.method, request.method.lower())
    if subresource in STREAMS:
        verb = "create"
    elif not info.get("name") and verb == "get":
        verb = "watch" if request.query.get("watch") in ("true", "1") else "list"
    elif not info.get("name") and verb == "delete":
        verb = "deletecollection"
    return Attributes(verb, group, rest[0], info.get("namespace", ""), name, subresource)


def allowed(user: User, verb: str, resource: str, namespace: str = "") -> bool:
    """The lab's rule, which stands for RBAC.

    system:masters and system:nodes may do everything, glassnet's agents what Service proxies, routes and DNS need, the
    cloud's controller what load balancers need. Everybody else with credentials may get, list and watch everything,
    Secrets only when they are those of a service account's own namespace. `resource` and `verb` may be `*`; "" is no resource.
    """
    if MASTERS in user.groups or NODES in user.groups:
        return True
    if user.name == AGENT:
        return verb in _AGENT_MAY.get(resource, ())
    if user.name == CLOUD:
        return verb in _CLOUD_MAY.get(resource, ())
    if verb not in READS or resource == "*":
        return False
    return resource != "secrets" or (bool(namespace) and f"{ACCOUNTS}:{namespace}" in user.groups)


def authorize(user: User, request: web.Request) -> None:
    """Raises ApiError 403 when the user may not. Reviews of oneself are everybody's."""
    wanted = attributes(request)
    if wanted is None or wanted.resource in SELF_REVIEWS:
        return
    if not allowed(user, wanted.verb, wanted.resource, wanted.namespace):
        raise forbidden(user, wanted)


def forbidden(user: User, wanted: Attributes) -> ApiError:
    """403 in the words of the real server."""
    kind = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
    subject = f'{kind} "{wanted.name}"' if wanted.name else kind
    resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
    where = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
    text = f'User "{user.name}" cannot {wanted.verb} resource "{resource}" in API group "{wanted.group}" {where}'
    details = {"name": wanted.name, "group": wanted.group, "kind": wanted.resource}
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {text}", {k: v for k, v in details.items() if v})
