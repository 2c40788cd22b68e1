"""A container's environment variables and a pod's files, pure. Source: Kubernetes documentation, "Dependent Environment Variables",
"Downward API", "Discovering services", "DNS for Services and Pods"."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from glassnet.kube import kinds
from glassnet.kube.types import Container, EnvSource, Pod, Service
from glassnet.kube.view import Key, View
from glassnet.net.errors import GlassnetError

MOST_LINKS = 100  # Services whose variables a pod gets; above that a shell could hardly start with them
_REFERENCE = re.compile(r"\$(?:\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")


class MissingReference(GlassnetError):
    """A ConfigMap or Secret, or a key of one, is not there (CreateContainerConfigError)."""


def resolve(container: Container, pod: Pod, pod_ip: str, host_ip: str, view: View) -> dict[str, str]:
    """The variables of a container. Raises MissingReference in the kubelet's words."""
    namespace = pod.metadata.namespace
    env = service_links(view, namespace)
    for source in container.env_from:
        for kind, ref in ((kinds.CONFIG_MAP, source.config_map_ref), (kinds.SECRET, source.secret_ref)):
            if ref is not None:
                data = _data(view, kind, Key(namespace, ref.name), ref.optional)
                env.update({source.prefix + key: value for key, value in data.items()})
    for variable in container.env:
        if variable.value_from is None:
            env[variable.name] = _REFERENCE.sub(lambda m: "$" if m[1] is None else env.get(m[1], m[0]), variable.value)
        elif (value := _from(variable.value_from, pod, pod_ip, host_ip, view)) is not None:
            env[variable.name] = value
    return env


def _from(source: EnvSource, pod: Pod, pod_ip: str, host_ip: str, view: View) -> str | None:
    if source.field_ref:
        return field(pod, source.field_ref.field_path, pod_ip, host_ip)
    for kind, ref in ((kinds.CONFIG_MAP, source.config_map_key_ref), (kinds.SECRET, source.secret_key_ref)):
        if ref is not None:
            data = _data(view, kind, Key(pod.metadata.namespace, ref.name), ref.optional)
            if ref.key not in data and not ref.optional:
                raise MissingReference(
                    f"couldn't find key {ref.key} in {kind.name} {pod.metadata.namespace}/{ref.name}"
                )
            return data.get(ref.key)
    return "0"


def _data(view: View, kind: kinds.Kind, key: Key, optional: bool) -> dict[str, str]:
    found = view.get(kind, key)
    if found is None:
        if optional:
            return {}
        raise MissingReference(f'{kind.name.lower()} "{key.name}" not found')
    if kind is kinds.SECRET:
        return {name: base64.b64decode(text).decode(errors="replace") for name, text in found.data.items()}
    return dict(found.data)


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
    """/etc/hosts of a pod."""
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    if pod_ip:
        domain = (
            f"\t{hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.cluster.local"
            if pod.spec.subdomain
            else ""
        )
        lines.append(f"{pod_ip}{domain}\t{hostname}")
    lines += [f"{alias.get('ip')}\t{chr(9).join(alias.get('hostnames') or ())}" for alias in pod.spec.host_aliases]
    return "\n".join(lines) + "\n"


def resolv_conf(pod: Pod, cluster_dns: str, node_text: str) -> str:
    """/etc/resolv.conf of a pod, by dnsPolicy and dnsConfig."""
    policy, own = pod.spec.dns_policy, pod.spec.dns_config or {}
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str | None] = {}
    if policy == "Default" or (policy == "ClusterFirst" and pod.spec.host_network):
        return node_text
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and cluster_dns:
        servers = [cluster_dns]
        searches = [f"{pod.metadata.namespace}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
        options = {"ndots": "5"}
    servers += [s for s in own.get("nameservers") or () if s not in servers]
    searches += [s for s in own.get("searches") or () if s not in searches]
    options |= {entry["name"]: entry.get("value") for entry in own.get("options") or ()}
    lines = [f"search {' '.join(searches)}"] if searches else []
    lines += [f"nameserver {server}" for server in servers]
    if options:
        lines.append(
            "options " + " ".join(name if value is None else f"{name}:{value}" for name, value in options.items())
        )
    return "\n".join(lines) + ("\n" if lines else "")


def volume_files(volume: Mapping[str, Any], pod: Pod, pod_ip: str, host_ip: str, view: View) -> dict[str, str] | None:
    """Files of a volume that comes from API objects (name -> text); None for a volume of another sort. Raises MissingReference."""
    namespace = pod.metadata.namespace
    if source := volume.get("configMap"):
        return _items(
            _data(view, kinds.CONFIG_MAP, Key(namespace, source.get("name", "")), bool(source.get("optional"))),
            source.get("items"),
        )
    if source := volume.get("secret"):
        return _items(
            _data(view, kinds.SECRET, Key(namespace, source.get("secretName", "")), bool(source.get("optional"))),
            source.get("items"),
        )
    if source := volume.get("downwardAPI"):
        return {
            item["path"]: field(pod, (item.get("fieldRef") or {}).get("fieldPath", ""), pod_ip, host_ip)
            for item in source.get("items") or ()
        }
    if source := volume.get("projected"):
        out: dict[str, str] = {}
        for part in source.get("sources") or ():
            for name, kind in (("configMap", "configMap"), ("secret", "secret"), ("downwardAPI", "downwardAPI")):
                if name in part:
                    inner = dict(part[name])
                    inner.setdefault("secretName", inner.get("name", ""))
                    out |= volume_files({kind: inner}, pod, pod_ip, host_ip, view) or {}
        return out
    return None


def _items(data: Mapping[str, str], items: Any) -> dict[str, str]:
    if not items:
        return dict(data)
    return {item["path"]: data[item["key"]] for item in items if item["key"] in data}
