"""Entries of the connection table, as far as a Service proxy looks at them."""

from __future__ import annotations

from typing import NamedTuple


class Flow(NamedTuple):
    """A conntrack entry: original destination and the source of replies, and what it takes to delete it (opaque)."""

    destination: str
    destination_port: int
    reply_source: str
    reply_port: int
    handle: bytes = b""

    @property
    def translated(self) -> bool:
        """True when the destination was changed."""
        return (self.destination, self.destination_port) != (self.reply_source, self.reply_port)
