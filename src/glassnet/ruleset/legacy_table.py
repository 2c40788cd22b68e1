"""A table of the legacy kind as the kernel takes and gives it: one run of entries, read into chains, and spliced chain by chain.

Pure. An entry is struct ipt_entry (or ip6t_entry), its matches, and its target. Entries of the built-in chains come first, then the user's
chains in the order of their names, then one that ends the table. A user's chain begins with an entry whose target ERROR has the chain's
name, and ends with a RETURN. A jump is a standard target whose verdict is the offset of the chain's first rule from the table's start, so
whoever moves a chain mends the jumps to it. Sources: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h,
linux/netfilter/x_tables.h; how libiptc, the library of the legacy tools, lays a table out.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

from glassnet.net.errors import ParseError


class Layout(NamedTuple):
    """One family's struct: its size, and where in it are target_offset (next_offset follows), comefrom and the counters."""

    size: int
    offsets: int
    counters: int


IPV4, IPV6 = Layout(112, 88, 96), Layout(168, 140, 152)
COUNTER = 16  # bytes of struct xt_counters
_TARGET = 32  # bytes of struct xt_entry_target: u16 size, 29 bytes of name, revision; a standard target's verdict follows
_ERROR_DATA = 32  # bytes of the name in an ERROR target
_ERROR = b"ERROR"
_NAME = attrgetter("name")
_offsets = struct.Struct("=HH")
_verdict = struct.Struct("=i")


class Chain:
    """One of the user's chains in a table: `start`, `size` in bytes and `entries` of the whole chain, head and end with it; `jumps`: where in
    the chain a verdict leads to which chain; `inner`: where one leads to a place in the chain itself; `users`: the chains that jump here."""

    __slots__ = ("entries", "inner", "jumps", "name", "size", "start", "users")

    def __init__(self, name: bytes, start: int) -> None:
        self.name, self.start, self.size, self.entries = name, start, 0, 0
        self.jumps: tuple[tuple[int, Chain], ...] = ()
        self.inner: tuple[int, ...] = ()
        self.users: list[Chain] = []


class Piece(NamedTuple):
    """A chain out of its table: `body` with verdicts in `inner` from the chain's own start, those in `jumps` to be filled in by name."""

    name: bytes
    body: bytes
    entries: int
    jumps: tuple[tuple[int, bytes], ...]
    inner: tuple[int, ...]


class Edit(NamedTuple):
    """What becomes of a run of bytes and of entries: `end` - `start` of them go, `body` and `entries` come in their place."""

    start: int
    end: int
    first: int
    last: int
    body: bytes
    entries: int


class Table:
    """A table in `buffer`, behind `room` bytes that are the caller's. Raises ParseError for a layout that is not libiptc's."""

    def __init__(self, buffer: bytearray, layout: Layout, room: int = 0) -> None:
        self.buffer, self.layout, self.room = buffer, layout, room
        self.head = layout.size + _TARGET + _ERROR_DATA  # bytes of the entry a chain begins with
        self.entries = 0
        self.front = Chain(b"", 0)  # the built-in chains
        self.order: list[Chain] = []
        self._read()
        self.chains = {chain.name: chain for chain in self.order}

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return len(self.buffer) - self.room

    def __contains__(self, name: bytes) -> bool:
        return name in self.chains

    # -- reading

    def _read(self) -> None:
        verdicts: list[tuple[Chain, int, int]] = []
        chain, room, buffer = self.front, self.room, self.buffer
        for at, target, step in self._walk():
            name = buffer[room + target + 2 : room + target + 6]
            if name == b"ERRO":
                chain = self._begin(chain, at, target)
            elif not name[0]:
                (verdict,) = _verdict.unpack_from(buffer, room + target + _TARGET)
                if verdict >= 0:
                    verdicts.append((chain, target + _TARGET - chain.start, verdict))
            chain.entries += 1
            chain.size += step
            self.entries += 1
        if len(self.order) < 1 or self.order[-1].name != _ERROR or self.order[-1].entries != 1:
            raise ParseError("the table does not end as tables do")
        self.order.pop()
        names = [each.name for each in self.order]
        if any(first >= second for first, second in zip(names, names[1:], strict=False)):
            raise ParseError("chains are not in the order of their names")
        self._link(verdicts)

    def _walk(self) -> Iterator[tuple[int, int, int]]:
        """Where each entry and its target begin, and the entry's bytes."""
        at, end, where, buffer = self.room, len(self.buffer), self.layout.offsets, self.buffer
        while at < end:
            if end - at < self.head - _ERROR_DATA:
                raise ParseError(f"entry at {at - self.room} is cut off")
            target, step = _offsets.unpack_from(buffer, at + where)
            if not self.layout.size <= target <= step - _TARGET or at + step > end:
                raise ParseError(f"entry at {at - self.room} says it has {step} bytes, its target {target} from its start")  # fmt: skip
            yield at - self.room, at - self.room + target, step
            at += step

    def _begin(self, before: Chain, at: int, target: int) -> Chain:
        """The chain whose head is at `at`."""
        if before.entries < 2 and before is not self.front:
            raise ParseError(f"chain {before.name.decode(errors='replace')} has no end")
        data = self.room + target + _TARGET
        name = bytes(self.buffer[data : data + _ERROR_DATA]).split(b"\0", 1)[0]
        chain = Chain(name, at)
        self.order.append(chain)
        return chain

    def _link(self, verdicts: Iterable[tuple[Chain, int, int]]) -> None:
        first_rules = {chain.start + self.head: chain for chain in self.order}
        jumps: dict[Chain, list[tuple[int, Chain]]] = {}
        inner: dict[Chain, list[int]] = {}
        for chain, at, verdict in verdicts:
            if chain.start <= verdict < chain.start + chain.size:
                inner.setdefault(chain, []).append(at)
            elif (led := first_rules.get(verdict)) is not None:
                jumps.setdefault(chain, []).append((at, led))
            else:
                raise ParseError(f"a rule of chain {chain.name.decode(errors='replace')} leads to {verdict}, where no chain begins")  # fmt: skip
        for chain, places in inner.items():
            chain.inner = tuple(places)
        for chain, found in jumps.items():
            chain.jumps = tuple(found)
            _enlist(chain)

    def piece(self, name: bytes) -> Piece:
        """A chain out of this table, counters cleared. Raises KeyError."""
        chain = self.chains[name]
        body = bytearray(self.buffer[self.room + chain.start : self.room + chain.start + chain.size])
        at = 0
        while at < len(body):
            _, step = _offsets.unpack_from(body, at + self.layout.offsets)
            body[at + self.layout.counters : at + self.layout.counters + COUNTER] = bytes(COUNTER)
            at += step
        for place in chain.inner:
            (verdict,) = _verdict.unpack_from(body, place)
            _verdict.pack_into(body, place, verdict - chain.start)
        jumps = tuple((place, led.name) for place, led in chain.jumps)
        return Piece(name, bytes(body), chain.entries, jumps, chain.inner)

    # -- splicing

    def splice(self, pieces: Mapping[bytes, Piece | None]) -> list[Edit]:
        """Put chains in place of those of their names, add them, or (None) take them out; the edits that were made, in order.

        Raises ParseError, and changes nothing, when a chain that stays jumps to one that goes, or a new one to one that is not there.
        """
        self._judge(pieces)
        edits, first = self._edits(pieces)
        self._move(edits)
        self._renumber(first)
        for name, piece in pieces.items():
            if piece is not None:
                self._settle(self.chains[name], piece)
        self.entries += sum(edit.entries - (edit.last - edit.first) for edit in edits)
        return edits

    def _judge(self, pieces: Mapping[bytes, Piece | None]) -> None:
        for name, piece in pieces.items():
            if piece is None:
                if name not in self.chains:
                    raise ParseError(f"no chain {name.decode(errors='replace')} to take out")
                if any(pieces.get(user.name, user) is user for user in self.chains[name].users):
                    raise ParseError(f"chain {name.decode(errors='replace')} is still jumped to")
                continue
            for _, led in piece.jumps:
                if led not in self.chains and led not in pieces or led in pieces and pieces[led] is None:
                    raise ParseError(f"chain {name.decode(errors='replace')} jumps to {led.decode(errors='replace')}, which is not there")  # fmt: skip

    def _edits(self, pieces: Mapping[bytes, Piece | None]) -> tuple[list[Edit], int]:
        """The edits by place, the chains in their new order, and the number of the first chain that is touched."""
        edits, counted, passed, first_touched = [], 0, self.front.entries, len(self.order)
        end = self.order[-1].start + self.order[-1].size if self.order else self.front.size
        for name, piece in sorted(pieces.items()):
            number = bisect_left(self.order, name, key=_NAME)
            first_touched = min(first_touched, number)
            passed += sum(chain.entries for chain in self.order[counted:number])
            counted = number
            chain = self.order[number] if number < len(self.order) else None
            start = chain.start if chain else end
            body, entries = (piece.body, piece.entries) if piece else (b"", 0)
            if chain is None or chain.name != name:
                assert piece is not None
                edits.append(Edit(start, start, passed, passed, body, entries))
                chain = self.chains[name] = Chain(name, start)
                self.order.insert(number, chain)
                counted += 1  # it is not among the entries that were
            else:
                edits.append(Edit(start, start + chain.size, passed, passed + chain.entries, body, entries))
                passed += chain.entries
                counted += 1
                _strike(chain)
                if piece is None:
                    del self.order[number], self.chains[name]
                    counted -= 1
            chain.size, chain.entries, chain.jumps, chain.inner = len(body), entries, (), ()
        return edits, first_touched

    def _move(self, edits: list[Edit]) -> None:
        """Carry out the edits in the buffer, moving what lies between two of them once."""
        room, growth = self.room, sum(len(edit.body) - (edit.end - edit.start) for edit in edits)
        before = len(self.buffer)
        if growth > 0:
            self.buffer.extend(bytes(growth))
        runs, shift = [], 0  # what stays: from where to where, and by how much it moves
        for number, edit in enumerate(edits):
            shift += len(edit.body) - (edit.end - edit.start)
            end = edits[number + 1].start + room if number + 1 < len(edits) else before
            runs.append((edit.end + room, end, shift))
        with memoryview(self.buffer) as view:
            for start, end, by in [*(r for r in runs if r[2] < 0), *(r for r in reversed(runs) if r[2] > 0)]:
                view[start + by : end + by] = view[start:end]
            for edit, (start, _, by) in zip(edits, runs, strict=True):
                view[start + by - len(edit.body) : start + by] = edit.body
        if growth < 0:
            del self.buffer[growth:]

    def _renumber(self, number: int) -> None:
        """Give the chains from a number on the places they have now, and mend the jumps to those that have moved."""
        at = self.order[number - 1].start + self.order[number - 1].size if number else self.front.size
        moved: list[Chain] = []
        users: set[Chain] = set()
        for chain in self.order[number:]:
            if chain.start != at:
                self._shift_inner(chain, at)
                moved.append(chain)
                users.update(chain.users)
                chain.start = at
            at += chain.size
        if not moved:
            return
        low, high = moved[0].start, moved[-1].start
        with memoryview(self.buffer) as whole, whole[: len(whole) & ~3].cast("i") as words:
            for user in users:
                place = self.room + user.start
                for at, led in user.jumps:
                    if low <= led.start <= high:
                        words[(place + at) >> 2] = led.start + self.head

    def _shift_inner(self, chain: Chain, start: int) -> None:
        for place in chain.inner:
            (verdict,) = _verdict.unpack_from(self.buffer, self.room + start + place)
            _verdict.pack_into(self.buffer, self.room + start + place, verdict - chain.start + start)

    def _settle(self, chain: Chain, piece: Piece) -> None:
        """A new chain's verdicts, now that all chains have their places."""
        chain.inner, chain.jumps = piece.inner, tuple((at, self.chains[name]) for at, name in piece.jumps)
        _enlist(chain)
        place = self.room + chain.start
        for at in piece.inner:
            (verdict,) = _verdict.unpack_from(self.buffer, place + at)
            _verdict.pack_into(self.buffer, place + at, verdict + chain.start)
        for at, led in chain.jumps:
            _verdict.pack_into(self.buffer, place + at, led.start + self.head)


def _enlist(chain: Chain) -> None:
    """Chains that are jumped to know by whom, each once."""
    for led in dict.fromkeys(led for _, led in chain.jumps):
        led.users.append(chain)


def _strike(chain: Chain) -> None:
    for led in dict.fromkeys(led for _, led in chain.jumps):
        led.users.remove(chain)


def carried(counters: bytearray, edits: Iterable[Edit]) -> bytearray:
    """The counters that a table had, for the table that the edits made of it; new entries begin at zero."""
    found, at = bytearray(), 0
    with memoryview(counters) as old:
        for edit in edits:
            found += old[at * COUNTER : edit.first * COUNTER]
            found += bytes(edit.entries * COUNTER)
            at = edit.last
        found += old[at * COUNTER :]
    return found
