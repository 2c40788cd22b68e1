"""DNS messages as far as we speak for ourselves: questions, and answers of CNAME, A and AAAA records (RFC 1035, section 4)."""

from __future__ import annotations

import struct
from typing import NamedTuple

A, CNAME, TXT, AAAA = 1, 5, 16, 28
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP = 0, 1, 2, 3, 4
_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080


class Resource(NamedTuple):
    """One record of an answer; `data` of CNAME records is a name's text in octets, that of others is as it came."""

    owner: str
    type: int
    ttl: int
    data: bytes


class Message(NamedTuple):
    """A question, or its answer."""

    id: int
    name: str
    type: int
    answer: bool = False
    rcode: int = NOERROR
    truncated: bool = False
    recurse: bool = True
    records: tuple[Resource, ...] = ()


def pack_name(name: str) -> bytes:
    """An absolute name on the wire, not compressed."""
    labels = [label.encode("latin-1") for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def unpack_name(data: bytes, at: int) -> tuple[str, int]:
    """The name at a place, in lower case, and the place after it. Raises ValueError."""
    labels: list[str] = []
    after, jumps = -1, 0
    while True:
        length = data[at]
        if length >= 0xC0:
            after = after if after >= 0 else at + 2
            at = (length & 0x3F) << 8 | data[at + 1]
            jumps += 1
            if jumps > 64:
                raise ValueError("a name that points at itself")
            continue
        if length > 63:
            raise ValueError("a label of an unknown kind")
        at += 1
        if not length:
            return ".".join((*labels, "")) or ".", after if after >= 0 else at
        if len(data) < at + length or len(labels) > 127:
            raise ValueError("a name that does not end")
        labels.append(data[at : at + length].decode("latin-1").lower())
        at += length


def unpack(data: bytes) -> Message:
    """A message with one question. Raises ValueError for what is none."""
    try:
        number, flags, questions, answers, _, _ = struct.unpack_from(">6H", data)
        if questions != 1 or flags >> 11 & 15:
            raise ValueError("not one question")
        name, at = unpack_name(data, 12)
        kind, _ = struct.unpack_from(">2H", data, at)
        records, at = [], at + 4
        for _ in range(answers):
            owner, at = unpack_name(data, at)
            rtype, _, ttl, length = struct.unpack_from(">2HIH", data, at)
            at += 10
            if len(data) < at + length:
                raise ValueError("a record that does not end")
            raw = unpack_name(data, at)[0].encode("latin-1") if rtype == CNAME else data[at : at + length]
            records.append(Resource(owner, rtype, ttl, raw))
            at += length
    except (struct.error, IndexError):
        raise ValueError("a message that ends too early") from None
    return Message(number, name, kind, bool(flags & _QR), flags & 15, bool(flags & _TC), bool(flags & _RD), tuple(records))  # fmt: skip


def pack(message: Message) -> bytes:
    """A message on the wire."""
    flags = (_QR | _RA if message.answer else 0) | (_RD if message.recurse else 0) | message.rcode
    flags |= _TC if message.truncated else 0
    out = struct.pack(">6H", message.id, flags, 1, len(message.records), 0, 0)
    out += pack_name(message.name) + struct.pack(">2H", message.type, 1)
    for owner, kind, ttl, data in message.records:
        raw = pack_name(data.decode("latin-1")) if kind == CNAME else data
        out += pack_name(owner) + struct.pack(">2HIH", kind, 1, ttl, len(raw)) + raw
    return out
