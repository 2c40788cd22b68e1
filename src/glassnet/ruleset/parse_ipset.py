"""What `ipset save` prints, as sets.

Source: ipset(8). An entry becomes a tuple of dimensions: (network, mask, bits) for addresses, (protocol, low, high) for ports.
"""

from __future__ import annotations

from typing import Any

from glassnet.net import address
from glassnet.net.errors import ParseError
from glassnet.ruleset.model import SetObject

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58, "udplite": 136}


def parse_ipset(text: str, source: str = "") -> dict[str, SetObject]:
    """Sets by name. Raises ParseError with the line."""
    found: dict[str, SetObject] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if words[0] in ("create", "-N"):
                found[words[1]] = _create(words, number, source)
            elif words[0] in ("add", "-A"):
                _add(found, words)
            else:
                raise ValueError(f"not a line of ipset save: {line[:60]!r}")
        except (ValueError, IndexError, KeyError) as error:
            raise ParseError(_reason(error, line), source, number) from None
    for each in found.values():
        if each.key_type == ("set",):
            each.index = found
    return found


def _reason(error: Exception, line: str) -> str:
    if isinstance(error, IndexError):
        return f"a line with words missing: {line[:60]!r}"
    return f"not known: {error}" if isinstance(error, KeyError) else str(error)


def _create(words: list[str], number: int, source: str) -> SetObject:
    name, kind = words[1], words[2]
    method, colon, dimensions = kind.partition(":")
    if not colon or method not in ("hash", "bitmap", "list"):
        raise ValueError(f"not a type of set: {kind!r}")
    family = words[words.index("family") + 1] if "family" in words else ("" if dimensions == "set" else "inet")
    return SetObject(name, "ipset", tuple(dimensions.split(",")), family, frozenset(), [], number, source)


def _add(found: dict[str, SetObject], words: list[str]) -> None:
    holder = found.get(words[1])
    if holder is None:
        raise ValueError(f"an entry of set {words[1]}, which is not created before it")
    parts = words[2].split(",")
    entry = tuple(_dimension(kind, part) for kind, part in zip(holder.key_type, parts, strict=True))
    holder.elements.append((entry, "nomatch" in words[3:]))


def _dimension(kind: str, word: str) -> Any:
    if kind in ("ip", "net"):
        return _range(word)
    if kind == "port":
        protocol, _, ports = word.rpartition(":")
        low, _, high = ports.partition("-")
        number = int(protocol) if protocol.isdigit() else _PROTOCOLS[protocol or "tcp"]
        return number, int(low), int(high or low)
    if kind == "mark":
        return int(word, 0)
    return word


def _range(word: str) -> tuple[int, int, int]:
    first, dash, last = word.partition("-")
    if not dash:
        return address.prefix(word)
    low, high = address.number(address.canonical(first)), address.number(address.canonical(last))
    span = high - low + 1
    if span < 1 or span & (span - 1) or low % span:
        raise ValueError(f"a range that is no prefix: {word}")
    bits = 128 if ":" in first else 32
    return low, (1 << bits) - span, bits
