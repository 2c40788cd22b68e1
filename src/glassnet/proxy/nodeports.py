"""Which of a node's addresses serve node ports (kube-proxy's nodePortAddresses)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from glassnet.net import address

PRIMARY = "primary"


def resolve(
    words: tuple[str, ...], family: str, node: Iterable[str], local: Iterable[str], default: str = ""
) -> tuple[str, ...] | None:
    """The addresses of a family that serve node ports; None for all the node has.

    `words` are CIDRs, or the single word "primary": the addresses of the Node object (`node`). Of CIDRs, those of the `local` addresses count
    that lie in one; when none of the CIDRs is of the family, all addresses do. Without words, `default` counts: "" for all, or "primary".
    """
    if words == (PRIMARY,) or (not words and default == PRIMARY):
        return tuple(sorted({ip for ip in node if address.family(ip) == family and not _loopback(ip)}))
    networks = [
        network for network in (ipaddress.ip_network(word, strict=False) for word in words) if _of(network, family)
    ]
    if not networks or any(network.prefixlen == 0 for network in networks):
        return None
    return tuple(
        sorted(
            {
                ip
                for ip in local
                if address.family(ip) == family and any(ipaddress.ip_address(ip) in network for network in networks)
            }
        )
    )


def follows_interfaces(words: tuple[str, ...]) -> bool:
    """True when the answer depends on the addresses of interfaces."""
    return bool(words) and words != (PRIMARY,)


def includes_loopback(words: tuple[str, ...], family: str) -> bool:
    """True when 127.0.0.1 (or ::1) is among the addresses asked for."""
    if words == (PRIMARY,):
        return False
    mine = [n for n in (ipaddress.ip_network(word, strict=False) for word in words) if _of(n, family)]
    loopback = ipaddress.ip_address("127.0.0.1" if family == address.IPV4 else "::1")
    return not mine or any(loopback in network for network in mine)


def _of(network: ipaddress.IPv4Network | ipaddress.IPv6Network, family: str) -> bool:
    return network.version == (4 if family == address.IPV4 else 6)


def _loopback(ip: str) -> bool:
    return ipaddress.ip_address(ip).is_loopback
