"""A real API server's objects as oracle: our defaulting must make of the manifests what that server made of them."""

from __future__ import annotations

import copy
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from glassnet.apiserver import admission, schema
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind

DATA = Path(__file__).resolve().parents[2] / "data" / "cluster-objects"
Obj = dict[str, Any]
CLUSTER: dict[str, list[Obj]] = json.loads(gzip.decompress((DATA / "cluster.json.gz").read_bytes()))
REAL = {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for v in CLUSTER.values() for o in v}
MANIFESTS: list[Obj] = [o for f in sorted(DATA.glob("*.yaml")) for o in yaml.safe_load_all(f.read_text())]
STORED = [o for objects in CLUSTER.values() for o in objects]


def key(obj: Obj) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def kind_of(obj: Obj) -> Kind:
    return kinds.BY_API_KIND[obj["apiVersion"], obj["kind"]]


def created(manifest: Obj) -> Obj:
    """What a server makes of a manifest, up to the names it chooses itself."""
    obj, kind = copy.deepcopy(manifest), kind_of(manifest)
    schema.prepare_create(kind, obj)
    schema.default(schema.load(), kind, obj)
    admission.mutate(kind, obj)
    if kind is kinds.SERVICE:
        schema.ServiceAllocator("10.32.0.0/24", random=random.Random(1)).assign(obj, None)
    return obj


def test_the_capture_is_there() -> None:
    assert len(MANIFESTS) > 30
    assert len(STORED) > 80
    assert [key(m) for m in MANIFESTS if key(m) not in REAL] == []


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: "/".join(key(m)))
def test_defaulting_gives_the_spec_a_real_server_gave(manifest: Obj) -> None:
    real, ours = REAL[key(manifest)], created(manifest)
    for field in real.keys() - {"metadata", "status", "endpoints"}:
        assert ours.get(field) == real[field], field


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: "/".join(key(m)))
def test_manifests_are_accepted(manifest: Obj) -> None:
    kind = kind_of(manifest)
    assert schema.unknown_fields(schema.load(), kind, manifest) == []
    assert schema.validate_create(kind, created(manifest)) == []


@pytest.mark.parametrize("obj", STORED, ids=lambda o: "/".join(key(o)))
def test_stored_objects_are_complete_and_valid(obj: Obj) -> None:
    kind = kind_of(obj)
    assert schema.unknown_fields(schema.load(), kind, obj) == []
    assert schema.validate_create(kind, obj) == []
    assert schema.validate_update(kind, copy.deepcopy(obj), obj) == []
    again = copy.deepcopy(obj)
    schema.default(schema.load(), kind, again)
    assert again == obj


@pytest.mark.parametrize("obj", STORED, ids=lambda o: "/".join(key(o)))
def test_a_write_without_change_changes_nothing(obj: Obj) -> None:
    again = copy.deepcopy(obj)
    schema.prepare_update(kind_of(obj), again, obj)
    assert again == obj


def test_pods_made_of_real_templates_start_pending() -> None:
    pod = created(next(m for m in MANIFESTS if m["kind"] == "Pod"))
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert pod["metadata"]["generation"] == 1
