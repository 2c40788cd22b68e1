"""What becomes of an object that is to be deleted: grace, finalizers, propagation. Pure: dict in, verdict out.

Source: Kubernetes documentation, "Garbage Collection", "Finalizers", "Pod Lifecycle / Termination".
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from glassnet.apiserver.request import DeleteOptions
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

Obj = dict[str, Any]
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


def stamp(moment: datetime) -> str:
    """A time as the API writes it: RFC 3339 in seconds, UTC."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def on_delete(kind: Kind, obj: Obj, options: DeleteOptions, now: datetime) -> Literal["remove", "update", "keep"]:
    """Mark `obj` for deletion in place. "remove": it goes now; "update": it is stored as marked; "keep": nothing changed."""
    metadata = obj["metadata"]
    changed = _set_finalizers(metadata, options.propagation or _default_propagation(kind, metadata))
    if kind is kinds.NAMESPACE:
        if not (obj.get("spec") or {}).get("finalizers") and not metadata.get("finalizers"):
            return "remove"
        if not metadata.get("deletionTimestamp"):
            metadata["deletionTimestamp"] = stamp(now)
            obj.setdefault("status", {})["phase"] = "Terminating"
            changed = True
        return "update" if changed else "keep"
    grace = _grace(kind, obj, options)
    if metadata.get("deletionTimestamp"):
        current = metadata.get("deletionGracePeriodSeconds") or 0
        if grace < current:
            start = datetime.fromisoformat(metadata["deletionTimestamp"].replace("Z", "+00:00")) - timedelta(
                seconds=current
            )
            metadata["deletionTimestamp"] = stamp(start + timedelta(seconds=grace))
            metadata["deletionGracePeriodSeconds"] = grace
            changed = True
        if grace == 0 and not metadata.get("finalizers"):
            return "remove"
        return "update" if changed else "keep"
    if grace == 0 and not metadata.get("finalizers"):
        return "remove"
    metadata["deletionTimestamp"] = stamp(now + timedelta(seconds=grace))
    metadata["deletionGracePeriodSeconds"] = grace
    if "generation" in metadata:
        metadata["generation"] += 1
    return "update"


def may_go(kind: Kind, obj: Obj) -> bool:
    """True when a marked object has nothing left that holds it."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if kind is kinds.NAMESPACE:
        return not (obj.get("spec") or {}).get("finalizers")
    return not metadata.get("deletionGracePeriodSeconds")


def _grace(kind: Kind, obj: Obj, options: DeleteOptions) -> int:
    """Only a pod that runs somewhere is given time."""
    if kind is not kinds.POD:
        return 0
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    if options.grace is not None:
        return options.grace if options.grace >= 0 else 1
    return int(spec.get("terminationGracePeriodSeconds", 30))


def _default_propagation(kind: Kind, metadata: Obj) -> str:
    """Jobs and ReplicationControllers leave their pods, as before there was garbage collection (their strategies)."""
    decided = {FOREGROUND, ORPHAN} & set(metadata.get("finalizers") or ())
    return "Orphan" if kind in (kinds.REPLICATION_CONTROLLER, kinds.JOB) and not decided else ""


def _set_finalizers(metadata: Obj, propagation: str) -> bool:
    if not propagation:
        return False
    before = list(metadata.get("finalizers") or [])
    after = [name for name in before if name not in (FOREGROUND, ORPHAN)]
    if propagation == "Foreground":
        after.append(FOREGROUND)
    elif propagation == "Orphan":
        after.append(ORPHAN)
    if after:
        metadata["finalizers"] = after
    else:
        metadata.pop("finalizers", None)
    return after != before
