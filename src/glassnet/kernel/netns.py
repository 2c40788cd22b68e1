"""One network namespace behind a descriptor: sockets in it, rtnetlink operations on it."""

from __future__ import annotations

import os
import socket as sockets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from glassnet.kernel import netlink
from glassnet.kernel.libc import CLONE_NEWNET, setns
from glassnet.net.errors import KernelError
from glassnet.netstack.ops import Operation

_here: list[int] = []  # the namespaces the main thread is in, innermost last; [0] is the process's own


class KernelNetNs:
    """Implements `kernel.api.NetNs`. `kept` holds the rtnetlink socket open between calls (machines), or not (pods)."""

    __slots__ = ("_fd", "_kept", "_name", "_socket")

    def __init__(self, name: str, fd: int, kept: bool = False) -> None:
        self._name, self._fd, self._kept = name, fd, kept
        self._socket: netlink.RtNetlink | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def inode(self) -> int:
        return os.fstat(self._fd).st_ino

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in this namespace inside the block; never await inside it."""
        if not _here:
            _here.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        setns(self._fd, CLONE_NEWNET)
        _here.append(self._fd)
        try:
            yield
        finally:
            _here.pop()
            setns(_here[-1], CLONE_NEWNET)

    def socket(self, family: int, type: int, proto: int = 0) -> sockets.socket:
        """A non-blocking socket that lives in this namespace for good."""
        with self.entered():
            sock = sockets.socket(family, type, proto)
        sock.setblocking(False)
        return sock

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out rtnetlink operations in order. Raises KernelError naming the first one the kernel refused."""
        with self._rtnetlink() as socket:
            socket.apply(operations)

    def attempt(self, operations: Sequence[Operation]) -> dict[int, KernelError]:
        """Carry out every operation; those the kernel refused, by their place in the sequence."""
        with self._rtnetlink() as socket:
            return socket.attempt(operations)

    def request(self, kind: int, body: bytes, dump: bool = False) -> list[bytes]:
        """Ask rtnetlink (see `RtNetlink.request`)."""
        with self._rtnetlink() as socket:
            return socket.request(kind, body, dump)

    @contextmanager
    def _rtnetlink(self) -> Iterator[netlink.RtNetlink]:
        if self._socket is None:
            with self.entered():
                self._socket = netlink.RtNetlink()
        try:
            yield self._socket
        finally:
            if not self._kept:
                self._socket.close()
                self._socket = None

    def close(self) -> None:
        """Give back the descriptors; the namespace lives as long as something else holds it."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def own_netns() -> KernelNetNs:
    """The network namespace that this process is at home in."""
    return KernelNetNs("the process's own", os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
