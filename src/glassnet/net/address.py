"""IP addresses as text: which family, and one spelling for each.

IPv4 octets may have leading zeros, as Kubernetes keeps reading them for old objects (k8s.io/utils/net, ParseIPSloppy); they are decimal.
IPv6 is spelled as RFC 5952 says.
"""

from __future__ import annotations

import ipaddress
import re

IPV4, IPV6 = "IPv4", "IPv6"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_STRICT = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII).fullmatch


def canonical(text: str) -> str:
    """The one spelling of an address; "" for what is none. IPv4 inside IPv6 (::ffff:0:0/96) is the IPv4 address, as Go's net package takes it."""
    if ":" not in text:
        return text if _STRICT(text) else _sloppy(text)
    try:
        found = ipaddress.IPv6Address(text)
    except ValueError:
        return ""
    if found.scope_id:
        return ""
    return str(found.ipv4_mapped or found)


def _sloppy(text: str) -> str:
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        return ""
    return ".".join(str(int(part)) for part in parts)


def family(text: str) -> str:
    """IPv4 or IPv6, told from a canonical address or range."""
    return IPV6 if ":" in text else IPV4


def packed(text: str) -> bytes:
    """The bytes of a canonical address, in network order."""
    return ipaddress.IPv6Address(text).packed if ":" in text else bytes(map(int, text.split(".")))


def with_port(address: str, port: int) -> str:
    """`ip:port`, or `[ip]:port`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def number(text: str) -> int:
    """A canonical address as a number, in network order."""
    return int.from_bytes(packed(text))


def text_of(value: int, bits: int) -> str:
    """The address that a number stands for; `bits` is 32 (IPv4) or 128."""
    if bits == 32:
        return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"
    return str(ipaddress.IPv6Address(value))


def prefix(text: str) -> tuple[int, int, int]:
    """(network, mask, bits) of `ADDRESS`, `ADDRESS/LENGTH` or `ADDRESS/MASK`; bits is 32 or 128. Raises ValueError."""
    address, _, length = text.partition("/")
    found = (
        str(ipaddress.IPv6Address(address)) if ":" in address else canonical(address)
    )  # ::ffff:0:0/96 stays what it is
    if not found:
        raise ValueError(f"not an address: {address!r}")
    bits = 128 if ":" in found else 32
    if not length:
        mask = (1 << bits) - 1
    elif length.isascii() and length.isdigit():
        if int(length) > bits:
            raise ValueError(f"not a prefix length: {length!r}")
        mask = (1 << bits) - (1 << (bits - int(length)))
    else:
        mask = number(canonical(length)) if canonical(length) else -1
        if mask < 0 or (128 if ":" in length else 32) != bits:
            raise ValueError(f"not a prefix length: {length!r}")
    return number(found) & mask, mask, bits
