"""The kernel's jhash over bytes (include/linux/jhash.h; Bob Jenkins' lookup3), as nft's `jhash` computes it on a little-endian machine."""

from __future__ import annotations

_INITIAL = 0xDEADBEEF
_MASK = 0xFFFFFFFF


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _MASK


def jhash(data: bytes, seed: int) -> int:
    """A 32-bit hash of `data`."""
    a = b = c = (_INITIAL + len(data) + seed) & _MASK
    place, length = 0, len(data)
    while length > 12:
        a = (a + int.from_bytes(data[place : place + 4], "little")) & _MASK
        b = (b + int.from_bytes(data[place + 4 : place + 8], "little")) & _MASK
        c = (c + int.from_bytes(data[place + 8 : place + 12], "little")) & _MASK
        a = (a - c & _MASK) ^ _rotate(c, 4)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ _rotate(a, 6)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ _rotate(b, 8)
        b = b + a & _MASK
        a = (a - c & _MASK) ^ _rotate(c, 16)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ _rotate(a, 19)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ _rotate(b, 4)
        b = b + a & _MASK
        place, length = place + 12, length - 12
    if not length:
        return c
    tail = data[place:].ljust(12, b"\0")
    a = (a + int.from_bytes(tail[:4], "little")) & _MASK
    b = (b + int.from_bytes(tail[4:8], "little")) & _MASK
    c = (c + int.from_bytes(tail[8:], "little")) & _MASK
    c = ((c ^ b) - _rotate(b, 14)) & _MASK
    a = ((a ^ c) - _rotate(c, 11)) & _MASK
    b = ((b ^ a) - _rotate(a, 25)) & _MASK
    c = ((c ^ b) - _rotate(b, 16)) & _MASK
    a = ((a ^ c) - _rotate(c, 4)) & _MASK
    b = ((b ^ a) - _rotate(a, 14)) & _MASK
    return ((c ^ b) - _rotate(b, 24)) & _MASK
