"""What admission adds to objects: the plug-ins every cluster runs with (ServiceAccount, DefaultTolerationSeconds, Priority)."""

from __future__ import annotations

import hashlib
from typing import Any

from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

PLACE = "/var/run/secrets/kubernetes.io/serviceaccount"
EXPIRES = 3607  # seconds; upstream's number, by which the server tells tokens that admission asked for: they are good for a year
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
    if spec["serviceAccountName"] != "default" and spec.get("automountServiceAccountToken") is not False:
        _show_account(spec)


def _show_account(spec: dict[str, Any]) -> None:
    """Token, authority and namespace where a program in a pod looks for them.

    Upstream does so for the account `default`, too, which may do nothing; here its pods are spared the files.
    """
    containers = [*spec.get("containers", ()), *(spec.get("initContainers") or ())]
    lacking = [one for one in containers if not any(m.get("mountPath") == PLACE for m in one.get("volumeMounts") or ())]
    if not lacking:
        return
    name = "kube-api-access-" + hashlib.sha256(spec["serviceAccountName"].encode()).hexdigest()[:5]
    for container in lacking:
        container.setdefault("volumeMounts", []).append({"name": name, "mountPath": PLACE, "readOnly": True})
    volumes = spec.setdefault("volumes", [])
    if not any(volume.get("name") == name for volume in volumes):
        namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
        sources = [
            {"serviceAccountToken": {"expirationSeconds": EXPIRES, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ]
        volumes.append({"name": name, "projected": {"defaultMode": 0o644, "sources": sources}})
