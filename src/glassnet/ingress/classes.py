"""Which Ingresses are ours.

Sources: networking.k8s.io/v1 (ingressClassName), KEP-1453 (the annotation goes before the field; the default class), the admission plugin
DefaultIngressClass (of several default classes the newest, then the lower name).
"""

from __future__ import annotations

from datetime import UTC, datetime

from glassnet.ingress.model import CLASS_ANNOTATION, DEFAULT_CLASS_ANNOTATION, Settings
from glassnet.kube import kinds
from glassnet.kube.ingress import Ingress, IngressClass
from glassnet.kube.view import Key, View

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


def age(ingress: Ingress) -> tuple[datetime, str, str]:
    """Order of Ingresses when two ask for the same: the older one first, then by namespace and name."""
    meta = ingress.metadata
    return meta.creation_timestamp or _NEVER, meta.namespace, meta.name


def default_class(view: View) -> IngressClass | None:
    """The class of Ingresses that have none."""
    marked = [each for each in view.all(kinds.INGRESS_CLASS) if each.metadata.annotations.get(DEFAULT_CLASS_ANNOTATION) == "true"]  # fmt: skip
    marked.sort(key=lambda each: each.metadata.name)
    return max(marked, key=lambda each: each.metadata.creation_timestamp or _NEVER, default=None)


def why(ingress: Ingress, view: View, settings: Settings) -> tuple[bool, str]:
    """Whether an Ingress is ours, and why or why not, for people."""
    written = ingress.metadata.annotations.get(CLASS_ANNOTATION, "")
    if written:
        same = written == settings.class_name
        return same, f"annotation {CLASS_ANNOTATION} is {written!r}" + ("" if same else f", ours is {settings.class_name!r}")  # fmt: skip
    name = ingress.spec.ingress_class_name
    if name:
        found = view.get(kinds.INGRESS_CLASS, Key("", name))
        if found is None:
            return False, f"there is no IngressClass {name}"
        return found.spec.controller in settings.controllers, f"IngressClass {name} is for controller {found.spec.controller}"  # fmt: skip
    if settings.watch_without_class:
        return True, "it has no class, and those without are served"
    default = default_class(view)
    if default is None:
        return False, "it has no class, and no IngressClass is the default"
    ours = default.spec.controller in settings.controllers
    return ours, f"it has no class; the default, {default.metadata.name}, is for controller {default.spec.controller}"


def ours(view: View, settings: Settings) -> list[Ingress]:
    """Our Ingresses, oldest first; not those that are left out, nor those of a deleted object that still has finalizers."""
    default = default_class(view)
    of_default = settings.watch_without_class or (default is not None and default.spec.controller in settings.controllers)  # fmt: skip
    classes = {each.metadata.name for each in view.all(kinds.INGRESS_CLASS) if each.spec.controller in settings.controllers}  # fmt: skip

    def is_ours(ingress: Ingress) -> bool:
        written = ingress.metadata.annotations.get(CLASS_ANNOTATION, "")
        if written:
            return written == settings.class_name
        name = ingress.spec.ingress_class_name
        return name in classes if name else of_default

    found = [each for each in view.all(kinds.INGRESS) if is_ours(each) and Key(each.metadata.namespace, each.metadata.name) not in settings.left_out]  # fmt: skip
    return sorted(found, key=age)
