"""What the default admission plugins of an API server add to new pods, and a pod's quality-of-service class.

Sources: Kubernetes documentation, "Admission Controllers" (Priority, ServiceAccount, DefaultTolerationSeconds) and
"Pod Quality of Service Classes".
"""

from __future__ import annotations

from typing import Any

from glassnet.apiserver.schema.quantity import amount

Obj = dict[str, Any]
_UNREACHABLE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def admit_pod(obj: Obj) -> None:
    """Priority 0, the `default` service account and five minutes' patience with lost nodes, in place."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = account
    tolerations = list(spec.get("tolerations") or [])
    for key in _UNREACHABLE:
        if not any(_tolerates(toleration, key) for toleration in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    spec["tolerations"] = tolerations


def _tolerates(toleration: Obj, key: str) -> bool:
    return toleration.get("key") in (None, "", key) and toleration.get("effect") in (None, "", "NoExecute")


def qos_class(spec: Obj) -> str:
    """Guaranteed, Burstable or BestEffort."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    asked = [_asked(container) for container in containers]
    if not any(requests or limits for requests, limits in asked):
        return "BestEffort"
    full = all({"cpu", "memory"} <= limits.keys() and requests == limits for requests, limits in asked)
    return "Guaranteed" if full else "Burstable"


def _asked(container: Obj) -> tuple[Obj, Obj]:
    resources = container.get("resources") or {}
    limits = _positive(resources.get("limits") or {})
    return {**limits, **_positive(resources.get("requests") or {})}, limits


def _positive(values: Obj) -> Obj:
    amounts = {name: amount(value) for name, value in values.items() if name in ("cpu", "memory")}
    return {name: value for name, value in amounts.items() if value}
