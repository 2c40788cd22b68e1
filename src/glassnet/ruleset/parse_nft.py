"""Listings of `nft -j list ruleset` and `nft list ruleset` (0.9 to 1.1) as tables.

Source of the form: libnftables-json(5). Expressions stay bytes until somebody looks at a rule: decoding 37 MB into Python objects would
take ten times the memory.
"""

from __future__ import annotations

from typing import Any

import msgspec

from glassnet.net.errors import ParseError
from glassnet.ruleset import nft_text
from glassnet.ruleset.model import NFT, Chain, Rule, SetObject, Table


class _Rule(msgspec.Struct, gc=False):
    family: str
    table: str
    chain: str
    handle: int = 0
    comment: str = ""
    expr: msgspec.Raw = msgspec.Raw(b"[]")
    text: str = ""
    line: int = 0


class _Chain(msgspec.Struct, gc=False):
    family: str
    table: str
    name: str
    handle: int = 0
    type: str = ""
    hook: str = ""
    prio: int = 0
    policy: str = "accept"
    dev: Any = None
    line: int = 0


class _Set(msgspec.Struct):
    family: str
    table: str
    name: str
    type: Any = ""
    map: Any = None
    flags: Any = None
    comment: str = ""
    elem: msgspec.Raw = msgspec.Raw(b"[]")
    line: int = 0
    unknown: Any = None


class _Table(msgspec.Struct, gc=False):
    family: str
    name: str
    comment: str = ""
    flags: Any = None
    line: int = 0


class _Item(msgspec.Struct, gc=False):
    table: _Table | None = None
    chain: _Chain | None = None
    set: _Set | None = None
    map: _Set | None = None
    rule: _Rule | None = None
    element: msgspec.Raw | None = None


class _Listing(msgspec.Struct, gc=False):
    nftables: list[_Item]


def parse_nft_json(data: bytes, source: str = "") -> list[Table]:
    """Tables of a JSON listing. Raises ParseError with the place where the text is broken or misses what it must have."""
    try:
        listing = msgspec.json.decode(data, type=_Listing)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ParseError(_place(str(error), data), source, _line(str(error), data)) from None
    except RecursionError:
        raise ParseError("nested too deeply to be a listing of nft", source) from None
    return _build(listing.nftables, source)


def _build(items: list[_Item], source: str) -> list[Table]:
    tables: dict[tuple[str, str], Table] = {}
    for item in items:
        if (found := item.table) is not None:
            table = Table(found.family, found.name, NFT, source, line=found.line, comment=found.comment)
            table.dormant = "dormant" in _words(found.flags)
            tables[found.family, found.name] = table
        elif (chain := item.chain) is not None:
            _chain(_table(tables, chain.family, chain.table, source), chain)
        elif (rule := item.rule) is not None:
            table = _table(tables, rule.family, rule.table, source)
            holder = table.chains.get(rule.chain)
            if holder is None:
                raise ParseError(
                    f"a rule for chain {rule.chain}, which table {rule.family} {rule.table} does not have", source
                )
            holder.raw.append(rule)  # type: ignore[attr-defined]
        elif (named := item.set or item.map) is not None:
            _set(_table(tables, named.family, named.table, source), named, "map" if item.map else "set", source)
    return list(tables.values())


def _table(tables: dict[tuple[str, str], Table], family: str, name: str, source: str) -> Table:
    found = tables.get((family, name))
    if found is None:  # nft 0.9 lists single tables without their own line
        found = tables[family, name] = Table(family, name, NFT, source)
    return found


def _chain(table: Table, item: _Chain) -> None:
    chain = Chain(table, item.name, item.hook, item.type or "filter", item.prio, item.policy, line=item.line)
    chain.devices = tuple(_words(item.dev))
    chain.raw, chain.make = [], _make
    table.chains[item.name] = chain


def _set(table: Table, item: _Set, kind: str, source: str) -> None:
    value = item.map if isinstance(item.map, str) else ".".join(_words(item.map))
    table.sets[item.name] = SetObject(
        item.name,
        kind,
        tuple(_words(item.type)),
        value,
        frozenset(_words(item.flags)),
        item.elem,
        item.line,
        source,
        item.comment,
    )
    if item.unknown:
        table.sets[item.name].unknown = "; ".join(f"{each['text']}: {each['reason']}" for each in item.unknown)


def _make(chain: Chain, index: int) -> Rule:
    item: _Rule = chain.raw[index]
    return Rule(chain, index + 1, item.text, item.line, item.handle, item.comment)


def expressions(rule: Rule) -> Any:
    """The rule's expressions in libnftables' JSON form. Raises ParseError."""
    item: _Rule = rule.chain.raw[rule.number - 1]
    if item.text:
        return nft_text.parse_rule(item.text, rule.chain.table.family)
    return decode(item.expr, rule.chain.table.source)


def decode(raw: Any, source: str = "") -> Any:
    """Decode what was left as bytes. Raises ParseError."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ParseError(str(error), source) from None


def _words(value: Any) -> list[str]:
    """A JSON value that is one word, a list of words, or nothing."""
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [word for word in value if isinstance(word, str)]
    if isinstance(value, dict):  # {"typeof": {"concat": […]}}: the parts' types are told by the elements
        return []
    return [str(value)]


def _place(message: str, data: bytes) -> str:
    if not data.strip():
        return "empty: no listing of nft"
    if "truncated" in message:
        return "the listing ends in the middle: it was cut off"
    return f"not a JSON listing of nft: {message}"


def _line(message: str, data: bytes) -> int:
    _, _, place = message.rpartition("(byte ")
    digits = place.rstrip(")")
    return data.count(b"\n", 0, int(digits)) + 1 if digits.isdigit() else 0


def parse_nft_text(text: str, source: str = "") -> list[Table]:
    """Tables of a text listing. Raises ParseError with the line where the text is broken."""
    return _build([_item(each) for each in nft_text.parse_nft_text(text, source)], source)


_FIELDS = {
    "rule": ("family", "table", "chain", "handle", "comment", "text", "line"),
    "chain": ("family", "table", "name", "type", "hook", "prio", "policy", "dev", "line"),
    "set": ("family", "table", "name", "type", "map", "flags", "comment", "elem", "line", "unknown"),
    "table": ("family", "name", "comment", "flags", "line"),
}
_FIELDS["map"] = _FIELDS["set"]


def _item(each: dict[str, Any]) -> _Item:
    ((kind, body),) = each.items()
    words = {name: body[name] for name in _FIELDS.get(kind, ()) if name in body}
    match kind:
        case "rule":
            return _Item(rule=_Rule(**words))
        case "chain":
            return _Item(chain=_Chain(**words))
        case "set":
            return _Item(set=_Set(**words))
        case "map":
            return _Item(map=_Set(**words))
        case "table":
            return _Item(table=_Table(**words))
    return _Item()
