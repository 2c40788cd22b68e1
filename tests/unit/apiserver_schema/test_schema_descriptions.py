"""Descriptions speak of types and fields that exist."""

from __future__ import annotations

from glassnet.apiserver.schema import load
from glassnet.apiserver.schema.descriptions import _texts, describe
from glassnet.kube import kinds


def test_every_description_is_of_something_there() -> None:
    definitions = load().definitions
    astray = [
        (name, field)
        for name, field in _texts()
        if name not in definitions or (field and field not in definitions[name]["properties"])
    ]
    assert astray == []


def test_every_kind_is_described() -> None:
    schema = load()
    names = [schema.name_of(kind.group, kind.version, kind.name) for kind in kinds.ALL]
    assert [name for name in names if not name or not describe(name)] == []


def test_the_fields_people_ask_for() -> None:
    assert "ClusterIP" in describe("io.k8s.api.core.v1.ServiceSpec", "type")
    assert describe("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "labels")
    assert describe("io.k8s.api.core.v1.ServiceSpec", "nothing") == ""
