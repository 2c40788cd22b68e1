"""The connection table as text -> values: `conntrack -L` (plain, `-o extended`, `id`, `timestamp`, `ktimestamp`), `conntrack -E`, and
/proc/net/nf_conntrack.

Sources of the format: ct_seq_show in net/netfilter/nf_conntrack_standalone.c (Linux) for /proc, __snprintf_conntrack_default in
libnetfilter_conntrack for the tool. Both write the parts of an entry in one order, so one pattern reads both. What stands behind the reply
tuple may grow: a `key=value` not known here is passed over (`text` still has it), anything else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from glassnet.net.address import IPV4, IPV6, canonical
from glassnet.net.errors import ParseError

UNREPLIED, ASSURED, OFFLOAD, HW_OFFLOAD = "UNREPLIED", "ASSURED", "OFFLOAD", "HW_OFFLOAD"
_OVER = frozenset({"TIME_WAIT", "CLOSE", "CLOSED", "TIMEWAIT"})
_NONE: frozenset[str] = frozenset()


class FlowTuple(msgspec.Struct, frozen=True, order=False, gc=False):
    """One direction of a connection: addresses in their one spelling, and what the protocol tells flows apart by.

    Ports are 0 where the protocol has none; GRE's keys stand in their place, as in the kernel. `icmp` is (type, code, id) of ICMP and ICMPv6.
    """

    src: str
    dst: str
    sport: int = 0
    dport: int = 0
    icmp: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class ConntrackEntry:
    """One entry, or one event about an entry.

    `family` is "IPv4" or "IPv6"; `protocol` the name as printed ("unknown" for those without one) and `protocol_number` its number.
    `timeout` is what is left in seconds (None: not printed, as for offloaded flows), `state` that of TCP, SCTP or DCCP ("" for others).
    `flags` are UNREPLIED, ASSURED, OFFLOAD, HW_OFFLOAD (and what later kernels add in brackets). Zones are None where none is printed;
    zone-orig and zone-reply hold for one direction only. Counters are None unless the kernel counts (nf_conntrack_acct). `delta_time` is the
    entry's age in seconds; `start` and `stop` are local times as ctime(3) writes them: the text names no time zone. `event` is NEW, UPDATE or
    DESTROY, `event_time` seconds since 1970. `line` counts from 1; `text` is the line without white space at its ends.
    """

    family: str
    protocol: str
    protocol_number: int
    timeout: int | None
    state: str
    original: FlowTuple
    reply: FlowTuple
    flags: frozenset[str] = _NONE
    mark: int | None = None
    zone: int | None = None
    zone_original: int | None = None
    zone_reply: int | None = None
    original_packets: int | None = None
    original_bytes: int | None = None
    reply_packets: int | None = None
    reply_bytes: int | None = None
    use: int | None = None
    id: int | None = None
    delta_time: int | None = None
    secctx: str = ""
    start: str = ""
    stop: str = ""
    event: str = ""
    event_time: float | None = None
    line: int = 0
    text: str = ""

    @property
    def dnat(self) -> bool:
        """True when the destination was changed: replies come from another address or port than the first packet went to."""
        return self.original.dst != self.reply.src or self.original.dport != self.reply.sport

    @property
    def snat(self) -> bool:
        """True when the source was changed: replies go to another address, port or ICMP id than the first packet came from."""
        return self.original.src != self.reply.dst or self.port_rewritten

    @property
    def port_rewritten(self) -> bool:
        """True when the source port (of ICMP: the id) was changed."""
        if self.original.icmp and self.reply.icmp:
            return self.original.icmp[2] != self.reply.icmp[2]
        return self.original.sport != self.reply.dport

    @property
    def unreplied(self) -> bool:
        """True while no packet of the other direction was seen."""
        return UNREPLIED in self.flags

    @property
    def offloaded(self) -> bool:
        """True when a flow table, of the kernel or of a network card, forwards the packets past the rules."""
        return OFFLOAD in self.flags or HW_OFFLOAD in self.flags

    @property
    def over(self) -> bool:
        """True when the protocol says that the connection has ended, and only the entry stays for its timeout."""
        return self.state in _OVER


class _Rest(NamedTuple):
    """What stands behind the parts that nearly every entry has."""

    flags: frozenset[str] = _NONE
    mark: int | None = None
    zone: int | None = None
    use: int | None = None
    id: int | None = None
    delta_time: int | None = None
    secctx: str = ""
    start: str = ""
    stop: str = ""


_N = "[0-9]{1,20}"
_L4 = rf"(?:sport=({_N}) dport=({_N}) |type=({_N}) code=({_N}) id=({_N}) |srckey=0x([0-9a-f]{{1,8}}) dstkey=0x([0-9a-f]{{1,8}}) )?"
_SIDE = rf"src=([0-9A-Fa-f:.]{{2,45}}) dst=([0-9A-Fa-f:.]{{2,45}}) {_L4}(?:zone-%s=({_N}) )?(?:packets=({_N}) bytes=({_N}) )?"
_ENTRY = re.compile(
    rf"(?:\[({_N}\.[0-9]{{1,9}})\]\s+)?(?:\[(NEW|UPDATE|DESTROY)\] )?(?:(ipv4|ipv6) +{_N} )?([a-z][a-z0-9-]*) +({_N}) "
    rf"(?:({_N}) )?(?:timeout={_N}, stream_timeout={_N} )?(?:([A-Z][A-Z0-9_]*) )?"
    rf"{_SIDE % 'orig'}(\[UNREPLIED\] )?{_SIDE % 'reply'}"
    rf"(?:\[(ASSURED|OFFLOAD|HW_OFFLOAD)\] )?(?:mark=({_N}) )?(?:zone=({_N}) )?(?:delta-time=({_N}) )?(?:use=({_N}) )?(?:id=({_N}) )?(.*)",
    re.ASCII,
)
_TOKEN = re.compile(r"\[(start|stop)=([^\][]{0,40})\]|\[([A-Z_]+)\]|progname=.*|([a-z][a-z_-]*)=(\S*)|\S+", re.ASCII)
_FIELDS = {"mark": "mark", "zone": "zone", "use": "use", "id": "id", "delta-time": "delta_time"}
_NUMBER = re.compile(_N, re.ASCII)
_ADDRESS = re.compile("[0-9A-Fa-f:.]{2,45}")
_SUMMARY = re.compile(r"conntrack v[0-9.]+\S* \(conntrack-tools\): .*", re.ASCII)
_FLAGS = {
    (bool(unreplied), flag): frozenset(name for name in (unreplied, flag) if name)
    for unreplied in ("", UNREPLIED)
    for flag in (None, ASSURED, OFFLOAD, HW_OFFLOAD)
}


class _Addresses(dict[str, str]):
    """Addresses as printed -> their one spelling; ValueError for what is none."""

    def __missing__(self, text: str) -> str:
        found = canonical(text)
        if not found:
            raise ValueError(f"{text!r} is no address")
        if ":" in text and ":" not in found:  # IPv4 inside IPv6: to the connection table it is IPv6
            found = f"::ffff:{found}"
        self[text] = found
        return found


class _Ports(dict[str, int]):
    """Ports as printed -> numbers; ValueError for one that does not fit 16 bits."""

    def __missing__(self, text: str) -> int:
        port = int(text)
        if port > 0xFFFF:
            raise ValueError(f"port {port} is above 65535")
        self[text] = port
        return port


class _Memory(NamedTuple):
    """What one reading has seen: addresses, ports and rests of lines repeat."""

    addresses: _Addresses
    ports: _Ports
    rests: dict[str, _Rest]


def parse_conntrack(text: str, source: str = "") -> list[ConntrackEntry]:
    """The entries of a dump, in order. Blank lines and the tool's own summary ("... flow entries have been shown.") are passed over.

    Raises ParseError with `source` and the line's number for the first line that is no entry.
    """
    entries = []
    for found in _entries(text, source):
        if isinstance(found, ParseError):
            raise found
        entries.append(found)
    return entries


def parse_conntrack_lenient(text: str, source: str = "") -> tuple[list[ConntrackEntry], list[ParseError]]:
    """As parse_conntrack, but for a dump that was cut or mixed with other text: the entries, and one ParseError for each line that is none."""
    entries: list[ConntrackEntry] = []
    errors: list[ParseError] = []
    for found in _entries(text, source):
        if isinstance(found, ParseError):
            errors.append(found)
        else:
            entries.append(found)
    return entries, errors


def _entries(text: str, source: str) -> Iterator[ConntrackEntry | ParseError]:
    memory = _Memory(_Addresses(), _Ports(), {"": _Rest()})
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line:
            continue
        match = _ENTRY.fullmatch(line + " ") or _ENTRY.fullmatch(" ".join(line.split()) + " ")
        try:
            if match:
                yield _entry(match.groups(), line, number, memory)
            elif not _SUMMARY.fullmatch(line):
                yield ParseError(_why(line), source, number)
        except ValueError as error:
            yield ParseError(str(error), source, number)


def _entry(groups: tuple[Any, ...], line: str, number: int, memory: _Memory) -> ConntrackEntry:
    """An entry out of the pattern's groups. Raises ValueError for a value that cannot be."""
    (
        moment, event, family, protocol, protocol_number, timeout, state,
        src, dst, sport, dport, kind, code, ident, key, key_to, zone_original, packets, octets, unreplied,
        re_src, re_dst, re_sport, re_dport, re_kind, re_code, re_ident, re_key, re_key_to, zone_reply, re_packets, re_octets,
        flag, mark, zone, age, use, id_, words,
    ) = groups  # fmt: skip
    addresses, ports, rests = memory
    if sport and re_sport:
        original = FlowTuple(addresses[src], addresses[dst], ports[sport], ports[dport])
        reply = FlowTuple(addresses[re_src], addresses[re_dst], ports[re_sport], ports[re_dport])
    else:
        original = _rare(addresses[src], addresses[dst], sport, dport, kind, code, ident, key, key_to)
        reply = _rare(
            addresses[re_src], addresses[re_dst], re_sport, re_dport, re_kind, re_code, re_ident, re_key, re_key_to
        )
    six = ":" in src
    if (
        (":" in dst) != six
        or (":" in re_src) != six
        or (":" in re_dst) != six
        or (family and (family == "ipv6") != six)
    ):
        raise ValueError("addresses of two families in one entry")
    flags = _FLAGS[unreplied is not None, flag]
    rest = rests.get(words)
    if rest is None:
        rest = _remember(words, rests)
    if words:
        flags |= rest.flags
    return ConntrackEntry(
        IPV6 if six else IPV4,
        protocol,
        int(protocol_number),
        int(timeout) if timeout else None,
        state or "",
        original,
        reply,
        flags,
        int(mark) if mark else rest.mark,
        int(zone) if zone else rest.zone,
        int(zone_original) if zone_original else None,
        int(zone_reply) if zone_reply else None,
        int(packets) if packets else None,
        int(octets) if octets else None,
        int(re_packets) if re_packets else None,
        int(re_octets) if re_octets else None,
        int(use) if use else rest.use,
        int(id_) if id_ else rest.id,
        int(age) if age else rest.delta_time,
        rest.secctx,
        rest.start,
        rest.stop,
        event or "",
        float(moment) if moment else None,
        number,
        line,
    )


def _rare(src: str, dst: str, *parts: str | None) -> FlowTuple:
    """A direction of a protocol that has other than ports: ICMP's type, code and id, GRE's keys, or nothing."""
    sport, dport, kind, code, ident, key, key_to = (
        int(part, 16 if at > 4 else 10) if part else None for at, part in enumerate(parts)
    )
    if max(sport or 0, dport or 0) > 0xFFFF:
        raise ValueError("a port is above 65535")
    if kind is None or code is None or ident is None:
        return FlowTuple(src, dst, sport or key or 0, dport or key_to or 0)
    if kind > 0xFF or code > 0xFF or ident > 0xFFFF:
        raise ValueError(f"ICMP type {kind}, code {code}, id {ident} do not fit their fields")
    return FlowTuple(src, dst, 0, 0, (kind, code, ident))


def _remember(words: str, rests: dict[str, _Rest]) -> _Rest:
    if len(rests) > 4096:  # they do not repeat after all
        rests.clear()
        rests[""] = _Rest()
    rests[words] = found = _rest(words)
    return found


def _rest(words: str) -> _Rest:
    """Flags and `key=value` words, in any order. Raises ValueError for a word that is neither, or a number that is none."""
    flags: set[str] = set()
    found: dict[str, Any] = {}
    for match in _TOKEN.finditer(words):
        time, moment, flag, key, value = match.groups()
        if time:
            found[time] = moment
        elif flag:
            flags.add(flag)
        elif key in _FIELDS:
            if not _NUMBER.fullmatch(value):
                raise ValueError(f"{key}={value}: want a number")
            found[_FIELDS[key]] = int(value)
        elif key == "secctx":
            found[key] = value
        elif not key and not match[0].startswith("progname="):
            raise ValueError(f"{match[0]!r} stands where a [FLAG] or key=value may")
    return _Rest(flags=frozenset(flags), **found)


def _why(line: str) -> str:
    """What a line lacks that should be an entry."""
    if line.startswith(("<?xml", "<conntrack", "<flow")):
        return "this is XML; want the tool's plain output (without -o xml)"
    if line.startswith(("-A ", "-I ")):
        return "these are commands; want the tool's plain output (without -o save)"
    shown = line if len(line) <= 60 else line[:57] + "..."
    ends = [word[4:] for word in line.split() if word.startswith(("src=", "dst="))]
    if len(ends) == 4 and not all(map(_ADDRESS.fullmatch, ends)):
        return f"an address is missing or blacked out: {shown!r}"
    if "src=" in line:
        return f"an entry, but cut or of an unknown form: {shown!r}"
    return f"no entry of a connection table: {shown!r}"
