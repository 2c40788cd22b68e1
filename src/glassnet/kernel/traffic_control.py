"""Traffic control by rtnetlink, packed by hand and read: what tc(8) does for the qdiscs, classes and filters that shape a pod's traffic.

Sources: tc(8), tc-tbf(8), tc-htb(8), tc-u32(8), tc-mirred(8); include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls,if_link}.h,
include/uapi/linux/tc_act/tc_mirred.h. Rates are bytes a second, times ticks of 64 ns (PSCHED_SHIFT in include/net/pkt_sched.h).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Network, ip_network
from typing import Any, Protocol

from glassnet.kernel.api import NetNs
from glassnet.kernel.network_state import attributes, find_link, link_at
from glassnet.netstack import ops
from glassnet.netstack.model import Shaper, Shaping

_NEWLINK, _NEWQDISC, _DELQDISC, _GETQDISC, _NEWCLASS, _GETCLASS, _NEWFILTER, _GETFILTER, _NEWACTION = (
    16, 36, 37, 38, 40, 42, 44, 46, 48,
)  # fmt: skip
_EXCL, _CREATE = 0x200, 0x400
_LINK, _TC = struct.Struct("=BxHiII"), struct.Struct("=BxxxiIII")  # struct ifinfomsg, struct tcmsg
_KIND, _OPTIONS = 1, 2
_ROOT, _INGRESS_PARENT, _INGRESS, _FIRST = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0x00010000
_ETH_ALL, _ETH_IP, _ETH_IPV6 = (socket.htons(one) for one in (0x0003, 0x0800, 0x86DD))
_IFF_UP = 1
_LOOPBACK = 1  # the number of `lo` in every network namespace
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: no table of rates is asked for then
_U32_MAX = 0xFFFFFFFF
_REDIRECT, _STOLEN = 1, 4  # TCA_EGRESS_REDIR, TC_ACT_STOLEN

Message = tuple[int, int, bytes]


class Indexes(Protocol):
    """Who knows the numbers of interfaces."""

    def index(self, name: str) -> int:
        """The number of an interface. Raises KernelError."""


def _attr(kind: int, data: bytes = b"") -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def _u32(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def _text(kind: int, value: str) -> bytes:
    return _attr(kind, value.encode() + b"\0")


def _rate(rate: int, linklayer: int = 0) -> bytes:
    """struct tc_ratespec; a rate beyond 32 bits goes into an attribute of its own too."""
    return struct.pack("=BBHhHI", 0, linklayer, 0, 0, 0, min(rate, _U32_MAX))


def _wide(kind: int, rate: int) -> bytes:
    return struct.pack("=HHQ", 12, kind, rate) if rate > _U32_MAX else b""


# -- links


def _add_ifb(_: Indexes, op: ops.AddIfb) -> Message:
    body = _LINK.pack(0, 0, 0, 0, 0) + _text(3, op.name)
    if op.mtu:
        body += _u32(4, op.mtu)
    if op.txqlen:
        body += _u32(13, op.txqlen)
    return _NEWLINK, _CREATE | _EXCL, body + _attr(18, _attr(1, b"ifb"))


def _mark_link(_: Indexes, op: ops.MarkLink) -> Message:
    return _NEWLINK, 0, _LINK.pack(0, 0, 0, _IFF_UP, _IFF_UP) + _text(3, op.name) + _text(20, op.alias)


# -- qdiscs and classes


def _qdisc(index: int, handle: int, parent: int, kind: str, options: bytes) -> Message:
    body = _TC.pack(0, index, handle, parent, 0) + _text(_KIND, kind)
    return _NEWQDISC, _CREATE | _EXCL, body + (_attr(_OPTIONS, options) if options else b"")


def _add_tbf(netlink: Indexes, op: ops.AddTbf) -> Message:
    parameters = _rate(op.rate) + _rate(0) + struct.pack("=III", op.limit, op.buffer, 0)  # struct tc_tbf_qopt
    return _qdisc(netlink.index(op.dev), _FIRST, _ROOT, "tbf", _attr(1, parameters) + _wide(4, op.rate))


def _add_htb(netlink: Indexes, op: ops.AddHtb) -> Message:
    parameters = struct.pack("=IIIII", 3, 10, op.default, 0, 0)  # struct tc_htb_glob: version 3, rate2quantum 10
    return _qdisc(netlink.index(op.dev), _FIRST, _ROOT, "htb", _attr(2, parameters))


def _add_htb_class(netlink: Indexes, op: ops.AddHtbClass) -> Message:
    quantum = max(2000, min(op.rate // 10, 200_000))  # what the kernel takes without a remark (htb_change_class)
    spec = _rate(op.rate, _ETHERNET)
    parameters = spec + spec + struct.pack("=IIIII", op.buffer, op.buffer, quantum, 0, 0)  # struct tc_htb_opt
    options = _attr(1, parameters) + _wide(6, op.rate) + _wide(7, op.rate)
    body = _TC.pack(0, netlink.index(op.dev), _FIRST | op.minor, _FIRST, 0) + _text(_KIND, "htb")
    return _NEWCLASS, _CREATE | _EXCL, body + _attr(_OPTIONS, options)


def _add_ingress(netlink: Indexes, op: ops.AddIngress) -> Message:
    return _qdisc(netlink.index(op.dev), _INGRESS, _INGRESS_PARENT, "ingress", b"")


def _del_qdisc(netlink: Indexes, op: ops.DelQdisc) -> Message:
    handle, parent = (_INGRESS, _INGRESS_PARENT) if op.ingress else (_FIRST, _ROOT)
    return _DELQDISC, 0, _TC.pack(0, netlink.index(op.dev), handle, parent, 0)


# -- filters


def _filter(index: int, parent: int, priority: int, protocol: int, options: bytes) -> Message:
    body = _TC.pack(0, index, 0, parent, priority << 16 | protocol) + _text(_KIND, "u32")
    return _NEWFILTER, _CREATE | _EXCL, body + _attr(_OPTIONS, options)


def _selector(keys: list[tuple[bytes, bytes, int]]) -> bytes:
    """TCA_U32_SEL: the filter matches (TC_U32_TERMINAL) where the masked words of a packet are these; offsets from the network header."""
    head = struct.pack("=BBBxHHhHI", 1, 0, len(keys), 0, 0, 0, 0, 0)
    return _attr(5, head + b"".join(mask + value + struct.pack("=ii", offset, 0) for mask, value, offset in keys))


def _add_redirect(netlink: Indexes, op: ops.AddRedirect) -> Message:
    parameters = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _REDIRECT, netlink.index(op.target))  # struct tc_mirred
    action = _attr(1, _text(1, "mirred") + _attr(2, _attr(2, parameters)))
    options = _u32(1, _FIRST | 1) + _selector([(bytes(4), bytes(4), 0)]) + _attr(7, action)
    return _filter(netlink.index(op.dev), _INGRESS, 1, _ETH_ALL, options)


def _add_subnet_filter(netlink: Indexes, op: ops.AddSubnetFilter) -> Message:
    subnet = ip_network(op.subnet, strict=False)
    wide = isinstance(subnet, IPv6Network)
    start = (8 if op.source else 24) if wide else (12 if op.source else 16)  # RFC 8200, RFC 791
    mask, value = subnet.netmask.packed, subnet.network_address.packed
    words = [
        (mask[at : at + 4], value[at : at + 4], start + at) for at in range(0, len(mask), 4) if any(mask[at : at + 4])
    ]
    priority, protocol = (15, _ETH_IPV6) if wide else (16, _ETH_IP)
    options = _u32(1, _FIRST | op.minor) + _selector(words or [(bytes(4), bytes(4), start)])
    return _filter(netlink.index(op.dev), _FIRST, priority, protocol, options)


# -- what the kernel has


def _probe(_: Indexes, op: ops.ProbeShaping) -> Message:
    """A link without queues, a qdisc and an action without parameters: refused as such by a kernel that knows the kind."""
    match op.what:
        case "ifb":
            return _NEWLINK, _CREATE | _EXCL, _LINK.pack(0, 0, 0, 0, 0) + _u32(31, 0) + _attr(18, _attr(1, b"ifb"))
        case "mirred":
            return _NEWACTION, _CREATE, struct.pack("=Bxxx", 0) + _attr(1, _attr(1, _text(1, "mirred")))
    return _qdisc(_LOOPBACK, 0, _ROOT, op.what, b"")


PACK: dict[type, Callable[[Any, Any], Message]] = {
    ops.AddIfb: _add_ifb,
    ops.MarkLink: _mark_link,
    ops.AddTbf: _add_tbf,
    ops.AddHtb: _add_htb,
    ops.AddHtbClass: _add_htb_class,
    ops.AddSubnetFilter: _add_subnet_filter,
    ops.AddIngress: _add_ingress,
    ops.AddRedirect: _add_redirect,
    ops.DelQdisc: _del_qdisc,
    ops.ProbeShaping: _probe,
}


# -- reading


def read_shaping(netns: NetNs, dev: str) -> Shaping:
    """How a link's packets are held back; an empty value when there is no such link. Raises KernelError."""
    link = find_link(netns, dev)
    if link is None:
        return Shaping()
    return Shaping(_root(netns, link.index), tuple(_redirected(netns, link.index)))


def _root(netns: NetNs, index: int) -> Shaper | None:
    for body in netns.request(_GETQDISC, _TC.pack(0, index, 0, 0, 0), dump=True):
        _, number, _, parent, _ = _TC.unpack_from(body)
        if number != index or parent != _ROOT:
            continue
        parts = attributes(body, 20)
        kind, options = parts.get(_KIND, b"").rstrip(b"\0").decode(), attributes(parts.get(_OPTIONS, b""), 0)
        if kind == "tbf":
            limit, buffer = struct.unpack_from("=II", options[1], 24)
            return Shaper(kind, _read_rate(options[1], options.get(4)), buffer, limit)
        if kind == "htb":
            return _htb_class(netns, index, struct.unpack_from("=III", options[2])[2])
        return Shaper(kind)
    return None


def _htb_class(netns: NetNs, index: int, default: int) -> Shaper:
    for body in netns.request(_GETCLASS, _TC.pack(0, index, 0, 0, 0), dump=True):
        if _TC.unpack_from(body)[2] == _FIRST | default:
            options = attributes(attributes(body, 20).get(_OPTIONS, b""), 0)
            buffer = struct.unpack_from("=I", options[1], 24)[0]
            return Shaper("htb", _read_rate(options[1], options.get(6)), buffer, default=default)
    return Shaper("htb", default=default)


def _read_rate(parameters: bytes, wide: bytes | None) -> int:
    return int(struct.unpack("=Q", wide)[0] if wide else struct.unpack_from("=I", parameters, 8)[0])


def _redirected(netns: NetNs, index: int) -> list[str]:
    """Where filters of what comes in redirect to."""
    found: list[str] = []
    for body in netns.request(_GETFILTER, _TC.pack(0, index, 0, _INGRESS, 0), dump=True):
        options = attributes(attributes(body, 20).get(_OPTIONS, b""), 0)
        for action in attributes(options.get(7, b""), 0).values():
            parts = attributes(action, 0)
            if parts.get(_KIND, b"").rstrip(b"\0") == b"mirred":
                parameters = attributes(parts.get(2, b""), 0).get(2, b"")
                target = link_at(netns, struct.unpack_from("=I", parameters, 24)[0]) if len(parameters) >= 28 else None
                found += [target.name] if target else []
    return found
