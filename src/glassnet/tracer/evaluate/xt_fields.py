"""Matches of iptables on fields of the packet itself: ports, TCP flags, ICMP types, length, time to live, type of service.

Source: iptables-extensions(8); xt_tcpudp.c, xt_multiport.c, xt_length.c, xt_hl.c, xt_dscp.c of Linux.
"""

from __future__ import annotations

from collections.abc import Callable

from glassnet.net.tristate import Answer
from glassnet.ruleset.model import Option, XtPart
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import PORTED, Packet

Test = Callable[[Packet, Machine], Answer]
Maker = Callable[[Option, XtPart], Test]


def port_number(word: str) -> int:
    """A port as a number or a name of /etc/services that listings use. Raises ValueError."""
    if word.isdigit():
        value = int(word)
    else:
        value = _SERVICES.get(word, -1)
    if not 0 <= value <= 65535:
        raise ValueError(f"not a port: {word!r}")
    return value


_SERVICES = {
    "ssh": 22,
    "domain": 53,
    "http": 80,
    "https": 443,
    "mdns": 5353,
    "ntp": 123,
    "bootps": 67,
    "bootpc": 68,
    "dhcpv6-client": 546,
}


def port_ranges(words: str) -> list[tuple[int, int]]:
    found = []
    for word in words.split(","):
        low, colon, high = word.partition(":")
        first = port_number(low) if low else 0
        found.append((first, (port_number(high) if high else 65535) if colon else first))
    return found


def _port_test(option: Option, wanted: str) -> Test:
    ranges = port_ranges(option.values[0])
    low, high = ranges[0]
    if wanted == "dport" and len(ranges) == 1:
        return lambda packet, machine: low <= packet.dport <= high
    if wanted == "sport" and len(ranges) == 1:
        return lambda packet, machine: low <= packet.sport <= high

    def test(packet: Packet, machine: Machine) -> Answer:
        if packet.protocol not in PORTED:
            return False
        values = {"sport": (packet.sport,), "dport": (packet.dport,)}.get(wanted, (packet.sport, packet.dport))
        return any(a <= value <= b for a, b in ranges for value in values)

    return test


def dport(option: Option, part: XtPart) -> Test:
    return _port_test(option, "dport")


def sport(option: Option, part: XtPart) -> Test:
    return _port_test(option, "sport")


def either_port(option: Option, part: XtPart) -> Test:
    return _port_test(option, "either")


_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}


def _flag_bits(words: str) -> int:
    bits = 0
    for word in words.split(","):
        bits |= _FLAGS[word]
    return bits


def tcp_flags(option: Option, part: XtPart) -> Test:
    mask, wanted = _flag_bits(option.values[0]), _flag_bits(option.values[1])
    return lambda packet, machine: packet.flags & mask == wanted


def syn(option: Option, part: XtPart) -> Test:
    return lambda packet, machine: packet.flags & 0x17 == 2


ICMP_TYPES = {
    "any": (255, -1), "echo-reply": (0, -1), "pong": (0, -1), "destination-unreachable": (3, -1), "network-unreachable": (3, 0),
    "host-unreachable": (3, 1), "port-unreachable": (3, 3), "fragmentation-needed": (3, 4), "source-quench": (4, -1), "redirect": (5, -1),
    "echo-request": (8, -1), "ping": (8, -1), "router-advertisement": (9, -1), "router-solicitation": (10, -1), "time-exceeded": (11, -1),
    "ttl-exceeded": (11, -1), "parameter-problem": (12, -1), "timestamp-request": (13, -1), "timestamp-reply": (14, -1),
}  # fmt: skip
ICMP6_TYPES = {
    "destination-unreachable": (1, -1), "packet-too-big": (2, -1), "time-exceeded": (3, -1), "ttl-exceeded": (3, -1), "parameter-problem": (4, -1),
    "echo-request": (128, -1), "ping": (128, -1), "echo-reply": (129, -1), "pong": (129, -1), "router-solicitation": (133, -1),
    "router-advertisement": (134, -1), "neighbour-solicitation": (135, -1), "neighbor-solicitation": (135, -1),
    "neighbour-advertisement": (136, -1), "neighbor-advertisement": (136, -1), "redirect": (137, -1),
}  # fmt: skip


def icmp(names: dict[str, tuple[int, int]], protocol: int) -> Callable[[Option, XtPart], Test]:
    def make(option: Option, part: XtPart) -> Test:
        word = option.values[0]
        if word[0].isdigit():
            kind, _, code = word.partition("/")
            wanted = (int(kind), int(code) if code else -1)
        else:
            wanted = names[word]
        return lambda packet, machine: (
            packet.protocol == protocol
            and (wanted[0] == 255 or packet.icmp_type == wanted[0])
            and wanted[1] in (-1, packet.icmp_code)
        )

    return make


def length(option: Option, part: XtPart) -> Test:
    low, high = port_ranges(option.values[0])[0]
    return lambda packet, machine: low <= packet.length <= high


def ttl(how: str) -> Callable[[Option, XtPart], Test]:
    def make(option: Option, part: XtPart) -> Test:
        wanted = int(option.values[0])
        if how == "eq":
            return lambda packet, machine: packet.ttl == wanted
        return lambda packet, machine: packet.ttl < wanted if how == "lt" else packet.ttl > wanted

    return make


def dscp(option: Option, part: XtPart) -> Test:
    wanted = int(option.values[0], 0)
    return lambda packet, machine: packet.dscp == wanted


def tos(option: Option, part: XtPart) -> Test:
    value, _, mask_text = option.values[0].partition("/")
    wanted, mask = int(value, 0), int(mask_text, 0) if mask_text else 0xFF
    return lambda packet, machine: packet.dscp << 2 & mask == wanted
