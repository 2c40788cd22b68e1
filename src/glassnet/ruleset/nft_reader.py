"""nf_tables messages, read: what the kernel answers to a listing, and which part of a batch an error is about.

Sources: include/uapi/linux/netfilter/nf_tables.h; netlink(7) for attributes; libnftnl's udata.h for comments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from glassnet.ruleset import nft_messages as m

_KINDS = {
    m.TABLE: "add table", m.TABLE + 2: "delete table", m.CHAIN: "add chain", m.CHAIN + 2: "delete chain", m.RULE: "add a rule to chain",
    m.RULE + 2: "flush chain", m.SET: "add set", m.SET + 2: "delete set", m.ELEMENTS: "add an element to",
    m.ELEMENTS + 2: "delete an element of",
}  # fmt: skip
_NAME_ATTRIBUTE = {m.CHAIN: 3, m.RULE: 2, m.SET: 2, m.ELEMENTS: 2}


class Element(NamedTuple):
    """One element of a listing, in the form `nft_messages.element` takes: key, and what follows it. `end`: it ends a range before it."""

    key: bytes
    rest: bytes
    end: bool = False


def attributes(data: bytes | memoryview, start: int = 0, stop: int | None = None) -> dict[int, bytes]:
    """Attributes by number, without the nesting mark; of several with one number the last."""
    return {kind: data_ for kind, _, data_ in walk(data, start, stop)}


def walk(data: bytes | memoryview, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, content) of attributes in order."""
    end = len(data) if stop is None else stop
    while start + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, start)
        if length < 4:
            return
        yield kind & 0x3FFF, start, bytes(data[start + 4 : start + length])
        start += (length + 3) & ~3


def string(data: bytes) -> str:
    """Text up to its end mark."""
    return data.partition(b"\0")[0].decode(errors="replace")


def note_of(user_data: bytes) -> str:
    """The comment in user data; "" when there is none."""
    place = 0
    while place + 2 <= len(user_data):
        kind, length = user_data[place], user_data[place + 1]
        if kind == 0:
            return string(user_data[place + 2 : place + 2 + length])
        place += 2 + length
    return ""


def elements(body: bytes) -> list[Element]:
    """The elements of one answer to a listing of a set; `body` begins behind the nfgenmsg."""
    found = attributes(body).get(3, b"")
    out = []
    for _, _, each in walk(found):
        parts = attributes(each)
        key = _value(parts.get(1, b""))
        rest = b""
        if 10 in parts:
            rest += m.nest(10, m.value(_value(parts[10])))
        if 2 in parts:
            rest += m.tail(_data(parts[2]))
        if 6 in parts:
            rest += m.attr(6, parts[6])
        flags = struct.unpack(">I", parts[3])[0] if 3 in parts else 0
        out.append(Element(key, rest, bool(flags & 1)))
    return out


class Rule(NamedTuple):
    """A rule of a listing: where it stands, its number, its comment, and what it does (`words`: one for each expression)."""

    table: str
    chain: str
    handle: int
    note: str
    words: tuple[str, ...]


_VERDICTS = {m.DROP: "drop", m.ACCEPT: "accept", m.GOTO: "goto", m.JUMP: "jump", m.RETURN: "return"}


def rule(body: bytes) -> Rule:
    """A rule as the kernel lists it, or as `nft_messages.new_rule` packs it; `body` begins behind the nfgenmsg."""
    parts = attributes(body)
    words = tuple(_word(attributes(each)) for _, _, each in walk(parts.get(4, b"")))
    handle = int.from_bytes(parts.get(3, b""))
    return Rule(string(parts.get(1, b"")), string(parts.get(2, b"")), handle, note_of(parts.get(7, b"")), words)


def _word(expression: dict[int, bytes]) -> str:
    """An expression in short: what two rules have in common that do the same."""
    name, parts = string(expression.get(1, b"")), attributes(expression.get(2, b""))
    match name:
        case "meta":
            return f"meta {int.from_bytes(parts.get(2, b''))}"
        case "payload":
            return "payload " + " ".join(str(int.from_bytes(parts.get(kind, b""))) for kind in (2, 3, 4))
        case "cmp":
            operator = "==" if int.from_bytes(parts.get(2, b"")) == 0 else "!="
            return f"{operator} {_value(parts.get(3, b'')).hex()}"
        case "immediate" if 2 in (data := attributes(parts.get(2, b""))):
            verdict = attributes(data[2])
            (code,) = struct.unpack(">i", verdict[1])
            return " ".join(filter(None, (_VERDICTS.get(code, str(code)), string(verdict.get(2, b"")))))
    return name


def _value(data: bytes) -> bytes:
    return attributes(data).get(1, b"")


def _data(data: bytes) -> bytes:
    """Data of a map in the form it was given in."""
    parts = attributes(data)
    if 2 not in parts:
        return m.value(parts.get(1, b""))
    verdict = attributes(parts[2])
    (code,) = struct.unpack(">i", verdict[1])
    return m.verdict(code, string(verdict[2]) if 2 in verdict else "")


def describe(message: bytes, offset: int = 0) -> str:
    """A message in words; `offset` (bytes from its start, as an extended acknowledgement gives it) tells which of several elements is meant."""
    kind = struct.unpack_from("=H", message, 4)[0] & 0xFF
    parts = attributes(message, 20)
    base = kind - kind % 3
    name = string(parts.get(_NAME_ATTRIBUTE.get(base, 0), b""))
    words = f"{_KINDS.get(kind, f'message {kind}')} {string(parts.get(1, b''))}{' ' + name if name else ''}"
    if base == m.ELEMENTS:
        owners = _owners(message, offset)
        if owners:
            words += f" ({', '.join(owners)})"
    return words


def _owners(message: bytes, offset: int) -> list[str]:
    """Comments of the element an offset lies in; of the first ones when it lies in none."""
    notes = []
    for kind, start, content in walk(message, 20):
        if kind != 3:
            continue
        for _, place, each in walk(content):
            note = note_of(attributes(each).get(6, b""))
            first = start + 4 + place
            if first <= offset < first + 4 + len(each):
                return [note] if note else []
            if note and note not in notes:
                notes.append(note)
    return notes if len(notes) <= 3 else [*notes[:3], f"and {len(notes) - 3} more"]
