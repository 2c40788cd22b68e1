"""Values in nft rules: what an expression reads from a packet, of which type, and what a literal of that type is as a number.

Source: nft(8), libnftables-json(5), net/netfilter/nft_{payload,meta,ct,fib,numgen,hash}.c of Linux. Addresses, ports, marks and flags are
numbers, names of interfaces are text, a concatenation is a tuple. None: the packet has no such field, and the rule ends (NFT_BREAK).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from glassnet.net import address
from glassnet.net.tristate import Unknown
from glassnet.tracer.evaluate.jhash import jhash
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import PORTED, PROTOCOLS, Packet


class Spread(NamedTuple):
    """A value the kernel picks: each with its probability."""

    values: tuple[tuple[float, Any], ...]
    reason: str


Getter = Callable[[Packet, Machine], Any]


class Source(NamedTuple):
    """An expression ready to read: the types of its parts (one unless it is a concatenation), and the reader."""

    kinds: tuple[str, ...]
    read: Getter


class NotUnderstood(Exception):
    """An expression or literal that is not known; the text says which."""


# -- literals

CT_STATE = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_CT_STATUS = {"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512}
_TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_ICMP = {
    "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8, "router-advertisement": 9,
    "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12, "timestamp-request": 13, "timestamp-reply": 14,
    "info-request": 15, "info-reply": 16, "address-mask-request": 17, "address-mask-reply": 18,
}  # fmt: skip
_ICMPV6 = {
    "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4, "echo-request": 128, "echo-reply": 129,
    "mld-listener-query": 130, "mld-listener-report": 131, "mld-listener-done": 132, "mld-listener-reduction": 132, "nd-router-solicit": 133,
    "nd-router-advert": 134, "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138,
    "ind-neighbor-solicit": 141, "ind-neighbor-advert": 142, "mld2-listener-report": 143,
}  # fmt: skip
_DSCP = {
    **{f"cs{n}": 8 * n for n in range(8)}, **{f"af{n}{m}": 8 * n + 2 * m for n in range(1, 5) for m in range(1, 4)},
    "be": 0, "ef": 46, "lephb": 1, "va": 44, "voice-admit": 44,
}  # fmt: skip
_PROTO = PROTOCOLS | {"ipv6-icmp": 58, "udplite": 136, "comp": 108}
_NAMES: dict[str, dict[str, int]] = {
    "inet_proto": _PROTO, "ct_state": CT_STATE, "ct_status": _CT_STATUS, "tcp_flag": _TCP_FLAGS, "icmp_type": _ICMP, "icmpv6_type": _ICMPV6,
    "dscp": _DSCP,
    "nf_proto": {"ipv4": 2, "ipv6": 10}, "ether_type": {"ip": 0x800, "ip6": 0x86DD, "arp": 0x806, "vlan": 0x8100},
    "ct_dir": {"original": 0, "reply": 1}, "boolean": {"exists": 1, "missing": 0},
    "inet_service": {"ssh": 22, "domain": 53, "http": 80, "https": 443, "mdns": 5353, "ntp": 123, "bootps": 67, "bootpc": 68},
}  # fmt: skip
FLAG_KINDS = frozenset(("ct_state", "ct_status", "tcp_flag"))
TEXT_KINDS = frozenset(("ifname", "fib_addrtype", "pkt_type", "ether_addr", "string"))


def literal(kind: str, value: Any) -> tuple[Any, Any]:
    """(low, high) of a literal of a type: a single value, a prefix or a range; text for names. Raises NotUnderstood."""
    if isinstance(value, dict):
        if "prefix" in value:
            found = value["prefix"]
            low, mask, bits = address.prefix(f"{found['addr']}/{found['len']}")
            return low, low | ((1 << bits) - 1 ^ mask)
        if "range" in value:
            first, last = value["range"]
            return literal(kind, first)[0], literal(kind, last)[1]
        if "elem" in value:
            return literal(kind, value["elem"]["val"])
        if "|" in value:
            joined = 0
            for part in value["|"]:
                joined |= literal(kind, part)[0]
            return joined, joined
        raise NotUnderstood(f"value {value}")
    if isinstance(value, list) and kind in FLAG_KINDS:
        joined = 0
        for part in value:
            joined |= literal(kind, part)[0]
        return joined, joined
    if isinstance(value, bool):
        return (int(value), int(value))
    if isinstance(value, int):
        return value, value
    if not isinstance(value, str):
        raise NotUnderstood(f"value {value!r} for {kind}")
    return _word(kind, value)


def _word(kind: str, value: str) -> tuple[Any, Any]:
    if kind == "ipv4_addr":  # the most there are
        try:
            number = address.number(value)
        except ValueError:
            pass
        else:
            return number, number
    if kind in TEXT_KINDS:
        return value, value
    names = _NAMES.get(kind, {})
    if value in names:
        return names[value], names[value]
    if found := address.canonical(value.partition("/")[0]):
        if "/" in value:
            low, mask, bits = address.prefix(value)
            return low, low | ((1 << bits) - 1 ^ mask)
        number = address.number(found)
        return number, number
    if value == "*":
        return 0, (1 << 128) - 1
    low_text, dash, high_text = value.removesuffix(" [invalid type]").partition(
        "-"
    )  # so nft 1.0 prints some ports in maps
    try:
        return int(low_text, 0), int(high_text, 0) if dash else int(low_text, 0)
    except ValueError:
        raise NotUnderstood(f"{value!r} as a value of type {kind}") from None


# -- expressions


def source(expression: Any) -> Source:
    """How to read an expression. Raises NotUnderstood."""
    if isinstance(expression, (int, str, bool)):
        value = literal("", expression)[0] if not isinstance(expression, str) else _constant(expression)
        return Source(("",), lambda packet, machine: value)
    if not isinstance(expression, dict) or len(expression) != 1:
        raise NotUnderstood(f"expression {expression}")
    ((name, body),) = expression.items()
    maker = _EXPRESSIONS.get(name)
    if maker is None:
        raise NotUnderstood(f"expression {name}")
    return maker(body)


def _constant(text: str) -> Any:
    found = address.canonical(text)
    return address.number(found) if found else text


def _concat(body: list[Any]) -> Source:
    parts = [source(each) for each in body]
    kinds = tuple(kind for part in parts for kind in part.kinds)

    def read(packet: Packet, machine: Machine) -> Any:
        values, chosen = [], False
        for part in parts:
            value = part.read(packet, machine)
            if value is None or isinstance(value, Unknown):
                return value
            chosen = chosen or isinstance(value, Spread)
            values.append(value)
        return _product(values) if chosen else tuple(values)

    return Source(kinds, read)


def _product(values: list[Any]) -> Spread:
    """A tuple with parts that the kernel picks: every combination, with its probability."""
    ways: list[tuple[float, tuple[Any, ...]]] = [(1.0, ())]
    for value in values:
        each = value.values if isinstance(value, Spread) else ((1.0, value),)
        ways = [(share * chance, (*start, part)) for share, start in ways for chance, part in each]
    return Spread(tuple(ways), "; ".join(value.reason for value in values if isinstance(value, Spread)))


def _field(kind: str, read: Callable[[Packet], Any], bits: int = 0, protocols: frozenset[int] = frozenset()) -> Source:
    def get(packet: Packet, machine: Machine) -> Any:
        if (bits and packet.bits != bits) or (protocols and packet.protocol not in protocols):
            return None
        return read(packet)

    return Source((kind,), get)


def _hardware(packet: Packet, which: str) -> Any:
    value = packet.hardware_source if which == "saddr" else packet.hardware_destination
    return value or Unknown(f"ether {which}", "the MAC address is not known")


_TCP = frozenset((6,))
_PAYLOADS: dict[tuple[str, str], Source] = {
    ("ip", "saddr"): _field("ipv4_addr", lambda p: p.src, 32),
    ("ip", "daddr"): _field("ipv4_addr", lambda p: p.dst, 32),
    ("ip", "protocol"): _field("inet_proto", lambda p: p.protocol, 32),
    ("ip", "ttl"): _field("integer", lambda p: p.ttl, 32),
    ("ip", "length"): _field("integer", lambda p: p.length, 32),
    ("ip", "dscp"): _field("dscp", lambda p: p.dscp, 32),
    ("ip", "version"): _field("integer", lambda p: 4, 32),
    ("ip", "hdrlength"): _field("integer", lambda p: 5, 32),
    ("ip", "frag-off"): _field("integer", lambda p: 0x4000, 32),
    ("ip6", "saddr"): _field("ipv6_addr", lambda p: p.src, 128),
    ("ip6", "daddr"): _field("ipv6_addr", lambda p: p.dst, 128),
    ("ip6", "nexthdr"): _field("inet_proto", lambda p: p.protocol, 128),
    ("ip6", "hoplimit"): _field("integer", lambda p: p.ttl, 128),
    ("ip6", "dscp"): _field("dscp", lambda p: p.dscp, 128),
    ("tcp", "flags"): _field("tcp_flag", lambda p: p.flags, 0, _TCP),
    ("icmp", "type"): _field("icmp_type", lambda p: p.icmp_type, 0, frozenset((1,))),
    ("icmp", "code"): _field("integer", lambda p: p.icmp_code, 0, frozenset((1,))),
    ("icmpv6", "type"): _field("icmpv6_type", lambda p: p.icmp_type, 0, frozenset((58,))),
    ("icmpv6", "code"): _field("integer", lambda p: p.icmp_code, 0, frozenset((58,))),
    ("ether", "saddr"): _field("ether_addr", lambda p: _hardware(p, "saddr")),
    ("ether", "daddr"): _field("ether_addr", lambda p: _hardware(p, "daddr")),
    ("ether", "type"): _field("ether_type", lambda p: 0x800 if p.bits == 32 else 0x86DD),
}
for _name in ("tcp", "udp", "sctp", "dccp", "udplite"):
    _which = frozenset((PROTOCOLS[_name],))
    _PAYLOADS[_name, "sport"] = _field("inet_service", lambda p: p.sport, 0, _which)
    _PAYLOADS[_name, "dport"] = _field("inet_service", lambda p: p.dport, 0, _which)

# `th` reads any transport header: in one without ports there are other things, which no rule means and no exact key equals.
_PAYLOADS["th", "sport"] = _field("inet_service", lambda p: p.sport if p.protocol in PORTED else NO_PORT)
_PAYLOADS["th", "dport"] = _field("inet_service", lambda p: p.dport if p.protocol in PORTED else NO_PORT)
_PAYLOADS["icmp", "checksum"] = _field("integer", lambda p: NO_PORT, 0, frozenset((1,)))
_PAYLOADS["icmpv6", "checksum"] = _field("integer", lambda p: NO_PORT, 0, frozenset((58,)))
NO_PORT = 1 << 16


def _payload(body: dict[str, Any]) -> Source:
    if "base" in body:
        place = (body["base"], body["offset"], body["len"])
        if place == ("th", 0, 16):
            return _PAYLOADS["th", "sport"]
        if place == ("th", 16, 16):
            return _PAYLOADS["th", "dport"]
        raise NotUnderstood(f"bits of the packet: @{place[0]},{place[1]},{place[2]}")
    found = _PAYLOADS.get((body["protocol"], body["field"]))
    if found is not None:
        return found
    if body["protocol"] in ("arp", "vlan"):
        return Source(("integer",), lambda packet, machine: None)
    raise NotUnderstood(f"field {body['protocol']} {body['field']}")


def _incoming(packet: Packet) -> str | None:
    return packet.iif if packet.hook not in ("output", "postrouting") or packet.iif else None


_ALL31 = 0x7FFFFFFF


def _meta(body: dict[str, Any]) -> Source:
    key = body["key"]
    found = _META.get(key)
    if found is None:
        if key in (
            "skuid",
            "skgid",
            "cgroup",
            "cpu",
            "rtclassid",
            "iifgroup",
            "oifgroup",
            "priority",
            "time",
            "day",
            "hour",
            "secpath",
            "sdif",
        ):
            answer = Unknown(f"meta {key}", "a dump does not tell it")
            return Source(("integer",), lambda packet, machine: answer)
        raise NotUnderstood(f"meta {key}")
    return found


_META: dict[str, Source] = {
    "mark": _field("mark", lambda p: p.mark),
    "l4proto": _field("inet_proto", lambda p: p.protocol),
    "nfproto": _field("nf_proto", lambda p: 2 if p.bits == 32 else 10),
    "protocol": _field("ether_type", lambda p: 0x800 if p.bits == 32 else 0x86DD),
    "length": _field("integer", lambda p: p.length),
    "iifname": _field("ifname", _incoming),
    "iif": _field("ifname", _incoming),
    "oifname": _field("ifname", lambda p: p.oif or None),
    "oif": _field("ifname", lambda p: p.oif or None),
    "pkttype": _field("pkt_type", lambda p: "multicast" if p.bits == 32 and p.dst >> 28 == 14 else "host"),
    "nftrace": _field("integer", lambda p: 0),
}


def _ct(body: dict[str, Any]) -> Source:
    key, direction = body["key"], body.get("dir", "")
    if key == "state":
        return Source(("ct_state",), lambda packet, machine: CT_STATE[packet.state])
    reader = _CT.get(key)
    if reader is None:
        answer = Unknown(f"ct {key}", "a dump does not tell it")
        return Source(("integer",), lambda packet, machine: answer)
    kind, read = reader

    def get(packet: Packet, machine: Machine) -> Any:
        if packet.connection is None:
            return None
        return read(packet, direction or ("reply" if packet.reply else "original"))

    if kind == "address":
        kind = "ipv6_addr" if body.get("family") == "ip6" else "ipv4_addr"
    return Source((kind,), get)


def _status(packet: Packet, direction: str) -> int:
    connection = packet.connection
    assert connection is not None
    bits = 16 * (connection.snat and connection.translates_source) + 32 * (
        connection.dnat and connection.translates_destination
    )
    bits |= (
        128 * connection.snat + 256 * connection.dnat
    )  # IPS_SRC_NAT_DONE, IPS_DST_NAT_DONE: `!=` and `==` look at all bits
    if packet.state != "new" or connection.confirmed:
        bits |= 8 | 2 * (connection.replied or packet.reply) | 4 * connection.assured
    return bits


def _tuple(original: str, reply: str) -> Callable[[Packet, str], int]:
    return lambda packet, direction: int(getattr(packet.connection, reply if direction == "reply" else original))


_CT: dict[str, tuple[str, Callable[[Packet, str], Any]]] = {
    "mark": ("mark", lambda p, d: p.connection.mark if p.connection else 0),
    "status": ("ct_status", _status),
    "direction": ("ct_dir", lambda p, d: int(p.reply)),
    "protocol": ("inet_proto", lambda p, d: p.protocol),
    "l3proto": ("nf_proto", lambda p, d: 2 if p.bits == 32 else 10),
    "saddr": ("address", _tuple("src", "reply_src")),
    "daddr": ("address", _tuple("dst", "reply_dst")),
    "ip saddr": ("ipv4_addr", _tuple("src", "reply_src")),
    "ip daddr": ("ipv4_addr", _tuple("dst", "reply_dst")),
    "ip6 saddr": ("ipv6_addr", _tuple("src", "reply_src")),
    "ip6 daddr": ("ipv6_addr", _tuple("dst", "reply_dst")),
    "proto-src": ("inet_service", _tuple("sport", "reply_sport")),
    "proto-dst": ("inet_service", _tuple("dport", "reply_dport")),
    "zone": ("integer", lambda p, d: p.connection.zone if p.connection else 0),
}


def _fib(body: dict[str, Any]) -> Source:
    flags = body["flags"] if isinstance(body["flags"], list) else [body["flags"]]
    result = body["result"]
    by_source = "saddr" in flags

    def read(packet: Packet, machine: Machine) -> Any:
        dev = packet.iif if "iif" in flags else packet.oif if "oif" in flags else ""
        if result == "type":
            if {"addr", "route"} <= machine.stack.missing:
                return Unknown("fib type", f"nobody dumped the addresses of {machine.name}")
            return machine.fib.type_of(packet.src if by_source else packet.dst, packet.bits, dev)
        if not by_source:
            return Unknown(f"fib {' . '.join(flags)} {result}", "only reverse path lookups are understood")
        by_device, at_all = machine.fib.reverse_path(packet, packet.iif)
        found = by_device if dev else at_all
        if result == "oif" or result == "check":
            return int(found or packet.iif == "lo")
        return Unknown(f"fib {' . '.join(flags)} {result}", "this result is not understood")

    return Source(("fib_addrtype" if result == "type" else "boolean",), read)


def _numgen(body: dict[str, Any]) -> Source:
    modulus, offset = int(body["mod"]), int(body.get("offset", 0))
    if modulus < 1:
        raise NotUnderstood("numgen with a modulus below 1")
    how = "at random" if body.get("mode") == "random" else "in turn"
    found = Spread(tuple((1 / modulus, offset + n) for n in range(modulus)), f"one of {modulus}, {how}")
    return Source(("integer",), lambda packet, machine: found if modulus > 1 else offset)


def _jhash(body: dict[str, Any]) -> Source:
    modulus, offset, seed = int(body["mod"]), int(body.get("offset", 0)), body.get("seed")
    inner = source(body["expr"])
    spread = Spread(
        tuple((1 / modulus, offset + n) for n in range(modulus)),
        f"one of {modulus}, by a hash whose seed is not listed",
    )

    def read(packet: Packet, machine: Machine) -> Any:
        value = inner.read(packet, machine)
        if value is None or isinstance(value, (Unknown, Spread)):
            return value
        if seed is None or value == NO_PORT or (isinstance(value, tuple) and NO_PORT in value):
            return spread
        return offset + (jhash(_register(inner.kinds, value), int(seed)) * modulus >> 32)

    return Source(("integer",), read)


_SIZES = {"ipv4_addr": 4, "ipv6_addr": 16, "inet_proto": 1, "inet_service": 2, "mark": 4, "integer": 4}


def _register(kinds: tuple[str, ...], value: Any) -> bytes:
    """The bytes the kernel hashes: parts of a concatenation each in 32-bit registers, padded with zeros; a single value without padding."""
    found = b""
    values = value if isinstance(value, tuple) else (value,)
    for kind, part in zip(kinds, values, strict=True):
        size = _SIZES.get(kind)
        if size is None:
            raise NotUnderstood(f"a hash over {kind}")
        order = "little" if kind in ("mark", "integer") else "big"
        whole = -(-size // 4) * 4 if len(kinds) > 1 else size
        found += int(part).to_bytes(size, order).ljust(whole, b"\0")  # type: ignore[arg-type]
    return found


def _random(body: Any) -> Source:
    raise NotUnderstood("a random number outside numgen")


def _bitwise(operator: str) -> Callable[[list[Any]], Source]:
    def make(body: list[Any]) -> Source:
        if body and isinstance(body[0], dict) and body[0].get("meta", {}).get("key") == "random":
            return Source(("random",), lambda packet, machine: Unknown("meta random", "a random number"))
        first = source(body[0])
        others = [_operand(first.kinds[0], part) for part in body[1:]]

        def read(packet: Packet, machine: Machine) -> Any:
            value = first.read(packet, machine)
            for other in others:
                right = other(packet, machine)
                if value is None or isinstance(value, (Unknown, Spread)):
                    return value
                if right is None or isinstance(right, (Unknown, Spread)):
                    return right
                value = _calculate(operator, value, right)
            return value

        return Source(first.kinds, read)

    return make


def _operand(kind: str, part: Any) -> Getter:
    if isinstance(part, dict) and not ({"prefix", "range", "|"} & set(part)):
        return source(part).read
    value = literal(kind, part)[0]
    return lambda packet, machine: value


def _calculate(operator: str, left: int, right: int) -> int:
    match operator:
        case "&":
            return left & right
        case "|":
            return left | right
        case "^":
            return left ^ right
        case "<<":
            return left << right & 0xFFFFFFFF
        case _:
            return left >> right


def _hidden(name: str) -> Callable[[Any], Source]:
    answer = Unknown(name, "a dump does not tell it")
    return lambda body: Source(("integer",), lambda packet, machine: answer)


_EXPRESSIONS: dict[str, Callable[[Any], Source]] = {
    "payload": _payload, "meta": _meta, "ct": _ct, "fib": _fib, "numgen": _numgen, "jhash": _jhash, "concat": _concat, "&": _bitwise("&"),
    "|": _bitwise("|"), "^": _bitwise("^"), "<<": _bitwise("<<"), ">>": _bitwise(">>"), "socket": _hidden("socket"), "rt": _hidden("rt"),
    "osf": _hidden("osf"), "ipsec": _hidden("ipsec"), "exthdr": _hidden("exthdr"), "tcp option": _hidden("tcp option"),
    "ip option": _hidden("ip option"), "symhash": _hidden("symhash"), "tunnel": _hidden("tunnel"),
}  # fmt: skip
