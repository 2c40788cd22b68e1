"""nf_tables of one machine by netlink: transactions, listings, notice of foreign changes. No program is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from glassnet.kernel.api import NetNs
from glassnet.kernel.nfnetlink import Listener, NfNetlink
from glassnet.net.errors import KernelError
from glassnet.ruleset import nft_messages as m
from glassnet.ruleset import nft_reader as reader

GROUP = 7  # NFNLGRP_NFTABLES
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS = 1, 4, 7, 10, 13
GENERATION = 15
_NOT_THERE = 2


class NfTables:
    """The tables of a network namespace. Implements `kernel.api.NfTables`."""

    def __init__(self, netns: NetNs) -> None:
        self._netns = netns
        self._socket = NfNetlink(netns)

    def commit(self, messages: Sequence[m.Message]) -> None:
        """Carry messages out as one transaction, whole or not at all.

        Without the right to large buffers (a rootless lab) more than fits is sent as several. Raises KernelError that says which message,
        and of elements which, the kernel refused.
        """
        for part in self._parts(messages):
            refusals = self._socket.send(m.batch(part))
            if refusals:
                first = min(refusals, key=lambda each: each.sequence)
                if not 0 < first.sequence <= len(part):
                    raise KernelError("commit an nftables transaction", first.number, first.detail)
                words = reader.describe(part[first.sequence - 1], first.offset)
                raise KernelError(f"nftables: {words}", first.number, first.detail)

    def _parts(self, messages: Sequence[m.Message]) -> Iterator[Sequence[m.Message]]:
        longest = self._socket.longest
        start = size = 0
        for index, message in enumerate(messages):
            if size + len(message) > longest and index > start:
                yield messages[start:index]
                start, size = index, 0
            size += len(message)
        if start < len(messages):
            yield messages[start:]

    def table_note(self, family: int, table: str) -> str | None:
        """A table's comment; None when there is no such table. Raises KernelError."""
        body = m.text(1, table)
        try:
            for answer in self._socket.request(m.SUBSYSTEM | _GET_TABLE, body, 0, family):
                return reader.note_of(reader.attributes(answer).get(6, b""))
        except KernelError as error:
            if error.number != _NOT_THERE:
                raise
        return None

    def chains(self, family: int, table: str) -> set[str]:
        """Names of a table's chains. Raises KernelError."""
        found = (
            reader.attributes(each) for each in self._socket.request(m.SUBSYSTEM | _GET_CHAIN, b"", m.DUMP, family)
        )
        return {reader.string(each[3]) for each in found if reader.string(each[1]) == table}

    def sets(self, family: int, table: str) -> set[str]:
        """Names of a table's sets and maps, without those that belong to one rule. Raises KernelError."""
        body = m.text(1, table)
        found = (reader.attributes(each) for each in self._socket.request(m.SUBSYSTEM | _GET_SET, body, m.DUMP, family))
        return {reader.string(each[2]) for each in found if not each.get(3, b"\0\0\0\0")[3] & m.SET_ANONYMOUS}

    def elements(self, family: int, table: str, name: str) -> Iterator[reader.Element]:
        """The elements of a set or map. Raises KernelError."""
        body = m.text(1, table) + m.text(2, name)
        for answer in self._socket.request(m.SUBSYSTEM | _GET_ELEMENTS, body, m.DUMP, family):
            yield from reader.elements(answer)

    def rules(self, family: int, table: str) -> list[NotedRule]:
        """A table's rules with their comments; none when there is no such table. Raises KernelError."""
        body, out = m.text(1, table), []
        try:
            for answer in self._socket.request(m.SUBSYSTEM | _GET_RULE, body, m.DUMP, family):
                parts = reader.attributes(answer)
                handle = int.from_bytes(parts[3], "big")
                out.append(NotedRule(reader.string(parts[2]), reader.note_of(parts.get(7, b"")), handle))
        except KernelError as error:
            if error.number != _NOT_THERE:
                raise
        return out

    def listen(self) -> NfTablesListener:
        """Hear what others change from now on."""
        return NfTablesListener(self._netns, self._socket.port)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class NotedRule(NamedTuple):
    """One rule as far as its owner can be told: its chain, its comment, its number in the table."""

    chain: str
    note: str
    handle: int


class Change(NamedTuple):
    """One notice: what happened (`kind` is of nft_messages, + 2 for what went; GENERATION ends a transaction) to a thing in a table of a family."""

    kind: int
    family: int
    table: str
    name: str
    elements: tuple[reader.Element, ...] = ()


def _change(kind: int, family: int, body: bytes) -> Change:
    kind &= 0xFF
    if kind == GENERATION:
        return Change(kind, 0, "", "")
    parts = reader.attributes(body)
    base = kind - kind % 3
    name = reader.string(parts.get(3 if base == m.CHAIN else 2, b""))
    elements = tuple(reader.elements(body)) if base == m.ELEMENTS else ()
    return Change(kind, family, reader.string(parts.get(1, b"")), name, elements)


class NfTablesListener:
    """Changes of tables by others than one `NfTables`."""

    def __init__(self, netns: NetNs, own: int) -> None:
        self._listener = Listener(netns, GROUP, own)

    def fileno(self) -> int:
        """For an event loop."""
        return self._listener.fileno()

    def read(self) -> list[Change] | None:
        """What changed since the last look; None when that is not known, as some notices were lost."""
        messages = self._listener.read()
        return None if messages is None else [_change(*message) for message in messages]

    def close(self) -> None:
        """Close the socket."""
        self._listener.close()
