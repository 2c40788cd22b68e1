"""What a listing holds, as lines to search and to compare: rules in one spelling whichever tool listed them, elements of sets and maps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from glassnet.net.errors import ParseError
from glassnet.ruleset.model import NFT, Chain, SetObject
from glassnet.ruleset.nft_print import rule_text, value_text, verdict_text
from glassnet.ruleset.parse_nft import decode, expressions

# kube-proxy's nftables names: KIND-HASH-namespace/service/protocol/port[__address/port]
KUBE_NAME = re.compile(
    r"(service|local|external|firewall|endpoint|affinity)-([A-Z2-7]{8})-([^_]+)(?:__(.+))?"
).fullmatch
# ours: sticky-cluster-namespace/service[/port]/protocol and endpoint-…__address/port
OUR_NAME = re.compile(r"(sticky-cluster|sticky-local|endpoint|affinity)-([^_]+/(?:tcp|udp|sctp))(?:__(.+))?").fullmatch


class Line(NamedTuple):
    """A rule, an element or a chain as a line, and where it stands (`line` 0: the tool's form has no lines)."""

    text: str
    source: str = ""
    line: int = 0

    @property
    def at(self) -> str:
        """`file:line`."""
        return f"{self.source}:{self.line}" if self.line else self.source


class Element(NamedTuple):
    """An element of a set or map: its key in parts, its data or verdict in words, its comment."""

    key: tuple[str, ...]
    value: str = ""
    comment: str = ""

    @property
    def text(self) -> str:
        """As nft shows it."""
        words = " . ".join(self.key)
        if self.comment:
            words += f' comment "{self.comment}"'
        return f"{words} : {self.value}" if self.value else words


def raw_texts(chain: Chain) -> Iterator[str]:
    """Every rule of a chain as text good enough to search in; nothing is parsed or kept."""
    assert chain.make is not None or not chain.raw
    if chain.table.tool != NFT:
        for index in range(len(chain.raw)):
            yield chain.make(chain, index).text  # type: ignore[misc]
        return
    for item in chain.raw:
        yield item.text or f"{bytes(item.expr).decode(errors='replace')} {item.comment}"


def line_of(chain: Chain, index: int) -> Line:
    """The rule at an index, spelled as its tool shows it."""
    rule = chain.rule(index)
    if chain.table.tool != NFT:
        return Line(rule.text, chain.table.source, rule.line)
    try:
        return Line(rule_text(expressions(rule), rule.comment), chain.table.source, rule.line)
    except (ParseError, KeyError, TypeError, ValueError):  # what nft of tomorrow prints is shown as it stands
        return Line(rule.text or bytes(chain.raw[index].expr).decode(errors="replace"), chain.table.source, rule.line)


def lines(chain: Chain) -> list[Line]:
    """All rules of a chain."""
    return [line_of(chain, index) for index in range(len(chain))]


def mentions(found: SetObject, needles: tuple[bytes, ...]) -> bool:
    """False when none of the words can be in a set: looked up in its text as it came, before anything is decoded."""
    raw = found.elements
    if isinstance(raw, (bytes, msgspec.Raw)):
        data = bytes(raw)
        return any(needle in data for needle in needles)
    return bool(raw)


def elements(found: SetObject) -> list[Element]:
    """The elements of an nft set or map."""
    raw = found.elements
    if raw is None:
        return []
    return [_element(each) for each in (raw if isinstance(raw, list) else decode(raw, found.source) or [])]


def _element(item: Any) -> Element:
    value = ""
    if isinstance(item, list) and len(item) == 2:
        item, data = item
        parts = _parts(data)
        value = " . ".join(parts) if parts else verdict_text(data)
    comment = ""
    if isinstance(item, dict) and "elem" in item:
        comment = item["elem"].get("comment", "")
        item = item["elem"].get("val")
    return Element(_parts(item) or (value_text(item),), value, comment)


def _parts(item: Any) -> tuple[str, ...]:
    if isinstance(item, dict) and isinstance(item.get("concat"), list):
        return tuple(value_text(each) for each in item["concat"])
    return ()
