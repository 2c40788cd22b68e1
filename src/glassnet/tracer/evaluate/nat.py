"""Translation of addresses and ports: what a NAT rule chooses, and what its choice does to this packet and to later ones.

Source: net/netfilter/nf_nat_{core,masquerade,redirect}.c of Linux.
"""

from __future__ import annotations

from glassnet.net import address
from glassnet.net.tristate import Unknown
from glassnet.tracer.evaluate.verdicts import Translation
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import PORTED, Packet

_MOST = 64  # addresses of a range that are followed one by one


def wanted_side(hook: str) -> bool:
    """True where sources are translated: postrouting and input; destinations are at prerouting and output (HOOK2MANIP)."""
    return hook in ("postrouting", "input")


def choices(effect: Translation, packet: Packet) -> list[tuple[float, Translation]]:
    """The addresses a range offers, each with its share; empty when there are too many."""
    if effect.low is None or effect.high is None or effect.low == effect.high:
        return [(1.0, effect)]
    count = effect.high - effect.low + 1
    if not 0 < count <= _MOST:
        return []
    return [(1 / count, effect._replace(low=value, high=value)) for value in range(effect.low, effect.high + 1)]


def translate(packet: Packet, effect: Translation, machine: Machine) -> str | Unknown:
    """Carry a rule's choice out: the connection's reply tuple and the packet. Returns what was done, in words."""
    connection = packet.connection
    if connection is None:
        return Unknown("a NAT statement", "the packet is not tracked")
    target = _address(packet, effect, machine)
    if isinstance(target, Unknown):
        return target
    port = _port(effect, packet)
    if effect.source:
        connection.snat = True
        connection.reply_dst = packet.src if target is None else target
        connection.reply_dport = packet.sport if port is None else port
        connection.random_port = packet.protocol in PORTED and (effect.random_port or _picked(effect, packet.sport))
        before = packet.source
        packet.src, packet.sport = connection.reply_dst, connection.reply_dport
        random = " (port: the kernel's choice)" if connection.random_port else ""
        return f"source {before} becomes {packet.source}{random}"
    connection.dnat = True
    connection.reply_src = packet.dst if target is None else target
    connection.reply_sport = packet.dport if port is None else port
    before = packet.destination
    packet.dst, packet.dport = connection.reply_src, connection.reply_sport
    return f"destination {before} becomes {packet.destination}"


def _address(packet: Packet, effect: Translation, machine: Machine) -> int | Unknown | None:
    if effect.netmap is not None:
        network, mask = effect.netmap
        old = packet.src if effect.source else packet.dst
        return network | (old & ~mask)
    if not effect.own:
        return effect.low
    if effect.source:
        target = (packet.next_hop or packet.dst) if packet.bits == 32 else packet.dst
        found = machine.fib.select_address(packet.oif, target, packet.bits)
        if found is None:
            return Unknown(f"masquerade by {packet.oif}", "the address of that device is not known")
        return found
    if packet.hook == "output":
        return address.number("127.0.0.1" if packet.bits == 32 else "::1")
    own = [a for a in machine.stack.addresses if a.dev == packet.iif and a.bits == packet.bits and a.scope != "link"]
    if not own:
        return Unknown(f"redirect on {packet.iif}", "the address of that device is not known")
    return own[0].value


def _port(effect: Translation, packet: Packet) -> int | None:
    if effect.port_low is None or effect.port_high is None or packet.protocol not in PORTED:
        return None
    current = packet.sport if effect.source else packet.dport
    if effect.port_low <= current <= effect.port_high:
        return current
    return effect.port_low


def _picked(effect: Translation, current: int) -> bool:
    """Whether the kernel starts at a random port of the range: for sources, unless the port is in it (nf_nat_l4proto_unique_tuple)."""
    low, high = effect.port_low, effect.port_high
    return low is not None and high is not None and low < high and not low <= current <= high


def apply_known(packet: Packet, source: bool) -> str:
    """Translate a packet of a connection whose translation is decided, in either direction; "" when nothing changes."""
    connection = packet.connection
    assert connection is not None
    if packet.reply:
        if source:
            before, (packet.src, packet.sport) = packet.source, (connection.dst, connection.dport)
            return (
                f"source {before} becomes {packet.source}, as the connection has it" if packet.source != before else ""
            )
        before, (packet.dst, packet.dport) = packet.destination, (connection.src, connection.sport)
        return (
            f"destination {before} becomes {packet.destination}, as the connection has it"
            if packet.destination != before
            else ""
        )
    if source:
        before, (packet.src, packet.sport) = packet.source, (connection.reply_dst, connection.reply_dport)
        return f"source {before} becomes {packet.source}, as the connection has it" if packet.source != before else ""
    before, (packet.dst, packet.dport) = packet.destination, (connection.reply_src, connection.reply_sport)
    return (
        f"destination {before} becomes {packet.destination}, as the connection has it"
        if packet.destination != before
        else ""
    )
