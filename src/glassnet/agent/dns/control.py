"""Knot DNS's control socket: commands out, answers in.

The protocol, as libknot 3.2 speaks it (libknot/control): a unit is an octet for its kind (0 end, 1 data, 2 extra, 3 end of block); data
units are followed by items, an octet 16 + N, the length in two octets, the text. A command is a data unit and an end of block; the server
answers with data units and an end of block. Commands may be sent ahead of the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from glassnet.dns.knot_conf import SOCKET
from glassnet.dns.plan import Operation
from glassnet.net.errors import GlassnetError, KernelError

_END, _DATA, _EXTRA, _BLOCK = range(4)
_ITEMS = ("command", "flags", "error", "section", "item", "id", "zone", "owner", "ttl", "type", "data", "filter")
_CODES = {name: 16 + number for number, name in enumerate(_ITEMS)}
_NAMES = {code: name for name, code in _CODES.items()}
AHEAD = 500  # commands sent before their answers are read
PATIENCE = 10.0  # seconds without a word from the server


class ControlError(GlassnetError):
    """The server refused a command."""


def encode(operation: Mapping[str, str]) -> bytes:
    """A command as one block; fields that are "" are left out."""
    out = bytearray((_DATA,))
    for name, text in operation.items():
        if text:
            raw = text.encode()
            out += struct.pack(">BH", _CODES[name], len(raw)) + raw
    out.append(_BLOCK)
    return bytes(out)


class Answers:
    """Takes the octets of answers; gives each block as a list of units, a unit as field -> text."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._units: list[dict[str, str]] = []

    def feed(self, data: bytes) -> list[list[dict[str, str]]]:
        """The blocks that are now complete. Raises ControlError for what is no answer."""
        self._buffer += data
        blocks, at, buffer = [], 0, self._buffer
        while at < len(buffer):
            code = buffer[at]
            if code in (_DATA, _EXTRA):
                self._units.append({})
                at += 1
            elif code in (_BLOCK, _END):
                blocks.append(self._units)
                self._units = []
                at += 1
            elif code not in _NAMES or not self._units:
                raise ControlError(f"Knot's control socket said {code}, which is no code of its protocol")
            else:
                if len(buffer) < at + 3:
                    break
                end = at + 3 + int.from_bytes(buffer[at + 1 : at + 3], "big")
                if len(buffer) < end:
                    break
                self._units[-1][_NAMES[code]] = bytes(buffer[at + 3 : end]).decode(errors="replace")
                at = end
        del buffer[:at]
        return blocks


class Connection:
    """One connection to a server. Knot serves one at a time: keep it short."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._answers = Answers()
        self._ready: list[list[dict[str, str]]] = []

    async def ask(self, **fields: str) -> list[dict[str, str]]:
        """One command by its fields (command, zone, flags, …); the units of its answer. Raises ControlError, KernelError."""
        return (await self._ask_all([fields]))[0]

    async def carry_out(self, operations: Sequence[Operation]) -> None:
        """Commands in order. Raises ControlError for the first one that is refused (those sent ahead are carried out), KernelError."""
        for start in range(0, len(operations), AHEAD):
            await self._ask_all([_fields(each) for each in operations[start : start + AHEAD]])

    async def _ask_all(self, commands: Sequence[Mapping[str, str]]) -> list[list[dict[str, str]]]:
        try:
            self._writer.write(b"".join(map(encode, commands)))
            answers = [await self._block() for _ in commands]
        except TimeoutError:
            raise KernelError("Knot's control socket", 110, f"no answer within {PATIENCE:.0f} s") from None
        except OSError as error:
            raise KernelError("Knot's control socket", error.errno or 5, "the connection ended") from None
        for command, units in zip(commands, answers, strict=True):
            for unit in units:
                if "error" in unit:
                    told = " ".join(text for text in command.values() if text)
                    raise ControlError(f"Knot refused {told!r}: {unit['error']}")
        return answers

    async def _block(self) -> list[dict[str, str]]:
        while not self._ready:
            async with asyncio.timeout(
                PATIENCE
            ):  # wait_for loses a cancellation that comes with the answer (Python 3.11)
                data = await self._reader.read(1 << 16)
            if not data:
                raise ConnectionResetError(104, "closed")
            self._ready += self._answers.feed(data)
        return self._ready.pop(0)

    async def close(self) -> None:
        """End it."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _fields(operation: Operation) -> dict[str, str]:
    return {name: text for name, text in zip(operation._fields, operation, strict=True) if text}


async def connect(directory: Path) -> Connection:
    """A connection to the server whose directory this is. Raises KernelError when nobody listens."""
    # by way of a descriptor: the path of a socket has room for 107 octets only (unix(7))
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return Connection(*await asyncio.open_unix_connection(f"/proc/self/fd/{place}/{SOCKET}"))
    except OSError as error:
        raise KernelError(f"connect to {directory}/{SOCKET}", error.errno or 5) from None
    finally:
        os.close(place)


async def carry_out(directory: Path, operations: Iterable[Operation]) -> None:
    """Commands over a connection of their own. Raises ControlError, KernelError."""
    connection = await connect(directory)
    try:
        await connection.carry_out(list(operations))
    finally:
        await connection.close()
