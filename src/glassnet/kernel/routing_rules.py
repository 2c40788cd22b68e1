"""Routing rules by rtnetlink, packed by hand: what `ip rule` adds and takes away.

Sources: ip-rule(8), rtnetlink(7); include/uapi/linux/fib_rules.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from glassnet.netstack import ops

_NEWRULE, _DELRULE, _EXCL, _CREATE = 32, 33, 0x200, 0x400
_RULE = struct.Struct("=BBBBBxxBI")  # struct fib_rule_hdr
_DST, _SRC, _IIFNAME, _PRIORITY, _FWMARK, _TABLE, _FWMASK, _PROTOCOL = 1, 2, 3, 6, 10, 15, 16, 21
_TO_TABLE = 1  # FR_ACT_TO_TBL

Message = tuple[int, int, bytes]


def _attr(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def _body(op: ops.AddRule | ops.DelRule) -> bytes:
    lengths, more = [0, 0], b""
    for place, (kind, text) in enumerate(((_DST, op.destination), (_SRC, op.source))):
        if text:
            network = ip_network(text)
            lengths[place] = network.prefixlen
            more += _attr(kind, network.network_address.packed)
    if op.iif:
        more += _attr(_IIFNAME, op.iif.encode() + b"\0")
    if op.mark:
        more += _attr(_FWMARK, struct.pack("=I", op.mark)) + _attr(_FWMASK, struct.pack("=I", op.mask or 0xFFFFFFFF))
    if op.protocol:
        more += _attr(_PROTOCOL, struct.pack("=B", op.protocol))
    more += _attr(_PRIORITY, struct.pack("=I", op.priority)) + _attr(_TABLE, struct.pack("=I", op.table))
    family = socket.AF_INET6 if op.family == 6 else socket.AF_INET
    return _RULE.pack(family, *lengths, 0, op.table if op.table < 256 else 0, _TO_TABLE, 0) + more


def _add(_: Any, op: ops.AddRule) -> Message:
    return _NEWRULE, _CREATE | _EXCL, _body(op)


def _delete(_: Any, op: ops.DelRule) -> Message:
    return _DELRULE, 0, _body(op)


PACK: dict[type, Callable[[Any, Any], Message]] = {ops.AddRule: _add, ops.DelRule: _delete}
