"""The Kubernetes API as the agent's loops see it: the embedded server in-process, or a remote one, behind one Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from glassnet.kube.kinds import Kind


class Api(Protocol):
    """Verbs on API objects. Objects are JSON-like dicts. Every method raises `ApiError` for an answer that is not success."""

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """Return one object; `namespace` is "" for cluster-scoped kinds."""

    async def list(
        self, kind: Kind, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> list[dict[str, Any]]:
        """Return all objects of a kind; `namespace` "" means every namespace."""

    async def create(
        self, kind: Kind, namespace: str, body: Mapping[str, Any], subresource: str = "", name: str = ""
    ) -> dict[str, Any]:
        """Create an object (or post to a subresource such as binding or eviction of `name`)."""

    async def update(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        """Replace an object."""

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Any,
        subresource: str = "",
        content_type: str = "application/merge-patch+json",
        field_manager: str = "",
        force: bool = False,
    ) -> dict[str, Any]:
        """Patch an object; `content_type` chooses JSON, merge, strategic merge or apply."""

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        uid: str = "",
        grace: int | None = None,
        propagation: str = "Background",
    ) -> dict[str, Any]:
        """Delete an object, or start its deletion when finalizers or grace hold it."""
