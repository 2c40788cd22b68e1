"""iptables on one machine: which of the two tools it uses, what is there, and transactions through iptables-restore."""

from __future__ import annotations

import asyncio
import ctypes
import re
import socket
import struct
from typing import NamedTuple

from glassnet.kernel.api import Host, NetNs
from glassnet.net.errors import CommandError, KernelError

_MARKS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")  # chains that the kubelet makes with the node's own tool
TOOLS = ("nft", "legacy")
_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO


async def choose(machine: Host) -> str:
    """ "nft" or "legacy": the tool the node uses already.

    The kubelet's chains tell; without them the tool with more rules; without any rules, what `iptables` itself is. (The order of
    kubernetes-sigs/iptables-wrappers.) Raises CommandError when the machine has neither.
    """
    saved = await asyncio.gather(*(_saved(machine, tool) for tool in TOOLS))
    for tool, text in zip(TOOLS, saved, strict=True):
        if text is not None and any(f":{mark} " in text for mark in _MARKS):
            return tool
    rules = [-1 if text is None else sum(line.startswith("-A") for line in text.splitlines()) for text in saved]
    if max(rules) > 0:
        return TOOLS[rules.index(max(rules))]
    version = (await machine.run(["iptables", "--version"])).decode()
    return "nft" if "nf_tables" in version or rules[1] < 0 else "legacy"


async def _saved(machine: Host, tool: str) -> str | None:
    """What a tool sees; None when it is not there or does not work."""
    if tool == "legacy" and not legacy_tables(machine.netns):
        return None  # to ask would make them
    try:
        return (await machine.run([f"iptables-{tool}-save"])).decode()
    except KernelError:
        return None


def legacy_tables(netns: NetNs, family: str = "IPv4") -> set[str]:
    """The tables of the legacy kind that are in use in a namespace."""
    name = "ip_tables_names" if family == "IPv4" else "ip6_tables_names"
    try:
        with netns.entered(), open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
            return set(file.read().split())
    except OSError:
        return set()


class Size(NamedTuple):
    """A legacy table's number of entries and their bytes."""

    entries: int
    bytes: int


_EMPTY = Size(0, 0)


class LegacyInfo:
    """How large a legacy table is: one system call, so that changes can be looked for often. Source: x_tables' ip_tables.h."""

    def __init__(self, netns: NetNs, family: str) -> None:
        v4 = family == "IPv4"
        self._level = socket.IPPROTO_IP if v4 else socket.IPPROTO_IPV6
        self._socket: socket.socket | None
        try:
            self._socket = netns.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        except OSError:
            self._socket = None

    def read(self, table: str) -> Size:
        """The table's size; zeros when there is no such table. (The kernel makes one that could be there, so ask for those in use only.)"""
        if self._socket is None:
            return _EMPTY
        info = ctypes.create_string_buffer(table.encode().ljust(32, b"\0"), 84)
        length = ctypes.c_uint32(84)
        if _libc.getsockopt(self._socket.fileno(), self._level, _GET_INFO, info, ctypes.byref(length)):
            return _EMPTY
        entries, size = struct.unpack_from("=II", info.raw, 76)
        return Size(entries, size)

    def close(self) -> None:
        """Close the socket."""
        if self._socket:
            self._socket.close()


_libc = ctypes.CDLL(None, use_errno=True)


class Iptables:
    """The iptables tools of a machine for one IP family; `tool` "" takes whatever `iptables` is."""

    def __init__(self, machine: Host, family: str = "IPv4", tool: str = "") -> None:
        self._machine = machine
        name = "iptables" if family == "IPv4" else "ip6tables"
        self._name = f"{name}-{tool}" if tool else name

    async def save(self, table: str = "") -> str:
        """Output of `iptables-save`, of one table or all there are. Raises CommandError."""
        words = [f"{self._name}-save", *(["-t", table] if table else [])]
        return (await self._machine.run(words, timeout=120)).decode()

    async def restore(self, text: str) -> None:
        """Carry out a whole input of iptables-restore, or none of a table's; chains it does not name stay.

        Raises CommandError that shows the line at fault.
        """
        try:
            await self._machine.run([f"{self._name}-restore", "-w", "5", "--noflush"], text.encode(), timeout=300)
        except CommandError as error:
            line = _line_at_fault(text.splitlines(), error.stderr)
            raise CommandError(
                error.argv, error.status, f"{error.stderr.strip()}{': ' + line if line else ''}"
            ) from None

    async def version(self) -> tuple[int, ...]:
        """The tools' version, such as (1, 8, 9). Raises CommandError."""
        found = re.search(r"v(\d+(?:\.\d+)*)", (await self._machine.run([self._name, "--version"])).decode())
        return tuple(int(part) for part in found[1].split(".")) if found else (0,)


def _line_at_fault(lines: list[str], stderr: str) -> str:
    """The line a message is about: the one it counts, or, when that is only the COMMIT, the one that has the name it quotes."""
    counted = re.search(r"line:? (\d+)", stderr)
    line = lines[int(counted[1]) - 1] if counted and int(counted[1]) <= len(lines) else ""
    quoted = re.search(r"'([^']+)'", stderr)
    if line in ("", "COMMIT") and quoted:
        return next((each for each in lines if quoted[1] in each.split()), line)
    return line
