"""The cluster of the proxy's benchmarks: ClusterIP Services with five endpoints each, as the API's JSON."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address
from typing import Any

from glassnet.kube import kinds, narrow
from glassnet.kube.view import View

ENDPOINTS = 5
FIRST = ip_address("10.96.0.10")
NODES = 100  # one endpoint in a hundred runs on the node that is measured


def service(number: int) -> dict[str, Any]:
    """A Service with a ClusterIP of 10.96.0.0/12."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": f"service-{number:05d}",
            "namespace": "bench",
            "uid": f"{number:036d}",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "clusterIP": str(FIRST + number),
            "type": "ClusterIP",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
            "selector": {"app": f"service-{number:05d}"},
        },
    }


def endpoint_slice(number: int, generation: int = 0, count: int = ENDPOINTS) -> dict[str, Any]:
    """Its EndpointSlice; another `generation` has another first address, another `count` another number of endpoints."""
    name, first = f"service-{number:05d}", number * ENDPOINTS
    addresses = [f"10.{128 + (n >> 16)}.{(n >> 8) & 255}.{n & 255}" for n in range(first, first + count)]
    if generation:
        addresses[0] = f"10.{240 + generation % 8}.{(number >> 8) & 255}.{number & 255}"
    ready = {"ready": True, "serving": True, "terminating": False}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-x",
            "namespace": "bench",
            "uid": f"{number:035d}e",
            "resourceVersion": str(generation + 1),
            "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "bench"},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [ip],
                "conditions": ready,
                "nodeName": f"node-{(first + n) % NODES}",
                "zone": "zone-a",
                "targetRef": {"kind": "Pod", "namespace": "bench", "name": f"{name}-{n}", "uid": f"{number:030d}-{n}"},
            }
            for n, ip in enumerate(addresses)
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def fill(view: View, size: int) -> None:
    """Put the cluster into a View, decoded from JSON as a watch does it."""
    for number in range(size):
        put(view, kinds.SERVICE, service(number))
        put(view, kinds.ENDPOINT_SLICE, endpoint_slice(number))


def decoded(kind: kinds.Kind, body: dict[str, Any]) -> Any:
    """An object as a watch decodes it."""
    return narrow.decode(kind, json.dumps(body).encode())


def put(view: View, kind: kinds.Kind, body: dict[str, Any]) -> None:
    """One object."""
    view.apply(kind, decoded(kind, body))


async def until(condition: Any, seconds: float = 300) -> None:
    """Wait, looking often enough for what is measured here."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (nothing signals what is measured)
            await asyncio.sleep(0.0002)
