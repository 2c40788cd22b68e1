"""The control plane: which event concerns which controller, and the loop that reconciles and writes.

The View it reads must be current with its own writes (the embedded server feeds it at each commit).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from glassnet.agent.changes import Writer
from glassnet.agent.workqueue import WorkQueue
from glassnet.controllers import (
    daemonset,
    deployment,
    endpoints,
    endpointslice,
    garbage,
    housekeeping,
    job,
    mirror,
    replicaset,
    scheduler,
    statefulset,
)
from glassnet.controllers.neighbours import wants_company
from glassnet.controllers.pods import key_of
from glassnet.controllers.result import Result
from glassnet.kube import kinds, selectors
from glassnet.kube.api import Api
from glassnet.kube.kinds import Kind
from glassnet.kube.types import Pod
from glassnet.kube.view import SERVICE_NAME_LABEL, Event, Key, View
from glassnet.net.errors import ApiError

log = logging.getLogger(__name__)
Item = tuple[str, Kind, Key, str]  # controller, kind, key, uid of something that has gone

_OWNERS: dict[tuple[str, str], tuple[str, Kind]] = {
    ("apps/v1", "ReplicaSet"): ("replicaset", kinds.REPLICA_SET),
    ("v1", "ReplicationController"): ("replicationcontroller", kinds.REPLICATION_CONTROLLER),
    ("apps/v1", "DaemonSet"): ("daemonset", kinds.DAEMON_SET),
    ("apps/v1", "StatefulSet"): ("statefulset", kinds.STATEFUL_SET),
    ("batch/v1", "Job"): ("job", kinds.JOB),
    ("apps/v1", "Deployment"): ("deployment", kinds.DEPLOYMENT),
}
_OWN: dict[Kind, tuple[str, ...]] = {
    kinds.DEPLOYMENT: ("deployment",),
    kinds.REPLICA_SET: ("replicaset",),
    kinds.REPLICATION_CONTROLLER: ("replicationcontroller",),
    kinds.DAEMON_SET: ("daemonset",),
    kinds.STATEFUL_SET: ("statefulset",),
    kinds.JOB: ("job",),
    kinds.SERVICE: ("endpointslice", "endpoints", "mirror"),
    kinds.NAMESPACE: ("namespace", "serviceaccount"),
    kinds.NODE: ("podcidr", "evict", "lostpods"),
}


class ControlPlane:
    """All controllers over one View and one Api. `run()` until cancelled; `idle()` tells when nothing waits."""

    def __init__(
        self,
        view: View,
        api: Api,
        *,
        cluster_cidr: str,
        now: Callable[[], datetime],
        node_mask: int = 24,
        ca_pem: str = "",
    ) -> None:
        self._view, self._api, self._now = view, api, now
        self._writer = Writer(api, now)
        self._queue: WorkQueue[Item] = WorkQueue()
        self._busy = False
        self._waiting: set[Key] = set()  # pods that no node took
        self._controllers: dict[str, Callable[[View, Key, datetime], Result]] = {
            "deployment": deployment.reconcile,
            "replicaset": replicaset.reconcile,
            "replicationcontroller": replicaset.reconcile_controller,
            "daemonset": daemonset.reconcile,
            "statefulset": statefulset.reconcile,
            "job": job.reconcile,
            "endpointslice": endpointslice.reconcile,
            "endpoints": endpoints.reconcile,
            "mirror": mirror.reconcile,
            "scheduler": scheduler.reconcile,
            "namespace": garbage.namespace,
            "serviceaccount": lambda view, key, _: housekeeping.service_account(view, key, ca_pem),
            "podcidr": lambda view, key, _: housekeeping.pod_cidr(view, key, cluster_cidr, node_mask),
            "evict": housekeeping.evict,
            "lostpods": housekeeping.lost_pods,
        }
        self._unsubscribe = view.subscribe(self._on_event)

    def idle(self) -> bool:
        """True when no work waits and none is being done."""
        return self._queue.empty() and not self._busy

    async def run(self) -> None:
        """Reconcile, one item after the other, until cancelled."""
        try:
            while True:
                item = await self._queue.get()
                self._busy = True
                await self._reconcile(item)
                self._busy = False
                await asyncio.sleep(0)
        finally:
            self._unsubscribe()
            self._queue.close()

    async def _reconcile(self, item: Item) -> None:
        name, kind, key, uid = item
        try:
            result = self._result(name, kind, key, uid)
            for change in result.changes:
                await self._writer.carry_out(change)
            if name == "namespace" and result.after is not None:
                await self._api.update(
                    kinds.NAMESPACE,
                    "",
                    key.name,
                    {"metadata": {"name": key.name}, "spec": {"finalizers": []}},
                    "finalize",
                )
            elif result.after is not None:
                self._queue.add_after(item, result.after)
            self._queue.done(item)
        except ApiError as error:
            if error.status not in (404, 409):
                log.warning("%s %s: %s", name, key, error)
            if error.status == 404:  # what it was about has gone; its going was an event of its own
                self._queue.done(item)
            else:
                self._queue.failed(item)
        except Exception:
            log.exception("%s %s", name, key)
            self._queue.failed(item)

    def _result(self, name: str, kind: Kind, key: Key, uid: str) -> Result:
        if name == "gone":
            return garbage.owner_gone(self._view, kind, key, uid)
        if name == "orphaned":
            return garbage.orphaned(self._view, kind, key)
        if name == "finalizing":
            return garbage.finalizing(self._view, kind, key)
        result = self._controllers[name](self._view, key, self._now())
        if name == "scheduler":
            pod = self._view.pods.get(key)
            (self._waiting.add if pod and not pod.spec.node_name else self._waiting.discard)(key)
        return result

    # -- events

    def _on_event(self, event: Event) -> None:
        add = self._queue.add
        obj = event.new or event.old
        for name in _OWN.get(event.kind, ()):
            add((name, event.kind, event.key, ""))
        for ref in obj.metadata.owner_references:
            if found := _OWNERS.get((ref.api_version, ref.kind)):
                add((found[0], found[1], Key(event.key.namespace, ref.name), ""))
        self._garbage(event, obj)
        if event.kind is kinds.POD:
            self._on_pod(event)
        elif event.kind is kinds.NODE:
            self._on_node(event)
        elif event.kind is kinds.ENDPOINT_SLICE and (service := obj.metadata.labels.get(SERVICE_NAME_LABEL)):
            if event.type == "DELETED" or event.old is not None:
                for name in ("endpointslice", "mirror"):
                    add((name, kinds.SERVICE, Key(event.key.namespace, service), ""))
        elif event.kind is kinds.ENDPOINTS:
            add(("mirror", kinds.SERVICE, event.key, ""))
            if event.old is not None:
                add(("endpoints", kinds.SERVICE, event.key, ""))
        elif event.kind in (kinds.SERVICE_ACCOUNT, kinds.CONFIG_MAP) and event.type == "DELETED":
            add(("serviceaccount", kinds.NAMESPACE, Key("", event.key.namespace), ""))

    def _garbage(self, event: Event, obj: Any) -> None:
        add = self._queue.add
        if event.type == "DELETED":
            if self._view.owned_by(obj.metadata.uid):
                add(("gone", event.kind, event.key, obj.metadata.uid))
            namespace = self._view.namespaces.get(Key("", event.key.namespace))
            if namespace is not None and namespace.metadata.deletion_timestamp:
                add(("namespace", kinds.NAMESPACE, Key("", event.key.namespace), ""))
        elif event.type == "ADDED" and obj.metadata.owner_references:
            add(("orphaned", event.kind, event.key, ""))
        if event.type != "DELETED" and obj.metadata.deletion_timestamp and obj.metadata.finalizers:
            add(("finalizing", event.kind, event.key, ""))
            return
        if event.type in ("DELETED", "MODIFIED"):
            for ref in obj.metadata.owner_references:
                kind = kinds.BY_API_KIND.get((ref.api_version, ref.kind))
                if kind:
                    owner = self._view.get(kind, Key(event.key.namespace if kind.namespaced else "", ref.name))
                    if owner is not None and owner.metadata.deletion_timestamp:
                        add(("finalizing", kind, key_of(owner), ""))

    def _on_pod(self, event: Event) -> None:
        old, new = event.old, event.new
        if new is not None and not new.spec.node_name:
            if (
                old is None
                or new.spec != old.spec
                or new.metadata.deletion_timestamp != old.metadata.deletion_timestamp
            ):
                self._queue.add(("scheduler", kinds.POD, event.key, ""))
        else:
            self._waiting.discard(event.key)
        if new is None or (new.finished() and not (old and old.finished())):
            self._retry_unscheduled()
        elif new.spec.node_name and (old is None or not old.spec.node_name):
            self._on_bound(new)
        if (
            new is not None
            and new.metadata.controller() is None
            and (old is None or old.metadata.labels != new.metadata.labels or old.metadata.controller() is not None)
        ):
            self._offer(new)
        if old is None or new is None or _face(old) != _face(new):
            for service in self._services_of(old, new):
                for name in ("endpointslice", "endpoints"):
                    self._queue.add((name, kinds.SERVICE, service, ""))

    def _on_bound(self, pod: Pod) -> None:
        """A pod came to a node: others may have waited for its company, and the node may not bear it."""
        for key in self._waiting:
            other = self._view.pods.get(key)
            if other is not None and wants_company(other):
                self._queue.add(("scheduler", kinds.POD, key, ""))
        node = self._view.nodes.get(Key("", pod.spec.node_name))
        if node is not None and any(taint.effect == "NoExecute" for taint in node.spec.taints):
            self._queue.add(("evict", kinds.NODE, key_of(node), ""))

    def _services_of(self, *pods: Pod | None) -> Iterable[Key]:
        found: dict[Key, None] = {}
        for pod in pods:
            if pod is not None:
                for service in self._view.services_selecting(pod.metadata.namespace, pod.metadata.labels):
                    found[key_of(service)] = None
        return found

    def _offer(self, pod: Pod) -> None:
        """An orphan: whoever's selector matches may adopt it."""
        for name, kind in _OWNERS.values():
            if kind is kinds.DEPLOYMENT:
                continue
            for owner in self._view.all(kind, pod.metadata.namespace):
                if selectors.matches(selectors.of(owner.spec.selector), pod.metadata.labels):
                    self._queue.add((name, kind, key_of(owner), ""))

    def _on_node(self, event: Event) -> None:
        old, new = event.old, event.new
        if old is not None and new is not None and _place(old) == _place(new):
            return
        for key in self._view.daemon_sets:
            self._queue.add(("daemonset", kinds.DAEMON_SET, key, ""))
        self._retry_unscheduled()

    def _retry_unscheduled(self) -> None:
        for key in list(self._waiting):
            self._queue.add(("scheduler", kinds.POD, key, ""))


def _face(pod: Pod) -> tuple[Any, ...]:
    """What of a pod a Service's endpoints show."""
    return (
        pod.metadata.labels,
        pod.status.pod_ip,
        pod.ready(),
        pod.metadata.deletion_timestamp is None,
        pod.finished(),
        pod.spec.node_name,
    )


def _place(node: Any) -> tuple[Any, ...]:
    """What of a node decides about placing pods."""
    ready = any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)
    return node.metadata.labels, node.spec.taints, node.spec.unschedulable, ready
