"""Validation of pods and pod templates."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from glassnet.apiserver.schema import rules
from glassnet.apiserver.schema.errors import FieldError, duplicate, forbidden, invalid_value, not_supported, required
from glassnet.apiserver.schema.quantity import amount

Obj = dict[str, Any]
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")


def pod(obj: Obj) -> Iterator[FieldError]:
    """A whole Pod."""
    yield from pod_spec(obj.get("spec") or {}, "spec")


def template(obj: Obj, path: str, policies: tuple[str, ...] = ("Always",)) -> Iterator[FieldError]:
    """A PodTemplateSpec whose restartPolicy is one of `policies`."""
    yield from rules.labels((obj.get("metadata") or {}).get("labels"), f"{path}.metadata.labels")
    spec = obj.get("spec") or {}
    yield from pod_spec(spec, f"{path}.spec")
    if spec.get("restartPolicy") not in policies:
        yield not_supported(f"{path}.spec.restartPolicy", spec.get("restartPolicy"), policies)


def pod_spec(spec: Obj, path: str) -> Iterator[FieldError]:
    """A PodSpec after defaulting."""
    volumes = [volume.get("name", "") for volume in spec.get("volumes") or ()]
    yield from _volumes(spec.get("volumes") or [], f"{path}.volumes")
    containers = spec.get("containers") or []
    if not containers:
        yield required(f"{path}.containers")
    seen: set[str] = set()
    for field, found in (("initContainers", spec.get("initContainers") or []), ("containers", containers)):
        for index, container in enumerate(found):
            yield from _container(container, f"{path}.{field}[{index}]", seen, volumes, bool(spec.get("hostNetwork")))
    yield from rules.one_of(spec.get("restartPolicy"), ("Always", "OnFailure", "Never"), f"{path}.restartPolicy")
    yield from rules.one_of(
        spec.get("dnsPolicy"), ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"), f"{path}.dnsPolicy"
    )
    if spec.get("dnsPolicy") == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        yield required(
            f"{path}.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None"
        )
    yield from rules.not_negative(spec.get("terminationGracePeriodSeconds"), f"{path}.terminationGracePeriodSeconds")
    yield from rules.labels(spec.get("nodeSelector"), f"{path}.nodeSelector")
    yield from _host_ports(containers, f"{path}.containers")
    for name in ("nodeName", "serviceAccountName"):
        if spec.get(name):
            yield from rules.dns_subdomain(spec[name], f"{path}.{name}")
    for name in ("hostname", "subdomain"):
        if spec.get(name):
            yield from rules.dns_label(spec[name], f"{path}.{name}")
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        yield from _toleration(toleration, f"{path}.tolerations[{index}]")
    for index, constraint in enumerate(spec.get("topologySpreadConstraints") or ()):
        where = f"{path}.topologySpreadConstraints[{index}]"
        if constraint.get("maxSkew", 0) <= 0:
            yield invalid_value(f"{where}.maxSkew", constraint.get("maxSkew", 0), "must be greater than zero")
        if not constraint.get("topologyKey"):
            yield required(f"{where}.topologyKey", "can not be empty")
        yield from rules.one_of(
            constraint.get("whenUnsatisfiable"), ("DoNotSchedule", "ScheduleAnyway"), f"{where}.whenUnsatisfiable"
        )


def _container(
    container: Obj, path: str, seen: set[str], volumes: list[str], host_network: bool
) -> Iterator[FieldError]:
    name = container.get("name") or ""
    if not name:
        yield required(f"{path}.name")
    else:
        yield from rules.dns_label(name, f"{path}.name")
    if name in seen:
        yield duplicate(f"{path}.name", name)
    seen.add(name)
    if not container.get("image"):
        yield required(f"{path}.image")
    yield from rules.one_of(
        container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never"), f"{path}.imagePullPolicy"
    )
    yield from _ports(container.get("ports") or [], f"{path}.ports", host_network)
    for index, variable in enumerate(container.get("env") or ()):
        yield from _env(variable, f"{path}.env[{index}]")
    yield from _resources(container.get("resources") or {}, f"{path}.resources")
    points: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{path}.volumeMounts[{index}]"
        if not mount.get("name"):
            yield required(f"{where}.name")
        elif mount["name"] not in volumes:
            yield FieldError("FieldValueNotFound", f'Not found: "{mount["name"]}"', f"{where}.name")
        if not mount.get("mountPath"):
            yield required(f"{where}.mountPath")
        elif mount["mountPath"] in points:
            yield invalid_value(f"{where}.mountPath", mount["mountPath"], "must be unique")
        points.add(mount.get("mountPath", ""))
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(field) is not None:
            yield from _probe(container[field], f"{path}.{field}", one_success=field != "readinessProbe")
    for field, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            yield from _handler(hook, f"{path}.lifecycle.{field}")


def _resources(resources: Obj, path: str) -> Iterator[FieldError]:
    limits = resources.get("limits") or {}
    for field in ("limits", "requests"):
        for name, value in (resources.get(field) or {}).items():
            number = amount(value)
            if number is not None and number < 0:
                yield invalid_value(f"{path}.{field}[{name}]", str(value), "must be greater than or equal to 0")
    for name, value in (resources.get("requests") or {}).items():
        asked, most = amount(value), amount(limits[name]) if name in limits else None
        if asked is not None and most is not None and asked > most:
            why = f"must be less than or equal to {name} limit of {limits[name]}"
            yield invalid_value(f"{path}.requests", str(value), why)


def _host_ports(containers: list[Obj], path: str) -> Iterator[FieldError]:
    """A host port can be given away once per protocol and host address."""
    seen: set[tuple[str, str, int]] = set()
    for number, container in enumerate(containers):
        for index, port in enumerate(container.get("ports") or ()):
            if not port.get("hostPort"):
                continue
            key = (port.get("protocol") or "TCP", port.get("hostIP") or "", port["hostPort"])
            if key in seen:
                shown = "/".join(str(part) for part in key)
                yield duplicate(f"{path}[{number}].ports[{index}].hostPort", shown)
            seen.add(key)


def _ports(ports: list[Obj], path: str, host_network: bool) -> Iterator[FieldError]:
    names: set[str] = set()
    for index, port in enumerate(ports):
        where = f"{path}[{index}]"
        if name := port.get("name"):
            yield from rules.port_name(name, f"{where}.name")
            if name in names:
                yield duplicate(f"{where}.name", name)
            names.add(name)
        if not port.get("containerPort"):
            yield required(f"{where}.containerPort")
        else:
            yield from rules.port_number(port["containerPort"], f"{where}.containerPort")
        if port.get("hostPort"):
            yield from rules.port_number(port["hostPort"], f"{where}.hostPort")
            if host_network and port["hostPort"] != port.get("containerPort"):
                yield invalid_value(
                    f"{where}.containerPort",
                    port.get("containerPort"),
                    "must match `hostPort` when `hostNetwork` is true",
                )
        yield from rules.protocol(port.get("protocol"), f"{where}.protocol")


def _env(variable: Obj, path: str) -> Iterator[FieldError]:
    yield from rules.env_name(variable.get("name") or "", f"{path}.name")
    source = variable.get("valueFrom")
    if source is None:
        return
    if variable.get("value"):
        yield invalid_value(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")
    kinds = [
        name
        for name in ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
        if source.get(name)
    ]
    if not kinds:
        yield invalid_value(
            f"{path}.valueFrom",
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        )
    for name in ("configMapKeyRef", "secretKeyRef"):
        if source.get(name) is not None:
            if not source[name].get("key"):
                yield required(f"{path}.valueFrom.{name}.key")
            if not source[name].get("name"):
                yield required(f"{path}.valueFrom.{name}.name")


def _probe(probe: Obj, path: str, one_success: bool) -> Iterator[FieldError]:
    yield from _handler(probe, path)
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        yield from rules.not_negative(probe.get(field), f"{path}.{field}")
    if one_success and probe.get("successThreshold", 1) != 1:
        yield invalid_value(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _handler(handler: Obj, path: str) -> Iterator[FieldError]:
    found = [name for name in _HANDLERS if handler.get(name) is not None]
    if not found:
        yield required(path, "must specify a handler type")
    for extra in found[1:]:
        yield forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    if (get := handler.get("httpGet")) is not None:
        if not get.get("path"):
            yield required(f"{path}.httpGet.path")
        yield from rules.port_or_name(get.get("port"), f"{path}.httpGet.port")
        yield from rules.one_of(get.get("scheme", "HTTP"), ("HTTP", "HTTPS"), f"{path}.httpGet.scheme")
    if (connect := handler.get("tcpSocket")) is not None:
        yield from rules.port_or_name(connect.get("port"), f"{path}.tcpSocket.port")
    if (run := handler.get("exec")) is not None and not run.get("command"):
        yield required(f"{path}.exec.command")


def _toleration(toleration: Obj, path: str) -> Iterator[FieldError]:
    operator = toleration.get("operator") or "Equal"
    if key := toleration.get("key"):
        yield from rules.qualified_name(key, f"{path}.key")
    elif operator != "Exists":
        yield invalid_value(
            f"{path}.operator",
            operator,
            'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        )
    if operator not in ("Equal", "Exists"):
        yield not_supported(f"{path}.operator", operator, ("Equal", "Exists"))
    if operator == "Exists" and toleration.get("value"):
        yield invalid_value(f"{path}.operator", toleration["value"], "value must be empty when `operator` is 'Exists'")
    if toleration.get("effect"):
        yield from rules.one_of(toleration["effect"], ("NoSchedule", "PreferNoSchedule", "NoExecute"), f"{path}.effect")


def _volumes(volumes: list[Obj], path: str) -> Iterator[FieldError]:
    names: set[str] = set()
    for index, volume in enumerate(volumes):
        where = f"{path}[{index}]"
        name = volume.get("name") or ""
        if not name:
            yield required(f"{where}.name")
        else:
            yield from rules.dns_label(name, f"{where}.name")
        if name in names:
            yield duplicate(f"{where}.name", name)
        names.add(name)
        for extra in [field for field in volume if field != "name"][1:]:
            yield forbidden(f"{where}.{extra}", "may not specify more than 1 volume type")


def pod_update(new: Obj, old: Obj) -> Iterator[FieldError]:
    """What may change in a Pod's spec: images, activeDeadlineSeconds, terminationGracePeriodSeconds (from negative), added tolerations."""
    before, after = copy.deepcopy(old.get("spec") or {}), copy.deepcopy(new.get("spec") or {})
    for field in ("containers", "initContainers"):
        for mine, theirs in zip(after.get(field) or [], before.get(field) or [], strict=False):
            theirs["image"] = mine.get("image")
    before["activeDeadlineSeconds"] = after.get("activeDeadlineSeconds")
    after.setdefault("activeDeadlineSeconds", None)
    old_tolerations, new_tolerations = before.get("tolerations") or [], after.get("tolerations") or []
    if all(toleration in new_tolerations for toleration in old_tolerations):
        before["tolerations"] = after["tolerations"] = new_tolerations
    if before.get("schedulingGates") and not after.get("nodeName"):
        for field in ("schedulingGates", "nodeSelector", "affinity"):
            before[field] = after[field] = None
    if before != after:
        yield forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        )
