"""How full the connection table is, what it has dropped, and how many connections a second a size of it stands.

The arithmetic: a connection holds an entry for as long as it lasts and for a timeout after its end. A table of 128k entries (131,072) whose
entries stay 120 s more stands 131,072 / 120 = 1,092 short connections a second. Sources: Documentation/networking/nf_conntrack-sysctl.rst and
nf_conntrack_core.c (Linux) for sizes and timeouts; nf_nat_core.c for the ports source translation chooses from; conntrack(8) for `-S`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from glassnet.net.errors import ParseError, UsageError

ENTRY_BYTES, BUCKET_BYTES = 320, 8  # struct nf_conn with its extensions, and a list head, on 64 bit
SNAT_PORTS = 64512  # 1024-65535: where source translation looks when the first choice is taken and above 1023
HEADROOM = 1.25
SMALLEST = 131072  # what kube-proxy sets at least (conntrack.min)
OK, HIGH, CRITICAL, FULL, UNKNOWN = "ok", "high", "critical", "full", "unknown"

# What an entry waits for after the last packet: (sysctl, the kernel's default in seconds).
TIMEOUTS: Mapping[str, tuple[str, int]] = {
    "tcp": ("nf_conntrack_tcp_timeout_time_wait", 120),
    "tcp-reset": ("nf_conntrack_tcp_timeout_close", 10),
    "tcp-abandoned": ("nf_conntrack_tcp_timeout_established", 432000),
    "udp": ("nf_conntrack_udp_timeout", 30),
    "udp-stream": ("nf_conntrack_udp_timeout_stream", 120),
    "icmp": ("nf_conntrack_icmp_timeout", 30),
}
_PAIR = re.compile(r"([a-z_]+)=([0-9]{1,20})", re.ASCII)
_CPU = re.compile(r"cpu=([0-9]{1,9})\s+(.*)", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{8,16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ConntrackStats:
    """Counters since boot (of the namespace), one mapping per CPU, by the names `conntrack -S` prints."""

    cpus: tuple[Mapping[str, int], ...]

    def total(self, name: str) -> int:
        """The sum of a counter over all CPUs; 0 for one that is not there."""
        return sum(cpu.get(name, 0) for cpu in self.cpus)

    @property
    def drop(self) -> int:
        """Packets dropped since no entry could be made: the table was full, or memory short."""
        return self.total("drop")

    @property
    def early_drop(self) -> int:
        """Entries not yet assured that had to go to make room for new ones."""
        return self.total("early_drop")

    @property
    def insert_failed(self) -> int:
        """Packets dropped since another packet had put in an entry with the same tuple first."""
        return self.total("insert_failed")

    @property
    def invalid(self) -> int:
        """Packets that fit no connection."""
        return self.total("invalid")


@dataclass(frozen=True, slots=True)
class Pressure:
    """How full a table is. Numbers are None when unknown.

    `ratio` is count / maximum, `chain` the mean length of a hash chain (each entry is in the table twice, once per direction). `verdict`: full
    (from 100 %, or packets were dropped), critical (from 90 %), high (from 75 %), ok, unknown. `reasons` say why, one line each.
    """

    count: int | None
    maximum: int | None
    buckets: int | None
    ratio: float | None
    chain: float | None
    verdict: str
    reasons: tuple[str, ...]
    stats: ConntrackStats | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a table's size and a rate of connections make of each other.

    `lifetime` (seconds) is how long a connection holds its entry: `duration` and `timeout`. `rate` (connections a second) is what `maximum`
    entries stand. For a wanted rate: `needed` entries, and the settings advised, `advised_maximum` and `advised_buckets`, with the memory they
    take in bytes when full. `snat_rate` is what one source address can open to one destination address and port, with `snat_ports` ports, when
    no port is used again before its entry is gone; `local_rate` the same for sockets of this machine, with `local_ports` of its
    ip_local_port_range.
    """

    duration: float
    timeout: float
    lifetime: float
    maximum: int
    memory: int
    rate: float
    wanted: float | None
    needed: int | None
    advised_maximum: int | None
    advised_buckets: int | None
    advised_memory: int | None
    snat_ports: int
    snat_rate: float
    local_ports: int
    local_rate: float

    @property
    def enough(self) -> bool | None:
        """True when the table holds the wanted rate; None when none is wanted."""
        return None if self.needed is None else self.needed <= self.maximum


def parse_conntrack_stats(text: str, source: str = "") -> ConntrackStats:
    """The counters of `conntrack -S`, or of /proc/net/stat/nf_conntrack (hexadecimal, one line per CPU below a line of names).

    Raises ParseError for text that is neither.
    """
    cpus: list[dict[str, int]] = []
    names: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words:
            continue
        if match := _CPU.fullmatch(line.strip()):
            pairs = [_PAIR.fullmatch(word) for word in match[2].split()]
            if not pairs or None in pairs:
                raise ParseError(f"want name=number words after cpu={match[1]}", source, number)
            cpus.append({pair[1]: int(pair[2]) for pair in pairs if pair})
        elif words[0] == "entries" and not names:
            names = words
        elif names and len(words) == len(names) and all(map(_HEX.fullmatch, words)):
            cpus.append({name: int(word, 16) for name, word in zip(names, words, strict=True) if name != "entries"})
        else:
            raise ParseError("no line of `conntrack -S` or of /proc/net/stat/nf_conntrack", source, number)
    if not cpus:
        raise ParseError("no counters of any CPU", source)
    return ConntrackStats(tuple(cpus))


def pressure(sysctls: Mapping[str, str], count: int | None = None, stats: ConntrackStats | None = None) -> Pressure:
    """Judge how full the table is. `count` (entries) is taken from nf_conntrack_count when not given.

    `sysctls` maps names (net.netfilter.nf_conntrack_max, with dots or slashes, or the last part alone) to values. Counters of `stats` are since
    boot: drops among them tell that the table was full once. Raises ParseError for a value that is no number.
    """
    if count is None:
        count = _sysctl(sysctls, "nf_conntrack_count")
    maximum, buckets = _sysctl(sysctls, "nf_conntrack_max"), _sysctl(sysctls, "nf_conntrack_buckets")
    ratio = count / maximum if count is not None and maximum else None  # 0 means no limit
    chain = 2 * count / buckets if count is not None and buckets else None
    verdict, reasons = _fill(count, maximum, ratio)
    if chain is not None and chain > 4:
        reasons.append(f"hash chains are {chain:.1f} entries long: raise nf_conntrack_buckets ({buckets})")
    if stats is not None:
        if stats.drop:
            verdict = _raised(verdict)
            reasons.append(
                f"{stats.drop} packets were dropped since boot as no entry could be made: the table was full, or memory short"
            )
        if stats.early_drop:
            verdict = _raised(verdict)
            reasons.append(f"{stats.early_drop} entries had to go early since boot to make room for new ones")
        if stats.insert_failed:
            reasons.append(
                f"{stats.insert_failed} packets were dropped since boot as another had made the same entry: clashes of source ports, or two "
                "packets of one UDP socket at once (DNS: A and AAAA)"
            )
        if stats.invalid:
            reasons.append(f"{stats.invalid} packets fitted no connection since boot (late, or out of window)")
    return Pressure(count, maximum, buckets, ratio, chain, verdict, tuple(reasons), stats)


def _raised(verdict: str) -> str:
    return HIGH if verdict in (OK, UNKNOWN) else verdict


def _fill(count: int | None, maximum: int | None, ratio: float | None) -> tuple[str, list[str]]:
    if maximum == 0:
        return OK, ["nf_conntrack_max is 0: no limit but memory"]
    if ratio is None:
        missing = "nf_conntrack_count" if count is None else "nf_conntrack_max"
        return UNKNOWN, [f"{missing} is not known"]
    text = f"{count} of {maximum} entries are in use ({ratio:.0%})"
    if ratio >= 1:
        return FULL, [f"{text}: new connections are dropped"]
    if ratio >= 0.9:
        return CRITICAL, [f"{text}: a burst fills it, and new connections are dropped then"]
    return (HIGH if ratio >= 0.75 else OK), [text]


def plan(
    sysctls: Mapping[str, str] | None = None,
    *,
    kind: str = "tcp",
    duration: float = 0.0,
    wanted: float | None = None,
    maximum: int | None = None,
    timeout: float | None = None,
) -> Plan:
    """Reckon both ways: entries -> connections a second, and (with `wanted`, connections a second) connections -> entries and memory.

    `kind` chooses the timeout that runs after the last packet (see TIMEOUTS): tcp (closed in order), tcp-reset, tcp-abandoned, udp (one
    exchange), udp-stream, icmp. `duration` is how long a connection lasts before, in seconds. `maximum` and `timeout` go before `sysctls`,
    these before the kernel's defaults (131,072 entries for want of a better one). Raises UsageError for a number or kind that cannot be,
    ParseError for a sysctl that is no number.
    """
    if kind not in TIMEOUTS:
        raise UsageError(f"plan for {kind!r}? Want one of {', '.join(TIMEOUTS)}")
    given = sysctls or {}
    name, default = TIMEOUTS[kind]
    entries = _first(maximum, _sysctl(given, "nf_conntrack_max") or None, SMALLEST)
    after = _first(timeout, _sysctl(given, name), default)
    for value, what in ((entries, "maximum"), (after, "timeout"), (duration, "duration"), (wanted or 0.0, "wanted")):
        if not math.isfinite(value) or value < 0:
            raise UsageError(f"{what} {value}: want a number of 0 or more")
    lifetime = duration + after
    if lifetime <= 0 or entries < 1:
        raise UsageError("want a table of one entry at least, and a duration or timeout above 0 s")
    low, high = _port_range(given)
    needed = math.ceil(wanted * lifetime) if wanted is not None else None
    advised = None if needed is None else max(SMALLEST, _power_of_two(needed * HEADROOM))
    return Plan(
        duration=duration,
        timeout=after,
        lifetime=lifetime,
        maximum=int(entries),
        memory=memory(int(entries), _sysctl(given, "nf_conntrack_buckets") or int(entries)),
        rate=entries / lifetime,
        wanted=wanted,
        needed=needed,
        advised_maximum=advised,
        advised_buckets=advised,  # one per entry, as the kernel sizes it since 5.15: chains of two
        advised_memory=None if advised is None else memory(advised, advised),
        snat_ports=SNAT_PORTS,
        snat_rate=SNAT_PORTS / lifetime,
        local_ports=high - low + 1,
        local_rate=(high - low + 1) / lifetime,
    )


def memory(entries: int, buckets: int) -> int:
    """Bytes a table takes when full: 320 for each entry, 8 for each bucket."""
    return entries * ENTRY_BYTES + buckets * BUCKET_BYTES


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _power_of_two(number: float) -> int:
    return 1 << max(0, math.ceil(number) - 1).bit_length()


def _raw(sysctls: Mapping[str, str], name: str) -> str | None:
    for key, value in sysctls.items():
        if key.replace("/", ".").rpartition(".")[2] == name:
            return value.strip()
    return None


def _sysctl(sysctls: Mapping[str, str], name: str) -> int | None:
    value = _raw(sysctls, name)
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", value, re.ASCII):
        raise ParseError(f"{name} is {value!r}: want a number", name)
    return int(value)


def _port_range(sysctls: Mapping[str, str]) -> tuple[int, int]:
    value = _raw(sysctls, "ip_local_port_range")
    if value is None:
        return 32768, 60999
    match = re.fullmatch(r"([0-9]{1,5})\s+([0-9]{1,5})", value, re.ASCII)
    if not match or not 0 < int(match[1]) <= int(match[2]) <= 65535:
        raise ParseError(f"ip_local_port_range is {value!r}: want two ports", "ip_local_port_range")
    return int(match[1]), int(match[2])
