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
from collections.abc import Iterable, Mapping
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from glassnet.net.errors import ParseError
from glassnet.ruleset.model import uncollected


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
_ERROR_TARGET = _ERROR + b"\0"
_NAME = attrgetter("name")
_offsets = struct.Struct("=HH")
_verdict = struct.Struct("=i")


class Chain:
    """One of the user's chains in a table: `start`, `size` in bytes and `entries` of the whole chain, head and end with it; its `jumps` to
    chains and those of other chains to it (`users`); `inner`: where in the chain a verdict leads to a place in the chain itself."""

    __slots__ = ("entries", "inner", "jumps", "name", "size", "start", "users")

    def __init__(self, name: bytes, start: int) -> None:
        self.name, self.start, self.size, self.entries = name, start, 0, 0
        self.jumps: tuple[Jump, ...] = ()
        self.inner: tuple[int, ...] = ()
        self.users: list[Jump] = []


class Jump:
    """A verdict `at` bytes from the start of a chain that leads to another. Without `owner` it has gone, and is yet to be forgotten."""

    __slots__ = ("at", "led", "owner")

    def __init__(self, owner: Chain, at: int, led: Chain) -> None:
        self.owner: Chain | None = owner
        self.at, self.led = at, led


class Piece(NamedTuple):
    """A chain out of its table: `body` with verdicts in `inner` from the chain's own start, those in `jumps` to be filled in by name."""

    name: bytes
    body: bytes
    entries: int
    jumps: tuple[tuple[int, bytes], ...]
    inner: tuple[int, ...]


class Edit(NamedTuple):
    """What becomes of a run of bytes: `body` comes in place of those from `start` to `end`, which were `gone` entries, at the chain's
    `number` in the new order."""

    start: int
    end: int
    body: bytes
    number: int
    gone: int
    come: int


class Table:
    """A table in `buffer`, behind `room` bytes that are the caller's. Raises ParseError for a layout that is not libiptc's."""

    def __init__(self, buffer: bytearray, layout: Layout, room: int = 0) -> None:
        self.buffer, self.layout, self.room = buffer, layout, room
        self.head = layout.size + _TARGET + _ERROR_DATA  # bytes of the entry a chain begins with
        self.front = Chain(b"", 0)  # the built-in chains
        self.order: list[Chain] = []
        self._loose: set[Chain] = set()  # jumped to by jumps that have gone
        with uncollected():
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
        chain, room, buffer, count, at = self.front, self.room, self.buffer, 0, self.room
        with memoryview(buffer) as whole, whole[: len(whole) & ~3] as part, part.cast("H") as halves, part.cast("i") as words:
            half, least, end = self.layout.offsets // 2, self.layout.size, len(part)
            while at < end:
                target = at + halves[at // 2 + half] if at + least <= end else end
                step = halves[at // 2 + half + 1] if at + least <= end else 0
                if target < at + least or target + _TARGET > at + step or at + step > end or (target | step) & 7:
                    raise ParseError(f"the entry at {at - room} is no entry")
                first = buffer[target + 2]
                if not first:
                    if (verdict := words[(target + _TARGET) // 4]) >= 0:
                        verdicts.append((chain, target + _TARGET - room - chain.start, verdict))
                elif first == 69 and buffer[target + 2 : target + 8] == _ERROR_TARGET:
                    _close(chain, count, at - room)
                    chain, count = self._begin(at - room, target + _TARGET), 0
                count += 1
                at += step
        _close(chain, count, len(buffer) - room)
        self._finish(verdicts)

    def _begin(self, start: int, name: int) -> Chain:
        chain = Chain(bytes(self.buffer[name : name + _ERROR_DATA]).split(b"\0", 1)[0], start)
        self.order.append(chain)
        return chain

    def _finish(self, verdicts: Iterable[tuple[Chain, int, int]]) -> None:
        """Chains are known: see that they are as libiptc lays them out, and who jumps where."""
        if not self.order or self.order[-1].name != _ERROR or self.order[-1].entries != 1:
            raise ParseError("the table does not end as tables do")
        self.entries = self.front.entries + sum(chain.entries for chain in self.order)
        self.order.pop()
        if any(first.name >= second.name for first, second in pairwise(self.order)):
            raise ParseError("chains are not in the order of their names")
        if any(chain.entries < 2 for chain in self.order):
            raise ParseError("a chain has no end")
        first_rules = {chain.start + self.head: chain for chain in self.order}
        jumps: dict[Chain, list[tuple[int, Chain]]] = {}
        inner: dict[Chain, list[int]] = {}
        for chain, at, verdict in verdicts:
            if chain.start <= verdict < chain.start + chain.size:
                inner.setdefault(chain, []).append(at)
            elif (led := first_rules.get(verdict)) is not None:
                jumps.setdefault(chain, []).append((at, led))
            else:
                raise ParseError(f"a rule of chain {_text(chain.name)} leads to {verdict}, where no chain begins")
        for chain, places in inner.items():
            chain.inner = tuple(places)
        for chain, found in jumps.items():
            _enlist(chain, found)

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
        jumps = tuple((jump.at, jump.led.name) for jump in chain.jumps)
        return Piece(name, bytes(body), chain.entries, jumps, chain.inner)

    # -- splicing

    def splice(self, pieces: Mapping[bytes, Piece | None]) -> list[Edit]:
        """Put chains in place of those of their names, add them, or (None) take them out; the edits that were made, in order.

        `tidy` is to be called when there is time. Raises ParseError, and changes nothing, when a chain that stays jumps to one that goes, or
        a new one to one that is not there.
        """
        self._judge(pieces)
        first, edits = self._edits(pieces)
        self._move(edits)
        self._renumber(first, edits)
        for name, piece in pieces.items():
            if piece is not None:
                self._settle(self.chains[name], piece)
        self.entries += sum(edit.come - edit.gone for edit in edits)
        return edits

    def _judge(self, pieces: Mapping[bytes, Piece | None]) -> None:
        for name, piece in pieces.items():
            if piece is None:
                if name not in self.chains:
                    raise ParseError(f"no chain {_text(name)} to take out")
                if any(jump.owner is not None and jump.owner.name not in pieces for jump in self.chains[name].users):
                    raise ParseError(f"chain {_text(name)} is still jumped to")
                continue
            for _, led in piece.jumps:
                if (led not in self.chains and led not in pieces) or (led in pieces and pieces[led] is None):
                    raise ParseError(f"chain {_text(name)} jumps to {_text(led)}, which is not there")

    def _edits(self, pieces: Mapping[bytes, Piece | None]) -> tuple[int, list[Edit]]:
        """The number of the first chain that is touched, and the edits by place; the chains get their new order."""
        edits, first = [], len(self.order)
        end = self.order[-1].start + self.order[-1].size if self.order else self.front.size
        for name, piece in sorted(pieces.items()):
            number = bisect_left(self.order, name, key=_NAME)
            first = min(first, number)
            chain = self.chains.get(name)
            body, come = (piece.body, piece.entries) if piece else (b"", 0)
            if chain is None:
                start = self.order[number].start if number < len(self.order) else end
                edits.append(Edit(start, start, body, number, 0, come))
                chain = self.chains[name] = Chain(name, start)
                self.order.insert(number, chain)
            else:
                edits.append(Edit(chain.start, chain.start + chain.size, body, number, chain.entries, come))
                for jump in chain.jumps:
                    self._loose.add(jump.led)
                    jump.owner = None
                if piece is None:
                    del self.order[number], self.chains[name]
            chain.size, chain.entries, chain.jumps, chain.inner = len(body), come, (), ()
        return first, edits

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

    def _renumber(self, number: int, edits: list[Edit]) -> None:
        """Give the chains from a number on the places they have now, and mend the jumps to those that have moved."""
        at = self.order[number - 1].start + self.order[number - 1].size if number else self.front.size
        last = edits[-1].number if edits else 0
        moved: list[Chain] = []
        for place in range(number, len(self.order)):
            chain = self.order[place]
            if chain.start != at:
                self._shift_inner(chain, at)
                moved.append(chain)
                chain.start = at
            elif place > last:
                break  # what follows is where it was
            at += chain.size
        room, head = self.room, self.head
        with memoryview(self.buffer) as whole, whole[: len(whole) & ~3] as part, part.cast("i") as words:
            for chain in moved:
                rule = chain.start + head
                for jump in chain.users:
                    if (owner := jump.owner) is not None:
                        words[(room + owner.start + jump.at) // 4] = rule

    def _shift_inner(self, chain: Chain, start: int) -> None:
        for place in chain.inner:
            (verdict,) = _verdict.unpack_from(self.buffer, self.room + start + place)
            _verdict.pack_into(self.buffer, self.room + start + place, verdict - chain.start + start)

    def _settle(self, chain: Chain, piece: Piece) -> None:
        """A new chain's verdicts, now that all chains have their places."""
        chain.inner = piece.inner
        _enlist(chain, ((at, self.chains[name]) for at, name in piece.jumps))
        place = self.room + chain.start
        for at in piece.inner:
            (verdict,) = _verdict.unpack_from(self.buffer, place + at)
            _verdict.pack_into(self.buffer, place + at, verdict + chain.start)
        for jump in chain.jumps:
            _verdict.pack_into(self.buffer, place + jump.at, jump.led.start + self.head)

    def tidy(self) -> None:
        """Forget jumps that have gone."""
        for chain in self._loose:
            chain.users = [jump for jump in chain.users if jump.owner is not None]
        self._loose.clear()

    def drop(self) -> None:
        """Let go of all chains at once, which know each other and so would have to wait for the garbage collector."""
        for chain in (self.front, *self.order):
            chain.jumps, chain.users = (), []
        self.order.clear()
        self.chains.clear()
        self._loose.clear()

    def carried(self, counters: bytearray, edits: Iterable[Edit]) -> bytearray:
        """The counters that the table had before these edits, for the table as it is now; new entries begin at zero."""
        found, at, done, kept = bytearray(), 0, 0, self.front.entries
        with memoryview(counters) as old:
            for edit in edits:
                kept += sum(chain.entries for chain in self.order[done : edit.number])
                done = edit.number + (edit.come > 0)
                found += old[at : at + kept * COUNTER]
                found += bytes(edit.come * COUNTER)
                at += (kept + edit.gone) * COUNTER
                kept = 0
            found += old[at:]
        return found


def _enlist(chain: Chain, found: Iterable[tuple[int, Chain]]) -> None:
    """A chain's jumps, known to where they lead."""
    chain.jumps = tuple(Jump(chain, at, led) for at, led in found)
    for jump in chain.jumps:
        jump.led.users.append(jump)


def _close(chain: Chain, entries: int, end: int) -> None:
    chain.entries, chain.size = entries, end - chain.start


def _text(name: bytes) -> str:
    return name.decode(errors="replace") or "that is built in"
