"""Small controllers of the cluster itself: pod CIDRs for nodes, each namespace's service account, evictions by taints, lost pods."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Network

from glassnet.controllers import placement
from glassnet.controllers.result import NOTHING, Result, record, time_text
from glassnet.kube import kinds
from glassnet.kube.change import Change, Create, Delete, Patch
from glassnet.kube.types import Node, Pod, Taint
from glassnet.kube.view import Key, View


def pod_cidr(view: View, key: Key, cluster_cidr: str, mask: int) -> Result:
    """A pod CIDR for a node that has none: the first free range of the cluster's; none where `cluster_cidr` is ""."""
    node = view.nodes.get(key)
    if node is None or node.spec.pod_cidr or not cluster_cidr:
        return NOTHING
    taken = {IPv4Network(other.spec.pod_cidr) for other in view.nodes.values() if other.spec.pod_cidr}
    odd = [network for network in taken if network.prefixlen != mask]
    for network in IPv4Network(cluster_cidr).subnets(new_prefix=mask):
        if network not in taken and not any(network.overlaps(other) for other in odd):
            return Result(
                [Patch(kinds.NODE, "", key.name, {"spec": {"podCIDR": str(network), "podCIDRs": [str(network)]}})]
            )
    text = f"Node {key.name} status is now: CIDRNotAvailable: {cluster_cidr} has no free /{mask} range"
    return Result([record(kinds.NODE, node.metadata, "CIDRNotAvailable", text, "cidrAllocator", "Warning")])


def service_account(view: View, key: Key, ca_pem: str) -> Result:
    """The service account `default` and the authority's certificate in every namespace."""
    namespace = view.namespaces.get(key)
    if namespace is None or namespace.metadata.deletion_timestamp:
        return NOTHING
    changes: list[Change] = []
    if view.get(kinds.SERVICE_ACCOUNT, Key(key.name, "default")) is None:
        changes.append(Create(kinds.SERVICE_ACCOUNT, key.name, {"metadata": {"name": "default"}}))
    if ca_pem and view.get(kinds.CONFIG_MAP, Key(key.name, "kube-root-ca.crt")) is None:
        changes.append(
            Create(kinds.CONFIG_MAP, key.name, {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ca_pem}})
        )
    return Result(changes)


def evict(view: View, key: Key, now: datetime) -> Result:
    """Pods that a NoExecute taint of their node drives away, at once or when their patience ends.

    Patience counts from the taint's timeAdded; a taint that came without it is given one.
    """
    node = view.nodes.get(key)
    if node is None:
        return NOTHING
    changes: list[Change] = []
    waits: list[float] = []
    undated = False
    for taint in (t for t in node.spec.taints if t.effect == "NoExecute"):
        for pod in view.pods_on(key.name):
            if pod.metadata.deletion_timestamp or pod.finished():
                continue
            patience = _patience(pod, taint)
            if patience is None:
                continue
            left = patience - (now - (taint.time_added or now)).total_seconds()
            if left <= 0:
                changes += _driven_out(pod)
            else:
                waits.append(left)
                undated = undated or taint.time_added is None
    if undated:
        changes.append(_dated(node, now))
    return Result(changes, min(waits, default=None))


def _patience(pod: Pod, taint: Taint) -> float | None:
    """For how many seconds a pod bears a taint: 0 without a toleration, None for ever."""
    covering = [t for t in pod.spec.tolerations if placement.tolerates(t, taint)]
    if not covering:
        return 0.0
    limits = [t.toleration_seconds for t in covering if t.toleration_seconds is not None]
    return float(max(0, min(limits))) if limits else None


def _driven_out(pod: Pod) -> list[Change]:
    meta = pod.metadata
    text = f"Marking for deletion Pod {meta.namespace}/{meta.name}"
    return [
        record(kinds.POD, meta, "TaintManagerEviction", text, "taint-eviction-controller"),
        Delete(kinds.POD, meta.namespace, meta.name, meta.uid),
    ]


def _dated(node: Node, now: datetime) -> Patch:
    taints = [
        {
            "key": t.key,
            "effect": t.effect,
            **({"value": t.value} if t.value else {}),
            **({"timeAdded": time_text(t.time_added or now)} if t.effect == "NoExecute" or t.time_added else {}),
        }
        for t in node.spec.taints
    ]
    return Patch(
        kinds.NODE,
        "",
        node.metadata.name,
        {"spec": {"taints": taints}},
        resource_version=node.metadata.resource_version,
    )


def lost_pods(view: View, key: Key, now: datetime) -> Result:
    """Pods bound to a node that is no longer there."""
    if key in view.nodes:
        return NOTHING
    return Result(
        [
            Delete(kinds.POD, p.metadata.namespace, p.metadata.name, p.metadata.uid, grace=0)
            for p in list(view.pods_on(key.name))
        ]
    )
