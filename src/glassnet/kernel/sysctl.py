"""Kernel settings of a network namespace: sysctl(8) names under net., written through /proc/sys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from glassnet.net.errors import KernelError, UsageError


def path_of(name: str) -> str:
    """The file of a setting: dots separate, a slash stands for a dot inside a part (as in sysctl(8)). Raises UsageError outside net."""
    if not name.startswith("net."):
        raise UsageError(f"sysctl {name}: only net.* belongs to a network namespace")
    return "/proc/sys/" + name.replace(".", "\0").replace("/", ".").replace("\0", "/")


def write_sysctls(values: Mapping[str, Any]) -> None:
    """Write settings in the network namespace the calling thread is in. Raises KernelError naming the one that failed."""
    for name, value in values.items():
        try:
            descriptor = os.open(path_of(name), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, str(value).encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise KernelError(f"sysctl {name}={value}", error.errno or 0) from None


def read_sysctl(name: str) -> str | None:
    """A setting in the network namespace the calling thread is in; None when there is no such. Raises KernelError for anything else."""
    try:
        descriptor = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 4096).decode().strip()
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KernelError(f"sysctl {name}", error.errno or 0) from None
