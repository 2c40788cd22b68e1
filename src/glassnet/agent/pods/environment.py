"""A container's environment variables and a pod's own files, pure.

Source: Kubernetes documentation, "Dependent Environment Variables", "Downward API", "Discovering services".
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from glassnet.apiserver.schema.quantity import amount
from glassnet.kube import kinds
from glassnet.kube.types import Container, EnvSource, Pod, Service
from glassnet.kube.view import Key, View
from glassnet.net.errors import GlassnetError

MOST_LINKS = 100  # Services whose variables a pod gets; above that a shell could hardly start with them
_REFERENCE = re.compile(r"\$(?:\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")


class MissingReference(GlassnetError):
    """A ConfigMap or Secret, or a key of one, is not there (CreateContainerConfigError)."""


def resolve(
    container: Container, pod: Pod, pod_ip: str, host_ip: str, view: View, allocatable: Mapping[str, str]
) -> dict[str, str]:
    """The variables of a container; `allocatable` are the node's resources. Raises MissingReference in the kubelet's words."""
    namespace = pod.metadata.namespace
    env = service_links(view, namespace)
    for source in container.env_from:
        for kind, ref in ((kinds.CONFIG_MAP, source.config_map_ref), (kinds.SECRET, source.secret_ref)):
            if ref is not None:
                data = object_data(view, kind, Key(namespace, ref.name), ref.optional)
                env.update({source.prefix + key: _text(value) for key, value in data.items()})
    for variable in container.env:
        if variable.value_from is None:
            env[variable.name] = _REFERENCE.sub(lambda m: "$" if m[1] is None else env.get(m[1], m[0]), variable.value)
        elif variable.value_from.resource_field_ref is not None:
            env[variable.name] = resource(pod, variable.value_from.resource_field_ref, allocatable, container.name)
        elif (value := _from(variable.value_from, pod, pod_ip, host_ip, view)) is not None:
            env[variable.name] = value
    return env


def _from(source: EnvSource, pod: Pod, pod_ip: str, host_ip: str, view: View) -> str | None:
    if source.field_ref:
        return field(pod, source.field_ref.field_path, pod_ip, host_ip)
    for kind, ref in ((kinds.CONFIG_MAP, source.config_map_key_ref), (kinds.SECRET, source.secret_key_ref)):
        if ref is not None:
            data = object_data(view, kind, Key(pod.metadata.namespace, ref.name), ref.optional)
            if ref.key not in data:
                if ref.optional:
                    return None
                raise MissingReference(
                    f"couldn't find key {ref.key} in {kind.name} {pod.metadata.namespace}/{ref.name}"
                )
            return _text(data[ref.key])
    return None


def object_data(view: View, kind: kinds.Kind, key: Key, optional: bool) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret. Raises MissingReference when there is none and that is not `optional`."""
    found = view.get(kind, key)
    if found is None:
        if optional:
            return {}
        raise MissingReference(f'{kind.name.lower()} "{key.name}" not found')
    if kind is kinds.SECRET:
        return {name: base64.b64decode(text) for name, text in found.data.items()}
    plain = {name: text.encode() for name, text in found.data.items()}
    return plain | {name: base64.b64decode(text) for name, text in (found.binary_data or {}).items()}


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def resource(pod: Pod, ref: Mapping[str, Any], allocatable: Mapping[str, str], default: str = "") -> str:
    """A resourceFieldRef: a limit or request of a container, the node's where a limit is not set, in units of its divisor, rounded up."""
    name = ref.get("containerName") or default
    found = next((c for c in (*pod.spec.containers, *pod.spec.init_containers) if c.name == name), None)
    kind, _, what = str(ref.get("resource", "")).partition(".")
    stated = ((found.resources if found else None) or {}).get(kind) or {}
    value = amount(stated.get(what, allocatable.get(what, "0") if kind == "limits" else "0")) or Fraction(0)
    divisor = amount(ref.get("divisor") or "1") or Fraction(1)
    return str(math.ceil(value / divisor))


def field(pod: Pod, path: str, pod_ip: str, host_ip: str) -> str:
    """A downward-API field of a pod."""
    meta = pod.metadata
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return (meta.labels if match[1] == "labels" else meta.annotations).get(match[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        values = meta.labels if path.endswith("labels") else meta.annotations
        return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))
    return {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }.get(path, "")


def service_links(view: View, namespace: str) -> dict[str, str]:
    """Variables that name the Services of a namespace, and the API always."""
    env: dict[str, str] = {}
    services = [view.services.get(Key("default", "kubernetes"))]
    mine = [s for s in view.all(kinds.SERVICE, namespace) if s.metadata.name != "kubernetes"]
    if len(mine) <= MOST_LINKS:
        services += mine
    for service in services:
        if service is not None and service.spec.cluster_ip not in ("", "None") and service.spec.ports:
            env.update(_links(service))
    return env


def _links(service: Service) -> dict[str, str]:
    name = service.metadata.name.upper().replace("-", "_")
    address, first = service.spec.cluster_ip, service.spec.ports[0]
    env = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(first.port)}
    env[f"{name}_PORT"] = f"{first.protocol.lower()}://{address}:{first.port}"
    for port in service.spec.ports:
        if port.name:
            env[f"{name}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
        prefix = f"{name}_PORT_{port.port}_{port.protocol}"
        env[prefix] = f"{port.protocol.lower()}://{address}:{port.port}"
        env |= {f"{prefix}_PROTO": port.protocol.lower(), f"{prefix}_PORT": str(port.port), f"{prefix}_ADDR": address}
    return env


def hosts_file(pod: Pod, pod_ip: str, hostname: str) -> str:
    """/etc/hosts of a pod, line for line as the kubelet writes it."""
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += ["fe00::0\tip6-localnet", "fe00::0\tip6-mcastprefix", "fe00::1\tip6-allnodes", "fe00::2\tip6-allrouters"]
    if pod_ip:
        domain = (
            f"\t{hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.cluster.local"
            if pod.spec.subdomain
            else ""
        )
        lines.append(f"{pod_ip}{domain}\t{hostname}")
    if pod.spec.host_aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += ["\t".join((str(a.get("ip")), *(a.get("hostnames") or ()))) for a in pod.spec.host_aliases]
    return "\n".join(lines) + "\n"


def mounts(container: Container, places: Mapping[str, str]) -> dict[str, str]:
    """Path in the pod -> path on the node for each volume mount; `places` are the pod's volumes by name. Raises MissingReference."""
    out = {}
    for mount in container.volume_mounts:
        if ".." in mount.sub_path.split("/"):
            raise MissingReference(
                f"failed to prepare subPath for volumeMount {mount.name!r}: {mount.sub_path} leads out"
            )
        place = places[mount.name]
        out[mount.mount_path] = f"{place}/{mount.sub_path.strip('/')}" if mount.sub_path else place
    return out
