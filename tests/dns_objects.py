"""Objects of the tests of DNS: Services, EndpointSlices and namespaces, as short as they can be said."""

from __future__ import annotations

import json
from typing import Any

from glassnet.agent.dns.watches import decode
from glassnet.kube import kinds
from glassnet.kube.view import Key, View

_PLURAL = {kinds.SERVICE: "Service", kinds.ENDPOINT_SLICE: "EndpointSlice", kinds.NAMESPACE: "Namespace"}


def service(name: str, ip: str | tuple[str, ...] = (), *ports: tuple[str, str, int], namespace: str = "demo", **spec: Any) -> dict[str, Any]:  # fmt: skip
    """A Service; `ports` are (name, protocol, number)."""
    ips = [ip] if isinstance(ip, str) else list(ip)
    body: dict[str, Any] = {"ports": [{"name": n, "protocol": p, "port": number} for n, p, number in ports], **spec}
    if ips:
        body |= {"clusterIP": ips[0], "clusterIPs": ips}
    return {"metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"}, "spec": body}


def headless(name: str, *ports: tuple[str, str, int], **more: Any) -> dict[str, Any]:
    """A Service without an address."""
    return service(name, "None", *ports, **more)


def external(name: str, target: str, **more: Any) -> dict[str, Any]:
    """A Service that stands for a name."""
    return service(name, (), type="ExternalName", externalName=target, **more)


def endpoint(*addresses: str, hostname: str = "", ready: bool | None = True, pod: str = "") -> dict[str, Any]:
    """One endpoint of a slice."""
    body: dict[str, Any] = {"addresses": list(addresses), "conditions": {"ready": ready}}
    if hostname:
        body["hostname"] = hostname
    if pod:
        body["targetRef"] = {"kind": "Pod", "name": pod, "uid": f"uid-{pod}"}
    return body


def endpoints(service: str, *members: dict[str, Any], ports: tuple[tuple[str, str, int], ...] = (), family: str = "IPv4", namespace: str = "demo", name: str = "") -> dict[str, Any]:  # fmt: skip
    """A slice of a Service."""
    return {
        "metadata": {"name": name or f"{service}-{family.lower()}", "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "endpoints": list(members),
        "ports": [{"name": n, "protocol": p, "port": number} for n, p, number in ports],
    }  # fmt: skip


def namespace(name: str) -> dict[str, Any]:
    """A namespace."""
    return {"metadata": {"name": name}}


def kind_of(body: dict[str, Any]) -> Any:
    """Which kind an object made here is of."""
    if "addressType" in body:
        return kinds.ENDPOINT_SLICE
    return kinds.SERVICE if "spec" in body else kinds.NAMESPACE


def put(view: View, *bodies: dict[str, Any], deleted: bool = False) -> None:
    """Have the View see objects, or their end."""
    for body in bodies:
        view.apply(kind_of(body), decode(kind_of(body), json.dumps(body).encode()), deleted)


def decoded(body: dict[str, Any]) -> Any:
    """An object as the loop sees it."""
    return decode(kind_of(body), json.dumps(body).encode())


def key(body: dict[str, Any]) -> Key:
    """The key of an object."""
    return Key(body["metadata"].get("namespace", ""), body["metadata"]["name"])
