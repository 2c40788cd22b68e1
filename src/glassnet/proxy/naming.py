"""Chain names: a hash of the object, as kube-proxy makes it (pkg/proxy/iptables in kubernetes)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """The era of kube-proxy whose names are made. Older ones kept the colon when a port has no name."""

    colon_without_port_name: bool = False

    def service(self, prefix: str, name: str, protocol: str) -> str:
        """Chain of a Service port (`namespace/name[:port]`): PREFIX- and 16 base32 digits."""
        return f"{prefix}-{_hash(self._text(name) + protocol.lower())}"

    def endpoint(self, name: str, protocol: str, endpoint: str) -> str:
        """Chain of one endpoint (`ip:port`) of a Service port."""
        return f"KUBE-SEP-{_hash(self._text(name) + protocol.lower() + endpoint)}"

    def _text(self, name: str) -> str:
        return name + ":" if self.colon_without_port_name and ":" not in name else name


def _hash(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:16]


def service_port_name(namespace: str, name: str, port: str) -> str:
    """`namespace/name[:port]`, as comments have it."""
    return f"{namespace}/{name}:{port}" if port else f"{namespace}/{name}"
