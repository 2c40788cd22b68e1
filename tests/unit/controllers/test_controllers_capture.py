"""EndpointSlices and Endpoints against those that a real cluster's controllers made of the same Services, pods and nodes."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from glassnet.controllers import endpoints, endpointslice
from glassnet.kube import kinds, types
from glassnet.kube.change import Create
from glassnet.kube.view import SERVICE_NAME_LABEL, Key, View

DATA = Path(__file__).parents[2] / "data" / "cluster-objects" / "cluster.json.gz"
CAPTURE: dict[str, list[dict[str, Any]]] = msgspec.json.decode(gzip.decompress(DATA.read_bytes()))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVICES = [
    Key(s["metadata"]["namespace"], s["metadata"]["name"])
    for s in CAPTURE["services"]
    if s["spec"].get("selector") and s["spec"]["type"] != "ExternalName"
]


def view(*more: str) -> View:
    out = View()
    found = {kind.plural: kind for kind in kinds.ALL}
    for plural in ("nodes", "namespaces", "pods", "services", *more):
        for obj in CAPTURE[plural]:
            out.apply(found[plural], types.decode(found[plural], msgspec.json.encode(obj)))
    return out


def shown(slices: list[dict[str, Any]]) -> list[Any]:
    """What matters of slices, in an order of its own; topology hints aside, which are left empty."""
    out = []
    for found in slices:
        ports = sorted(msgspec.json.encode(p, order="sorted") for p in found.get("ports") or [])
        ends = sorted(msgspec.json.encode({**e, "hints": None}, order="sorted") for e in found.get("endpoints") or [])
        labels = sorted(found["metadata"]["labels"].items())
        out.append((found["addressType"], ports, ends, labels))
    return sorted(out)


@pytest.mark.parametrize("key", SERVICES, ids=str)
def test_slices_equal_a_real_cluster_s(key: Key) -> None:
    made = endpointslice.reconcile(view(), key, NOW).changes
    real = [
        s
        for s in CAPTURE["endpointslices"]
        if s["metadata"]["namespace"] == key.namespace and s["metadata"]["labels"].get(SERVICE_NAME_LABEL) == key.name
    ]
    assert all(isinstance(change, Create) for change in made)
    assert shown([dict(change.body) for change in made if isinstance(change, Create)]) == shown(real)


@pytest.mark.parametrize("key", SERVICES, ids=str)
def test_a_real_cluster_s_slices_are_left_alone(key: Key) -> None:
    assert endpointslice.reconcile(view("endpointslices"), key, NOW).changes == []


@pytest.mark.parametrize("key", SERVICES, ids=str)
def test_endpoints_equal_a_real_cluster_s(key: Key) -> None:
    real = next(
        e
        for e in CAPTURE["endpoints"]
        if (e["metadata"]["namespace"], e["metadata"]["name"]) == (key.namespace, key.name)
    )
    (made,) = endpoints.reconcile(view(), key, NOW).changes
    assert isinstance(made, Create)
    assert made.body["metadata"]["labels"] == real["metadata"]["labels"]
    assert _subsets(made.body) == _subsets(real)


@pytest.mark.parametrize("key", SERVICES, ids=str)
def test_a_real_cluster_s_endpoints_are_left_alone(key: Key) -> None:
    assert endpoints.reconcile(view("endpoints"), key, NOW).changes == []


def _subsets(body: Any) -> list[Any]:
    out = []
    for subset in body.get("subsets") or []:
        ports = sorted(msgspec.json.encode(p, order="sorted") for p in subset.get("ports") or [])
        out.append((ports, subset.get("addresses"), subset.get("notReadyAddresses")))
    return sorted(out, key=str)
