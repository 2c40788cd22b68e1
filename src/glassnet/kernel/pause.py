"""A program that does nothing, in 200 bytes: the first process of a node and the holder of a pod's namespaces.

It ignores SIGCHLD, so that the kernel reaps whatever orphans it inherits (wait(2), NOTES), then sleeps for good. A page of
resident memory each makes a pod's own process affordable a thousand times over.
"""

from __future__ import annotations

import struct
from pathlib import Path

_ACTION = struct.pack("<4Q", 1, 0, 0, 0)  # struct kernel_sigaction: handler SIG_IGN

_X86_64 = (
    b"\xb8\x0d\x00\x00\x00"  # mov eax, 13           rt_sigaction
    b"\xbf\x11\x00\x00\x00"  # mov edi, 17           SIGCHLD
    b"\x48\x8d\x35\x17\x00\x00\x00"  # lea rsi, [rip+23]
    b"\x31\xd2"  # xor edx, edx
    b"\x41\xba\x08\x00\x00\x00"  # mov r10d, 8
    b"\x0f\x05"  # syscall
    b"\xb8\x22\x00\x00\x00"  # mov eax, 34           pause
    b"\x0f\x05"  # syscall
    b"\xeb\xf7"  # jmp back to the mov
    b"\x90\x90\x90\x90" + _ACTION
)

_AARCH64 = (
    struct.pack(
        "<13I",
        0xD2800220,  # mov x0, #17           SIGCHLD
        0x10000181,  # adr x1, action
        0xD2800002,  # mov x2, #0
        0xD2800103,  # mov x3, #8
        0xD28010C8,  # mov x8, #134          rt_sigaction
        0xD4000001,  # svc #0
        0xD2800000,  # mov x0, #0
        0xD2800001,  # mov x1, #0
        0xD2800002,  # mov x2, #0
        0xD2800003,  # mov x3, #0
        0xD2800928,  # mov x8, #73           ppoll
        0xD4000001,  # svc #0
        0x17FFFFFA,  # b back to the first mov x0, #0
    )
    + _ACTION
)

_CODE = {"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)}  # ELF machine number, instructions


def program(machine: str) -> bytes:
    """The static ELF executable for a processor as os.uname().machine names it. Raises KeyError for one we have no code for."""
    number, code = _CODE[machine]
    base, start = 0x400000, 64 + 56
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, number, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    size = start + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + code


def install(path: Path, machine: str) -> None:
    """Write the program; on a processor without code of ours, a script that sleeps does the same at a higher price."""
    path.write_bytes(program(machine) if machine in _CODE else b"#!/bin/sh\ntrap '' CHLD\nexec sleep infinity\n")
    path.chmod(0o755)
