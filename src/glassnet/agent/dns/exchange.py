"""One question to a DNS server, and its answer."""

from __future__ import annotations

import asyncio
import secrets
import socket

from glassnet.dns.message import Message, pack, unpack
from glassnet.dns.model import Server
from glassnet.kernel.api import NetNs
from glassnet.net.errors import KernelError


async def ask(netns: NetNs, server: Server, name: str, kind: int, timeout: float, tcp: bool = False) -> Message:
    """Ask by UDP, and by TCP when the answer does not fit, or at once with `tcp`. Raises TimeoutError, KernelError, ValueError for an answer that is none."""
    question = Message(secrets.randbelow(1 << 16), name, kind)
    async with asyncio.timeout(timeout):
        if not tcp:
            answer = await _by(netns, server, question, socket.SOCK_DGRAM)
            if not answer.truncated:
                return answer
        return await _by(netns, server, question, socket.SOCK_STREAM)


async def _by(netns: NetNs, server: Server, question: Message, kind: int) -> Message:
    loop = asyncio.get_running_loop()
    try:
        sock = netns.socket(socket.AF_INET6 if ":" in server.address else socket.AF_INET, kind)
        try:
            await loop.sock_connect(sock, (server.address, server.port))
            raw = pack(question)
            if kind == socket.SOCK_DGRAM:
                await loop.sock_sendall(sock, raw)
                while True:
                    answer = unpack(await loop.sock_recv(sock, 65535))
                    if answer.answer and (answer.id, answer.name, answer.type) == (question.id, question.name.lower(), question.type):  # fmt: skip
                        return answer
            await loop.sock_sendall(sock, len(raw).to_bytes(2, "big") + raw)
            size = int.from_bytes(await _exactly(loop, sock, 2), "big")
            return unpack(await _exactly(loop, sock, size))
        finally:
            sock.close()
    except OSError as error:
        raise KernelError(f"ask {server} for {question.name}", error.errno or 0) from None


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise ValueError("an answer that ends too early")
        data += part
    return data
