"""Validation of roles and their bindings. Source: Kubernetes documentation, "Using RBAC Authorization"; pkg/apis/rbac/validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glassnet.apiserver.schema.errors import FieldError, invalid_value, not_supported, required
from glassnet.apiserver.schema.rules import dns_subdomain
from glassnet.kube.kinds import RBAC

Obj = dict[str, Any]


def path_segment(name: str, path: str) -> Iterator[FieldError]:
    """Names of roles and bindings: anything that can stand in a URL, as in `system:node`."""
    if name in (".", ".."):
        yield invalid_value(path, name, f"may not be '{name}'")
    for sign in "/%":
        if sign in name:
            yield invalid_value(path, name, f"may not contain '{sign}'")


def role(obj: Obj) -> Iterator[FieldError]:
    """A Role: no paths that are no resources."""
    yield from _rules(obj, namespaced=True)


def cluster_role(obj: Obj) -> Iterator[FieldError]:
    """A ClusterRole."""
    yield from _rules(obj, namespaced=False)


def _rules(obj: Obj, namespaced: bool) -> Iterator[FieldError]:
    for index, rule in enumerate(obj.get("rules") or ()):
        path = f"rules[{index}]"
        if not rule.get("verbs"):
            yield required(f"{path}.verbs", "verbs must contain at least one value")
        if urls := rule.get("nonResourceURLs"):
            if namespaced:
                yield invalid_value(
                    f"{path}.nonResourceURLs", urls, "namespaced rules cannot apply to non-resource URLs"
                )
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                yield invalid_value(
                    f"{path}.nonResourceURLs",
                    urls,
                    "rules cannot apply to both regular resources and non-resource URLs",
                )
            continue
        if not rule.get("apiGroups"):
            yield required(f"{path}.apiGroups", "resource rules must supply at least one api group")
        if not rule.get("resources"):
            yield required(f"{path}.resources", "resource rules must supply at least one resource")


def binding(obj: Obj) -> Iterator[FieldError]:
    """A RoleBinding or, where there is no namespace, a ClusterRoleBinding."""
    ref = obj.get("roleRef") or {}
    choices = ("ClusterRole", "Role") if (obj.get("metadata") or {}).get("namespace") else ("ClusterRole",)
    if ref.get("apiGroup") != RBAC:
        yield not_supported("roleRef.apiGroup", ref.get("apiGroup", ""), (RBAC,))
    if ref.get("kind") not in choices:
        yield not_supported("roleRef.kind", ref.get("kind", ""), choices)
    if not ref.get("name"):
        yield required("roleRef.name")
    else:
        yield from path_segment(ref["name"], "roleRef.name")
    for index, subject in enumerate(obj.get("subjects") or ()):
        yield from _subject(subject, f"subjects[{index}]")


def _subject(subject: Obj, path: str) -> Iterator[FieldError]:
    name, kind, group = subject.get("name") or "", subject.get("kind") or "", subject.get("apiGroup") or ""
    if not name:
        yield required(f"{path}.name")
    if kind == "ServiceAccount":
        if name:
            yield from dns_subdomain(name, f"{path}.name")
        if group:
            yield not_supported(f"{path}.apiGroup", group, ("",))
        if not subject.get("namespace"):
            yield required(f"{path}.namespace")
    elif kind in ("User", "Group"):
        if group != RBAC:
            yield not_supported(f"{path}.apiGroup", group, (RBAC,))
    else:
        yield not_supported(f"{path}.kind", kind, ("ServiceAccount", "User", "Group"))


def binding_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    """A binding keeps its role."""
    if new.get("roleRef") != old.get("roleRef"):
        yield invalid_value("roleRef", new.get("roleRef"), "cannot change roleRef")
