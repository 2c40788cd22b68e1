"""Tables of the legacy kind: whatever is spliced, the result is the table that would have been laid out from the start."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.net.errors import ParseError
from glassnet.ruleset.legacy_table import COUNTER, IPV4, IPV6, Layout, Piece, Table

ROOM = 8
NAMES = [f"KUBE-{letter}" for letter in "ABCDEFGH"]
FALL, DROP = "fall through", "drop"  # rules by what their target does; any other is the chain it jumps to
Chains = Mapping[str, Sequence[str]]


def entry(layout: Layout, matches: int, target: bytes, count: int = 0) -> bytes:
    """An entry with some bytes of matches."""
    step = layout.size + matches + len(target)
    head = bytearray(layout.size)
    struct.pack_into("=HH", head, layout.offsets, layout.size + matches, step)
    struct.pack_into("=QQ", head, layout.counters, count, count * 100)
    return bytes(head) + b"\x11" * matches + target


def standard(verdict: int) -> bytes:
    return struct.pack("=H30siI", 40, b"", verdict, 0)


def error(name: str) -> bytes:
    return struct.pack("=H30s32s", 64, b"ERROR", name.encode())


def laid_out(layout: Layout, chains: Chains, counts: Mapping[str, int] | None = None) -> bytearray:
    """The table as libiptc lays it out: one built-in chain, which jumps to every other, then the others by name."""
    counts, order = counts or {}, sorted(chains)
    plan = [("", [*order, DROP]), *((name, chains[name]) for name in order)]
    sizes = {name: sum(layout.size + 8 * number + 40 for number in range(len(rules))) for name, rules in plan}
    head, at, first = layout.size + 64, 0, {}
    for name, _ in plan:
        first[name] = at + (head if name else 0)
        at = first[name] + sizes[name] + (layout.size + 40 if name else 0)
    table = bytearray(ROOM)
    for name, rules in plan:
        count = counts.get(name, 0)
        table += entry(layout, 0, error(name), count) if name else b""
        for number, rule in enumerate(rules):
            here = len(table) - ROOM
            verdict = here + layout.size + 8 * number + 40 if rule == FALL else -1 if rule == DROP else first[rule]
            table += entry(layout, 8 * number, standard(verdict), count)
        table += entry(layout, 0, standard(-5), count) if name else b""
    return table + entry(layout, 0, error("ERROR"))


def cleared(buffer: bytearray, layout: Layout) -> bytes:
    """The entries without their counters."""
    found, at = bytearray(buffer[ROOM:]), 0
    while at < len(found):
        found[at + layout.counters : at + layout.counters + COUNTER] = bytes(COUNTER)
        at += struct.unpack_from("=H", found, at + layout.offsets + 2)[0]
    return bytes(found)


def counters_of(buffer: bytearray, layout: Layout) -> bytearray:
    found, at = bytearray(), ROOM
    while at < len(buffer):
        found += buffer[at + layout.counters : at + layout.counters + COUNTER]
        at += struct.unpack_from("=H", buffer, at + layout.offsets + 2)[0]
    return found


def pieces_of(layout: Layout, wanted: Chains) -> dict[bytes, Piece]:
    """Chains out of a table of their own, which has only the names of those that they lead to."""
    alone: dict[str, Sequence[str]] = {rule: () for rules in wanted.values() for rule in rules if rule in NAMES}
    made = Table(laid_out(layout, {**alone, **wanted}, dict.fromkeys(NAMES, 9)), layout, ROOM)
    return {name.encode(): made.piece(name.encode()) for name in wanted}


rules = st.lists(st.sampled_from([*NAMES, FALL, DROP]), max_size=4)
tables = st.dictionaries(st.sampled_from(NAMES), rules, max_size=len(NAMES))


def closed(chains: Chains) -> dict[str, list[str]]:
    """The same without jumps to chains that are not there, and without those that come back to their own chain's start."""
    return {name: [r for r in rules if r in (FALL, DROP) or (r in chains and r != name)] for name, rules in chains.items()}  # fmt: skip


@pytest.mark.parametrize("layout", [IPV4, IPV6])
@settings(max_examples=150, deadline=None)
@given(states=st.lists(tables.map(closed), min_size=2, max_size=5))
def test_a_spliced_table_is_the_one_laid_out_from_the_start(layout: Layout, states: list[dict[str, list[str]]]) -> None:
    # the built-in chain's own jumps are part of the table, so chains come and go only at its end: keep all names, change what they hold
    everything = [{name: state.get(name, []) for name in NAMES[:6]} for state in states]
    everything = [closed(state) for state in everything]
    table = Table(laid_out(layout, everything[0]), layout, ROOM)
    for before, after in pairwise(everything):
        counts = {name: number for number, name in enumerate(["", *NAMES], 1)}
        old = counters_of(laid_out(layout, before, counts), layout)
        changed = {name: rules for name, rules in after.items() if before[name] != rules}
        edits = table.splice(dict(pieces_of(layout, changed)))
        wanted = laid_out(layout, after, {name: count for name, count in counts.items() if name not in changed})
        assert cleared(table.buffer, layout) == cleared(wanted, layout)
        assert table.carried(old, edits)[:-COUNTER] == counters_of(wanted, layout)[:-COUNTER]
        assert table.entries == len(old) // COUNTER + sum(edit.come - edit.gone for edit in edits)


@pytest.mark.parametrize("layout", [IPV4, IPV6])
@settings(max_examples=150, deadline=None)
@given(first=tables, second=tables)
def test_chains_that_come_and_go_leave_all_jumps_right(layout: Layout, first: Chains, second: Chains) -> None:
    """Chains that the built-in one does not jump to: an empty front stays as it is, whatever follows."""
    before, after = closed(first), closed(second)
    table = Table(unentered(layout, before), layout, ROOM)
    changed: dict[bytes, Piece | None] = {name.encode(): None for name in before if name not in after}
    changed |= pieces_of(layout, {name: rules for name, rules in after.items() if before.get(name) != rules})
    table.splice(changed)
    assert cleared(table.buffer, layout) == cleared(unentered(layout, after), layout)
    again = Table(table.buffer, layout, ROOM)
    for each in ("names", "starts", "counts", "sites", "verdicts", "front", "entries"):
        assert getattr(again, each) == getattr(table, each)


def unentered(layout: Layout, chains: Chains) -> bytearray:
    """The table whose built-in chain jumps nowhere."""
    whole = laid_out(layout, chains)
    front = entry(layout, 0, standard(-1))
    skipped = sum(layout.size + 8 * number + 40 for number in range(len(chains) + 1)) - len(front)
    return bytearray(ROOM) + front + moved(whole, layout, skipped, len(front))


def moved(whole: bytearray, layout: Layout, by: int, front: int) -> bytes:
    """All entries behind the built-in chain, moved towards the start, with their verdicts."""
    part, at = bytearray(whole[ROOM + front + by :]), 0
    while at < len(part):
        target, step = struct.unpack_from("=HH", part, at + layout.offsets)
        if part[at + target + 2] == 0:
            (verdict,) = struct.unpack_from("=i", part, at + target + 32)
            if verdict >= 0:
                struct.pack_into("=i", part, at + target + 32, verdict - by)
        at += step
    return bytes(part)


def test_a_chain_that_is_still_jumped_to_stays_and_nothing_changes() -> None:
    table = Table(laid_out(IPV4, {"KUBE-A": ["KUBE-B"], "KUBE-B": []}), IPV4, ROOM)
    before = bytes(table.buffer)
    with pytest.raises(ParseError, match="chain KUBE-B is still jumped to"):
        table.splice({b"KUBE-B": None, **pieces_of(IPV4, {"KUBE-C": []})})
    with pytest.raises(ParseError, match="chain KUBE-A jumps to KUBE-H, which is not there"):
        table.splice(dict(pieces_of(IPV4, {"KUBE-A": ["KUBE-H"]})))
    with pytest.raises(ParseError, match="no chain KUBE-D to take out"):
        table.splice({b"KUBE-D": None})
    assert bytes(table.buffer) == before


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda table: table[:-8], "is no entry"),
        (lambda table: table[: -len(entry(IPV4, 0, error("ERROR")))], "does not end"),
        (lambda table: table.replace(b"KUBE-A", b"KUBE-Z"), "order of their names"),
        (lambda table: table.replace(b"KUBE-B", b"KUBE-A"), "order of their names"),
        (lambda table: bytearray(ROOM), "does not end"),
        (lambda table: bytearray(ROOM + 112), "is no entry"),
    ],
)
def test_a_table_that_libiptc_would_not_lay_out_is_refused(spoil: object, said: str) -> None:
    table = laid_out(IPV4, {"KUBE-A": ["KUBE-B"], "KUBE-B": [DROP]})
    with pytest.raises(ParseError, match=said):
        Table(spoil(table), IPV4, ROOM)  # type: ignore[operator]


def test_a_jump_into_the_middle_of_another_chain_is_refused() -> None:
    table = laid_out(IPV4, {"KUBE-A": ["KUBE-B"], "KUBE-B": [DROP]})
    good = Table(table, IPV4, ROOM)
    struct.pack_into("=i", table, ROOM + good.sites[-1], good.starts[1])
    with pytest.raises(ParseError, match="leads to"):
        Table(table, IPV4, ROOM)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 1500))
def test_any_bytes_are_read_or_refused(junk: bytes, at: int) -> None:
    table = laid_out(IPV4, {"KUBE-A": ["KUBE-B", FALL], "KUBE-B": [DROP]})
    at = ROOM + at % (len(table) - ROOM)
    table[at : at + len(junk)] = junk[: len(table) - at]
    try:
        made = Table(table, IPV4, ROOM)
    except ParseError:
        return
    assert made.size == len(table) - ROOM
