"""What pods run on, as Protocols: containers (for the kubelet) and streams into them (for exec, attach, logs, port-forward)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from glassnet.kube.types import Container, Pod
from glassnet.kube.view import Key


class ExitStatus(NamedTuple):
    """How a container ended: exit code (128+N for signal N), reason as kubectl shows it (Completed, Error, …), message."""

    code: int
    reason: str
    message: str = ""


class RunningContainer(Protocol):
    """A started container: a built-in server or real processes."""

    @property
    def id(self) -> str:
        """`glassnet://<64 hex digits>`."""

    @property
    def started_at(self) -> datetime: ...

    async def wait(self) -> ExitStatus:
        """Wait for its end."""

    async def stop(self, grace: float) -> ExitStatus:
        """SIGTERM (or the server's own orderly end), SIGKILL after `grace` seconds."""


class PodSandbox(Protocol):
    """A pod's namespaces and the containers in them."""

    @property
    def netns_path(self) -> str:
        """/run/netns/cni-… as the node sees it; "" for hostNetwork pods."""

    @property
    def netns_fd(self) -> int: ...

    async def start(
        self, container: Container, env: Mapping[str, str], mounts: Mapping[str, str], attempt: int
    ) -> RunningContainer:
        """Start a container; `mounts` maps a path in the pod to a path on the node.

        Raises GlassnetError with the reason as users see it when it cannot be started.
        """

    async def exec_probe(self, container: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run a command in a container: (exit code, output). Raises TimeoutError."""

    async def dial(self, host: str, port: int, timeout: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection opened from the node's network namespace (as a kubelet's probes are)."""

    async def remove(self) -> None:
        """End every container at once and remove the namespaces. Idempotent."""


class ContainerRuntime(Protocol):
    """Makes sandboxes on one node."""

    async def sandbox(self, pod: Pod, files: Mapping[str, str]) -> PodSandbox:
        """Make the pod's namespaces (no network attached yet). `files`: path -> text for /etc/hosts, /etc/resolv.conf, …"""

    def stand_in(self, container: Container) -> str:
        """Text for an Event when the image is not in the table and a stand-in answers for it; "" otherwise."""


class ExecSession(Protocol):
    """A process started by exec, or an attachment to a running one. Streams carry bytes; "" ends them."""

    async def read(self) -> tuple[int, bytes]:
        """Next (1 stdout | 2 stderr, data); (0, b"") once both have ended."""

    async def write(self, data: bytes) -> None:
        """Feed standard input."""

    async def close_stdin(self) -> None: ...

    def resize(self, columns: int, rows: int) -> None:
        """Set the terminal's size; nothing without a tty."""

    async def wait(self) -> int:
        """Exit code."""

    async def close(self) -> None:
        """The client has gone: end the process of an exec, let that of an attach live. Idempotent."""


class PodStreams(Protocol):
    """Streams into pods, wherever they run. Methods raise ApiError (404 no such pod or container, 400 not running)."""

    async def exec(self, pod: Key, container: str, command: Sequence[str], stdin: bool, tty: bool) -> ExecSession: ...

    async def attach(self, pod: Key, container: str, stdin: bool, tty: bool) -> ExecSession: ...

    def logs(self, pod: Key, container: str, options: Mapping[str, Any]) -> AsyncIterator[bytes]:
        """Log bytes. Options: follow, previous, timestamps (bool), tailLines, sinceSeconds, limitBytes (int), sinceTime (datetime)."""

    async def forward(self, pod: Key, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection to 127.0.0.1:`port` inside the pod."""
