"""Configuration files as msgspec structs: what is unknown or of a wrong type is told all at once, each fault with its line."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

import msgspec

from glassnet.kube.manifest import Manifest
from glassnet.net.errors import ParseError

T = TypeVar("T")
Fault = tuple[str, str]  # path of a field ("iptables.masqueradeBit"), what is wrong with it


class Section(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base of a configuration's parts."""


def unknown(kind: type[Any], body: Any, path: str = "") -> list[Fault]:
    """Fields of `body` that a section does not have."""
    out: list[Fault] = []
    fields = {each.encode_name: each for each in msgspec.structs.fields(kind)}
    for name, value in body.items() if isinstance(body, dict) else ():
        here = f"{path}.{name}" if path else str(name)
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, 1)
            out.append((here, f"unknown field {here!r}" + (f"; did you mean {close[0]!r}?" if close else "")))
        elif is_section(fields[name].type):
            out += unknown(fields[name].type, value, here)
    return out


def prune(kind: type[Any], body: Any) -> Any:
    """Without nulls, which stand for the default, and unknown fields."""
    if not isinstance(body, dict):
        return body
    fields = {each.encode_name: each for each in msgspec.structs.fields(kind)}
    return {
        name: prune(fields[name].type, value) if is_section(fields[name].type) else value
        for name, value in body.items()
        if name in fields and value is not None
    }


def is_section(kind: Any) -> bool:
    """Whether a field's type is a part with fields of its own."""
    return isinstance(kind, type) and issubclass(kind, Section)


def convert(body: dict[str, Any], kind: type[T]) -> tuple[T, list[Fault]]:
    """The configuration of a body, without what is of a wrong type, and the faults. `body` loses what is wrong."""
    faults: list[Fault] = []
    while True:
        try:
            return msgspec.convert(body, kind), faults
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `")
            path = path.rstrip("`").removeprefix("key in ").removeprefix("$.").split("[...]")[0]
            faults.append((path, f"{path}: {message[:1].lower()}{message[1:]}"))
            *parts, last = path.split("[")[0].split(".")
            section = body
            for name in parts:
                section = section[name]
            if section.pop(last, None) is None:
                raise  # it would never end; nothing that YAML can hold comes here


def line(item: Manifest | None, path: str) -> int:
    """Where a field's name stands, or an entry of a list; 0 without a text."""
    if item is None:
        return 0
    found_in, node = item.line(path), item.node
    for step in path.replace("[", ".").replace("]", "").split(".") if not path.endswith("]") else ():
        pairs = node.value if isinstance(node.value, list) else []
        if step.isdigit() and int(step) < len(pairs) and not isinstance(pairs[0], tuple):
            node = pairs[int(step)]
            continue
        found = next((pair for pair in pairs if isinstance(pair, tuple) and pair[0].value == step), None)
        if found is None:
            break
        found_in, node = found[0].start_mark.line + 1, found[1]
    return int(found_in)


def refuse(faults: list[Fault], source: str, item: Manifest | None) -> None:
    """Raise ParseError for faults, in the order of their lines, unless there are none."""
    lines = sorted(((line(item, path), message) for path, message in faults), key=lambda each: each[0])
    if len(lines) == 1:
        raise ParseError(lines[0][1], source, lines[0][0])
    if lines:
        told = [f"  line {number}: {message}" if number else f"  {message}" for number, message in lines]
        raise ParseError("\n".join([f"{len(lines)} faults", *told]), source)
