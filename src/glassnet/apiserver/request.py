"""What a request carries besides its object: who asks, and how it wants to be treated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glassnet.apiserver.schema.errors import bad_request
from glassnet.net.errors import ApiError


@dataclass(slots=True)
class Request:
    """Options of one write. `manager` "" keeps no books of field ownership (the lab's own loops write so).

    `validation` is "Strict", "Warn" or "Ignore" (unknown fields); `warnings` collects texts for Warning headers, `duplicates` holds those of
    fields that the body has twice.
    """

    user: str = "system:glassnet"
    manager: str = ""
    dry_run: bool = False
    validation: str = "Ignore"
    force: bool = False
    warnings: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """Options of a delete; `grace` in seconds, None for the object's own."""

    uid: str = ""
    resource_version: str = ""
    grace: int | None = None
    propagation: str = ""


def delete_options(body: Mapping[str, Any]) -> tuple[DeleteOptions, bool]:
    """The meaning of a metav1.DeleteOptions object, and whether it asks for a dry run. Raises ApiError 400, 422."""
    preconditions, grace = body.get("preconditions") or {}, body.get("gracePeriodSeconds")
    if not isinstance(preconditions, Mapping) or isinstance(grace, bool) or not isinstance(grace, int | None):
        raise bad_request(
            "the object provided is unrecognized (must be of type DeleteOptions): preconditions is an object, gracePeriodSeconds a number"
        )
    uid, version = preconditions.get("uid") or "", preconditions.get("resourceVersion") or ""
    return DeleteOptions(str(uid), str(version), grace, _propagation(body)), dry_run(body.get("dryRun") or [])


def dry_run(values: Any) -> bool:
    """What `dryRun` says: a list of nothing but "All". Raises ApiError 400."""
    if not isinstance(values, list) or any(value != "All" for value in values):
        raise bad_request(f'dryRun: Unsupported value: {values!r}: supported values: "All"')
    return bool(values)


def _propagation(body: Mapping[str, Any]) -> str:
    found = body.get("propagationPolicy") or ""
    if not found and body.get("orphanDependents") is not None:
        return "Orphan" if body["orphanDependents"] else "Background"
    if found not in ("", "Background", "Foreground", "Orphan"):
        raise ApiError(
            422,
            "Invalid",
            f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "{found}": supported values: '
            '"Background", "Foreground", "Orphan"',
        )
    return str(found)
