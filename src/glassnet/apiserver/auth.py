"""Who is it, and may it? Client certificates of our authority, tokens of service accounts; nothing without credentials."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from glassnet.net.errors import ApiError

MASTERS = "system:masters"


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
        if not hmac.compare_digest(_b64(self._sign(signed)), signature):
            return None
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "==="))
        if claims["exp"] < now.timestamp():
            return None
        account = claims["kubernetes.io"]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{account['namespace']}", "system:authenticated")
        return User(claims["sub"], groups, account["serviceaccount"]["uid"])

    def _sign(self, text: str) -> bytes:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).digest()


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def authenticate(request: web.Request, tokens: Tokens, now: datetime) -> User | None:
    """The client behind a request, None without good credentials."""
    header = request.headers.get("Authorization", "")
    if header.startswith("Bearer "):
        return tokens.user(header[7:].strip(), now)
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport else None
    if not certificate:
        return None
    fields: dict[str, list[str]] = {}
    for part in certificate.get("subject", ()):
        for name, value in part:
            fields.setdefault(name, []).append(value)
    return User(
        (fields.get("commonName") or ["unknown"])[0], (*fields.get("organizationName", []), "system:authenticated")
    )


def allowed(user: User, verb: str, resource: str) -> bool:
    """The lab's rule: system:masters may do everything, everybody else with credentials may read all but Secrets."""
    if MASTERS in user.groups:
        return True
    return verb in ("get", "list", "watch") and resource != "secrets"


def authorize(user: User, request: web.Request) -> None:
    """Raises ApiError 403 when the user may not."""
    parts = request.path.strip("/").split("/")
    if parts[0] not in ("api", "apis") or len(parts) < (3 if parts[0] == "api" else 4):
        return
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    resource = rest[0]
    if resource in ("selfsubjectaccessreviews", "selfsubjectreviews"):
        return
    verb = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(
        request.method, "get"
    )
    if len(rest) > 2 and rest[2] in ("exec", "attach", "portforward"):
        verb = "create"
    if not allowed(user, verb, resource):
        raise ApiError(
            403,
            "Forbidden",
            f'{resource} is forbidden: User "{user.name}" cannot {verb} resource "{resource}" (only system:masters may)',
            {"kind": resource},
        )
