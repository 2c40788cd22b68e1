"""Validation of objects on create and update, with Kubernetes' field paths and messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from glassnet.apiserver.schema import rules, validate_network, validate_pod, validate_rbac
from glassnet.apiserver.schema.errors import FieldError, forbidden, invalid_value, required, too_long
from glassnet.kube import kinds, selectors
from glassnet.kube.kinds import RBAC, Kind
from glassnet.kube.types import LabelSelector

Obj = dict[str, Any]
Rule = Callable[[Obj], Iterator[FieldError]]
UpdateRule = Callable[[Obj, Obj], Iterator[FieldError]]
_LIMIT = 1 << 20


def validate_create(kind: Kind, obj: Obj) -> list[FieldError]:
    """Faults of a new object, after defaulting."""
    return [*_metadata(kind, obj), *(_RULES[kind](obj) if kind in _RULES else ())]


def validate_update(kind: Kind, new: Obj, old: Obj) -> list[FieldError]:
    """Faults of an object that is to replace `old`."""
    faults = [*_metadata(kind, new), *_metadata_update(new, old)]
    if kind in _RULES and kind is not kinds.POD:
        faults += _RULES[kind](new)
    if kind in _UPDATES:
        faults += _UPDATES[kind](new, old)
    return faults


def validate_status(kind: Kind, new: Obj, old: Obj) -> list[FieldError]:
    """Faults of a write to the status subresource."""
    return list(_metadata_update(new, old))


def _metadata(kind: Kind, obj: Obj) -> Iterator[FieldError]:
    metadata = obj.get("metadata") or {}
    name = metadata.get("name") or ""
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif kind in (kinds.NAMESPACE,):
        yield from rules.dns_label(name, "metadata.name")
    elif kind is kinds.SERVICE:
        yield from rules.dns_1035_label(name, "metadata.name")
    elif kind.group == RBAC:
        yield from validate_rbac.path_segment(name, "metadata.name")
    else:
        yield from rules.dns_subdomain(name, "metadata.name")
    yield from rules.labels(metadata.get("labels"), "metadata.labels")
    size = 0
    for key, value in (metadata.get("annotations") or {}).items():
        yield from rules.qualified_name(key.lower(), "metadata.annotations")
        size += len(key) + len(value)
    if size > 256 * 1024:
        yield too_long("metadata.annotations", 256 * 1024)
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                yield required(f"metadata.ownerReferences[{index}].{field}")


def _metadata_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    after, before = new.get("metadata") or {}, old.get("metadata") or {}
    for field in ("name", "namespace", "uid"):
        if after.get(field) != before.get(field):
            yield invalid_value(f"metadata.{field}", after.get(field), "field is immutable")


def _workload(word: str) -> Rule:
    """Rules of a kind whose selector must choose its own template; `word` names it in the message for an empty selector."""

    def check(obj: Obj) -> Iterator[FieldError]:
        spec = obj.get("spec") or {}
        yield from rules.not_negative(spec.get("replicas"), "spec.replicas")
        yield from rules.not_negative(spec.get("minReadySeconds"), "spec.minReadySeconds")
        selector = spec.get("selector")
        if not selector or not (selector.get("matchLabels") or selector.get("matchExpressions")):
            yield (
                required("spec.selector")
                if selector is None
                else invalid_value("spec.selector", selector, f"empty selector is invalid for {word}")
            )
        else:
            faults = list(rules.label_selector(selector, "spec.selector"))
            yield from faults or _selects(selectors.of(_selector(selector)), spec.get("template") or {})
        yield from validate_pod.template(spec.get("template") or {}, "spec.template")
        yield from _rolling(spec)

    return check


def _selector(selector: Obj) -> Any:
    return msgspec.convert({k: v for k, v in selector.items() if v is not None}, LabelSelector)


def _selects(requirements: selectors.Selector, template: Obj) -> Iterator[FieldError]:
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not selectors.matches(requirements, labels):
        yield invalid_value("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")


def _rolling(spec: Obj) -> Iterator[FieldError]:
    strategy = spec.get("strategy")
    if strategy is None:
        return
    yield from rules.one_of(strategy.get("type"), ("Recreate", "RollingUpdate"), "spec.strategy.type")
    rolling = strategy.get("rollingUpdate")
    if strategy.get("type") == "Recreate" and rolling:
        yield forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    if rolling:
        for field in ("maxSurge", "maxUnavailable"):
            value = rolling.get(field)
            if isinstance(value, str) and not (value.endswith("%") and value[:-1].isdigit()):
                yield invalid_value(
                    f"spec.strategy.rollingUpdate.{field}",
                    value,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                )
        if all(str(rolling.get(field)).rstrip("%") == "0" for field in ("maxSurge", "maxUnavailable")):
            yield invalid_value(
                "spec.strategy.rollingUpdate.maxUnavailable",
                rolling["maxUnavailable"],
                "may not be 0 when `maxSurge` is 0",
            )


def _replication_controller(obj: Obj) -> Iterator[FieldError]:
    spec = obj.get("spec") or {}
    yield from rules.not_negative(spec.get("replicas"), "spec.replicas")
    selector = spec.get("selector") or {}
    if not selector:
        yield required("spec.selector")
    else:
        yield from rules.labels(selector, "spec.selector")
        yield from _selects(selectors.of(selector), spec.get("template") or {})
    yield from validate_pod.template(spec.get("template") or {}, "spec.template")


def _job(obj: Obj) -> Iterator[FieldError]:
    spec = obj.get("spec") or {}
    for field in ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        yield from rules.not_negative(spec.get(field), f"spec.{field}")
    yield from rules.one_of(spec.get("completionMode"), ("Indexed", "NonIndexed"), "spec.completionMode")
    if spec.get("completionMode") == "Indexed" and spec.get("completions") is None:
        yield required("spec.completions", "when completion mode is Indexed")
    yield from validate_pod.template(spec.get("template") or {}, "spec.template", ("OnFailure", "Never"))


def _data(obj: Obj) -> Iterator[FieldError]:
    size = 0
    for field in ("data", "binaryData"):
        for key, value in (obj.get(field) or {}).items():
            yield from rules.config_key(key, f"{field}[{key}]")
            size += len(value)
    if size > _LIMIT * 4 // 3:
        yield too_long("", _LIMIT)


def _data_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        yield forbidden("immutable", "field is immutable when `immutable` is set")
    for field in ("data", "binaryData"):
        if (new.get(field) or {}) != (old.get(field) or {}):
            yield forbidden(field, "field is immutable when `immutable` is set")


def _secret_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    if new.get("type") != old.get("type"):
        yield invalid_value("type", new.get("type"), "field is immutable")
    yield from _data_update(new, old)


def _selector_stays(new: Obj, old: Obj) -> Iterator[FieldError]:
    after, before = (new.get("spec") or {}).get("selector"), (old.get("spec") or {}).get("selector")
    if after != before:
        yield invalid_value("spec.selector", after, "field is immutable")


def _stateful_set_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    free = {
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    }
    after = {k: v for k, v in (new.get("spec") or {}).items() if k not in free}
    before = {k: v for k, v in (old.get("spec") or {}).items() if k not in free}
    if after != before:
        yield forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', "
            "'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        )


def _job_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    for field in ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"):
        if (new.get("spec") or {}).get(field) != (old.get("spec") or {}).get(field):
            yield invalid_value(f"spec.{field}", (new.get("spec") or {}).get(field), "field is immutable")
    if (new.get("spec") or {}).get("template") != (old.get("spec") or {}).get("template"):
        yield invalid_value("spec.template", (new.get("metadata") or {}).get("name"), "field is immutable")
    if (new["spec"].get("completions"), new["spec"].get("completionMode")) != (
        old["spec"].get("completions"),
        "NonIndexed",
    ) and (
        new["spec"].get("completions") != old["spec"].get("completions")
        and old["spec"].get("completionMode") != "Indexed"
    ):
        yield invalid_value("spec.completions", new["spec"].get("completions"), "field is immutable")


def _node_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    before = (old.get("spec") or {}).get("podCIDRs")
    if before and (new.get("spec") or {}).get("podCIDRs") != before:
        yield forbidden("spec.podCIDRs", 'node updates may not change podCIDR except from "" to valid')


def _node(obj: Obj) -> Iterator[FieldError]:
    for index, text in enumerate((obj.get("spec") or {}).get("podCIDRs") or ()):
        yield from rules.cidr(text, f"spec.podCIDRs[{index}]")
    for index, taint in enumerate((obj.get("spec") or {}).get("taints") or ()):
        yield from rules.qualified_name(taint.get("key") or "", f"spec.taints[{index}].key")
        yield from rules.one_of(
            taint.get("effect"), ("NoSchedule", "PreferNoSchedule", "NoExecute"), f"spec.taints[{index}].effect"
        )


_RULES: dict[Kind, Rule] = {
    kinds.POD: validate_pod.pod,
    kinds.SERVICE: validate_network.service,
    kinds.ENDPOINTS: validate_network.endpoints,
    kinds.ENDPOINT_SLICE: validate_network.endpoint_slice,
    kinds.INGRESS: validate_network.ingress,
    kinds.NETWORK_POLICY: validate_network.network_policy,
    kinds.DEPLOYMENT: _workload("deployment"),
    kinds.REPLICA_SET: _workload("deployment"),
    kinds.DAEMON_SET: _workload("daemonset"),
    kinds.STATEFUL_SET: _workload("statefulset"),
    kinds.REPLICATION_CONTROLLER: _replication_controller,
    kinds.JOB: _job,
    kinds.CONFIG_MAP: _data,
    kinds.SECRET: _data,
    kinds.NODE: _node,
    kinds.ROLE: validate_rbac.role,
    kinds.CLUSTER_ROLE: validate_rbac.cluster_role,
    kinds.ROLE_BINDING: validate_rbac.binding,
    kinds.CLUSTER_ROLE_BINDING: validate_rbac.binding,
}

_UPDATES: dict[Kind, UpdateRule] = {
    kinds.POD: validate_pod.pod_update,
    kinds.SERVICE: validate_network.service_update,
    kinds.ENDPOINT_SLICE: validate_network.endpoint_slice_update,
    kinds.DEPLOYMENT: _selector_stays,
    kinds.REPLICA_SET: _selector_stays,
    kinds.DAEMON_SET: _selector_stays,
    kinds.STATEFUL_SET: _stateful_set_update,
    kinds.JOB: _job_update,
    kinds.CONFIG_MAP: _data_update,
    kinds.SECRET: _secret_update,
    kinds.NODE: _node_update,
    kinds.ROLE_BINDING: validate_rbac.binding_update,
    kinds.CLUSTER_ROLE_BINDING: validate_rbac.binding_update,
}
