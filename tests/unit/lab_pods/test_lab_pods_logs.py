"""Log rings: bounded, with times, tails, followers."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassnet.lab.pods.logs import MAX_LINE, LineWriter, LogOptions, LogRing, nanoseconds, options_of, read_log, stamp

T0 = datetime(2024, 5, 6, 7, 8, 9, 123456, UTC)


def ring_of(*lines: bytes, limit: int = 64 * 1024) -> LogRing:
    ring = LogRing(limit)
    for number, line in enumerate(lines):
        ring.append(nanoseconds(T0 + timedelta(seconds=number)), line)
    return ring


async def shown(ring: LogRing, **options: object) -> bytes:
    return b"".join([part async for part in read_log(ring, LogOptions(**options))])  # type: ignore[arg-type]


async def test_lines_come_back() -> None:
    assert await shown(ring_of(b"a", b"", b"c")) == b"a\n\nc\n"


async def test_times_are_rfc3339_with_nine_digits() -> None:
    assert await shown(ring_of(b"a"), timestamps=True) == b"2024-05-06T07:08:09.123456000Z a\n"
    assert stamp(0) == b"1970-01-01T00:00:00.000000000Z"


@pytest.mark.parametrize(
    ("tail", "expected"), [(0, b""), (1, b"c\n"), (2, b"b\nc\n"), (9, b"a\nb\nc\n"), (-1, b"a\nb\nc\n")]
)
async def test_tails(tail: int, expected: bytes) -> None:
    assert await shown(ring_of(b"a", b"b", b"c"), tail=tail) == expected


async def test_since_and_limit() -> None:
    ring = ring_of(b"aaa", b"bbb", b"ccc")
    assert await shown(ring, since=nanoseconds(T0 + timedelta(seconds=1))) == b"bbb\nccc\n"
    assert await shown(ring, limit=5) == b"aaa\nb"
    assert await shown(ring, limit=0) == b""


def test_options_as_the_api_gives_them() -> None:
    now = T0 + timedelta(seconds=60)
    options = options_of(
        {"follow": True, "tailLines": 3, "sinceSeconds": 60, "limitBytes": 7, "timestamps": False}, now
    )
    assert options == LogOptions(follow=True, tail=3, since=nanoseconds(T0), limit=7)
    assert options_of({"sinceTime": T0, "sinceSeconds": 1}, now).since == nanoseconds(T0)
    assert options_of({}, now) == LogOptions()


@given(st.lists(st.binary(max_size=3000).filter(lambda line: b"\n" not in line), max_size=60))
def test_a_ring_stays_in_its_bounds_and_keeps_the_youngest(lines: list[bytes]) -> None:
    ring = ring_of(*lines, limit=0)  # the smallest there is
    assert ring.size <= MAX_LINE + 11
    kept = [line.text for _, line in ring.lines()]
    assert kept == lines[len(lines) - len(kept) :]
    assert not lines or kept


@given(st.binary(max_size=40_000), st.lists(st.integers(0, 40_000), max_size=5))
def test_output_cut_anywhere_gives_the_same_log(data: bytes, places: list[int]) -> None:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    ring = LogRing(1 << 20)
    writer = LineWriter(ring, 1, lambda: T0)
    for start, end in itertools.pairwise(marks):
        writer.feed(data[start:end])
    writer.finish()
    text = b"".join(line.text + (b"" if line.partial else b"\n") for _, line in ring.lines())
    assert text == data
    assert all(len(line.text) <= MAX_LINE for _, line in ring.lines())


async def test_long_lines_have_one_time_and_one_end() -> None:
    ring = LogRing(1 << 20)
    writer = LineWriter(ring, 1, lambda: T0)
    writer.feed(b"x" * (2 * MAX_LINE + 5) + b"\nend\n")
    text = await shown(ring, timestamps=True)
    assert text.count(b"2024-") == 2
    assert text.count(b"\n") == 2
    assert (await shown(ring, tail=2)).count(b"x") == 2 * MAX_LINE + 5


async def test_followers_see_lines_until_the_end() -> None:
    ring = ring_of(b"old")
    seen: list[bytes] = []

    async def follow() -> None:
        async for part in read_log(ring, LogOptions(follow=True)):
            seen.extend((part,))

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    ring.append(1, b"new")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert b"".join(seen) == b"old\nnew\n"
    ring.append(2, b"last")
    ring.close()
    await asyncio.wait_for(task, 5)
    assert b"".join(seen) == b"old\nnew\nlast\n"


async def test_a_follower_that_falls_behind_goes_on_with_what_is_left() -> None:
    ring = LogRing(0)
    reading = read_log(ring, LogOptions(follow=True))
    ring.append(1, b"first")
    assert await anext(reading) == b"first\n"
    for number in range(5000):
        ring.append(2, b"%d" % number)
    ring.close()
    rest = b"".join([part async for part in reading])
    assert rest.endswith(b"4999\n")
    assert b"first" not in rest


def test_an_empty_ring_takes_no_room() -> None:
    assert LogRing(16 * 1024).size == 0
