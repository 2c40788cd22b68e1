"""The View: all API objects glassnet's logic looks at, indexed, in one place.

An informer (or the embedded server, in-process) feeds it through `apply`; pure functions read it. Objects in it are
frozen; only `apply` changes the maps, and never while a pure function runs (both live in one event loop's thread).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.selectors import Selector, matches
from glassnet.kube.types import (
    Data,
    Endpoints,
    EndpointSlice,
    Job,
    Namespace,
    Node,
    Pod,
    ReplicationController,
    Service,
    Workload,
)

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class Key(NamedTuple):
    """Namespace ("" for cluster-scoped kinds) and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Event(NamedTuple):
    """One change of the View: `old` is None for ADDED, `new` is None for DELETED."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    kind: Kind
    key: Key
    old: Any
    new: Any


class View:
    """Objects by kind and key, with the indexes that controllers and the proxy need.

    Reading methods return live iterables over frozen objects; copy before awaiting.
    """

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[Key, Any]] = {kind: {} for kind in kinds.ALL}
        self._by_namespace: dict[tuple[Kind, str], dict[Key, Any]] = {}
        self._pods_by_node: dict[str, dict[Key, Pod]] = {}
        self._pods_apart: dict[str, dict[Key, Pod]] = {}
        self._pods_by_label: dict[tuple[str, str, str], dict[Key, Pod]] = {}
        self._services_by_label: dict[tuple[str, str, str], dict[Key, Service]] = {}
        self._slices_by_service: dict[Key, dict[Key, EndpointSlice]] = {}
        self._by_owner: dict[str, dict[tuple[Kind, Key], Any]] = {}
        self._listeners: list[Callable[[Event], None]] = []

    # -- writing

    def subscribe(self, listener: Callable[[Event], None], replay: bool = True) -> Callable[[], None]:
        """Call `listener` for every later Event (and first, with `replay`, an ADDED one per object held). Returns the un-subscriber."""
        if replay:
            for kind, objects in self._objects.items():
                for key, obj in list(objects.items()):
                    listener(Event("ADDED", kind, key, None, obj))
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def apply(self, kind: Kind, obj: Any, deleted: bool = False) -> None:
        """Take in one object as the API last showed it; `deleted` removes it. Tells every listener."""
        key = Key(obj.metadata.namespace, obj.metadata.name)
        objects = self._objects[kind]
        old = objects.get(key)
        if deleted and old is None:
            return
        if old is not None:
            self._unindex(kind, key, old)
        if deleted:
            del objects[key]
            event = Event("DELETED", kind, key, old, None)
        else:
            objects[key] = obj
            self._index(kind, key, obj)
            event = Event("ADDED" if old is None else "MODIFIED", kind, key, old, obj)
        for listener in tuple(self._listeners):
            listener(event)

    def _index(self, kind: Kind, key: Key, obj: Any) -> None:
        for index, name, entry in self._places(kind, key, obj):
            index.setdefault(name, {})[entry] = obj

    def _unindex(self, kind: Kind, key: Key, obj: Any) -> None:
        for index, name, entry in self._places(kind, key, obj):
            bucket = index.get(name)
            if bucket is not None:
                bucket.pop(entry, None)
                if not bucket:
                    del index[name]

    def _places(self, kind: Kind, key: Key, obj: Any) -> Iterator[tuple[dict[Any, dict[Any, Any]], Any, Any]]:
        """Where an object is found: (index, name of the bucket in it, entry in the bucket)."""
        if kind.namespaced:
            yield self._by_namespace, (kind, key.namespace), key
        for owner in obj.metadata.owner_references:
            yield self._by_owner, owner.uid, (kind, key)
        if kind is kinds.POD:
            yield from self._places_of_pod(key, obj)
        elif kind is kinds.SERVICE and obj.spec.selector:
            yield self._services_by_label, (key.namespace, *min(obj.spec.selector.items())), key
        elif kind is kinds.ENDPOINT_SLICE and (service := obj.metadata.labels.get(SERVICE_NAME_LABEL)):
            yield self._slices_by_service, Key(key.namespace, service), key

    def _places_of_pod(self, key: Key, pod: Pod) -> Iterator[tuple[dict[Any, dict[Any, Any]], Any, Any]]:
        for label, value in pod.metadata.labels.items():
            yield self._pods_by_label, (key.namespace, label, value), key
        if pod.spec.node_name:
            yield self._pods_by_node, pod.spec.node_name, key
        if pod.spec.affinity and pod.spec.affinity.get("podAntiAffinity"):
            yield self._pods_apart, "", key

    # -- reading

    def get(self, kind: Kind, key: Key) -> Any | None:
        """One object, or None."""
        return self._objects[kind].get(key)

    def all(self, kind: Kind, namespace: str = "") -> Iterable[Any]:
        """All objects of a kind, of one namespace when given."""
        if namespace:
            return self._by_namespace.get((kind, namespace), {}).values()
        return self._objects[kind].values()

    def controlled_by(self, uid: str, kind: Kind) -> list[Any]:
        """Objects of `kind` whose controller owner reference has this uid."""
        return [
            obj
            for (k, _), obj in self._by_owner.get(uid, {}).items()
            if k is kind and any(ref.uid == uid and ref.controller for ref in obj.metadata.owner_references)
        ]

    def owned_by(self, uid: str) -> list[tuple[Kind, Any]]:
        """Objects of any kind that name this uid among their owners."""
        return [(kind, obj) for (kind, _), obj in self._by_owner.get(uid, {}).items()]

    def pods_on(self, node: str) -> Iterable[Pod]:
        """Pods bound to a node."""
        return self._pods_by_node.get(node, {}).values()

    def pod_count(self, node: str) -> int:
        """How many pods are bound to a node."""
        return len(self._pods_by_node.get(node, ()))

    def pods_apart(self) -> Iterable[Pod]:
        """Pods that have a word to say about their neighbours: those with podAntiAffinity."""
        return self._pods_apart.get("", {}).values()

    def pods_matching(self, namespace: str, selector: Selector) -> Iterator[Pod]:
        """Pods of a namespace whose labels meet a selector; asks only those that have the rarest of its labels."""
        exact = (
            (namespace, r.key, next(iter(r.values))) for r in selector if r.operator == "In" and len(r.values) == 1
        )
        candidates: Iterable[Pod] | None = None
        least = -1
        for name in exact:
            bucket = self._pods_by_label.get(name, {})
            if candidates is None or len(bucket) < least:
                candidates, least = bucket.values(), len(bucket)
        for pod in self.all(kinds.POD, namespace) if candidates is None else candidates:
            if matches(selector, pod.metadata.labels):
                yield pod

    def services_selecting(self, namespace: str, labels: dict[str, str]) -> Iterator[Service]:
        """Services of a namespace whose selector a pod with these labels meets; those without a selector meet none."""
        for label, value in labels.items():
            for service in self._services_by_label.get((namespace, label, value), {}).values():
                if service.spec.selector.items() <= labels.items():
                    yield service

    def slices_of(self, service: Key) -> Iterable[EndpointSlice]:
        """EndpointSlices that carry the service's name label."""
        return self._slices_by_service.get(service, {}).values()

    @property
    def pods(self) -> dict[Key, Pod]:
        return self._objects[kinds.POD]

    @property
    def nodes(self) -> dict[Key, Node]:
        return self._objects[kinds.NODE]

    @property
    def namespaces(self) -> dict[Key, Namespace]:
        return self._objects[kinds.NAMESPACE]

    @property
    def services(self) -> dict[Key, Service]:
        return self._objects[kinds.SERVICE]

    @property
    def endpoint_slices(self) -> dict[Key, EndpointSlice]:
        return self._objects[kinds.ENDPOINT_SLICE]

    @property
    def endpoints(self) -> dict[Key, Endpoints]:
        return self._objects[kinds.ENDPOINTS]

    @property
    def deployments(self) -> dict[Key, Workload]:
        return self._objects[kinds.DEPLOYMENT]

    @property
    def replica_sets(self) -> dict[Key, Workload]:
        return self._objects[kinds.REPLICA_SET]

    @property
    def daemon_sets(self) -> dict[Key, Workload]:
        return self._objects[kinds.DAEMON_SET]

    @property
    def stateful_sets(self) -> dict[Key, Workload]:
        return self._objects[kinds.STATEFUL_SET]

    @property
    def jobs(self) -> dict[Key, Job]:
        return self._objects[kinds.JOB]

    @property
    def replication_controllers(self) -> dict[Key, ReplicationController]:
        return self._objects[kinds.REPLICATION_CONTROLLER]

    @property
    def config_maps(self) -> dict[Key, Data]:
        return self._objects[kinds.CONFIG_MAP]

    @property
    def secrets(self) -> dict[Key, Data]:
        return self._objects[kinds.SECRET]
