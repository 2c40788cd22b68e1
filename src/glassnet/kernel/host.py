"""The machine we run on, as `kernel.api.Host`: for agents of a real node"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glassnet.kernel.netns import KernelNetNs
from glassnet.kernel.spawn import KernelProcess, start
from glassnet.kernel.sysctl import write_sysctls
from glassnet.net.errors import CommandError


class HostMachine:
    """This machine, or rather the network namespace this process was started in."""

    def __init__(self) -> None:
        self._netns = KernelNetNs(self.name, os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), kept=True)

    @property
    def name(self) -> str:
        return os.uname().nodename

    @property
    def netns(self) -> KernelNetNs:
        """The network namespace of the process."""
        return self._netns

    @property
    def root(self) -> Path:
        return Path("/")

    async def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 30.0) -> bytes:
        """Run a program to its end; its standard output. Raises CommandError."""
        pipe = asyncio.subprocess.PIPE
        given = os.memfd_create(
            "stdin"
        )  # rules of a large cluster are megabytes: a pipe would take them in small pieces
        try:
            os.pwrite(given, stdin, 0)
            process = await asyncio.create_subprocess_exec(*argv, stdin=given, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise CommandError(argv, 127, f"{argv[0]}: {error.strerror}") from None
        finally:
            os.close(given)
        try:
            output, errors = await asyncio.wait_for(process.communicate(), timeout)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise CommandError(argv, 124, f"no end within {timeout:.0f} s") from None
        if process.returncode:
            raise CommandError(argv, process.returncode, errors.decode(errors="replace"))
        return output

    async def spawn(self, argv: Sequence[str], **options: Any) -> KernelProcess:
        """Start a program (see `kernel.api.Sandbox.spawn`). Raises KernelError."""
        return KernelProcess(start(argv, options))

    def sysctl(self, values: Mapping[str, Any]) -> None:
        """Write net.* sysctls. Raises KernelError naming the one that failed."""
        with self._netns.entered():
            write_sysctls(values)

    def close(self) -> None:
        """Give back the descriptors."""
        self._netns.close()
