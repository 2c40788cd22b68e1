"""What a process tells the service manager that started it, and the life signs that one asks for. Source: sd_notify(3), sd_watchdog_enabled(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable


def tell_systemd(state: str) -> None:
    """Tell the service manager how things stand; without one, nothing."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.sendto(state.encode(), "\0" + place[1:] if place.startswith("@") else place)


def watchdog_period() -> float:
    """Seconds between the life signs that are asked for: half of what the manager waits; 0: none are."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(microseconds) / 2e6


async def give_life_signs(alive: Callable[[], bool]) -> None:
    """Give life signs while `alive` says so, until cancelled; ends at once when none are asked for."""
    period = watchdog_period()
    while period:
        if alive():
            tell_systemd("WATCHDOG=1")
        await asyncio.sleep(period)
