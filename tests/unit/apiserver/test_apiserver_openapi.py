"""OpenAPI documents: whole, true to discovery, and told apart by their content."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from glassnet.apiserver import openapi
from glassnet.apiserver.discovery import ENTRIES
from glassnet.apiserver.schema import Schema, load

GROUPS = sorted(ENTRIES)
PREFIX = "#/components/schemas/"


@pytest.fixture(scope="module")
def documents() -> dict[tuple[str, str], Any]:
    return {key: openapi.build(load(), *key) for key in GROUPS}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.mark.parametrize("key", GROUPS)
def test_every_reference_leads_somewhere(documents: dict[tuple[str, str], Any], key: tuple[str, str]) -> None:
    named = set(references(documents[key]))
    assert named
    assert {one.removeprefix(PREFIX) for one in named} <= set(documents[key]["components"]["schemas"])
    assert all(one.startswith(PREFIX) for one in named)


@pytest.mark.parametrize("key", GROUPS)
def test_every_kind_has_its_paths_and_its_type(documents: dict[tuple[str, str], Any], key: tuple[str, str]) -> None:
    group, version = key
    base = f"/apis/{group}/{version}" if group else f"/api/{version}"
    for entry in ENTRIES[key]:
        middle = "/namespaces/{namespace}" if entry.namespaced else ""
        operation = documents[key]["paths"][f"{base}{middle}/{entry.plural}"]["post"]
        gvk = {"group": group, "version": version, "kind": entry.response.name}
        assert operation["x-kubernetes-group-version-kind"] == gvk
        if "get" in entry.verbs:
            types = documents[key]["components"]["schemas"].values()
            assert sum(gvk in node.get("x-kubernetes-group-version-kind", ()) for node in types) == 1


def parameters(operation: Any) -> set[str]:
    return {one["name"] for one in operation["parameters"] if one["in"] == "query"}


def test_writes_say_that_the_server_checks_fields(documents: dict[tuple[str, str], Any]) -> None:
    # kubectl validates on its own side, badly, unless it finds fieldValidation on PATCH
    for document in documents.values():
        for path, item in document["paths"].items():
            for verb in {"post", "put", "patch"} & set(item):
                assert {"fieldValidation", "dryRun", "fieldManager"} <= parameters(item[verb]), (path, verb)
            if "patch" in item:
                assert "force" in parameters(item["patch"])
                assert "application/apply-patch+yaml" in item["patch"]["requestBody"]["content"]


def test_types_carry_merge_rules(documents: dict[tuple[str, str], Any]) -> None:
    types = documents["apps", "v1"]["components"]["schemas"]
    containers = types["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]


def test_building_leaves_the_schema_alone() -> None:
    before = copy.deepcopy(load().definitions)
    openapi.build(load(), "", "v1")
    assert load().definitions == before


def test_the_hash_is_that_of_the_content() -> None:
    documents = openapi.Documents(load())
    assert documents.hash("api/v1") == hashlib.sha256(documents.document("api/v1")).hexdigest().upper()
    changed = copy.deepcopy(load().definitions)
    changed["io.k8s.api.core.v1.PodSpec"]["properties"]["hostname"]["type"] = "integer"
    other = openapi.Documents(Schema(changed))
    assert other.url("api/v1") != documents.url("api/v1")
    assert other.url("apis/coordination.k8s.io/v1") == documents.url("apis/coordination.k8s.io/v1")


async def test_index_leads_to_documents_that_may_be_kept() -> None:
    app = web.Application()
    app.add_routes(openapi.routes(load()))
    async with TestClient(TestServer(app)) as client:
        index = json.loads(await (await client.get("/openapi/v3")).read())
        assert set(index["paths"]) == {f"apis/{g}/{v}" if g else f"api/{v}" for g, v in GROUPS}
        for path in index["paths"].values():
            url = path["serverRelativeURL"]
            found = await client.get(url)
            assert (found.status, found.headers["Cache-Control"]) == (200, "public, immutable")
            assert json.loads(await found.read())["openapi"].startswith("3.")
            again = await client.get(url, headers={"If-None-Match": found.headers["ETag"]})
            assert again.status == 304
        for query in ("", "?hash=OLD"):
            stale = await client.get(f"/openapi/v3/api/v1{query}")
            assert stale.headers["Cache-Control"] == "no-cache"
