"""What a controller answers, and the small words all of them share."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any, NamedTuple

from glassnet.kube.change import Change, Patch, Record
from glassnet.kube.kinds import Kind
from glassnet.kube.types import Condition, Meta

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class Result(NamedTuple):
    """Changes to carry out, and in how many seconds to look again in any case (None: only when something happens)."""

    changes: list[Change]
    after: float | None = None


NOTHING = Result([])


def owner_reference(kind: Kind, meta: Meta) -> dict[str, Any]:
    """A controller's ownerReference to one of its owner's objects."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def reference(kind: Kind, meta: Meta) -> dict[str, Any]:
    """An ObjectReference for Events."""
    return {
        "kind": kind.name,
        "apiVersion": kind.api_version,
        "namespace": meta.namespace,
        "name": meta.name,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
    }


def record(kind: Kind, meta: Meta, reason: str, message: str, source: str, type: str = "Normal") -> Record:
    """An Event about an object."""
    return Record(reference(kind, meta), type, reason, message, source)


def template_hash(template: dict[str, Any], collisions: int = 0) -> str:
    """A short, stable name for a pod template, in Kubernetes' safe alphabet (no vowels, no look-alikes)."""
    text = json.dumps(template, sort_keys=True) + (str(collisions) if collisions else "")
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    out = ""
    for _ in range(10):
        number, digit = divmod(number, len(_ALPHABET))
        out += _ALPHABET[digit]
    return out


def time_text(moment: datetime) -> str:
    """A time as the API writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(
    old: tuple[Condition, ...], type: str, status: str, reason: str, message: str, now: datetime, touch: bool = False
) -> dict[str, Any]:
    """A condition as dict; its transition time moves only with its status, its update time also with `touch` or another reason."""
    before = next((c for c in old if c.type == type), None)
    moved = now if before is None or before.status != status else before.last_transition_time or now
    out = {"type": type, "status": status, "reason": reason, "message": message, "lastTransitionTime": time_text(moved)}
    if touch or before is None or (before.status, before.reason) != (status, reason):
        out["lastUpdateTime"] = time_text(now)
    elif before.last_update_time is not None:
        out["lastUpdateTime"] = time_text(before.last_update_time)
    return out


def status_patch(
    kind: Kind, meta: Meta, old: Any, new: dict[str, Any], keep_zero: tuple[str, ...] = ("replicas",)
) -> list[Change]:
    """A status patch of the fields that differ from `old` (a struct with snake_case fields); zeros are left out as the API does."""
    changed: dict[str, Any] = {}
    for name, value in new.items():
        snake = "".join("_" + c.lower() if c.isupper() else c for c in name)
        if getattr(old, snake, None) != value:
            changed[name] = None if value == 0 and name not in keep_zero and not isinstance(value, bool) else value
    return [Patch(kind, meta.namespace, meta.name, {"status": changed}, "status")] if changed else []


def same_conditions(old: tuple[Condition, ...], new: list[dict[str, Any]]) -> bool:
    """True when two lists of conditions say the same and were last updated at the same times; transitions aside."""
    mine = {(c.type, c.status, c.reason, c.message, _update_time(c)) for c in old}
    return mine == {
        (c["type"], c["status"], c.get("reason", ""), c.get("message", ""), c.get("lastUpdateTime")) for c in new
    }


def _update_time(condition: Condition) -> str | None:
    return time_text(condition.last_update_time) if condition.last_update_time else None
