"""What of the API objects goes into a snapshot: what the network is made of, without anything secret."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Plural kinds that are kept. Secrets, ConfigMaps and ServiceAccounts never are.
KEPT = (
    "nodes", "namespaces", "pods", "services", "endpointslices", "endpoints", "deployments", "replicasets", "statefulsets", "daemonsets",
    "networkpolicies", "ingresses", "ingressclasses", "servicecidrs",
)  # fmt: skip
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def redacted(item: dict[str, Any]) -> dict[str, Any]:
    """A copy of an object without managed fields, without the copy of the manifest that kubectl keeps, and without values of environment variables."""
    meta = {name: value for name, value in item.get("metadata", {}).items() if name != "managedFields"}
    if _LAST_APPLIED in meta.get("annotations", {}):
        meta["annotations"] = {name: value for name, value in meta["annotations"].items() if name != _LAST_APPLIED}
    found = {**item, "metadata": meta}
    spec = item.get("spec")
    if isinstance(spec, dict):
        if "containers" in spec:
            found["spec"] = _pod_spec(spec)
        elif isinstance(spec.get("template"), dict) and isinstance(spec["template"].get("spec"), dict):
            found["spec"] = {**spec, "template": {**spec["template"], "spec": _pod_spec(spec["template"]["spec"])}}
    return found


def _pod_spec(spec: dict[str, Any]) -> dict[str, Any]:
    found = dict(spec)
    for group in ("containers", "initContainers", "ephemeralContainers"):
        if isinstance(spec.get(group), list):
            found[group] = [_container(each) for each in spec[group]]
    return found


def _container(each: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(each, dict) or not each.get("env"):
        return each
    return {**each, "env": [{"name": e.get("name"), "value": "(left out)"} if "value" in e else e for e in each["env"]]}


def pods_by_address(pods: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Address -> `namespace_name` of running pods with a network of their own: how folders of a snapshot are named."""
    found = {}
    for pod in pods:
        status = pod.get("status", {})
        if pod.get("spec", {}).get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
            continue
        meta = pod["metadata"]
        for text in [item.get("ip", "") for item in status.get("podIPs") or ()] or [status.get("podIP", "")]:
            if text:
                found[text] = f"{meta.get('namespace', 'default')}_{meta['name']}"
    return found
