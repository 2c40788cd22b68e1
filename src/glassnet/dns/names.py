"""Domain names: what is one, how long it may be, and which name an address has in the reverse tree.

Sources: RFC 1035 section 2.3.4 (63 octets a label, 255 a name on the wire), RFC 3596 section 2.5 (nibbles of IPv6).
"""

from __future__ import annotations

import re

from glassnet.dns.model import V4_ZONE, V6_ZONE
from glassnet.net import address

MOST_LABEL, MOST_NAME = 63, 255
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII).fullmatch  # RFC 1123


def is_label(text: str) -> bool:
    """Whether a text may be a label of a host's name (RFC 1123), in lower case."""
    return len(text) <= MOST_LABEL and bool(_LABEL(text))


def is_name(text: str) -> bool:
    """Whether a text, with or without the dot at the end, is a name of such labels that fits in a message; underscores may begin a label."""
    labels = text.lower().rstrip(".").split(".")
    return fits(text) and all(is_label(label.removeprefix("_")) for label in labels)


def fits(name: str) -> bool:
    """Whether an absolute name is short enough for DNS: each label, and the whole."""
    bare = name.rstrip(".")
    return len(bare) + 2 <= MOST_NAME and all(0 < len(label) <= MOST_LABEL for label in bare.split("."))


def reverse(ip: str) -> tuple[str, str]:
    """Zone and name of a canonical address in the reverse tree. A zone is a /16 of IPv4 or a /48 of IPv6: small, and few in a cluster."""
    if ":" not in ip:
        a, b, c, d = ip.split(".")
        zone = f"{b}.{a}.{V4_ZONE}"
        return zone, f"{d}.{c}.{zone}"
    nibbles = address.packed(ip).hex()
    zone = f"{'.'.join(reversed(nibbles[:12]))}.{V6_ZONE}"
    return zone, f"{'.'.join(reversed(nibbles[12:]))}.{zone}"


def address_label(ip: str) -> str:
    """An address as a label: dashes for dots or colons, as CoreDNS names endpoints without a hostname."""
    return ip.replace(".", "-").replace(":", "-")


def within(name: str, zone: str) -> bool:
    """Whether an absolute name is a zone's or below it."""
    return name == zone or name.endswith("." + zone)
