"""Small controllers of the cluster itself: pod CIDRs for nodes, each namespace's service account, evictions by taints, lost pods."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Network

from glassnet.controllers import placement
from glassnet.controllers.result import NOTHING, Result, record
from glassnet.kube import kinds
from glassnet.kube.change import Change, Create, Delete, Patch
from glassnet.kube.view import Key, View


def pod_cidr(view: View, key: Key, cluster_cidr: str, mask: int) -> Result:
    """A pod CIDR for a node that has none: the first free range of the cluster's."""
    node = view.nodes.get(key)
    if node is None or node.spec.pod_cidr:
        return NOTHING
    taken = {other.spec.pod_cidr for other in view.nodes.values()}
    for network in IPv4Network(cluster_cidr).subnets(new_prefix=mask):
        if str(network) not in taken:
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
    """Pods that a NoExecute taint of their node drives away, at once or when their patience ends."""
    node = view.nodes.get(key)
    if node is None:
        return NOTHING
    changes: list[Change] = []
    waits: list[float] = []
    for taint in (t for t in node.spec.taints if t.effect == "NoExecute"):
        for pod in view.pods_on(key.name):
            if pod.metadata.deletion_timestamp or pod.finished():
                continue
            covering = [t for t in pod.spec.tolerations if placement.tolerates(t, taint)]
            seconds = min((t.toleration_seconds for t in covering if t.toleration_seconds is not None), default=None)
            if not covering:
                changes.append(Delete(kinds.POD, pod.metadata.namespace, pod.metadata.name, pod.metadata.uid))
            elif seconds is not None:
                waits.append(float(seconds))
    return Result(changes, min(waits, default=None))


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
