"""Where a server that is a process of its own runs and has its files: on this machine, on a lab's machine, in a pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from glassnet.kernel.api import Process


class Runner(Protocol):
    """Where the server's process runs: a machine, or a pod (kernel.api.Host, kernel.api.Sandbox)."""

    async def spawn(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str = "/", stdin: int = -1, stdout: int = -1, stderr: int = -1, tty: bool = False
    ) -> Process: ...  # fmt: skip


class Place(NamedTuple):
    """The server's directory: its path for the server, and where this process finds it."""

    inside: str
    outside: Path
