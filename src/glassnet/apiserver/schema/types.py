"""The API's types: fields, JSON types, merge rules. Read once from package data; nodes are plain JSON-schema dicts."""

from __future__ import annotations

import gzip
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from glassnet.kube.kinds import Kind

Node = dict[str, Any]
ANY: Node = {}


class Schema:
    """All types. A node is a JSON schema with references followed by `resolve`."""

    def __init__(self, definitions: dict[str, Node]) -> None:
        self.definitions = definitions
        self._roots = {
            (gvk["group"], gvk["version"], gvk["kind"]): name
            for name, node in definitions.items()
            for gvk in node.get("x-kubernetes-group-version-kind", ())
        }

    def name_of(self, group: str, version: str, kind: str) -> str | None:
        """Definition name of a kind, None when it is not served."""
        return self._roots.get((group, version, kind))

    def root(self, kind: Kind) -> Node:
        """The type of a kind's objects."""
        return self.definitions[self._roots[kind.group, kind.version, kind.name]]

    def resolve(self, node: Node) -> Node:
        """Follow a reference; merge rules written beside it stay."""
        reference = node.get("$ref")
        if reference is None and len(node.get("allOf", ())) == 1:
            reference = node["allOf"][0].get("$ref")
        return self.definitions.get(reference, ANY) if reference else node

    def field(self, node: Node, name: str) -> Node | None:
        """The node of an object's field (or a map's value); None for a field the type does not have, ANY where all is allowed."""
        node = self.resolve(node)
        properties = node.get("properties")
        if properties is not None and name in properties:
            found: Node = properties[name]
            return found
        extra = node.get("additionalProperties")
        if isinstance(extra, dict):
            return extra
        return None if properties is not None else ANY

    def items(self, node: Node) -> Node:
        """The node of a list's elements."""
        found: Node = self.resolve(node).get("items", ANY)
        return found


def list_keys(node: Node) -> tuple[str, ...]:
    """Keys of an associative list ("" for a set), () for an atomic one: server-side apply's view."""
    kind = node.get("x-kubernetes-list-type")
    if kind == "map":
        return tuple(node["x-kubernetes-list-map-keys"])
    return ("",) if kind == "set" else ()


def is_atomic_map(schema: Schema, node: Node) -> bool:
    """True when server-side apply treats an object as one value."""
    return (
        node.get("x-kubernetes-map-type") == "atomic" or schema.resolve(node).get("x-kubernetes-map-type") == "atomic"
    )


@cache
def load() -> Schema:
    """The types of Kubernetes 1.36, as far as they are served here."""
    packed = resources.files(__package__).joinpath("data/types.json.gz").read_bytes()
    return Schema(msgspec.json.decode(gzip.decompress(packed)))
