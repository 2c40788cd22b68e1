"""API objects as a snapshot holds them (JSON), indexed by what the network knows of them: addresses, ports, names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from glassnet.net import address

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """An object, the field of it that matters, and what the field says. `text` is `Kind namespace/name field: value`."""

    kind: str
    namespace: str
    name: str
    field: str = ""
    value: str = ""

    @property
    def text(self) -> str:
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        said = f"{self.kind} {name}".strip()
        if self.field:
            said += f" {self.field}"
        return f"{said}: {self.value}" if self.value else said


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a Service, with its place in spec.ports."""

    service: Object = field(hash=False, compare=False)
    namespace: str
    name: str
    index: int
    port_name: str
    protocol: str
    port: int
    node_port: int

    @property
    def text(self) -> str:
        """`namespace/name[:port]`, as kube-proxy's comments have it."""
        return f"{self.namespace}/{self.name}:{self.port_name}" if self.port_name else f"{self.namespace}/{self.name}"

    def refer(self, field_name: str = "", value: str = "") -> Reference:
        """A reference to a field of the Service."""
        return Reference("Service", self.namespace, self.name, field_name, value)

    def spec(self, name: str) -> Reference:
        """A reference to a field of this port's entry in spec.ports."""
        entry = self.service["spec"]["ports"][self.index]
        return self.refer(f"spec.ports[{self.port_name or self.index}].{name}", str(entry.get(name, "")))


@dataclass(frozen=True, slots=True)
class EndpointRef:
    """One endpoint of an EndpointSlice, for one of its ports."""

    namespace: str
    slice: str
    index: int
    service: str
    ip: str
    port: int
    port_name: str
    pod: str
    node: str
    ready: bool
    serving: bool
    terminating: bool

    @property
    def reference(self) -> Reference:
        state = "terminating" if self.terminating else "ready" if self.ready else "not ready"
        target = f", Pod {self.namespace}/{self.pod}" if self.pod else ""
        return Reference(
            "EndpointSlice", self.namespace, self.slice, f"endpoints[{self.index}]", f"{self.ip} {state}{target}"
        )


class Objects:
    """The objects of a snapshot, indexed on demand."""

    def __init__(self, objects: Mapping[str, list[dict[str, Any]]]) -> None:
        self.raw = objects

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Objects of a plural kind."""
        return self.raw.get(kind, [])

    @cached_property
    def services(self) -> dict[tuple[str, str], Object]:
        return {(s["metadata"].get("namespace", ""), s["metadata"]["name"]): s for s in self.of("services")}

    @cached_property
    def ports(self) -> list[Port]:
        """All ports of all Services."""
        return [
            port for (namespace, name), service in self.services.items() for port in _ports(namespace, name, service)
        ]

    @cached_property
    def by_text(self) -> dict[str, list[Port]]:
        """`namespace/name[:port]` -> ports (two when protocols differ)."""
        found: dict[str, list[Port]] = {}
        for port in self.ports:
            found.setdefault(port.text, []).append(port)
        return found

    @cached_property
    def by_address(self) -> dict[str, list[tuple[Port, str]]]:
        """Address -> (port, the field that names the address)."""
        found: dict[str, list[tuple[Port, str]]] = {}
        for port in self.ports:
            for text, where in service_addresses(port.service):
                found.setdefault(text, []).append((port, where))
        return found

    @cached_property
    def by_node_port(self) -> dict[tuple[str, int], Port]:
        return {(port.protocol, port.node_port): port for port in self.ports if port.node_port}

    @cached_property
    def endpoints(self) -> dict[tuple[str, str], list[EndpointRef]]:
        """(namespace, Service) -> endpoints, one entry a port."""
        found: dict[tuple[str, str], list[EndpointRef]] = {}
        for each in self.of("endpointslices"):
            for endpoint in _endpoints(each):
                found.setdefault((endpoint.namespace, endpoint.service), []).append(endpoint)
        return found

    @cached_property
    def pods(self) -> dict[tuple[str, str], Object]:
        return {(p["metadata"].get("namespace", ""), p["metadata"]["name"]): p for p in self.of("pods")}

    @cached_property
    def pods_by_address(self) -> dict[str, Object]:
        """Address -> pod (pods with a network of their own)."""
        return {
            ip: pod
            for pod in self.of("pods")
            if not pod.get("spec", {}).get("hostNetwork")
            for ip in pod_addresses(pod)
        }

    @cached_property
    def nodes(self) -> dict[str, Object]:
        return {node["metadata"]["name"]: node for node in self.of("nodes")}

    @cached_property
    def nodes_by_address(self) -> dict[str, str]:
        return {
            address.canonical(item.get("address", "")): name
            for name, node in self.nodes.items()
            for item in node.get("status", {}).get("addresses", ())
            if item.get("type") in ("InternalIP", "ExternalIP")
        }

    def find_address(self, text: str) -> list[Reference]:
        """Who an address belongs to: pods, nodes, Services, ranges of pods and Services."""
        found = [
            Reference("Pod", p["metadata"].get("namespace", ""), p["metadata"]["name"], "status.podIP")
            for p in self._pod(text)
        ]
        if text in self.nodes_by_address:
            found.append(Reference("Node", "", self.nodes_by_address[text], "status.addresses"))
        seen = set()
        for port, where in self.by_address.get(text, ()):
            if (port.namespace, port.name, where) not in seen:
                seen.add((port.namespace, port.name, where))
                found.append(port.refer(where))
        return found or self._ranges(text)

    def _pod(self, text: str) -> list[Object]:
        pod = self.pods_by_address.get(text)
        return [pod] if pod is not None else []

    def _ranges(self, text: str) -> list[Reference]:
        """The pod range or Service range an address lies in."""
        canonical = address.canonical(text)
        if not canonical:
            return []
        value, bits = address.number(canonical), 128 if ":" in canonical else 32
        found = []
        for name, cidr in self.pod_ranges():
            network, mask, size = address.prefix(cidr)
            if size == bits and value & mask == network:
                found.append(Reference("Node", "", name, "spec.podCIDR", f"{cidr}; no running pod has this address"))
        for each in self.of("servicecidrs"):
            for cidr in each.get("spec", {}).get("cidrs", ()):
                network, mask, size = address.prefix(cidr)
                if size == bits and value & mask == network:
                    found.append(
                        Reference(
                            "ServiceCIDR",
                            "",
                            each["metadata"]["name"],
                            "spec.cidrs",
                            f"{cidr}; no Service has this address",
                        )
                    )
        return found

    def pod_ranges(self) -> Iterator[tuple[str, str]]:
        """(node, CIDR) of all nodes."""
        for name, node in self.nodes.items():
            spec = node.get("spec", {})
            for cidr in spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []):
                yield name, cidr


def unreadable(item: Object) -> str:
    """Why an object is not of the form its kind has, or ""; what we read of it is tried out."""
    try:
        meta = item["metadata"]
        if not isinstance(meta["name"], str) or not isinstance(meta.get("namespace", ""), str):
            return "its name is no text"
        match item.get("kind"):
            case "Service":
                _ports("", "", item)
                list(service_addresses(item))
            case "EndpointSlice":
                list(_endpoints(item))
            case "Pod":
                pod_addresses(item)
                item.get("spec", {}).get("nodeName", "")
            case "Node":
                item.get("spec", {}).get("podCIDR", "")
                [each.get("address") for each in item.get("status", {}).get("addresses") or ()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"not of the form of its kind ({error!r})"
    return ""


def pod_addresses(pod: Object) -> list[str]:
    """Canonical addresses of a running pod."""
    status = pod.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed"):
        return []
    texts = [item.get("ip", "") for item in status.get("podIPs") or ()] or [status.get("podIP", "")]
    return [text for text in map(address.canonical, texts) if text]


def service_addresses(service: Object) -> Iterator[tuple[str, str]]:
    """(address, field) of a Service: ClusterIPs, external and load balancer addresses."""
    spec = service.get("spec", {})
    for text in spec.get("clusterIPs") or [spec.get("clusterIP", "")]:
        if text and text != "None":
            yield address.canonical(text), "spec.clusterIP"
    for text in spec.get("externalIPs") or ():
        yield address.canonical(text), "spec.externalIPs"
    for item in service.get("status", {}).get("loadBalancer", {}).get("ingress") or ():
        if item.get("ip"):
            yield address.canonical(item["ip"]), "status.loadBalancer.ingress"


def _ports(namespace: str, name: str, service: Object) -> list[Port]:
    return [
        Port(
            service,
            namespace,
            name,
            index,
            p.get("name", ""),
            p.get("protocol", "TCP"),
            int(p.get("port", 0)),
            int(p.get("nodePort", 0)),
        )
        for index, p in enumerate(service.get("spec", {}).get("ports") or ())
    ]


def _endpoints(each: Object) -> Iterator[EndpointRef]:
    meta = each["metadata"]
    service = meta.get("labels", {}).get("kubernetes.io/service-name", "")
    for index, endpoint in enumerate(each.get("endpoints") or ()):
        conditions = endpoint.get("conditions") or {}
        target = endpoint.get("targetRef") or {}
        ready = conditions.get("ready") is not False
        for ip in endpoint.get("addresses") or ():
            for port in each.get("ports") or ():
                yield EndpointRef(
                    meta.get("namespace", ""), meta["name"], index, service, address.canonical(ip), int(port.get("port") or 0),
                    port.get("name") or "", target.get("name", "") if target.get("kind") == "Pod" else "", endpoint.get("nodeName", ""),
                    ready, conditions.get("serving", ready) is not False, bool(conditions.get("terminating")),
                )  # fmt: skip
