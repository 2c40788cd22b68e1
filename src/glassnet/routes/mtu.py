"""How large packets may be: what VXLAN puts around a frame counts.

RFC 7348, figures 1 and 2: inner Ethernet header 14, VXLAN header 8, UDP header 8, outer IPv4 header 20 or outer IPv6 header 40 bytes. The outer
Ethernet header does not count: it is none of the link's MTU.
"""

from __future__ import annotations

OVER_IPV4, OVER_IPV6 = 14 + 8 + 8 + 20, 14 + 8 + 8 + 40
LEAST_IPV4, LEAST_IPV6 = 68, 1280  # bytes; RFC 791, RFC 8200 section 5
DEFAULT = 1500  # where no link tells


def overhead(outer: int) -> int:
    """The bytes that VXLAN takes of each packet; `outer` is the outer family, 4 or 6 (0: none is known, the smaller)."""
    return OVER_IPV6 if outer == 6 else OVER_IPV4


def inner(link: int, outer: int) -> int:
    """The MTU inside a VXLAN over a link with the MTU `link`, in bytes."""
    return link - overhead(outer)
