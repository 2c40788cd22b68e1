"""Dumped connections as the engine's own: what packets of connections that exist already meet."""

from __future__ import annotations

from glassnet.net import address
from glassnet.netstack.parse_conntrack import ConntrackEntry, parse_conntrack_lenient
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import Connection

Key = tuple[int, int, int, int, int]


def load_connections(machine: Machine) -> dict[Key, tuple[Connection, bool]]:
    """Both tuples of every dumped entry -> (connection, whether a packet with that tuple is a reply). Lines that cannot be read are left out."""
    found: dict[Key, tuple[Connection, bool]] = {}
    for source, data in machine.tables:
        for entry in parse_conntrack_lenient(data.decode("utf-8", "replace"), source)[0]:
            made = _connection(entry)
            if made is not None:
                found[made.protocol, made.src, made.sport, made.dst, made.dport] = (made, False)
                found[made.protocol, made.reply_src, made.reply_sport, made.reply_dst, made.reply_dport] = (made, True)
    return found


def _connection(entry: ConntrackEntry) -> Connection | None:
    there, back = entry.original, entry.reply
    texts = [address.canonical(text) for text in (there.src, there.dst, back.src, back.dst)]
    if not all(texts):
        return None
    src, dst, reply_src, reply_dst = map(address.number, texts)
    return Connection(
        128 if ":" in texts[0] else 32, entry.protocol_number, src, there.sport, dst, there.dport, reply_src, back.sport, reply_dst,
        back.dport, dnat=True, snat=True, mark=entry.mark or 0, replied=not entry.unreplied, assured="ASSURED" in entry.flags, known=True,
    )  # fmt: skip
