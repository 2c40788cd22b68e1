"""What admission adds to objects: the plug-ins every cluster runs with (ServiceAccount, DefaultTolerationSeconds, Priority)."""

from __future__ import annotations

from typing import Any

from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

_TOLERATED = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def mutate(kind: Kind, obj: dict[str, Any]) -> None:
    """Fill in place; idempotent."""
    if kind is not kinds.POD:
        return
    spec = obj["spec"]
    if not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = "default"
    spec["serviceAccount"] = spec["serviceAccountName"]
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = list(spec.get("tolerations") or [])
    for key in _TOLERATED:
        if not any(t.get("key", key) == key and t.get("effect", "NoExecute") == "NoExecute" for t in tolerations):
            tolerations.append({"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": 300})
    spec["tolerations"] = tolerations
