"""nf_tables messages, packed: what a netlink batch that changes a table is made of. Pure bytes; `kernel.nftables` sends them.

Sources: include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h for numbers; libnftnl's udata.h for the user data that nft(8) reads back
(comments, and with `typeof` what the parts of a key are).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Sequence

TABLE, CHAIN, RULE, SET, ELEMENTS = 0, 3, 6, 9, 12  # NFT_MSG_NEW…; + 1 is GET, + 2 is DEL
SUBSYSTEM = 10 << 8
BATCH_BEGIN, BATCH_END = 0x10, 0x11
REQUEST, ACK, DUMP, EXCL, CREATE, APPEND = 0x1, 0x4, 0x300, 0x200, 0x400, 0x800
IPV4, IPV6 = 2, 10
INET, BRIDGE = 1, 7
FAMILIES = {"IPv4": IPV4, "IPv6": IPV6}
NESTED = 0x8000
DROP, ACCEPT, GOTO, JUMP, RETURN = 0, 1, -4, -3, -5
LARGEST_ATTRIBUTE = 0xF000  # an attribute's length has 16 bits; elements go in several messages of no more than this

_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr and nfgenmsg
_RESOURCE = int.from_bytes((10).to_bytes(2, "big"), sys.byteorder)  # NFNL_SUBSYS_NFTABLES, in network order
_ATTR = struct.Struct("=HH")
_BE32 = struct.Struct(">I")
_ELEMENT = struct.Struct("=HHHHHH")

Message = bytes


def attr(kind: int, data: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    length = 4 + len(data)
    return _ATTR.pack(length, kind) + data + b"\0" * (-length % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute of attributes."""
    data = b"".join(parts)
    return _ATTR.pack(4 + len(data), kind | NESTED) + data


def number(kind: int, value: int) -> bytes:
    """A 32-bit number, in network order as nf_tables has them."""
    return _ATTR.pack(8, kind) + _BE32.pack(value & 0xFFFFFFFF)


def text(kind: int, value: str) -> bytes:
    """A string with its end mark."""
    return attr(kind, value.encode() + b"\0")


def message(kind: int, family: int, body: bytes, flags: int = 0, sequence: int = 0) -> Message:
    """One message of the nf_tables subsystem."""
    return _HEADER.pack(20 + len(body), SUBSYSTEM | kind, REQUEST | flags, sequence, 0, family, 0, 0) + body


def batch(messages: Sequence[Message]) -> bytes:
    """The messages as one transaction, numbered from 1 so that an error tells which it is about."""
    out = bytearray(_HEADER.pack(20, BATCH_BEGIN, REQUEST, 0, 0, 0, 0, _RESOURCE))
    for index, each in enumerate(messages, 1):
        start = len(out)
        out += each
        struct.pack_into("=I", out, start + 8, index)
    out += _HEADER.pack(20, BATCH_END, REQUEST, len(messages) + 1, 0, 0, 0, _RESOURCE)
    return bytes(out)


# ---- user data: small type-length-value entries that only nft(8) looks at


def udata(kind: int, data: bytes) -> bytes:
    """One entry of user data."""
    return bytes((kind, len(data))) + data


def comment(owner: str) -> bytes:
    """A comment as nft shows it; cut at its limit of 128 bytes, end mark included."""
    return udata(0, owner.encode()[:127] + b"\0")


def _u32(kind: int, value: int) -> bytes:
    return udata(kind, struct.pack("=I", value))


def _expression(kind: int, data: bytes) -> bytes:
    return _u32(0, kind) + udata(1, data)


def payload_type(header: int, field: int) -> bytes:
    """`typeof` of a header field: nft's numbers for the protocol and for the field in it."""
    return _expression(7, _u32(0, header) + _u32(1, field))


def meta_type(key: int) -> bytes:
    """`typeof meta KEY`."""
    return _expression(9, _u32(0, key))


def numgen_type(modulus: int) -> bytes:
    """`typeof numgen inc mod N`."""
    return _expression(23, _u32(0, 0) + _u32(1, modulus) + _u32(2, 0))


def concat_type(*parts: bytes) -> bytes:
    """`typeof a . b . c`."""
    return _expression(13, b"".join(udata(index, part) for index, part in enumerate(parts)))


def typeof(key: bytes, data: bytes) -> bytes:
    """A map's user data when its types are given by expressions."""
    return _u32(0, 0) + _u32(1, 0) + udata(3, key) + udata(4, data) + _u32(6, 0)


def typeof_key(key: bytes) -> bytes:
    """A set's user data when its type is given by an expression."""
    return _u32(0, 1) + udata(3, key)


# ---- tables, chains, sets, rules


def new_table(family: int, table: str, note: str = "", flags: int = CREATE) -> Message:
    """A table, with a comment."""
    return message(TABLE, family, text(1, table) + number(2, 0) + (attr(6, comment(note)) if note else b""), flags)


def delete_table(family: int, table: str) -> Message:
    """A table and all in it."""
    return message(TABLE + 2, family, text(1, table))


def new_chain(family: int, table: str, name: str, note: str = "") -> Message:
    """A chain that others go to, with a comment."""
    return message(CHAIN, family, text(1, table) + text(3, name) + (attr(12, comment(note)) if note else b""), CREATE)


def base_chain(family: int, table: str, name: str, kind: str, hook: int, priority: int) -> Message:
    """A chain the kernel calls: `kind` filter or nat; hook 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting. It accepts what no rule decides."""
    place = nest(4, number(1, hook), number(2, priority))
    return message(CHAIN, family, text(1, table) + text(3, name) + place + number(5, ACCEPT) + text(7, kind), CREATE)


def delete_chain(family: int, table: str, name: str) -> Message:
    """An empty chain nothing leads to any more."""
    return message(CHAIN + 2, family, text(1, table) + text(3, name))


def new_rule(family: int, table: str, chain: str, expressions: Iterable[bytes], note: str = "") -> Message:
    """A rule at the end of a chain; `expressions` come from `nft_expressions`."""
    body = text(1, table) + text(2, chain) + nest(4, *(nest(1, each) for each in expressions))
    return message(RULE, family, body + (attr(7, comment(note)) if note else b""), CREATE | APPEND)


def delete_rule(family: int, table: str, chain: str, handle: int) -> Message:
    """A rule by its number."""
    return message(RULE + 2, family, text(1, table) + text(2, chain) + attr(3, handle.to_bytes(8)))


def flush_chain(family: int, table: str, chain: str) -> Message:
    """All rules of a chain."""
    return message(RULE + 2, family, text(1, table) + text(2, chain))


def new_set(
    family: int,
    table: str,
    name: str,
    number_: int,
    *,
    key: tuple[int, int],
    data: tuple[int, int] | None = None,
    flags: int = 0,
    size: int = 0,
    fields: Sequence[int] = (),
    timeout: int = 0,
    user_data: bytes = b"",
) -> Message:
    """A set, or a map when `data` is given. `key` and `data` are nft's number of the type and its length in bytes; `fields` the lengths of a
    key's parts where intervals need them; `timeout` in milliseconds. `number_` names it inside the transaction (`lookup` refers to it)."""
    body = text(1, table) + text(2, name) + number(3, flags | (SET_MAP if data else 0))
    body += number(4, key[0]) + number(5, key[1])
    if data:
        body += number(6, data[0]) + number(7, data[1])
    described = number(1, size) if size else b""
    if fields:
        described += nest(2, *(nest(1, number(1, length)) for length in fields))
    if described:
        body += nest(9, described)
    body += number(10, number_)
    if timeout:
        body += _ATTR.pack(12, 11) + struct.pack(">Q", timeout)
    if user_data:
        body += attr(13, user_data)
    return message(SET, family, body, CREATE)


SET_ANONYMOUS, SET_CONSTANT, SET_INTERVAL, SET_MAP, SET_TIMEOUT, SET_DYNAMIC, SET_CONCAT = 1, 2, 4, 8, 0x10, 0x20, 0x80
VERDICT_TYPE = (0xFFFFFF00, 0)


def delete_set(family: int, table: str, name: str) -> Message:
    """A set or map no rule uses any more, with its elements."""
    return message(SET + 2, family, text(1, table) + text(2, name))


# ---- elements


def value(data: bytes) -> bytes:
    """Data of a key or of a map."""
    return attr(1, data)


def verdict(code: int, chain: str = "") -> bytes:
    """What a verdict map gives: DROP, or GOTO a chain."""
    return nest(2, number(1, code), text(2, chain) if chain else b"")


def tail(data: bytes = b"", note: bytes = b"") -> bytes:
    """What follows an element's key: `value(...)` or `verdict(...)` of a map, and a `comment(...)`."""
    return (nest(2, data) if data else b"") + (attr(6, note) if note else b"")


def element(key: bytes, rest: bytes = b"", key_end: bytes = b"") -> bytes:
    """One element: packed key, its `tail(...)`, and the end of a range of keys in a set of concatenated intervals."""
    length = len(key)  # keys are padded to 4 bytes
    end = nest(10, value(key_end)) if key_end else b""
    return (
        _ELEMENT.pack(12 + length + len(rest) + len(end), 1 | NESTED, 8 + length, 1 | NESTED, 4 + length, 1)
        + key
        + rest
        + end
    )


def interval(start: bytes, end: bytes, note: bytes = b"") -> bytes:
    """A range of keys in a set of intervals: its first key, and the first one after it (none when it reaches to the end of all)."""
    first = element(start, tail(note=note))
    return first + (nest(1, nest(1, value(end)), number(3, 1)) if end else b"")


def element_messages(
    family: int, table: str, name: str, elements: Iterable[bytes], delete: bool = False
) -> list[Message]:
    """Add or delete elements of a set, in as many messages as the length of an attribute demands."""
    place = text(1, table) + text(2, name)
    kind, flags = (ELEMENTS + 2, 0) if delete else (ELEMENTS, CREATE)
    out: list[Message] = []
    part: list[bytes] = []
    size = 0
    for each in elements:
        if size + len(each) > LARGEST_ATTRIBUTE:
            out.append(message(kind, family, place + nest(3, *part), flags))
            part, size = [], 0
        part.append(each)
        size += len(each)
    if part:
        out.append(message(kind, family, place + nest(3, *part), flags))
    return out
