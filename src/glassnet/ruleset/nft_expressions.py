"""Expressions of nf_tables rules, packed in the form nft(8) writes them, so that it can show them again as it would its own.

Registers: 1 is the first of 16 bytes; 8 … 23 are its parts of 4 bytes each (8 and 1 are the same place). Sources: nf_tables.h for numbers,
`nft --debug=netlink` for the forms.
"""

from __future__ import annotations

import struct

from glassnet.ruleset.nft_messages import IPV4, attr, nest, number, text, value, verdict

LINK, NETWORK, TRANSPORT = 0, 1, 2
MARK, L4PROTO, IIFNAME, NFPROTO = 3, 16, 6, 15
CT_STATE, CT_STATUS = 0, 2
NEW, STATUS_DNAT = 8, 0x20
EQ, NEQ = 0, 1


def _expression(name: str, *parts: bytes) -> bytes:
    return text(1, name) + nest(2, *parts)


def meta(key: int, register: int = 1) -> bytes:
    """Load what the kernel knows of the packet."""
    return _expression("meta", number(2, key), number(1, register))


def set_mark(register: int = 1) -> bytes:
    """Write the packet's mark."""
    return _expression("meta", number(2, MARK), number(3, register))


def payload(base: int, offset: int, length: int, register: int = 1) -> bytes:
    """Load bytes of a header."""
    return _expression("payload", number(1, register), number(2, base), number(3, offset), number(4, length))


def compare(operator: int, data: bytes, register: int = 1) -> bytes:
    """EQ or NEQ."""
    return _expression("cmp", number(1, register), number(2, operator), nest(3, value(data)))


def bits(mask: bytes, xor: bytes, register: int = 1) -> bytes:
    """register = (register & mask) ^ xor."""
    return _expression(
        "bitwise",
        number(1, register),
        number(2, register),
        number(3, len(mask)),
        number(6, 0),
        nest(4, value(mask)),
        nest(5, value(xor)),
    )


def lookup(name: str, number_: int, register: int = 1, into: int | None = None, negate: bool = False) -> bytes:
    """Find a key in a set, or in a map whose data go to a register (0: the verdict). `number_` is the set's in the same transaction, or 0."""
    parts = [text(1, name), number(2, register)]
    if into is not None:
        parts.append(number(3, into))
    if number_:
        parts.append(number(4, number_))
    if negate:
        parts.append(number(5, 1))
    return _expression("lookup", *parts)


def goes(code: int, chain: str = "") -> bytes:
    """A verdict: DROP, ACCEPT, JUMP, GOTO."""
    return _expression("immediate", number(1, 0), nest(2, verdict(code, chain)))


def constant(data: bytes, register: int) -> bytes:
    """A value for a register."""
    return _expression("immediate", number(1, register), nest(2, value(data)))


def numgen(modulus: int, register: int) -> bytes:
    """A random number below `modulus`."""
    return _expression("numgen", number(1, register), number(2, modulus), number(3, 1), number(4, 0))


def dnat(family: int, address: int, port: int, flags: int = 0) -> bytes:
    """Translate the destination to what two registers hold."""
    parts = [number(1, 1), number(2, family), number(3, address), number(5, port)]
    return _expression("nat", *parts, *([number(7, flags)] if flags else []))


def masquerade(flags: int = 0x10) -> bytes:
    """Give the packet this machine's address, and a port chosen at random among all free ones (NF_NAT_RANGE_PROTO_RANDOM_FULLY).

    With `flags` 0 its port stays, if it is free.
    """
    return _expression("masq", *([number(1, flags)] if flags else []))


def reject(family: int) -> bytes:
    """Refuse with an ICMP error, port unreachable: code 3 in IPv4, 4 in IPv6."""
    return _expression("reject", number(1, 0), attr(2, b"\3" if family == IPV4 else b"\4"))


def fib(direction: int, flags: int, result: int = 3, register: int = 1) -> bytes:
    """Ask the routing tables: result 3 is the type of an address (2: local); flag 1 the source, 2 the destination."""
    return _expression("fib", number(1, register), number(2, result), number(3, direction | flags))


def ct(key: int, register: int = 1) -> bytes:
    """Load what conntrack knows of the packet."""
    return _expression("ct", number(2, key), number(1, register))


def remember(name: str, number_: int, register: int = 1) -> bytes:
    """Put a key into a set with a timeout, or start its time anew."""
    parts = [text(1, name), number(3, 1), number(4, register)]
    return _expression("dynset", *parts, *([number(2, number_)] if number_ else []))


def u32(value_: int) -> bytes:
    """A number in the machine's own order, as marks and conntrack's bits have it."""
    return struct.pack("=I", value_)
