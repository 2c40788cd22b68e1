"""First packets of connections, made byte by byte, and what packets that come back say of them: each carries its number wherever it goes."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import NamedTuple

from glassnet.net import address

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16
_CRC = []
for _byte in range(256):
    for _ in range(8):
        _byte = (_byte >> 1) ^ (0x82F63B78 if _byte & 1 else 0)
    _CRC.append(_byte)


@dataclass(frozen=True, slots=True)
class Probe:
    """A packet to send. `origin` is the device it comes by, "" for one of the node itself; `number` tells it from all others."""

    number: int
    origin: str
    bits: int
    protocol: int
    src: int
    dst: int
    sport: int = 0
    dport: int = 0
    flags: int = SYN
    icmp_type: int = 8
    icmp_code: int = 0
    ttl: int = 64
    dscp: int = 0
    extra: int = 0  # bytes of payload beyond what is needed

    @property
    def text(self) -> str:
        src, dst = address.text_of(self.src, self.bits), address.text_of(self.dst, self.bits)
        if self.protocol in (ICMP, ICMP6):
            what = f"icmp {self.icmp_type}/{self.icmp_code} {src} > {dst}"
        else:
            name = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}[self.protocol]
            what = f"{name} {address.with_port(src, self.sport)} > {address.with_port(dst, self.dport)}"
        flags = f" flags {self.flags:#x}" if self.protocol == TCP else ""
        return f"{what}{flags} ttl {self.ttl} dscp {self.dscp} length {len(self.build())} by {self.origin or 'the node itself'}"

    def build(self) -> bytes:
        """The whole packet, with right checksums."""
        body = self._body()
        src, dst = packed(self.src, self.bits), packed(self.dst, self.bits)
        if self.bits == 128:
            head = struct.pack("!IHBB", 6 << 28 | self.dscp << 22, len(body), self.protocol, self.ttl) + src + dst
            return head + body
        head = struct.pack(
            "!BBHHHBBH", 0x45, self.dscp << 2, 20 + len(body), self.number & 0xFFFF, 0x4000, self.ttl, self.protocol, 0
        )
        head += src + dst
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

    def _body(self) -> bytes:
        if self.protocol == SCTP:
            # INIT chunk (RFC 9260, 3.3.2): type, flags, length, initiate tag, window, streams out and in, TSN
            chunk = struct.pack("!BBHIIHHI", 1, 0, 20, self.number, 65536, 1, 1, 1)
            head = struct.pack("!HHI", self.sport, self.dport, 0)
            return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk
        if self.protocol == TCP:
            ack = self.number << 8 if self.flags & ACK else 0
            body = struct.pack(
                "!HHIIBBHHH", self.sport, self.dport, self.number << 8, ack, 5 << 4, self.flags, 65535, 0, 0
            )
            place = 16
        elif self.protocol == UDP:
            body = struct.pack("!HHHHI", self.sport, self.dport, 12 + self.extra, 0, self.number) + bytes(self.extra)
            place = 6
        else:
            body = struct.pack("!BBHHHI", self.icmp_type, self.icmp_code, 0, self.number & 0xFFFF, 1, self.number)
            body += bytes(self.extra)
            place = 2
        pseudo = b""
        if self.protocol != ICMP:
            ends = packed(self.src, self.bits) + packed(self.dst, self.bits)
            pseudo = ends + struct.pack("!IHBB", len(body), 0, 0, self.protocol)
        return body[:place] + struct.pack("!H", checksum(pseudo + body)) + body[place + 2 :]


class Sight(NamedTuple):
    """A packet that was seen: of which probe, whether it is an answer, and what it looks like. `error`: what an answer says."""

    number: int
    error: str
    src: int = 0
    dst: int = 0
    sport: int = 0
    dport: int = 0
    ttl: int = 0
    dscp: int = 0


def read(data: bytes) -> Sight | None:
    """What a whole packet says; None for one that is no probe and answers none."""
    bits = 128 if data[0] >> 4 == 6 else 32
    if bits == 128:
        protocol, ttl, dscp = data[6], data[7], (data[0] << 8 | data[1]) >> 6 & 63
        src, dst, body = int.from_bytes(data[8:24], "big"), int.from_bytes(data[24:40], "big"), data[40:]
    else:
        protocol, ttl, dscp = data[9], data[8], data[1] >> 2
        src, dst = int.from_bytes(data[12:16], "big"), int.from_bytes(data[16:20], "big")
        body = data[(data[0] & 15) * 4 :]
    return read_body(bits, protocol, body, src, dst, ttl, dscp)


def read_body(bits: int, protocol: int, body: bytes, src: int, dst: int, ttl: int, dscp: int) -> Sight | None:
    """The same where the header was taken off."""
    if protocol in (ICMP, ICMP6):
        kind, code = body[0], body[1]
        if kind in ((3, 11) if protocol == ICMP else (1, 3)):
            inner = read(body[8:])
            return None if inner is None else Sight(inner.number, f"{kind}/{code}")
        if len(body) < 12:
            return None
        number = int.from_bytes(body[8:12], "big")
        return Sight(number, f"{kind}/{code}", src, dst, 0, 0, ttl, dscp)
    sport, dport = struct.unpack("!HH", body[:4])
    if protocol == TCP:
        sequence, ack = struct.unpack("!II", body[4:12])
        flags = body[13] if len(body) > 13 else 0
        if flags & RST:
            return Sight((sequence or ack) >> 8, "reset", src, dst, sport, dport, ttl, dscp)
        return Sight(sequence >> 8, "", src, dst, sport, dport, ttl, dscp)
    if protocol == UDP and len(body) >= 12:
        return Sight(int.from_bytes(body[8:12], "big"), "", src, dst, sport, dport, ttl, dscp)
    if protocol == SCTP and len(body) >= 20:
        return Sight(int.from_bytes(body[16:20], "big"), "", src, dst, sport, dport, ttl, dscp)
    return None


def packed(value: int, bits: int) -> bytes:
    """An address in network order."""
    return value.to_bytes(bits // 8, "big")


def number_of(text: str) -> int:
    """An address as a number."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text), "big")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF
