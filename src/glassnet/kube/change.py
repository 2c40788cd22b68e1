"""Changes to API objects, as values: what a controller returns and the agent carries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glassnet.kube.kinds import Kind


@dataclass(frozen=True, slots=True)
class Record:
    """Record an Event about `regarding` (an ObjectReference as dict)."""

    regarding: Mapping[str, Any]
    type: str  # Normal | Warning
    reason: str
    message: str
    source: str


@dataclass(frozen=True, slots=True)
class Create:
    """Create `body` (a whole object as JSON-like dict; metadata.name or generateName set).

    `announce` is recorded once the object is there; "{name}" in its message becomes the name the server gave it.
    """

    kind: Kind
    namespace: str
    body: Mapping[str, Any]
    announce: Record | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """JSON merge patch (RFC 7386) of one object, with `strategic` a strategic merge patch; `subresource` "" or "status".

    With `resource_version` the server answers 409 when the object has moved on; the caller reconciles again.
    """

    kind: Kind
    namespace: str
    name: str
    body: Mapping[str, Any]
    subresource: str = ""
    resource_version: str = ""
    strategic: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one object; `uid` guards against deleting a namesake, `grace` is in seconds (None: the object's own)."""

    kind: Kind
    namespace: str
    name: str
    uid: str = ""
    grace: int | None = None
    propagation: str = "Background"


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind a pod to a node (the pods/binding subresource)."""

    namespace: str
    name: str
    uid: str
    node: str


Change = Create | Patch | Delete | Bind | Record
