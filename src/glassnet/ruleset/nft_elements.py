"""Definitions of sets and maps in a listing of nft, and their elements, in the form of libnftables-json(5)."""

from __future__ import annotations

import re
from typing import Any

from glassnet.ruleset.nft_grammar import VERDICT, element, expression, starts_expression, stateful
from glassnet.ruleset.nft_lexer import NotUnderstoodError, Tokens, constant, seconds

Json = Any

_ELEMENT = re.compile(r'(?:[^",]+|"[^"]*")+')
_COMMENTED = re.compile(r'(\S+(?: \. \S+)*) comment "([^"]*)"')
_PLAIN = {word: {word: None} for word in ("accept", "drop", "return", "continue")}


def describe(found: dict[str, Json], item: str) -> None:
    """One line of a definition other than its elements, entered in the object."""
    word, _, rest = item.partition(" ")
    rest = rest.strip()
    if word in ("type", "typeof"):
        key, colon, data = rest.partition(" : ")
        kinds = _kinds(key, word)
        found["type"] = kinds[0] if len(kinds) == 1 else kinds
        if colon:
            data = data.removeprefix("interval ")
            found["map"] = " . ".join(_kinds(data, word))
    elif word == "flags":
        found["flags"] = [flag.strip() for flag in rest.split(",") if flag.strip()]
    elif word in ("timeout", "gc-interval"):
        found[word] = seconds(rest)
        if word == "timeout" and "timeout" not in found.setdefault("flags", []):
            found["flags"].append("timeout")  # nft leaves the flag out where it prints the time
    elif word == "size":
        found["size"] = Tokens(rest.partition("#")[0]).integer()
    elif word == "policy":
        found["policy"] = rest
    elif word == "auto-merge":
        found["auto-merge"] = True
    else:
        statement = stateful(Tokens(item))
        if statement is None:
            raise NotUnderstoodError(f"unknown word {word!r}")
        found.setdefault("stmt", []).append(statement)


def _kinds(text: str, word: str) -> list[str]:
    """Types of the parts of a key or of data; those of expressions after `typeof`."""
    if word == "type" or text.strip() in (VERDICT, "counter", "quota", "limit", "ct helper", "synproxy"):
        return [part.strip() for part in text.split(" . ")]
    tokens = Tokens(text)
    if not starts_expression(tokens):
        raise NotUnderstoodError(f"unknown type {text!r}")
    return [_PRINTED.get(kind, kind) for kind in expression(tokens)[1].split(" . ")]


_PRINTED = {"moment": "time", "boolean": "boolean", "": "invalid"}


def read(body: str, kind: str | list[str], data: str | None) -> list[Json]:
    """The elements between the braces; `data` is the type of a map's data."""
    kinds = [kind] if isinstance(kind, str) else kind
    if '"' in body:
        parts = _ELEMENT.findall(body)
    else:
        parts = body.split(",")
    keys = _Keys(kinds)
    if data is None:
        return [keys.read(part.strip()) for part in parts if part.strip()]
    values = _verdict if data == VERDICT else _Keys(data.split(" . ")).read
    out = []
    seen: dict[str, Json] = {}
    for part in parts:
        part = part.strip()
        if not part:
            continue
        key, colon, right = part.rpartition(" : ")
        if not colon:
            raise NotUnderstoodError(f"an element without data: {part[:60]!r}")
        found = seen.get(right)
        if found is None:
            found = seen[right] = values(right.strip())
        out.append([keys.read(key.strip()), found])
    return out


class _Keys:
    """Reads keys of one type; constants seen before are not read again."""

    def __init__(self, kinds: list[str]) -> None:
        self.kinds = kinds
        self.seen: list[dict[str, Json]] = [{} for _ in kinds]
        self.kind = " . ".join(kinds)

    def read(self, text: str) -> Json:
        """A key, with what follows it (comment, timeout, …)."""
        parts = text.split(" . ")
        if len(parts) != len(self.kinds):
            return self._any(text)
        if " " not in parts[-1] and '"' not in text:
            return self._parts(parts)
        match = _COMMENTED.fullmatch(text)
        if match and '"' not in match[1]:
            parts = match[1].split(" . ")
            if len(parts) == len(self.kinds):
                return {"elem": {"val": self._parts(parts), "comment": match[2]}}
        return self._any(text)

    def _parts(self, parts: list[str]) -> Json:
        found = []
        for part, kind, seen in zip(parts, self.kinds, self.seen, strict=True):
            constant_ = seen.get(part)
            if constant_ is None:
                constant_ = seen[part] = constant(part, kind)
            found.append(constant_)
        return found[0] if len(found) == 1 else {"concat": found}

    def _any(self, text: str) -> Json:
        tokens = Tokens(text)
        found = element(tokens, self.kind)
        if tokens.place < len(tokens.words):
            raise NotUnderstoodError(f"unknown word {tokens.peek()!r} in an element")
        return found


def _verdict(text: str) -> Json:
    found = _PLAIN.get(text)
    if found:
        return found
    word, _, target = text.partition(" ")
    if word in ("jump", "goto") and target and " " not in target:
        return {word: {"target": target.strip('"')}}
    raise NotUnderstoodError(f"unknown verdict {text!r}")
