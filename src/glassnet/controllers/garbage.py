"""Garbage collection by ownerReferences, and the emptying of namespaces. Source: Kubernetes documentation, "Garbage Collection"."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from glassnet.controllers.result import NOTHING, Result
from glassnet.kube import kinds
from glassnet.kube.change import Change, Delete, Patch
from glassnet.kube.kinds import Kind
from glassnet.kube.types import OwnerReference
from glassnet.kube.view import Key, View

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


def owner_gone(view: View, kind: Kind, key: Key, uid: str) -> Result:
    """After an object went: its dependents go, those with other living owners only lose the reference."""
    changes: list[Change] = []
    for found, obj in view.owned_by(uid):
        changes += release(view, found, obj)
    return Result(changes)


def release(view: View, kind: Kind, obj: Any) -> list[Change]:
    """What becomes of an object some of whose owners are gone."""
    references = obj.metadata.owner_references
    living = [ref for ref in references if owner_of(view, ref, obj.metadata.namespace)]
    if not references or len(living) == len(references) or obj.metadata.deletion_timestamp:
        return []
    if not living:
        return [Delete(kind, obj.metadata.namespace, obj.metadata.name, obj.metadata.uid)]
    return [
        Patch(
            kind,
            obj.metadata.namespace,
            obj.metadata.name,
            {"metadata": {"ownerReferences": [_as_dict(ref) for ref in living]}},
        )
    ]


def orphaned(view: View, kind: Kind, key: Key) -> Result:
    """One object: deleted when its owners were gone before it came."""
    obj = view.get(kind, key)
    return NOTHING if obj is None else Result(release(view, kind, obj))


def owner_of(view: View, ref: OwnerReference, namespace: str) -> Any | None:
    """The object an ownerReference means, if it is there with that uid."""
    kind = kinds.BY_API_KIND.get((ref.api_version, ref.kind))
    if kind is None:
        return ref  # a kind we do not serve: not ours to judge
    obj = view.get(kind, Key(namespace if kind.namespaced else "", ref.name))
    return obj if obj is not None and obj.metadata.uid == ref.uid else None


def finalizing(view: View, kind: Kind, key: Key) -> Result:
    """An object held by the finalizers of foreground or orphaning deletion."""
    obj = view.get(kind, key)
    if obj is None or obj.metadata.deletion_timestamp is None:
        return NOTHING
    finalizers = obj.metadata.finalizers
    mine = view.owned_by(obj.metadata.uid) if {FOREGROUND, ORPHAN} & set(finalizers) else []
    if ORPHAN in finalizers:
        changes: list[Change] = []
        for found, child in mine:
            rest = [_as_dict(ref) for ref in child.metadata.owner_references if ref.uid != obj.metadata.uid]
            changes.append(
                Patch(
                    found,
                    child.metadata.namespace,
                    child.metadata.name,
                    {"metadata": {"ownerReferences": rest or None}},
                )
            )
        return Result([*changes, _without(kind, obj, ORPHAN)])
    if FOREGROUND in finalizers:
        blocking = [
            (found, child)
            for found, child in mine
            if any(r.uid == obj.metadata.uid and r.block_owner_deletion for r in child.metadata.owner_references)
        ]
        if not blocking:
            return Result([_without(kind, obj, FOREGROUND)])
        return Result(
            [
                Delete(found, c.metadata.namespace, c.metadata.name, c.metadata.uid, propagation="Foreground")
                for found, c in mine
                if c.metadata.deletion_timestamp is None
            ]
        )
    return NOTHING


def _without(kind: Kind, obj: Any, finalizer: str) -> Patch:
    rest = [name for name in obj.metadata.finalizers if name != finalizer]
    return Patch(kind, obj.metadata.namespace, obj.metadata.name, {"metadata": {"finalizers": rest or None}})


def _as_dict(ref: OwnerReference) -> dict[str, Any]:
    return {
        "apiVersion": ref.api_version, "kind": ref.kind, "name": ref.name, "uid": ref.uid, "controller": ref.controller,
        "blockOwnerDeletion": ref.block_owner_deletion,
    }  # fmt: skip


def namespace(view: View, key: Key, now: datetime) -> Result:
    """A Terminating namespace: everything in it goes; when nothing is left, the caller finalizes it."""
    found = view.namespaces.get(key)
    if found is None or found.metadata.deletion_timestamp is None:
        return NOTHING
    changes: list[Change] = []
    left = False
    for kind in kinds.ALL:
        if kind.namespaced and kind is not kinds.EVENT:
            for obj in list(view.all(kind, key.name)):
                left = True
                if obj.metadata.deletion_timestamp is None:
                    changes.append(Delete(kind, key.name, obj.metadata.name, obj.metadata.uid))
    return Result(changes, None if left else 0.0)
