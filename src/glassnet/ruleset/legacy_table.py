"""A table of the legacy kind as the kernel takes and gives it: one run of entries, read into chains, and spliced chain by chain.

Pure. An entry is struct ipt_entry (or ip6t_entry), its matches, and its target. Entries of the built-in chains come first, then the user's
chains in the order of their names, then one that ends the table. A user's chain begins with an entry whose target ERROR has the chain's
name, and ends with a RETURN. A jump is a standard target whose verdict is the offset of the chain's first rule from the table's start, so
whoever moves a chain mends the jumps to it. Sources: linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h,
linux/netfilter/x_tables.h; how libiptc, the library of the legacy tools, lays a table out.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from glassnet.net.errors import ParseError


class Layout(NamedTuple):
    """One family's struct: its size, and where in it are target_offset (next_offset follows), comefrom and the counters."""

    size: int
    offsets: int
    counters: int


IPV4, IPV6 = Layout(112, 88, 96), Layout(168, 140, 152)
COUNTER = 16  # bytes of struct xt_counters
_TARGET = (
    32  # bytes of struct xt_entry_target: u16 size, 29 bytes of name, revision; a standard target's verdict follows
)
_ERROR_DATA = 32  # bytes of the name in an ERROR target
_ERROR = b"ERROR"
_ERROR_TARGET = _ERROR + b"\0"
_offsets = struct.Struct("=HH")
_verdict = struct.Struct("=i")


class Piece(NamedTuple):
    """A chain out of its table: its bytes, its number of entries, where in it verdicts lead to which chains (`jumps`), and where to which
    places in the chain itself (`inner`)."""

    name: bytes
    body: bytes
    entries: int
    jumps: tuple[tuple[int, bytes], ...]
    inner: tuple[tuple[int, int], ...]


class Edit(NamedTuple):
    """What becomes of a run of bytes: `piece` comes in place of those from `start` to `end`, which were `gone` entries, at the chain's
    `number` among the chains that were, and `place` among those that will be; behind it all moves by `shift`."""

    name: bytes
    start: int
    end: int
    piece: Piece | None
    gone: int
    number: int
    place: int
    shift: int

    @property
    def come(self) -> int:
        """Entries that come."""
        return self.piece.entries if self.piece else 0


class Table:
    """A table in `buffer`, behind `room` bytes that are the caller's. Raises ParseError for a layout that is not libiptc's.

    Numbers alone, in arrays, as there are hundreds of thousands: `starts` and `counts` (entries) of the chains `names`; `sites`, where each
    verdict is that leads to a place in the table, and `verdicts`, to which. All are offsets from the table's start, in rising order but for
    the verdicts.
    """

    def __init__(self, buffer: bytearray, layout: Layout, room: int = 0) -> None:
        self.buffer, self.layout, self.room = buffer, layout, room
        self.head = layout.size + _TARGET + _ERROR_DATA  # bytes of the entry a chain begins with
        self.names: list[bytes] = []
        self.starts, self.counts = array("I"), array("I")
        self.sites, self.verdicts = array("I"), array("I")
        self.front = 0  # entries of the built-in chains
        self._read()

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return len(self.buffer) - self.room

    @property
    def entries(self) -> int:
        """Their number."""
        return self.front + sum(self.counts) + 1

    def __contains__(self, name: bytes) -> bool:
        return self._number(name) is not None

    def _number(self, name: bytes) -> int | None:
        number = bisect_left(self.names, name)
        return number if number < len(self.names) and self.names[number] == name else None

    def _end(self, number: int) -> int:
        """Where a chain ends; all chains do where the last entry begins."""
        return self.starts[number + 1] if number + 1 < len(self.starts) else self.size - self.head

    # -- reading

    def _read(self) -> None:
        room, buffer, heads, count, at = self.room, self.buffer, list[int](), 0, self.room
        with (
            memoryview(buffer) as whole,
            whole[: len(whole) & ~3] as part,
            part.cast("H") as halves,
            part.cast("i") as words,
        ):
            half, least, end = self.layout.offsets // 2, self.layout.size, len(part)
            while at < end:
                target = at + halves[at // 2 + half] if at + least <= end else end
                step = halves[at // 2 + half + 1] if at + least <= end else 0
                if target < at + least or target + _TARGET + 4 > at + step or at + step > end or (target | step) & 3:
                    raise ParseError(f"the entry at {at - room} is no entry")
                first = buffer[target + 2]
                if not first:
                    if (verdict := words[(target + _TARGET) // 4]) >= 0:
                        self.sites.append(target + _TARGET - room)
                        self.verdicts.append(verdict)
                elif first == 69 and buffer[target + 2 : target + 8] == _ERROR_TARGET:
                    heads.append(count)
                    self.starts.append(at - room)
                    self.names.append(bytes(buffer[target + _TARGET : at + step]).split(b"\0", 1)[0])
                count += 1
                at += step
        if not self.names or self.names.pop() != _ERROR or self.starts.pop() + self.head != self.size:
            raise ParseError("the table does not end as tables do")
        self.front = heads[0]
        self.counts.extend(after - before for before, after in pairwise(heads))
        self._check()

    def _check(self) -> None:
        """Whether chains and jumps are as libiptc lays them out."""
        if any(first >= second for first, second in pairwise(self.names)):
            raise ParseError("chains are not in the order of their names")
        if any(count < 2 for count in self.counts):
            raise ParseError("a chain has no end")
        first_rules = {start + self.head for start in self.starts}
        for site, verdict in zip(self.sites, self.verdicts, strict=True):
            if verdict not in first_rules and bisect_right(self.starts, site) != bisect_right(self.starts, verdict):
                raise ParseError(f"the verdict at {site} leads to {verdict}, where no chain begins")

    def piece(self, name: bytes) -> Piece:
        """A chain out of this table, counters cleared. Raises KeyError."""
        number = self._number(name)
        if number is None:
            raise KeyError(name)
        start, end = self.starts[number], self._end(number)
        body = bytearray(self.buffer[self.room + start : self.room + end])
        at = 0
        while at < len(body):
            _, step = _offsets.unpack_from(body, at + self.layout.offsets)
            body[at + self.layout.counters : at + self.layout.counters + COUNTER] = bytes(COUNTER)
            at += step
        jumps, inner = [], []
        for place in range(bisect_left(self.sites, start), bisect_left(self.sites, end)):
            site, verdict = self.sites[place] - start, self.verdicts[place]
            if start <= verdict < end:
                inner.append((site, verdict - start))
            else:
                jumps.append((site, self.names[bisect_left(self.starts, verdict - self.head)]))
        return Piece(name, bytes(body), self.counts[number], tuple(jumps), tuple(inner))

    # -- splicing

    def splice(self, pieces: Mapping[bytes, Piece | None]) -> list[Edit]:
        """Put chains in place of those of their names, add them, or (None) take them out; the edits that were made, in order.

        Raises ParseError, and changes nothing, when a chain that stays jumps to one that goes, or a new one to one that is not there.
        """
        edits = self._edits(pieces)
        if edits:
            self._judge(edits, pieces)
            self._move(edits)
            fresh = self._renumber(edits)
            self._mend(edits)
            for edit, site in zip(edits, fresh, strict=True):
                self._settle(edit, site)
        return edits

    def _edits(self, pieces: Mapping[bytes, Piece | None]) -> list[Edit]:
        edits, shift, place = list[Edit](), 0, 0
        for name, piece in sorted(pieces.items()):
            number = bisect_left(self.names, name)
            start = self.starts[number] if number < len(self.starts) else self.size - self.head
            there = number < len(self.names) and self.names[number] == name
            if piece is None and not there:
                raise ParseError(f"no chain {_text(name)} to take out")
            end, gone = (self._end(number), self.counts[number]) if there else (start, 0)
            shift += (len(piece.body) if piece else 0) - (end - start)
            edits.append(Edit(name, start, end, piece, gone, number, number + place, shift))
            place += (piece is not None) - there
        return edits

    def _judge(self, edits: list[Edit], pieces: Mapping[bytes, Piece | None]) -> None:
        going = {edit.start + self.head: edit.name for edit in edits if edit.piece is None}
        left = [place for place, verdict in enumerate(self.verdicts) if verdict in going] if going else []
        starts = [edit.start for edit in edits]
        for place in left:
            edit = edits[bisect_right(starts, self.sites[place]) - 1]
            if not edit.start <= self.sites[place] < edit.end:
                raise ParseError(f"chain {_text(going[self.verdicts[place]])} is still jumped to")
        for name, piece in pieces.items():
            for _, led in piece.jumps if piece else ():
                if (pieces[led] is None) if led in pieces else (led not in self):
                    raise ParseError(f"chain {_text(name)} jumps to {_text(led)}, which is not there")

    def _move(self, edits: list[Edit]) -> None:
        """Carry out the edits in the buffer, moving what lies between two of them once."""
        room, before, growth = self.room, len(self.buffer), edits[-1].shift
        if growth > 0:
            self.buffer.extend(bytes(growth))
        ends = [*(edit.start + room for edit in edits[1:]), before]
        runs = [
            (edit.end + room, end, edit.shift) for edit, end in zip(edits, ends, strict=True)
        ]  # what stays: from, to, by
        with memoryview(self.buffer) as view:
            for start, end, by in [*(r for r in runs if r[2] < 0), *(r for r in reversed(runs) if r[2] > 0)]:
                view[start + by : end + by] = view[start:end]
            for edit, (start, _, by) in zip(edits, runs, strict=True):
                if edit.piece is not None:
                    view[start + by - len(edit.piece.body) : start + by] = edit.piece.body
        if growth < 0:
            del self.buffer[growth:]

    def _renumber(self, edits: list[Edit]) -> list[int]:
        """Bring the arrays to the new places; verdicts stay as they were. Where in `sites` those of each new chain begin."""
        names, starts, counts = (
            self.names[: edits[0].number],
            self.starts[: edits[0].number],
            self.counts[: edits[0].number],
        )
        cut = bisect_left(self.sites, edits[0].start)
        sites, verdicts, fresh = self.sites[:cut], self.verdicts[:cut], list[int]()
        for edit, after in zip(edits, [*edits[1:], None], strict=True):
            fresh.append(len(sites))
            if edit.piece is not None:
                start = edit.end + edit.shift - len(edit.piece.body)
                names.append(edit.name)
                starts.append(start)
                counts.append(edit.piece.entries)
                places = sorted(at for at, _ in (*edit.piece.jumps, *edit.piece.inner))
                sites.extend(start + at for at in places)
                verdicts.extend([0] * len(places))
            here, there = edit.number + (edit.end > edit.start), after.number if after else len(self.names)
            names += self.names[here:there]
            counts += self.counts[here:there]
            starts += _moved(self.starts[here:there], edit.shift)
            here = bisect_left(self.sites, edit.end)
            there = bisect_left(self.sites, after.start) if after else len(self.sites)
            sites += _moved(self.sites[here:there], edit.shift)
            verdicts += self.verdicts[here:there]
        self.names, self.starts, self.counts, self.sites, self.verdicts = names, starts, counts, sites, verdicts
        return fresh

    def _mend(self, edits: list[Edit]) -> None:
        """Verdicts that lead to what has moved. One into a chain that is written anew leads to its first rule, which moves with its start."""
        starts, ends, shifts = ([getattr(edit, each) for edit in edits] for each in ("start", "end", "shift"))
        low, high = starts[0], ends[-1] if not shifts[-1] else 1 << 32
        room, sites, verdicts = self.room, self.sites, self.verdicts
        before = [0, *shifts]
        with memoryview(self.buffer) as whole, whole[: len(whole) & ~3] as part, part.cast("i") as words:
            for place, verdict in enumerate(verdicts):
                if low <= verdict < high:
                    number = bisect_right(starts, verdict) - 1
                    by = shifts[number] if verdict >= ends[number] else before[number]
                    if by:
                        verdicts[place] = words[(room + sites[place]) // 4] = verdict + by

    def _settle(self, edit: Edit, first: int) -> None:
        """A new chain's verdicts, now that all chains have their places."""
        if edit.piece is None:
            return
        start = edit.end + edit.shift - len(edit.piece.body)
        led = {at: self.starts[bisect_left(self.names, name)] + self.head for at, name in edit.piece.jumps}
        led |= {at: start + verdict for at, verdict in edit.piece.inner}
        for place, at in enumerate(sorted(led), first):
            self.verdicts[place] = led[at]
            _verdict.pack_into(self.buffer, self.room + start + at, led[at])

    def carried(self, counters: bytearray, edits: Iterable[Edit]) -> bytearray:
        """The counters that the table had before these edits, for the table as it is now; new entries begin at zero."""
        found, at, done, kept = bytearray(), 0, 0, self.front
        with memoryview(counters) as old:
            for edit in edits:
                kept += sum(self.counts[done : edit.place])
                done = edit.place + (edit.piece is not None)
                found += old[at : at + kept * COUNTER]
                found += bytes(edit.come * COUNTER)
                at += (kept + edit.gone) * COUNTER
                kept = 0
            found += old[at:]
        return found


def _moved(places: array[int], by: int) -> array[int]:
    return array("I", [place + by for place in places]) if by else places


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
