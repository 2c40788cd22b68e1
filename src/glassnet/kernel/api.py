"""What the rest of glassnet sees of the kernel: small Protocols, each bound to one machine or one network namespace.

A `Machine` is the host itself on a real node, and one node of the lab in the lab: the same agent code runs on both.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from glassnet.net.errors import KernelError
from glassnet.netstack.ops import Operation


class NetNs(Protocol):
    """One network namespace."""

    @property
    def name(self) -> str:
        """Its name under /run/netns of the machine, or the machine's own name for the machine's namespace."""

    @property
    def fd(self) -> int:
        """An open descriptor of the namespace (nsfs)."""

    @property
    def inode(self) -> int:
        """The namespace's number, as lsns and readlink show it."""

    def entered(self) -> AbstractContextManager[None]:
        """The calling thread is in this namespace inside the `with` block. Never await inside it."""

    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """A new socket that lives in this namespace for good, whoever uses it; non-blocking, close-on-exec."""

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out rtnetlink operations in order, in few system calls.

        Raises KernelError naming the first operation the kernel refused.
        """

    def attempt(self, operations: Sequence[Operation]) -> dict[int, KernelError]:
        """Carry out every rtnetlink operation, whatever becomes of the others; those the kernel refused, by their place in the sequence."""

    def request(self, kind: int, body: bytes, dump: bool = False) -> list[bytes]:
        """Ask rtnetlink for what is there: message type and body; the bodies of its answers. Raises KernelError."""


class Process(Protocol):
    """A started process. `pid` is its number as the agent's own PID namespace sees it."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Exit status: 0..255, or -N when signal N ended it. May be awaited by several tasks."""

    def signal(self, number: int) -> None:
        """Send a signal (through a pidfd: never hits another process). A process that has ended is ignored."""


class Sandbox(Protocol):
    """The namespaces of one pod: network and UTS always; PID and mount once a process needs them."""

    @property
    def netns(self) -> NetNs: ...

    @property
    def pid(self) -> int:
        """PID of the pause process that holds the namespaces."""

    @property
    def pid_namespace(self) -> int:
        """The number of the PID namespace that its processes run in; 0 until one needs it."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        stdin: int = -1,
        stdout: int = -1,
        stderr: int = -1,
        tty: bool = False,
    ) -> Process:
        """Start a process inside the pod's network, UTS, PID and mount namespaces.

        `stdin`, `stdout`, `stderr` are descriptors to hand over (-1: /dev/null); with `tty` they are a terminal's
        slave end, which becomes the controlling terminal of a new session.
        Raises KernelError (ENOENT and the like) when the program cannot be started.
        """

    async def bind(self, source: str, target: str, read_only: bool = False) -> None:
        """Show the machine's file or directory `source` as `target` in the pod's mount namespace; `target` is made when absent.

        Raises KernelError.
        """

    async def terminal(self) -> tuple[int, int]:
        """(master, slave) of a new pseudo-terminal that has its name in the pod's /dev/pts."""

    async def remove(self) -> None:
        """Kill what runs in it, remove the namespaces and their names. Idempotent."""


class Node(Protocol):
    """One machine as far as files and netlink go."""

    @property
    def name(self) -> str: ...

    @property
    def netns(self) -> NetNs:
        """The machine's own network namespace."""

    @property
    def root(self) -> Path:
        """Where this machine's / can be read and written from the agent's process."""


class Host(Node, Protocol):
    """One machine as far as its network goes: a real node, or one of a lab."""

    async def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 30.0) -> bytes:
        """Run a program on the machine to its end and return its standard output.

        Raises CommandError for a non-zero status or a timeout (seconds).
        """

    def sysctl(self, values: Mapping[str, Any]) -> None:
        """Write net.* sysctls (dotted names) in the machine's network namespace."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        stdin: int = -1,
        stdout: int = -1,
        stderr: int = -1,
        tty: bool = False,
    ) -> Process:
        """Start a process on the machine (see Sandbox.spawn)."""


class Machine(Host, Protocol):
    """One machine with pods on it: its network, mount, PID and UTS namespaces."""

    async def sandbox(
        self, netns_name: str, hostname: str, files: Mapping[str, str], host_network: bool = False
    ) -> Sandbox:
        """Make a pod's namespaces.

        The network namespace appears as /run/netns/`netns_name` on the machine, with `lo` up, unless `host_network`.
        `files` (absolute path -> text: /etc/hosts, /etc/resolv.conf, ...) shadow the machine's in the pod's mount namespace.
        """


__all__ = ["Host", "Machine", "NetNs", "Node", "Process", "Sandbox"]
