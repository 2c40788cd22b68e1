"""NGINX's own counts of connections and requests, asked at its status socket. Source: nginx, ngx_http_stub_status_module."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

SOCKET = "status.sock"
PATH = "/stub_status"
_TIMEOUT = 2.0
_NUMBERS = re.compile(
    r"Active connections: (\d+)\s+server accepts handled requests\s+(\d+) (\d+) (\d+)\s+Reading: (\d+) Writing: (\d+) Waiting: (\d+)"
)
_NAMES = ("active", "accepted", "handled", "requests", "reading", "writing", "waiting")


def parse(text: str) -> dict[str, int]:
    """The numbers by name; {} for what is no such page."""
    found = _NUMBERS.search(text)
    return dict(zip(_NAMES, map(int, found.groups()), strict=True)) if found else {}


async def ask(directory: Path) -> dict[str, int]:
    """The numbers of the NGINX in a directory; {} when it does not answer."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            return parse(await _page(directory))
    except (OSError, TimeoutError, ValueError):
        return {}


async def _page(directory: Path) -> str:
    descriptor = os.open(
        directory, os.O_PATH | os.O_CLOEXEC
    )  # the path of a socket has 108 octets at most: the directory's is left out
    try:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{descriptor}/{SOCKET}")
    finally:
        os.close(descriptor)
    try:
        writer.write(f"GET {PATH} HTTP/1.0\r\nHost: status\r\n\r\n".encode())
        return (await reader.read(4096)).decode(errors="replace")
    finally:
        writer.close()
