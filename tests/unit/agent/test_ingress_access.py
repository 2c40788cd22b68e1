"""The access log as it is read: counted by Ingress, handed on, given back to the file system; whatever is in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from glassnet.agent.ingress import access, stub_status
from glassnet.agent.ingress.access import AccessLog, Owner

WEB = Owner("demo", "web")


def line(ingress: str = "web", status: int = 200, duration: float = 0.02, **more: Any) -> bytes:
    return (
        json.dumps(
            {"namespace": "demo", "ingress": ingress, "status": status, "duration": duration, **more},
            separators=(",", ":"),
        ).encode()
        + b"\n"
    )


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def reading(log: AccessLog, place: Path) -> AsyncIterator[int]:
    task = asyncio.create_task(log.run())
    try:
        await until((place / access.FILE).exists)
        descriptor = os.open(place / access.FILE, os.O_WRONLY | os.O_APPEND)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_lines_are_counted_by_ingress_and_no_request_makes_a_series(tmp_path: Path) -> None:
    out: list[bytes] = []
    log = AccessLog(tmp_path, out.append)
    log.know([WEB])
    async with reading(log, tmp_path) as descriptor:
        text = (
            line()
            + line(status=503, duration=7)
            + line(ingress="not-there")
            + b"no json\n"
            + line(status=42)
            + line()[:20]
        )
        os.write(descriptor, text)
        await until(lambda: log.unread == 1)
        os.write(descriptor, line()[20:])  # the rest of a line that was cut
        await until(lambda: WEB in log.counts and log.counts[WEB].classes.get("2xx") == 2)
    assert log.counts[WEB].classes == {"2xx": 2, "5xx": 1, "other": 1}
    assert (
        log.counts[WEB].buckets[2] == 3
        and log.counts[WEB].buckets[10] == 1
        and round(log.counts[WEB].seconds, 6) == 7.06
    )
    assert set(log.counts) == {WEB, Owner("", "")}
    assert b"".join(out) == text[:-20] + line()
    assert (tmp_path / access.FILE).stat().st_blocks <= 8  # given back
    log.know([])
    assert WEB not in log.counts


async def test_what_was_not_read_in_time_is_skipped_and_said(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(access, "_BEHIND", 1 << 16)
    monkeypatch.setattr(access, "_PIECE", 1 << 12)
    log = AccessLog(tmp_path, None)
    log.know([WEB])
    async with reading(log, tmp_path) as descriptor:
        os.write(descriptor, line() * 2000)
        await until(lambda: log.skipped > 0)
        os.write(descriptor, line(status=404))
        await until(lambda: WEB in log.counts and log.counts[WEB].classes.get("4xx") == 1)
    assert log.counts[WEB].classes["2xx"] < 200 and log.unread <= 1


def test_numbers_of_stub_status() -> None:
    text = "Active connections: 3 \nserver accepts handled requests\n 10 9 42 \nReading: 1 Writing: 2 Waiting: 0 \n"
    assert stub_status.parse(text) == {
        "active": 3,
        "accepted": 10,
        "handled": 9,
        "requests": 42,
        "reading": 1,
        "writing": 2,
        "waiting": 0,
    }
    assert stub_status.parse("<html>404</html>") == {}
