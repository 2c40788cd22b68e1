"""Which of root's powers this process has, and giving up those it needs not. Source: capabilities(7), capget(2), prctl(2).

Capabilities belong to threads: give up before the first further thread or child is started; those inherit what is left.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from pathlib import Path

from glassnet.net.errors import KernelError

# include/uapi/linux/capability.h, in the order of their numbers
NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
    "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
    "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
    "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
_VERSION_3 = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _AMBIENT_CLEAR = 23, 24, 47, 4
_libc = ctypes.CDLL(None, use_errno=True)


def effective() -> frozenset[str]:
    """The capabilities the calling thread has, without their "CAP_"."""
    status = Path("/proc/thread-self/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return frozenset(name for number, name in enumerate(NAMES) if mask >> number & 1)


def keep(names: Iterable[str]) -> frozenset[str]:
    """Give up for good all but these, for programs that are started later too; what was given up. Raises KernelError."""
    before = effective()
    wanted = frozenset(names) & before
    if "SETPCAP" in before:  # without it the bounding set stays: a program can get back no more than its file says
        for number in range(64):
            if (number >= len(NAMES) or NAMES[number] not in wanted) and _prctl(_PR_CAPBSET_READ, number) == 1:
                _check(_prctl(_PR_CAPBSET_DROP, number), f"prctl(PR_CAPBSET_DROP, {number})")
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR)
    mask = sum(1 << NAMES.index(name) for name in wanted)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", _VERSION_3, 0)
    data = struct.pack(
        "=6I", low, low, 0, high, high, 0
    )  # effective, permitted, inheritable (root's programs need none)
    _check(_libc.capset(header, data), "capset")
    return before - wanted


def _prctl(option: int, argument: int) -> int:
    zero = ctypes.c_ulong(0)
    return int(_libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero))


def _check(result: int, operation: str) -> None:
    if result < 0:
        raise KernelError(operation, ctypes.get_errno())
