"""What a rule can decide, and the changes of address it can ask for."""

from __future__ import annotations

from typing import NamedTuple

ACCEPT, DROP, REJECT, QUEUE = "accept", "drop", "reject", "queue"
RETURN, JUMP, GOTO, END, UNKNOWN, CONTINUE = "return", "jump", "goto", "end", "unknown", "continue"


class Verdict(NamedTuple):
    """`detail` is the chain of a jump, the answer of a reject, the reason of an unknown."""

    kind: str
    detail: str = ""


class Translation(NamedTuple):
    """Addresses and ports a NAT statement may choose from. None leaves the field; ranges are inclusive.

    `own` asks for the machine's own address (MASQUERADE: of the device the packet leaves by; REDIRECT: of the one it came by).
    """

    source: bool
    low: int | None = None
    high: int | None = None
    port_low: int | None = None
    port_high: int | None = None
    own: bool = False
    random_port: bool = False
    netmap: tuple[int, int] | None = None


Effect = Verdict | Translation
