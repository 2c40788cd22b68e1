"""What connection tracking says of a packet that belongs to no known connection.

Source: net/netfilter/nf_conntrack_proto_{tcp,icmp,icmpv6}.c of Linux.
"""

from __future__ import annotations

from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import ACK, FIN, RST, SYN, Packet

_ECHO, _ECHO6 = frozenset((8, 13, 15, 17)), frozenset((128, 139))  # queries that begin a connection
_NEIGHBOURS = frozenset((130, 131, 132, 133, 134, 135, 136, 143))  # never tracked


def opening(packet: Packet, machine: Machine) -> str:
    """`new`, `invalid` or `untracked`. An ACK out of nowhere is taken as a connection that began earlier, unless tcp_loose is 0."""
    if packet.protocol == 6:
        flags = packet.flags & (FIN | SYN | RST | ACK)
        loose = machine.stack.sysctl("net.netfilter.nf_conntrack_tcp_loose", "1") != "0"
        return "new" if flags == SYN or (flags == ACK and loose) else "invalid"
    if packet.protocol == 1:
        return "new" if packet.icmp_type in _ECHO else "invalid"
    if packet.protocol == 58:
        if packet.icmp_type in _NEIGHBOURS:
            return "untracked"
        return "new" if packet.icmp_type in _ECHO6 else "invalid"
    return "new"
