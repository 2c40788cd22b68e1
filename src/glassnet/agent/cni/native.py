"""The plugins' programs on x86-64: the few system calls that hand a call over, as a static executable of a kilobyte that starts in half a millisecond.

Python takes eight to start, most of what an ADD would take. `call.s` beside this file is the source of the instructions, with a word to
each step; a test assembles it and compares. The protocol is told in `agent.cni.server`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MACHINE = "x86_64"  # as os.uname().machine names it
_BASE, _START = 0x400000, 64 + 56
CODE = bytes.fromhex(
    "4c8b24244e8d64e4104d8b34244d89f74531ed31db4c89e54c8b45004d85c0744c4883c5084c89c6488d3d45020000b90a000000f3a64c0f"
    "44ee4c89c6488d3d3a020000b90c000000f3a67513bb01000000b908000000f3a67505bb020000004c89c6ac84c075fb4989f7ebab85db0f"
    "84ae0100004881ec8010000083fb020f846d010000b829000000bf01000000be0100080031d20f0585c00f888301000089c5b82a00000089"
    "ef488b35f8010000488b15f90100000f0585c00f8862010000b802000000488d3dc5010000be0000080031d20f0585c00f8845010000c744"
    "2468000000008944246cbb180000004d85ed741eb8020000004c89efbe0008080031d20f0585c0780989442470bb1c00000048895c245848"
    "b801000000010000004889442460488b058b0100004889442438488b058701000048894424404c897424484d29f74c897c245031c0488904"
    "244889442408488d442438488944241048c744241802000000488d442458488944242048895c242848c744243000000000b82e00000089ef"
    "4889e6ba004000000f05b83000000089efbe010000000f054531ed31c089ef488db42480000000ba001000000f054885c07e27488db42480"
    "0000004889c24585ed7510440fb62e4183fd2d744e48ffc648ffcae875000000ebc14585ed7422418d7dd0b8e70000000f05488b35cf0000"
    "00488b15d0000000e85000000031ffebe2488b35c8000000488b15c9000000e839000000bf01000000ebc8b83b000000488b3db900000048"
    "8b35ba0000004c89e20f05488b35b6000000488b15b7000000e807000000bf01000000eb964885d27e19b801000000bf010000000f054885"
    "c07e084801c64829c2ebe2c3434e495f4e45544e533d434e495f434f4d4d414e443d56455253494f4e002f70726f632f73656c662f6e732f"
    "6e6574000f1f4000"
)


def executable(
    plugin: str, agent: str, alone: Sequence[str], version: bytes, died: bytes, broken: bytes, mark: bytes
) -> bytes:
    """The static ELF executable of a plugin.

    `agent` is the path of the agent's socket; `alone` the command that does the work when there is none; `version` the answer to VERSION;
    `died` what to print when the agent ended before it answered, `broken` when `alone` cannot be run; `mark` says whose program it is.
    """
    address = struct.pack("=H", 1) + agent.encode() + b"\0"
    name = plugin.encode() + b"\0"
    words = [word.encode() + b"\0" for word in alone]
    texts = [address, name, version, died, broken, *words]
    place = _BASE + _START + len(CODE) + 12 * 8  # behind the table
    places = []
    for text in texts:
        places.append(place)
        place += len(text)
    place += -place % 8
    table = struct.pack("<12Q", *_table(places, texts, place))
    data = b"".join(texts)
    data += bytes(place - _BASE - _START - len(CODE) - len(table) - len(data))
    arguments = struct.pack(f"<{len(words) + 1}Q", *places[5:], 0)
    body = CODE + table + data + arguments + mark
    size = _START + len(body)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _START, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + body


def _table(places: Sequence[int], texts: Sequence[bytes], arguments: int) -> list[int]:
    """What `call.s` finds at `table`: a place and a length each; for the command, its program and its arguments."""
    address, name, version, died, broken = (
        (place, len(text)) for place, text in zip(places[:5], texts[:5], strict=True)
    )
    return [*address, *name, *version, *died, places[5], arguments, *broken]
