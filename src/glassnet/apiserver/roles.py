"""What roles give to whom: RBAC for users that a binding names. Source: Kubernetes documentation, "Using RBAC Authorization".

Who is named in no binding (nearly everybody in a lab) falls under the lab's own rule (`auth.allowed`); who is named may do what is bound to him,
and no more, as on a cluster. So a program's roles can be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aiohttp import web

from glassnet.apiserver import auth
from glassnet.apiserver.auth import MASTERS, NODES, SELF_REVIEWS, Attributes, User
from glassnet.apiserver.server import ApiServer, decode
from glassnet.kube import kinds
from glassnet.net.errors import ApiError

Obj = dict[str, Any]


def authorizer(server: ApiServer) -> Callable[[User, web.Request], None]:
    """What raises ApiError 403 when a user may not do what a request wants. Reviews of oneself are everybody's."""

    def authorize(user: User, request: web.Request) -> None:
        wanted = auth.attributes(request)
        if wanted is not None and wanted.resource not in SELF_REVIEWS and not permitted(server, user, wanted):
            raise auth.forbidden(user, wanted)

    return authorize


def permitted(server: ApiServer, user: User, wanted: Attributes) -> bool:
    """Whether a user may do this."""
    if MASTERS in user.groups or NODES in user.groups:
        return True
    bound = list(_bound(server, user))
    if not bound:
        return auth.allowed(user, wanted.verb, wanted.resource, wanted.namespace)
    return any(
        _covers(rule, wanted)
        for namespace, ref in bound
        if namespace in ("", wanted.namespace)
        for rule in _rules(server, namespace, ref)
    )


def _bound(server: ApiServer, user: User) -> Iterator[tuple[str, Obj]]:
    """(namespace, "" for everywhere, and roleRef) of each binding that names the user."""
    for kind in (kinds.CLUSTER_ROLE_BINDING, kinds.ROLE_BINDING):
        for key, raw in server.store.all(kind):
            binding = decode(raw)
            if any(_name(subject) == user.name for subject in binding.get("subjects") or ()):
                yield key.namespace, binding["roleRef"]


def _name(subject: Mapping[str, Any]) -> str:
    if subject.get("kind") == "ServiceAccount":
        return f"system:serviceaccount:{subject.get('namespace')}:{subject.get('name')}"
    return str(subject.get("name")) if subject.get("kind") == "User" else ""


def _rules(server: ApiServer, namespace: str, ref: Mapping[str, Any]) -> list[Obj]:
    """A role's rules; none when it is not there."""
    kind = kinds.CLUSTER_ROLE if ref.get("kind") == "ClusterRole" else kinds.ROLE
    try:
        role = decode(server.get(kind, namespace if kind.namespaced else "", str(ref.get("name"))))
    except ApiError:
        return []
    return role.get("rules") or []


def _covers(rule: Mapping[str, Any], wanted: Attributes) -> bool:
    resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
    names = rule.get("resourceNames") or ()
    return (
        _among(wanted.verb, rule.get("verbs"))
        and _among(wanted.group, rule.get("apiGroups"))
        and (_among(resource, rule.get("resources")) or f"*/{wanted.subresource}" in (rule.get("resources") or ()))
        and (not names or wanted.name in names)
    )


def _among(word: str, words: Any) -> bool:
    return word in (words or ()) or "*" in (words or ())
