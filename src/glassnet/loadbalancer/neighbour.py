"""ARP and neighbour discovery as frames of Ethernet: what a speaker reads and writes.

Sources: RFC 826 (ARP), RFC 5227 (probe, announcement), RFC 4861 (neighbour solicitation and advertisement), RFC 2464 (IPv6 over Ethernet).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from glassnet.net import address

ARP, IPV6 = 0x0806, 0x86DD
"""EtherTypes."""
BROADCAST, NOBODY = b"\xff" * 6, bytes(6)
_REQUEST, _REPLY = 1, 2
_SOLICIT, _ADVERTISE = 135, 136
_SOLICITED, _OVERRIDE = 0x40000000, 0x20000000
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ALL_NODES = address.packed("ff02::1")


class Heard(NamedTuple):
    """What a frame says. `asks`: somebody wants to know who has `ip`; else `mac` says that it has it. `probe`: who asks wants it for itself.

    `sender` is the address of who asks ("" for none), `mac` its hardware address. `announced`: told to all, not to one who asked.
    """

    asks: bool
    ip: str
    sender: str
    mac: bytes
    probe: bool = False
    announced: bool = False


def mac_text(mac: bytes) -> str:
    """A hardware address as people write it."""
    return ":".join(f"{byte:02x}" for byte in mac)


def read(frame: bytes) -> Heard | None:
    """What a frame says; None for all but whole ARP, solicitations and advertisements."""
    if len(frame) < 14:
        return None
    kind = int.from_bytes(frame[12:14])
    if kind == ARP:
        return _read_arp(frame)
    return _read_icmp(frame) if kind == IPV6 else None


def _read_arp(frame: bytes) -> Heard | None:
    if len(frame) < 14 + _ARP.size:
        return None
    hardware, protocol, hlen, plen, operation, mac, sender, _, target = _ARP.unpack_from(frame, 14)
    if (hardware, protocol, hlen, plen) != (1, 0x0800, 6, 4) or mac == NOBODY:
        return None
    own, theirs = address.text_of(int.from_bytes(sender), 32), address.text_of(int.from_bytes(target), 32)
    if operation == _REPLY or (operation == _REQUEST and own == theirs):
        return Heard(False, own, own, mac, announced=own == theirs)
    if operation != _REQUEST:
        return None
    probe = own == "0.0.0.0"
    return Heard(True, theirs, "" if probe else own, mac, probe)


def _read_icmp(frame: bytes) -> Heard | None:
    if len(frame) < 14 + 40 + 24 or frame[20] != 58 or frame[21] != 255:
        return None  # RFC 4861, 7.1: who is farther away than this link is not heard
    body = frame[54 : 54 + int.from_bytes(frame[18:20])]
    if len(body) < 24 or body[1] != 0 or _checksum(frame[22:38], frame[38:54], body) != 0:
        return None
    sender, target = (
        address.text_of(int.from_bytes(frame[22:38]), 128),
        address.text_of(int.from_bytes(body[8:24]), 128),
    )
    mac = frame[6:12]
    if body[0] == _SOLICIT:
        probe = sender == "::"
        return Heard(True, target, "" if probe else sender, mac, probe)
    if body[0] == _ADVERTISE:
        return Heard(False, target, sender, mac, announced=not body[4] & 0x40)
    return None


def answer(heard: Heard, mac: bytes) -> bytes:
    """The frame that tells who asked that `mac` has the address."""
    if ":" not in heard.ip:
        theirs = heard.sender or "0.0.0.0"
        return _arp(heard.mac, mac, _REPLY, heard.ip, heard.mac, theirs)
    if not heard.sender:  # an unspecified source: everybody is told (RFC 4861, 7.2.4)
        return _icmp(b"\x33\x33\x00\x00\x00\x01", mac, heard.ip, _ALL_NODES, _advertisement(heard.ip, mac, _OVERRIDE))
    flags = _SOLICITED | _OVERRIDE
    return _icmp(heard.mac, mac, heard.ip, address.packed(heard.sender), _advertisement(heard.ip, mac, flags))


def announce(ip: str, mac: bytes) -> list[bytes]:
    """The frames that tell everybody that `mac` has an address now: both forms of ARP, as some hear only one; or an unsolicited advertisement."""
    if ":" not in ip:
        return [_arp(BROADCAST, mac, operation, ip, target, ip) for operation, target in ((_REQUEST, NOBODY), (_REPLY, mac))]  # fmt: skip
    return [_icmp(b"\x33\x33\x00\x00\x00\x01", mac, ip, _ALL_NODES, _advertisement(ip, mac, _OVERRIDE))]


def probe(ip: str, mac: bytes) -> bytes:
    """The frame that asks whether anybody has an address, and says nothing about who asks."""
    if ":" not in ip:
        return _arp(BROADCAST, mac, _REQUEST, "0.0.0.0", NOBODY, ip)
    group = solicited_group(ip)
    body = struct.pack("!BBHI", _SOLICIT, 0, 0, 0) + address.packed(ip)
    return _icmp(b"\x33\x33" + group[12:], mac, "::", group, body)


def solicited_group(ip: str) -> bytes:
    """The multicast address that solicitations for an address go to (RFC 4291, 2.7.1)."""
    return address.packed("ff02::1:ff00:0")[:13] + address.packed(ip)[13:]


def _arp(to: bytes, mac: bytes, operation: int, ip: str, target: bytes, target_ip: str) -> bytes:
    head = to + mac + ARP.to_bytes(2)
    return head + _ARP.pack(1, 0x0800, 6, 4, operation, mac, address.packed(ip), target, address.packed(target_ip))


def _advertisement(ip: str, mac: bytes, flags: int) -> bytes:
    return struct.pack("!BBHI", _ADVERTISE, 0, 0, flags) + address.packed(ip) + b"\x02\x01" + mac


def _icmp(to: bytes, mac: bytes, source: str, target: bytes, body: bytes) -> bytes:
    sender = address.packed(source)
    body = body[:2] + _checksum(sender, target, body).to_bytes(2) + body[4:]
    return to + mac + IPV6.to_bytes(2) + struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + sender + target + body


def _checksum(source: bytes, target: bytes, body: bytes) -> int:
    """RFC 4443, 2.3; 0 for a body with the right one in it."""
    data = source + target + struct.pack("!II", len(body), 58) + body + bytes(len(body) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
