"""Manifests: YAML or JSON text -> API objects that remember their place, so that an error can name file and line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from glassnet.net.errors import ParseError

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML as Kubernetes reads it: no timestamps, no duplicate keys."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object of a manifest file: its body, the file's name, and where its parts stand."""

    body: dict[str, Any]
    source: str
    node: Any

    def line(self, path: str = "") -> int:
        """Line (from 1) of the deepest part of `path` ("spec.containers[0].image") that the text has."""
        node = self.node
        for step in _steps(path):
            child = _child(node, step)
            if child is None:
                break
            node = child
        return int(node.start_mark.line) + 1 if node.start_mark else 0

    def error(self, message: str, path: str = "") -> ParseError:
        """A ParseError at the place of `path`, naming the object."""
        kind, name = self.body.get("kind", "object"), (self.body.get("metadata") or {}).get("name", "")
        return ParseError(f"{kind}/{name}: {message}" if name else f"{kind}: {message}", self.source, self.line(path))


def document(text: str, source: str) -> Manifest:
    """A file that is one mapping and no API object, such as a configuration; an empty one has nothing in it. Raises ParseError as `parse` does."""
    nodes = _composed(text, source)
    if not nodes or (isinstance(nodes[0], yaml.ScalarNode) and nodes[0].value == ""):
        return Manifest({}, source, yaml.MappingNode("tag:yaml.org,2002:map", []))
    if len(nodes) > 1 or not isinstance(nodes[0], yaml.MappingNode):
        raise ParseError("want one mapping of fields to values", source, nodes[-1].start_mark.line + 1)
    _refuse_duplicates(nodes[0], source)
    return Manifest(_constructed(nodes[0], source), source, nodes[0])


def parse(text: str, source: str, named: bool = True) -> list[Manifest]:
    """Parse one file of manifests; `List` objects are taken apart, empty documents skipped; `named` asks for metadata.name.

    Raises ParseError with file, line and column for broken YAML, a duplicate key, or a document that is no API object.
    """
    out: list[Manifest] = []
    for node in _composed(text, source):
        out += _objects(node, source, named)
    return out


def _composed(text: str, source: str) -> list[Any]:
    try:
        return [node for node in yaml.compose_all(text, _Loader) if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ParseError(
            error.problem or str(error), source, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0
        ) from None
    except yaml.YAMLError as error:
        raise ParseError(str(error).replace("\n", " "), source) from None


def _constructed(node: Any, source: str) -> Any:
    """The value of a node. Raises ParseError for a tag nobody knows, a list as a key and their like."""
    try:
        return _Loader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ParseError(error.problem or str(error), source, mark.line + 1 if mark else 0) from None


def _objects(node: Any, source: str, named: bool) -> Iterable[Manifest]:
    if isinstance(node, yaml.ScalarNode) and node.value == "":
        return
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise ParseError("want an API object (a mapping with apiVersion, kind, metadata)", source, line)
    _refuse_duplicates(node, source)
    body = _constructed(node, source)
    for key in ("apiVersion", "kind"):
        if not isinstance(body.get(key), str):
            raise ParseError(f"the object has no {key}", source, line)
    items = _child(node, "items")
    if body["kind"].endswith("List") and isinstance(items, yaml.SequenceNode):
        for item in items.value:
            yield from _objects(item, source, named)
        return
    metadata = body.get("metadata")
    if named and not (isinstance(metadata, dict) and (metadata.get("name") or metadata.get("generateName"))):
        raise ParseError(f"{body['kind']}: the object has no metadata.name", source, line)
    yield Manifest(body, source, node)


def _refuse_duplicates(node: Any, source: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise ParseError(f"key {key.value!r} is there twice (first in line {seen[key.value]})", source, line)
            seen[key.value] = line
            _refuse_duplicates(value, source)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, source)


def _steps(path: str) -> list[str]:
    return [step for step in path.replace("[", ".").replace("]", "").split(".") if step]


def _child(node: Any, step: str) -> Any | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
        return node.value[int(step)]
    return None
