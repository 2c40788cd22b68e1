"""The system calls Python 3.11 has no function for, raising KernelError with words. Sources: the man pages named at each."""

from __future__ import annotations

import ctypes
import os

from glassnet.net.errors import KernelError

CLONE_FS, CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x200, 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
_FALLOC_PUNCH = 0x03  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_MOUNT_SETATTR, _PIVOT_ROOT_X86, _PIVOT_ROOT_ARM = 442, 155, 41
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, operation: str) -> None:
    if result < 0:
        raise KernelError(operation, ctypes.get_errno())


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into a namespace: setns(2)."""
    _check(_libc.setns(descriptor, kind), f"setns(kind {kind:#x})")


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces: unshare(2)."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system: mount(2)."""
    arguments = [text.encode() if text else None for text in (source, target, kind)]
    _check(
        _libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() if data else None),
        f"mount {kind or 'bind'} {source} on {target}",
    )


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """Detach a file system: umount2(2)."""
    _check(_libc.umount2(target.encode(), flags), f"unmount {target}")


def make_read_only(target: str) -> None:
    """Make a mount and everything mounted below it read-only: mount_setattr(2), Linux 5.12."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        _AT_FDCWD,
        target.encode(),
        _AT_RECURSIVE,
        ctypes.byref(attributes),
        ctypes.c_size_t(32),
    )
    _check(result, f"make {target} read-only")


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root mount of the calling thread's mount namespace: pivot_root(2)."""
    number = _PIVOT_ROOT_ARM if os.uname().machine == "aarch64" else _PIVOT_ROOT_X86
    _check(_libc.syscall(ctypes.c_long(number), new_root.encode(), put_old.encode()), f"pivot_root {new_root}")


def set_host_name(name: str) -> None:
    """Set the host name of the calling thread's UTS namespace: sethostname(2)."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, ctypes.c_size_t(len(encoded))), f"set host name {name}")


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Give the storage of a part of a file back; it reads as zeros, and the file is as long as before: fallocate(2). Raises KernelError."""
    _check(
        _libc.fallocate64(descriptor, _FALLOC_PUNCH, ctypes.c_int64(offset), ctypes.c_int64(length)),
        "fallocate(punch hole)",
    )
