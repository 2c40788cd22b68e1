"""Pipes and terminals on the event loop: output pumped out of them, input fed into them."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from contextlib import suppress

END, NOTHING, MORE = range(3)
_CHUNK = 64 * 1024
_DRAIN = 32  # chunks: a background child may write without end


class OutputPump:
    """Hands on what a descriptor yields, as it comes, until its end. Owns the descriptor unless `shared`."""

    __slots__ = ("_fd", "_paused", "_shared", "_sink")

    def __init__(self, fd: int, sink: Callable[[bytes], None], shared: bool = False) -> None:
        self._fd, self._sink, self._shared = fd, sink, shared
        self._paused = False
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._ready)

    def _ready(self) -> None:
        if self.take() == END:
            self.close()

    def take(self) -> int:
        """Hand on one chunk, if there is one: MORE after a chunk, NOTHING without one, END at the end of the stream."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return NOTHING
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal whose other end is closed: pty(7)
                raise
            data = b""
        if not data:
            return END
        self._sink(data)
        return MORE

    def drain(self) -> None:
        """Hand on all that is there already, then close."""
        if self._fd < 0:
            return
        for _ in range(_DRAIN):
            if self.take() != MORE:
                break
        self.close()

    def pause(self, paused: bool) -> None:
        """Stop reading (the writer blocks once the pipe is full), or go on."""
        if self._fd < 0 or paused == self._paused:
            return
        self._paused = paused
        loop = asyncio.get_running_loop()
        if paused:
            loop.remove_reader(self._fd)
        else:
            loop.add_reader(self._fd, self._ready)

    def close(self) -> None:
        """Read no more. Idempotent."""
        if self._fd < 0:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        if not self._shared:
            os.close(self._fd)
        self._fd = -1


class InputFeed:
    """Feeds a descriptor; what a process does not take keeps the writer waiting. Owns the descriptor unless `shared`."""

    __slots__ = ("_fd", "_lock", "_shared", "_tty")

    def __init__(self, fd: int, tty: bool = False, shared: bool = False) -> None:
        self._fd, self._tty, self._shared = fd, tty, shared
        self._lock = asyncio.Lock()
        os.set_blocking(fd, False)

    async def write(self, data: bytes) -> None:
        """Feed all of `data`. What nobody will read any more is dropped."""
        async with self._lock:
            view = memoryview(data)
            while view and self._fd >= 0:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await self._writable()
                except OSError:  # EPIPE, EIO: the reader has gone
                    self.close()

    async def _writable(self) -> None:
        loop, fd = asyncio.get_running_loop(), self._fd
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(fd, _settle, ready)
        try:
            with suppress(TimeoutError):  # `close` may have come meanwhile
                await asyncio.wait_for(ready, 1.0)
        finally:
            if self._fd == fd:
                loop.remove_writer(fd)

    async def end(self) -> None:
        """No more input: a pipe is closed, a terminal gets its end-of-file character (termios(3), VEOF)."""
        if self._tty:
            await self.write(b"\x04")
        else:
            self.close()

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._fd < 0:
            return
        asyncio.get_running_loop().remove_writer(self._fd)
        if not self._shared:
            os.close(self._fd)
        self._fd = -1


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def set_window_size(fd: int, columns: int, rows: int) -> None:
    """Set a terminal's size: ioctl_tty(2), TIOCSWINSZ. Its foreground processes get SIGWINCH."""
    with suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))
