"""Answers for Services of type ExternalName: the CNAME record, and what the other name stands for.

Knot DNS answers a name outside of the zone with the CNAME record alone, and stub resolvers such as glibc's do not go on from there. So each such
name is a zone of its own, whose questions Knot hands to this server. What it is asked else it answers with SERVFAIL, at once: where upstreams
are known to be dead, other names are sent here in their stead.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from glassnet.agent.dns.exchange import ask
from glassnet.dns import message, names
from glassnet.dns.message import Message, Resource
from glassnet.dns.model import DnsSettings, Server
from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError

MOST_STEPS = 8  # CNAME records to follow before it is called a loop
MOST_WAITING = 256  # questions under way; one more is dropped, as a full socket would drop it
UDP_SIZE = 1232


class Where(NamedTuple):
    """Who is to be asked about the other names."""

    own: Server
    of: Callable[[str], tuple[Server, ...]]


class AliasServer:
    """A DNS server on the loopback of a network namespace, for Knot alone. `aliases` are the names and what they stand for."""

    def __init__(self, netns: NetNs, aliases: Callable[[], Mapping[str, str]], settings: DnsSettings, where: Where) -> None:  # fmt: skip
        self._netns, self._aliases, self._settings, self._where = netns, aliases, settings, where
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self.address = Server("127.0.0.1", 0)

    async def open(self) -> Server:
        """Listen, UDP and TCP at one port; where. Raises KernelError."""
        loop = asyncio.get_running_loop()
        try:
            stream = self._netns.socket(socket.AF_INET, socket.SOCK_STREAM)
            stream.bind(("127.0.0.1", 0))
            port = int(stream.getsockname()[1])
            self._socket = self._netns.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind(("127.0.0.1", port))
        except OSError as error:
            raise KernelError("listen at 127.0.0.1 for aliases", error.errno or 0) from None
        self._server = await asyncio.start_server(self._stream, sock=stream)
        loop.add_reader(self._socket, self._datagrams, self._socket)
        self.address = Server("127.0.0.1", port)
        return self.address

    async def close(self) -> None:
        """Listen no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def answer(self, question: Message, tcp: bool = False) -> Message:
        """The answer to a question that came by UDP or by TCP. Never raises."""
        steps: list[Resource] = []
        aliases, name = self._aliases(), question.name
        reply = question._replace(answer=True)
        while (target := aliases.get(name)) is not None:
            if len(steps) == MOST_STEPS:
                return reply._replace(rcode=message.SERVFAIL)
            steps.append(Resource(name, message.CNAME, self._settings.ttl, target.encode("latin-1")))
            name = target
        if not steps:  # below a Service's name there is nothing; other names are not for us
            while name and name not in aliases:
                name = name.partition(".")[2]
            return reply._replace(rcode=message.NXDOMAIN if name else message.SERVFAIL)
        if question.type not in (message.A, message.AAAA):
            return reply._replace(records=tuple(steps[:1]))
        found = await self._look_up(name, question.type, tcp)
        if found is None:
            return reply._replace(rcode=message.SERVFAIL)
        wanted = (message.CNAME, question.type)
        return reply._replace(rcode=found.rcode, records=(*steps, *(each for each in found.records if each.type in wanted)))  # fmt: skip

    async def _look_up(self, name: str, kind: int, tcp: bool) -> Message | None:
        """Ask on. The worker of Knot that asked us waits for the answer: Knot itself is asked the other way, where none of that kind is in line."""
        own = names.within(name, self._settings.zone)
        for server in (self._where.own,) if own else self._where.of(name)[:2]:
            try:
                return await ask(self._netns, server, name, kind, self._settings.upstream_timeout / 2000, own and not tcp)  # fmt: skip
            except (TimeoutError, KernelError, ValueError):
                continue
        return None

    def _datagrams(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                data, sender = sock.recvfrom(65535)
            except OSError:
                return
            if len(self._tasks) < MOST_WAITING:
                task = asyncio.create_task(self._datagram(sock, data, sender))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _datagram(self, sock: socket.socket, data: bytes, sender: tuple[str, int]) -> None:
        try:
            question = message.unpack(data)
        except ValueError:
            return
        if question.answer:
            return
        reply = await self.answer(question)
        raw = message.pack(reply)
        if len(raw) > UDP_SIZE:
            raw = message.pack(reply._replace(records=(), truncated=True))
        try:
            sock.sendto(raw, sender)
        except OSError:
            return

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._settings.upstream_timeout / 1000):
                (size,) = struct.unpack(">H", await reader.readexactly(2))
                raw = message.pack(await self.answer(message.unpack(await reader.readexactly(size)), tcp=True))
                writer.write(struct.pack(">H", len(raw)) + raw)
                await writer.drain()
        except (ValueError, OSError, asyncio.IncompleteReadError, TimeoutError):
            return
        finally:
            writer.close()
