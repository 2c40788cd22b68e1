"""Whether the node's clock is kept right: certificates and tokens are good for a time, and times in logs are compared.

Source: adjtimex(2): the state TIME_ERROR and the bit STA_UNSYNC say that nobody disciplines the clock.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from glassnet.kernel.api import Host
from glassnet.kernel.node_checks.result import Check, Result, error, ok, running, warning
from glassnet.net.errors import KernelError

_TIME_ERROR, _UNSYNC = 5, 0x0040
_STATUS_AT = (
    40 if ctypes.sizeof(ctypes.c_long) == 8 else 20
)  # struct timex: modes, offset, freq, maxerror, esterror, status
_SLOW, _WRONG = 2.0, 60.0  # seconds apart from the API server
_DAEMONS = ("chronyd", "systemd-timesyncd", "ntpd", "openntpd", "ptp4l", "phc2sys")
_REMEDY = "apt-get install chrony (or systemctl enable --now systemd-timesyncd)"


def read_clock() -> tuple[int, int]:
    """(state, status bits) of the kernel's clock; nothing is set. Raises KernelError."""
    buffer = ctypes.create_string_buffer(256)  # modes 0: read only
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(buffer)
    if state < 0:
        raise KernelError("adjtimex", ctypes.get_errno() or os.EX_OSERR)
    return state, int.from_bytes(buffer.raw[_STATUS_AT : _STATUS_AT + 4], "little")


def judge_clock(state: int, status: int, daemons: Sequence[str]) -> Result:
    """What the kernel says of its clock, and who looks after it."""
    if state == _TIME_ERROR or status & _UNSYNC:
        who = f"{', '.join(daemons)} runs, but" if daemons else "no time service runs, and"
        return warning("clock", f"{who} the kernel's clock is not synchronised", _REMEDY)
    return ok("clock", "the kernel's clock is synchronised")


async def clock(host: Host) -> Sequence[Result]:
    """The kernel's word."""
    return [judge_clock(*read_clock(), running(host, *_DAEMONS))]


def judge_difference(seconds: float) -> Result:
    """How far the API server's clock is ahead of ours, in seconds, from its Date header (whole seconds, so 1 means nothing)."""
    name = "clock and API server"
    found = f"the API server's clock is {abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
    if abs(seconds) > _WRONG:
        return error(name, f"{found}: certificates and tokens may count as not yet valid, or as expired", _REMEDY)
    if abs(seconds) > _SLOW:
        return warning(name, found, _REMEDY)
    return ok(name, "they agree")


CHECKS: tuple[Check, ...] = (clock,)
