"""Links that go: told as gone as soon as nobody can see them, and taken down in one request when many go at the same time.

The kernel answers a deletion some 20 ms after the link has left its namespace: it waits until no packet in flight refers to it. Whoever asked
need not wait for that. See also `kernel.links.delete_links`.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from glassnet.kernel.api import NetNs
from glassnet.kernel.links import delete_links_on, link_socket
from glassnet.kernel.network_state import find_link
from glassnet.net.errors import KernelError

_GROUP_LINK, _DELLINK = 1, 17
_REQUESTS = 4  # deletions the kernel is asked for at a time: while it ends one it takes another; what comes meanwhile goes together


class LinkRemoval:
    """The links of one machine."""

    def __init__(self, netns: NetNs) -> None:
        self._netns = netns
        self._wanted: dict[int, tuple[str, asyncio.Future[None]]] = {}
        self._queue: list[int] = []
        self._going: set[asyncio.Task[None]] = set()
        self._notices: socket.socket | None = None

    async def remove(self, name: str) -> None:
        """Have a link deleted; returns when it is gone, or was not there. Raises KernelError when the kernel refuses."""
        link = find_link(self._netns, name)
        if link is None:
            return
        if link.index not in self._wanted:
            self._wanted[link.index] = (name, asyncio.get_running_loop().create_future())
            self._queue.append(link.index)
            self._listen()
            if len(self._going) < _REQUESTS:
                going = asyncio.create_task(self._remove())
                self._going.add(going)
                going.add_done_callback(self._ended)
        await asyncio.shield(self._wanted[link.index][1])

    async def drained(self) -> None:
        """Return when the kernel has answered every deletion."""
        while self._going:
            await asyncio.wait(self._going)

    async def _remove(self) -> None:
        loop = asyncio.get_running_loop()
        with link_socket(self._netns) as sock:
            while self._queue:
                batch, self._queue = self._queue, []
                names = {index: self._wanted[index][0] for index in batch}
                try:
                    await loop.run_in_executor(None, delete_links_on, sock, list(names.values()))
                except KernelError:
                    for index, name in names.items():  # one that is refused must not keep the others
                        try:
                            await loop.run_in_executor(None, delete_links_on, sock, [name])
                        except KernelError as error:
                            self._settle(index, error)
                for index in batch:
                    self._settle(index)

    def _ended(self, going: asyncio.Task[None]) -> None:
        self._going.discard(going)
        if not self._going and self._notices is not None:
            asyncio.get_running_loop().remove_reader(self._notices)
            self._notices.close()
            self._notices = None

    def _settle(self, index: int, error: KernelError | None = None) -> None:
        _, done = self._wanted.pop(index, ("", None))
        if done is not None and not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def _listen(self) -> None:
        if self._notices is not None:
            return
        self._notices = self._netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._notices.bind((0, _GROUP_LINK))
        asyncio.get_running_loop().add_reader(self._notices, self._hear)

    def _hear(self) -> None:
        if self._notices is None:
            return
        try:
            data, position = self._notices.recv(1 << 18), 0
        except OSError:  # nothing, or some were lost: the kernel's answer comes anyway
            return
        while position + 32 <= len(data):
            length, kind = struct.unpack_from("=IH", data, position)
            family, index = struct.unpack_from("=BxHi", data, position + 16)[0::2]
            if kind == _DELLINK and family == socket.AF_UNSPEC and index in self._wanted:
                _, done = self._wanted[index]
                if not done.done():
                    done.set_result(None)
            position += (length + 3) & ~3
