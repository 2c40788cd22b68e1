"""Expressions of nft's language: what a rule looks at, constants, sets and maps, as the objects of libnftables-json(5)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from glassnet.ruleset import nft_fields as f
from glassnet.ruleset.nft_lexer import NotUnderstoodError, Tokens, constant, number, seconds, unquote

Json = Any
Typed = tuple[Json, str]  # an expression, and its type ("a . b" for a concatenation)

VERDICT = "verdict"
_DEEPEST = 40
_OPERATORS = {
    "<<": (4, "<<"), "lshift": (4, "<<"), ">>": (4, ">>"), "rshift": (4, ">>"), "&": (3, "&"), "and": (3, "&"), "^": (2, "^"),
    "xor": (2, "^"), "|": (1, "|"), "or": (1, "|"),
}  # fmt: skip
_SYMBOLIC = frozenset(
    {"inet_proto", "ether_type", "ifname", "string", "icmp_type", "icmpv6_type", "iface_type", VERDICT}
)
_BYTE_UNITS = ("bytes", "kbytes", "mbytes")
_INDEXED = re.compile(r"(?:addr|sid)\[[0-9]{1,3}\]")


# ---- expressions


def starts_expression(tokens: Tokens) -> bool:
    """Whether an expression comes next, not a constant."""
    word = tokens.peek()
    if word == "(" or (word[:1] == "@" and "," in word):
        return True
    if tokens.quoted() or not word:
        return False
    return word in _PRIMARIES or word in f.PAYLOADS or word in f.EXTENSION_HEADERS or word in f.UNQUALIFIED_META


def expression(tokens: Tokens) -> Typed:
    """An expression: parts joined by `.` are a concatenation."""
    parts = [_binary(tokens, 1)]
    while tokens.accept("."):
        parts.append(_binary(tokens, 1))
    if len(parts) == 1:
        return parts[0]
    return {"concat": [part for part, _ in parts]}, " . ".join(kind for _, kind in parts)


def _binary(tokens: Tokens, lowest: int) -> Typed:
    left, kind = _primary(tokens)
    return _operations(tokens, left, kind, lowest)


def _operations(tokens: Tokens, left: Json, kind: str, lowest: int) -> Typed:
    while True:
        strength, operator = _OPERATORS.get(tokens.peek(), (0, ""))
        if strength < lowest or not strength:
            return left, kind
        tokens.next()
        right = _operand(tokens, "integer" if strength == 4 else kind)
        while _OPERATORS.get(tokens.peek(), (0, ""))[0] > strength:
            right, _ = _operations(tokens, right, kind, strength + 1)
        left = {operator: [left, right]}


def _operand(tokens: Tokens, kind: str) -> Json:
    """The right side of an operator: an expression, or a constant of the left side's type."""
    if tokens.peek() != "(":
        return _primary(tokens)[0] if starts_expression(tokens) else constant(tokens.next(), kind)
    with_deeper(tokens)
    tokens.next()
    if starts_expression(tokens):
        inner, _ = _binary(tokens, 1)
    else:
        inner, _ = _operations(tokens, constant(tokens.next(), kind), kind, 1)
    tokens.expect(")")
    tokens.depth -= 1
    return inner


def with_deeper(tokens: Tokens) -> None:
    """Counts a level of brackets; so many are not understood."""
    tokens.depth += 1
    if tokens.depth > _DEEPEST:
        raise NotUnderstoodError("brackets in too many levels")


def _primary(tokens: Tokens) -> Typed:
    word = tokens.next()
    if word == "(":
        with_deeper(tokens)
        inner = expression(tokens)
        tokens.expect(")")
        tokens.depth -= 1
        return inner
    if word[:1] == "@" and "," in word:
        base, offset, length = word[1:].split(",")
        if len(offset) > 9 or len(length) > 9:
            raise NotUnderstoodError(f"{word!r} lies beyond any packet")
        return {"payload": {"base": base, "offset": int(offset), "len": int(length)}}, "integer"
    reader = _PRIMARIES.get(word)
    if reader:
        return reader(tokens, word)
    if word in f.PAYLOADS:
        return _payload(tokens, word)
    if word in f.EXTENSION_HEADERS:
        return _extension(tokens, word)
    if word in f.UNQUALIFIED_META:
        return {"meta": {"key": word}}, f.META[word]
    raise NotUnderstoodError(f"unknown word {word!r}")


def _payload(tokens: Tokens, protocol: str) -> Typed:
    field = tokens.next()
    if protocol == "arp" and field in ("saddr", "daddr") and tokens.peek() in ("ip", "ether"):
        field += " " + tokens.next()
    kind = f.PAYLOADS[protocol].get(field)
    if kind is not None:
        return {"payload": {"protocol": protocol, "field": field}}, kind
    if field == "option" and protocol == "tcp":
        return _option(tokens, "tcp option", f.TCP_OPTIONS)
    if field == "option" and protocol == "ip":
        return _option(tokens, "ip option", f.IP_OPTIONS)
    if field == "option" and protocol == "dccp":
        return {"dccp option": {"type": tokens.integer()}}, "boolean"
    if field == "chunk" and protocol == "sctp":
        return _chunk(tokens)
    if protocol in f.TUNNELS and field in f.PAYLOADS and field not in f.TUNNELS:
        inner, kind = _payload(tokens, field)
        if "payload" in inner:
            return {"payload": {"tunnel": protocol, **inner["payload"]}}, kind
    raise NotUnderstoodError(f"{protocol} has no field {field!r}")


def _option(tokens: Tokens, title: str, known: dict[str, tuple[str, ...]]) -> Typed:
    name = tokens.next()
    if title == "tcp option" and name.isascii() and name.isdigit() and len(name) < 4:
        return {title: {"base": int(name), "offset": 0, "len": 8}}, "boolean"
    if name not in known:
        raise NotUnderstoodError(f"unknown option {name!r}")
    if tokens.peek() in known[name]:
        field = tokens.next()
        return {title: {"name": name, "field": field}}, "ipv4_addr" if field == "addr" else "integer"
    return {title: {"name": name}}, "boolean"


def _chunk(tokens: Tokens) -> Typed:
    name = tokens.next()
    if name not in f.SCTP_CHUNKS:
        raise NotUnderstoodError(f"unknown chunk {name!r}")
    if tokens.peek() in f.SCTP_FIELDS:
        return {"sctp chunk": {"name": name, "field": tokens.next()}}, "integer"
    return {"sctp chunk": {"name": name}}, "boolean"


def _extension(tokens: Tokens, name: str) -> Typed:
    field = tokens.next()
    if name == "rt" and field in ("ip", "ip6") and tokens.peek() == "nexthop":
        tokens.next()
        return {"rt": {"key": "nexthop", "family": field}}, "ipv4_addr" if field == "ip" else "ipv6_addr"
    if name == "rt" and field in f.ROUTES:
        return {"rt": {"key": field}}, f.ROUTES[field]
    if _INDEXED.fullmatch(field):
        return {"exthdr": {"name": name, "field": field}}, "ipv6_addr"
    kind = f.EXTENSION_HEADERS[name].get(field)
    if kind is None:
        raise NotUnderstoodError(f"{name} has no field {field!r}")
    return {"exthdr": {"name": name, "field": field}}, kind


def _exthdr(tokens: Tokens, _: str) -> Typed:
    name = tokens.next()
    if name not in f.EXTENSION_HEADERS:
        raise NotUnderstoodError(f"unknown extension header {name!r}")
    return {"exthdr": {"name": name}}, "boolean"


def _meta(tokens: Tokens, _: str) -> Typed:
    key = tokens.next()
    if key not in f.META:
        raise NotUnderstoodError(f"unknown meta key {key!r}")
    return {"meta": {"key": "ipsec" if key == "secpath" else key}}, f.META[key]


def _ct(tokens: Tokens, _: str) -> Typed:
    key = tokens.next()
    found: dict[str, str] = {}
    if key in ("original", "reply"):
        found["dir"] = key
        key = tokens.next()
        if key in ("ip", "ip6"):
            key += " " + tokens.next()
    kind = f.CT.get(key, f.CT_ADDRESSES.get(key))
    if kind is None:
        raise NotUnderstoodError(f"unknown ct key {key!r}")
    return {"ct": {"key": key, **found}}, kind


def _fib(tokens: Tokens, _: str) -> Typed:
    flags = [tokens.next()]
    while tokens.accept("."):
        flags.append(tokens.next())
    result = tokens.next()
    if result not in f.FIB_RESULTS or not f.FIB_FLAGS.issuperset(flags):
        raise NotUnderstoodError(f"unknown fib {' . '.join(flags)} {result}")
    return {"fib": {"result": result, "flags": flags}}, f.FIB_RESULTS[result]


def _numgen(tokens: Tokens, _: str) -> Typed:
    mode = tokens.next()
    if mode not in ("inc", "random"):
        raise NotUnderstoodError(f"unknown numgen mode {mode!r}")
    tokens.expect("mod")
    modulus = tokens.integer()
    offset = tokens.integer() if tokens.accept("offset") else 0
    return {"numgen": {"mode": mode, "mod": modulus, "offset": offset}}, "integer"


def _hash(tokens: Tokens, word: str) -> Typed:
    with_deeper(tokens)
    inner = expression(tokens)[0] if word == "jhash" else None
    tokens.expect("mod")
    found: dict[str, Json] = {"mod": tokens.integer()}
    for option in ("seed", "offset"):
        if tokens.accept(option):
            found[option] = tokens.integer()
    if word == "jhash":
        found["expr"] = inner
    tokens.depth -= 1
    return {word: found}, "integer"


def _socket(tokens: Tokens, _: str) -> Typed:
    key = tokens.next()
    if key == "cgroupv2":
        tokens.expect("level")
        return {"socket": {"key": key, "level": tokens.integer()}}, "string"
    if key not in f.SOCKET:
        raise NotUnderstoodError(f"unknown socket key {key!r}")
    return {"socket": {"key": key}}, f.SOCKET[key]


def _osf(tokens: Tokens, _: str) -> Typed:
    ttl = {"ttl": tokens.next()} if tokens.accept("ttl") else {}
    key = tokens.next()
    if key not in ("name", "version"):
        raise NotUnderstoodError(f"unknown osf key {key!r}")
    return {"osf": {"key": key, **ttl}}, "string"


def _ipsec(tokens: Tokens, _: str) -> Typed:
    direction = tokens.next()
    place = tokens.integer() if tokens.accept("spnum") else 0
    key = tokens.next()
    found: dict[str, Json] = {"key": key, "dir": direction, "spnum": place}
    kind = "integer"
    if key in ("ip", "ip6"):
        found |= {"key": tokens.next(), "family": key}
        kind = "ipv4_addr" if key == "ip" else "ipv6_addr"
    if direction not in ("in", "out") or found["key"] not in ("reqid", "spi", "saddr", "daddr"):
        raise NotUnderstoodError(f"unknown ipsec key {key!r}")
    return {"ipsec": found}, kind


_PRIMARIES: dict[str, Callable[[Tokens, str], Typed]] = {
    "meta": _meta, "ct": _ct, "fib": _fib, "numgen": _numgen, "jhash": _hash, "symhash": _hash, "socket": _socket, "exthdr": _exthdr,
    "osf": _osf, "ipsec": _ipsec,
}  # fmt: skip


# ---- constants, sets and maps


def right_side(tokens: Tokens, kind: str) -> Json:
    """What a match compares with: a set, `@name`, constants, or another expression."""
    word = tokens.peek()
    if word == "{":
        return anonymous_set(tokens, kind)
    if word[:1] == "@" and "," not in word and len(word) > 1:
        return tokens.next()
    if word in ("exists", "missing") and not tokens.quoted():
        return tokens.next() == "exists"
    if kind not in _SYMBOLIC and starts_expression(tokens):
        return expression(tokens)[0]
    found = constants(tokens, kind)
    if tokens.peek() == ",":
        found = [found]
        while tokens.accept(","):
            found.append(constant(tokens.next(), kind))
    return found


def value(tokens: Tokens, kind: str) -> Json:
    """What `set` gives: a constant, an expression, or a map of one."""
    if tokens.peek(2) == "map" if kind in _SYMBOLIC else starts_expression(tokens):
        return mapped(tokens, kind)
    return right_side(tokens, kind)


def mapped(tokens: Tokens, data: str) -> Json:
    """An expression, or a map looked up with it whose data has this type."""
    key, kind = expression(tokens)
    if not tokens.accept("map"):
        return key
    return {"map": {"key": key, "data": map_data(tokens, kind, data)}}


def map_data(tokens: Tokens, kind: str, data: str) -> Json:
    """The map itself: `@name`, or one in braces."""
    word = tokens.peek()
    if word[:1] == "@" and "," not in word and len(word) > 1:
        return tokens.next()
    return anonymous_set(tokens, kind, data)


def constants(tokens: Tokens, kind: str) -> Json:
    """A constant, flags joined by `|`, or a concatenation."""
    kinds = kind.split(" . ")
    parts = [_flags(tokens, kinds[0])]
    while tokens.accept("."):
        parts.append(_flags(tokens, kinds[len(parts)] if len(parts) < len(kinds) else ""))
    return parts[0] if len(parts) == 1 else {"concat": parts}


def _flags(tokens: Tokens, kind: str) -> Json:
    if tokens.peek() == "(":
        return _operand(tokens, kind)
    found = constant(tokens.next(), kind)
    while tokens.accept("|"):
        found = {"|": [found, constant(tokens.next(), kind)]}
    return found


def verdict(tokens: Tokens) -> dict[str, Json]:
    """accept, drop, continue, return, jump, goto."""
    word = tokens.next()
    if word in ("jump", "goto"):
        return {word: {"target": tokens.string()}}
    if word in ("accept", "drop", "continue", "return"):
        return {word: None}
    raise NotUnderstoodError(f"unknown verdict {word!r}")


def anonymous_set(tokens: Tokens, kind: str, data: str | None = None) -> Json:
    """A set in braces, or a map when its data has a type."""
    tokens.expect("{")
    found = []
    while not tokens.accept("}"):
        found.append(element(tokens, kind, data))
        if tokens.peek() != "}":
            tokens.expect(",")
    return {"set": found}


def element(tokens: Tokens, kind: str, data: str | None = None) -> Json:
    """One element: a key with its timeout, comment and counters, and behind a colon its data."""
    key = "*" if tokens.accept("*") else constants(tokens, kind)
    options: dict[str, Json] = {}
    while tokens.peek() not in (",", "}", ":", ""):
        element_option(tokens, options)
    if options:
        key = {"elem": {"val": key, **options}}
    if data is None:
        return key
    tokens.expect(":")
    found = verdict(tokens) if data == VERDICT else constants(tokens, data)
    return [key, found]


def element_option(tokens: Tokens, options: dict[str, Json]) -> None:
    """What may follow an element's key."""
    if tokens.accept("timeout"):
        options["timeout"] = seconds(tokens.next())
    elif tokens.accept("expires"):
        options["expires"] = seconds(tokens.next())
    elif tokens.accept("comment"):
        options["comment"] = tokens.string()
    else:
        found = stateful(tokens)
        if found is None:
            raise NotUnderstoodError(f"unknown word {tokens.peek()!r} in an element")
        options.update(found)


# ---- statements that keep a state, in rules and in elements


def stateful(tokens: Tokens) -> dict[str, Json] | None:
    """counter, limit, quota, last, ct count; None when none of them comes next."""
    word = tokens.peek()
    if word == "counter":
        tokens.next()
        return {"counter": _counter(tokens)}
    if word == "limit":
        tokens.next()
        return {"limit": object_reference(tokens) if tokens.accept("name") else limit(tokens)}
    if word == "quota":
        tokens.next()
        return {"quota": object_reference(tokens) if tokens.accept("name") else quota(tokens)}
    if word == "last":
        tokens.next()
        return {"last": _last(tokens)}
    if word == "ct" and tokens.peek(1) == "count":
        tokens.accept("ct", "count")
        over = {"inv": True} if tokens.accept("over") else {}
        return {"ct count": {"val": tokens.integer(), **over}}
    return None


def _counter(tokens: Tokens) -> Json:
    if tokens.accept("name"):
        return object_reference(tokens)
    if not tokens.accept("packets"):
        return None
    packets = tokens.integer()
    tokens.expect("bytes")
    return {"packets": packets, "bytes": tokens.integer()}


def _last(tokens: Tokens) -> Json:
    if not tokens.accept("used"):
        return None
    from_then = tokens.next()
    return None if from_then == "never" else {"used": seconds(from_then) * 1000}


def object_reference(tokens: Tokens) -> Json:
    """A named object: its name, or a map that gives names."""
    if tokens.quoted() or not starts_expression(tokens):
        return tokens.string()
    return mapped(tokens, "string")


def limit(tokens: Tokens) -> Json:
    """`rate [over] N[ UNIT]/PERIOD [burst N UNIT]`."""
    tokens.expect("rate")
    inverse = tokens.accept("over")
    rate, slash, period = tokens.next().partition("/")
    unit = ""
    if not slash:
        unit, slash, period = tokens.next().partition("/")
    if (
        period not in ("second", "minute", "hour", "day", "week")
        or not rate.isascii()
        or not rate.isdigit()
        or len(rate) > 20
    ):
        raise NotUnderstoodError(f"unknown rate {rate!r}")
    if unit not in ("", "packets", *_BYTE_UNITS):
        raise NotUnderstoodError(f"unknown unit {unit!r}")
    in_bytes = unit in _BYTE_UNITS
    burst, burst_unit = (0, "bytes") if in_bytes else (5, "packets")
    if tokens.accept("burst"):
        burst, burst_unit = tokens.integer(), tokens.next()
    found: dict[str, Json] = {"rate": number(rate), "burst": burst, "per": period}
    if inverse:
        found["inv"] = True
    if in_bytes:
        found |= {"rate_unit": unit, "burst_unit": burst_unit}
    return found


def quota(tokens: Tokens) -> Json:
    """`[over] N UNIT [used N UNIT]`."""
    inverse = tokens.accept("over")
    if not inverse:
        tokens.accept("until")
    found: dict[str, Json] = {"val": tokens.integer(), "val_unit": _unit(tokens)}
    if inverse:
        found["inv"] = True
    if tokens.accept("used"):
        found |= {"used": tokens.integer(), "used_unit": _unit(tokens)}
    return found


def _unit(tokens: Tokens) -> str:
    unit = tokens.next()
    if unit not in _BYTE_UNITS:
        raise NotUnderstoodError(f"unknown unit {unit!r}")
    return unquote(unit)
