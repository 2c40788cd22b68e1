"""What a client asks of the API, recorded, and what roles allow: a served API that does as RBAC says for service accounts.

    guard = Guard()
    api = ServedApi(directory, authorize=guard)
    api.run("apply", "-k", ...)                                     # the manifests with roles and bindings
    guard.bind(read_rights(render(directory of the kustomization, api.kubectl)))
    path = account_kubeconfig(api, "NAMESPACE", "NAME")             # what the program under test gets
    ...
    assert not guard.refused and guard.unused("system:serviceaccount:NAMESPACE:NAME") == set()

Source: Kubernetes documentation, "Using RBAC Authorization".
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from aiohttp import web

from glassnet.apiserver import auth
from glassnet.apiserver.auth import Attributes, User
from glassnet.net.errors import ApiError
from served_api import ServedApi


class Right(NamedTuple):
    """One verb on one resource; `namespace` "" means everywhere, `name` "" each object."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def allows(self, wanted: Attributes) -> bool:
        resource = f"{wanted.resource}/{wanted.subresource}" if wanted.subresource else wanted.resource
        return (
            (self.verb, self.group, self.resource) == (wanted.verb, wanted.group, resource)
            and self.namespace in ("", wanted.namespace)
            and self.name in ("", wanted.name)
        )


def render(directory: Path, kubectl: str) -> list[dict[str, Any]]:
    """The manifests of a kustomization."""
    text = subprocess.run([kubectl, "kustomize", str(directory)], capture_output=True, text=True, check=True, timeout=30).stdout  # fmt: skip
    return [each for each in yaml.safe_load_all(text) if each]


def read_rights(manifests: list[dict[str, Any]]) -> dict[str, set[Right]]:
    """User name -> what its bindings give it. Wildcards are not understood, as none should be there."""
    roles = {(m["kind"], m["metadata"].get("namespace", ""), m["metadata"]["name"]): m.get("rules") or [] for m in manifests if m["kind"] in ("Role", "ClusterRole")}  # fmt: skip
    found: dict[str, set[Right]] = {}
    for manifest in manifests:
        if manifest["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        namespace, ref = manifest["metadata"].get("namespace", ""), manifest["roleRef"]
        rules = roles[ref["kind"], namespace if ref["kind"] == "Role" else "", ref["name"]]
        for subject in manifest["subjects"]:
            user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
            found.setdefault(user, set()).update(_expanded(rules, namespace))
    return found


def _expanded(rules: list[dict[str, Any]], namespace: str) -> set[Right]:
    words = [word for rule in rules for part in rule.values() for word in part]
    assert "*" not in words, "a wildcard is no least privilege"
    return {
        Right(verb, group, resource, namespace, name)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
    }


class Guard:
    """An authorizer that records. Users with rights bound get these alone, all others what the server gives them.

    Streaming lists are refused as servers before 1.32 refuse them: who may only watch would do without lists here, and fail there.
    """

    def __init__(self) -> None:
        self._rights: dict[str, set[Right]] = {}
        self.requests: list[tuple[str, Attributes]] = []
        self.refused: list[tuple[str, Attributes]] = []

    def bind(self, rights: dict[str, set[Right]]) -> None:
        """From now on these users have these rights."""
        self._rights.update(rights)

    def __call__(self, user: User, request: web.Request) -> None:
        wanted = auth.attributes(request)
        if user.name not in self._rights or wanted is None:
            auth.authorize(user, request)
            return
        if "sendInitialEvents" in request.query:
            raise ApiError(422, "Invalid", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")  # fmt: skip
        self.requests.append((user.name, wanted))
        if not any(right.allows(wanted) for right in self._rights[user.name]):
            self.refused.append((user.name, wanted))
            raise auth.forbidden(user, wanted)

    def unused(self, user: str) -> set[Right]:
        """Rights that nobody needed."""
        asked = [wanted for name, wanted in self.requests if name == user]
        return {right for right in self._rights[user] if not any(right.allows(wanted) for wanted in asked)}


def account_kubeconfig(api: ServedApi, namespace: str, name: str) -> Path:
    """A kubeconfig with a token of a service account."""
    body = yaml.safe_load((api.directory / "kubeconfig").read_text())
    token = api.run("-n", namespace, "create", "token", name).strip()
    body["users"] = [{"name": each["name"], "user": {"token": token}} for each in body["users"]]
    path = api.directory / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(body))
    return path
