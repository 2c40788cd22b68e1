"""The kernel's own trace of chosen packets: a table of ours marks them (`meta nftrace set 1`), events tell each rule they matched.

The table goes with the socket that made it (flag `owner`, Linux 5.12), so a crash leaves none behind; what one leaves on older kernels the next trace removes.
Sources: include/uapi/linux/netfilter/nf_tables.h (NFTA_TRACE_*), net/netfilter/nf_tables_trace.c.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from glassnet.kernel.api import NetNs
from glassnet.kernel.nfnetlink import Listener
from glassnet.kernel.nftables import NfTables
from glassnet.net.errors import KernelError
from glassnet.ruleset import nft_expressions as x
from glassnet.ruleset import nft_messages as m
from glassnet.ruleset import nft_reader as reader

TABLE = "glassnet-trace"
NOTE = "glassnet: marks the packets of one live trace"
PACKET, ANSWER = "packet", "answer"  # chains, by the packets' direction
_PRIORITY = -350  # before the raw tables and connection tracking
_GROUP, _TRACE, _RULE_EVENT = 9, 17, 3  # NFNLGRP_NFTRACE, NFT_MSG_TRACE, NFT_TRACETYPE_RULE
_OWNER, _NFTRACE = 2, 12  # NFT_TABLE_F_OWNER, NFT_META_NFTRACE
_NOBODY = 0xFFFFFFFE  # no socket's port number: messages of the kernel have 0
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}


class Check(NamedTuple):
    """Bytes that a header must hold: `base` is nft_expressions.NETWORK or TRANSPORT; under `mask`, where one is given, not all zero."""

    base: int
    offset: int
    data: bytes
    mask: bytes = b""


class Mark(NamedTuple):
    """Which packets to trace: all checks hold for packets of a protocol."""

    protocol: int
    checks: tuple[Check, ...]
    answer: bool = False


class Event(NamedTuple):
    """A rule that a traced packet matched. `start`: it is our own, and a packet's way through a hook begins; `network` is its IP header then."""

    family: str
    table: str
    chain: str
    handle: int
    packet: int
    start: bool
    answer: bool
    network: bytes


class PacketTrace:
    """Traces packets of one namespace from its making to `close`. Raises KernelError where the kernel cannot do it, or somebody else does."""

    def __init__(self, netns: NetNs, bits: int, marks: Iterable[Mark]) -> None:
        self._family = m.IPV4 if bits == 32 else m.IPV6
        self._tables = NfTables(netns)
        self._listener: Listener | None = None
        try:
            _sweep(self._tables)
            self._listener = Listener(netns, _GROUP, _NOBODY)
            self._install(list(marks))
        except BaseException:
            self.close()
            raise

    def _install(self, marks: Sequence[Mark]) -> None:
        try:
            self._tables.commit(_messages(self._family, marks, _OWNER))
        except KernelError as error:
            if error.number not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self._tables.commit(_messages(self._family, marks, 0))

    def read(self) -> list[Event] | None:
        """The events since the last look, in their order; None when some were lost."""
        assert self._listener is not None
        messages = self._listener.read()
        if messages is None:
            return None
        found = (decode(family, body) for kind, family, body in messages if kind == m.SUBSYSTEM | _TRACE)
        return [event for event in found if event is not None]

    def close(self) -> None:
        """Take the table away. Idempotent."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(KernelError):  # somebody removed it already
                self._tables.commit([m.delete_table(self._family, TABLE)])
        self._tables.close()


def _sweep(tables: NfTables) -> None:
    """Remove what a trace that died left behind."""
    for family in (m.IPV4, m.IPV6):
        if tables.table_note(family, TABLE) == NOTE:
            try:
                tables.commit([m.delete_table(family, TABLE)])
            except KernelError as error:
                if error.number == errno.EPERM:
                    raise KernelError("trace packets", errno.EBUSY, "another live trace is at work here") from None
                raise


def _messages(family: int, marks: Sequence[Mark], flags: int) -> list[m.Message]:
    head = m.text(1, TABLE) + m.number(2, flags) + m.attr(6, m.comment(NOTE))
    out = [m.message(m.TABLE, family, head, m.CREATE | m.EXCL)]
    for name in (PACKET, ANSWER):
        out.append(m.new_chain(family, TABLE, name))
        setting = m.text(1, "meta") + m.nest(2, m.number(2, _NFTRACE), m.number(3, 1))
        out.append(m.new_rule(family, TABLE, name, (x.constant(b"\1", 1), setting)))
    for name, hook in (("prerouting", 0), ("output", 3)):
        out.append(m.base_chain(family, TABLE, name, "filter", hook, _PRIORITY))
        out += [m.new_rule(family, TABLE, name, _expressions(mark)) for mark in marks]
    return out


def _expressions(mark: Mark) -> list[bytes]:
    found = [x.meta(x.L4PROTO), x.compare(x.EQ, bytes([mark.protocol]))]
    for base, offset, data, mask in mark.checks:
        found.append(x.payload(base, offset, len(data or mask)))
        if mask:
            found += [x.bits(mask, bytes(len(mask))), x.compare(x.NEQ, bytes(len(mask)))]
        else:
            found.append(x.compare(x.EQ, data))
    return [*found, x.goes(m.GOTO, ANSWER if mark.answer else PACKET)]


def decode(family: int, body: bytes) -> Event | None:
    """An event of a rule that matched (`body` begins behind the nfgenmsg); None for ends of chains and policies."""
    parts = reader.attributes(body)
    if _number(parts, 4) != _RULE_EVENT or family not in _FAMILIES or 3 not in parts:
        return None
    (handle,) = struct.unpack(">Q", parts[3])
    table, chain = reader.string(parts.get(1, b"")), reader.string(parts.get(2, b""))
    ours = table == TABLE
    return Event(
        _FAMILIES[family], table, chain, handle, _number(parts, 6), ours, ours and chain == ANSWER, parts.get(8, b"")
    )


def _number(parts: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(parts.get(kind, b""), "big")


__all__ = ["ANSWER", "NOTE", "PACKET", "TABLE", "Check", "Event", "Mark", "PacketTrace", "decode"]
