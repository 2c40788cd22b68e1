"""May a pod run on a node? Selectors, affinity, taints. Source: Kubernetes documentation, "Assigning Pods to Nodes", "Taints and Tolerations"."""

from __future__ import annotations

from typing import Any

from glassnet.kube import selectors
from glassnet.kube.selectors import Requirement
from glassnet.kube.types import Node, Pod, Taint, Toleration

UNSCHEDULABLE = Taint("node.kubernetes.io/unschedulable", "NoSchedule")
NOT_READY = Taint("node.kubernetes.io/not-ready", "NoSchedule")


def fits(pod: Pod, node: Node, ignore_unschedulable: bool = False) -> bool:
    """Selector, required affinity and taints, nothing that depends on other pods."""
    return selected(pod, node) and untolerated(pod, node, ignore_unschedulable) is None


def selected(pod: Pod, node: Node) -> bool:
    """True when nodeSelector and required node affinity match."""
    labels = node.metadata.labels
    if any(labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    required = ((pod.spec.affinity or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return required is None or any(_term(term, node) for term in required.get("nodeSelectorTerms") or ())


def preference(pod: Pod, node: Node) -> int:
    """Sum of the weights of preferred node affinity terms that match."""
    preferred = ((pod.spec.affinity or {}).get("nodeAffinity") or {}).get(
        "preferredDuringSchedulingIgnoredDuringExecution"
    ) or ()
    return sum(entry.get("weight", 1) for entry in preferred if _term(entry.get("preference") or {}, node))


def _term(term: dict[str, Any], node: Node) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(requirement(e).matches(node.metadata.labels) for e in expressions) and all(
        requirement(f).matches({"metadata.name": node.metadata.name}) for f in fields
    )


def requirement(entry: dict[str, Any]) -> Requirement:
    """A selector requirement from its JSON form."""
    return Requirement(entry["key"], entry["operator"], frozenset(entry.get("values") or ()))


def pinned_node(pod: Pod) -> str:
    """The one node a DaemonSet's pod is meant for, "" otherwise."""
    required = ((pod.spec.affinity or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and len(field.get("values") or ()) == 1:
                return str(field["values"][0])
    return ""


def untolerated(
    pod: Pod, node: Node, ignore_unschedulable: bool = False, effects: tuple[str, ...] = ("NoSchedule", "NoExecute")
) -> Taint | None:
    """The first taint of one of `effects` that keeps the pod off the node, or None."""
    taints = list(node.spec.taints)
    if node.spec.unschedulable and not ignore_unschedulable:
        taints.append(UNSCHEDULABLE)
    for taint in taints:
        if taint.effect in effects and not any(tolerates(t, taint) for t in pod.spec.tolerations):
            return taint
    return None


def ready(node: Node) -> bool:
    """True when the node's Ready condition is "True"."""
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """True when a toleration covers a taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or (bool(toleration.key) and toleration.value == taint.value)


def label_selector(entry: dict[str, Any] | None) -> selectors.Selector:
    """A label selector from its JSON form; None selects nothing."""
    if entry is None:
        return (Requirement("", "In"),)
    exact = tuple(
        Requirement(key, "In", frozenset((value,))) for key, value in (entry.get("matchLabels") or {}).items()
    )
    return exact + tuple(requirement(e) for e in entry.get("matchExpressions") or ())
