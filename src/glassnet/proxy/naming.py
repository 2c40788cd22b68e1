"""Chain names: a hash of the object, as kube-proxy makes it (pkg/proxy/iptables in kubernetes)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """The era of kube-proxy whose names are made. Those before 1.19 kept the colon when a port has no name."""

    colon_without_port_name: bool = False

    def service(self, prefix: str, name: str, protocol: str) -> str:
        """Chain of a Service port (`namespace/name[:port]`): PREFIX- and 16 base32 digits."""
        return f"{prefix}-{_hash(self.title(name) + protocol.lower())}"

    def endpoint(self, name: str, protocol: str, endpoint: str) -> str:
        """Chain of one endpoint (`ip:port`) of a Service port."""
        return f"KUBE-SEP-{_hash(self.title(name) + protocol.lower() + endpoint)}"

    def title(self, name: str) -> str:
        """A Service port's name as comments of that era have it."""
        return name + ":" if self.colon_without_port_name and ":" not in name else name


_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # base32 (RFC 4648)
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]


def _hash(text: str) -> str:
    """The first 16 base32 digits of the SHA-256, two at a time: ten thousand Services have sixty thousand names."""
    n = int.from_bytes(hashlib.sha256(text.encode()).digest()[:10], "big")
    pairs = _PAIRS
    return (
        f"{pairs[n >> 70]}{pairs[n >> 60 & 1023]}{pairs[n >> 50 & 1023]}{pairs[n >> 40 & 1023]}"
        f"{pairs[n >> 30 & 1023]}{pairs[n >> 20 & 1023]}{pairs[n >> 10 & 1023]}{pairs[n & 1023]}"
    )


def service_port_name(namespace: str, name: str, port: str) -> str:
    """`namespace/name[:port]`, as comments have it."""
    return f"{namespace}/{name}:{port}" if port else f"{namespace}/{name}"
