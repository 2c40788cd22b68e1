"""Statements of nft's language: one rule line to the list of `expr` objects that `nft -j list ruleset` gives for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from glassnet.ruleset.nft_grammar import (
    VERDICT,
    constants,
    element_option,
    expression,
    map_data,
    mapped,
    object_reference,
    right_side,
    starts_expression,
    stateful,
    value,
    verdict,
)
from glassnet.ruleset.nft_lexer import FLAG_TYPES, NotUnderstoodError, Tokens, constant, unquote

Json = Any
Statement = dict[str, Json]

_TAIL = re.compile(r'(?: comment "(?P<comment>[^"]*)")?(?: # handle (?P<handle>[0-9]{1,18}))?$')
_RELATIONS = {
    "==": "==", "!=": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!": "!", "eq": "==", "ne": "!=", "lt": "<", "gt": ">",
    "le": "<=", "ge": ">=",
}  # fmt: skip
_NAT_FLAGS = ("random", "fully-random", "persistent")
_REFUSALS = {"ip": "icmp", "ip6": "icmpv6", "inet": "icmpx", "bridge": "icmpx", "netdev": "icmpx"}


def parse_rule(text: str, family: str = "") -> list[Statement]:
    """The statements of one rule line, as `nft -j` gives them under `expr`.

    `family` is that of the table; only a bare `reject` needs it. What is not understood, and all that follows it, becomes one object
    `{"unknown": text, "reason": why}`.
    """
    text, _, _ = split_tail(text)
    tokens = Tokens(text)
    out: list[Statement] = []
    while tokens.place < len(tokens.words):
        start = tokens.place
        if tokens.accept(";"):
            continue
        try:
            out.append(_statement(tokens, family))
        except NotUnderstoodError as error:
            out.append({"unknown": tokens.rest(start), "reason": str(error)})
            break
    return out


def split_tail(text: str) -> tuple[str, str | None, int | None]:
    """A rule line without what follows its statements: (statements, comment, handle)."""
    text = text.strip()
    if text[-1:] != '"' and " # handle " not in text:
        return text, None, None
    if text.startswith('comment "'):
        text = " " + text
    match = _TAIL.search(text)
    if not match:
        return text, None, None
    handle = int(match["handle"]) if match["handle"] else None
    return text[: match.start()].strip(), match["comment"], handle


def _statement(tokens: Tokens, family: str) -> Statement:
    word = tokens.peek()
    if word == "reject":
        tokens.next()
        return {"reject": _reject(tokens, family)}
    reader = _STATEMENTS.get(word)
    if reader:
        tokens.next()
        return reader(tokens, word)
    if tokens.kinds[tokens.place] == "note":
        return {"xt": {"type": "", "name": tokens.next().partition("xt_")[2]}}
    if word in ("accept", "drop", "continue", "return", "jump", "goto"):
        return verdict(tokens)
    found = _ct_statement(tokens) if word == "ct" else None
    found = found or stateful(tokens)
    return found if found is not None else _expression_statement(tokens)


def _expression_statement(tokens: Tokens) -> Statement:
    """A match, a change (`set`), or a verdict map."""
    if not starts_expression(tokens):
        raise NotUnderstoodError(f"unknown word {tokens.peek()!r}")
    left, kind = expression(tokens)
    if tokens.accept("set"):
        found = value(tokens, kind)
        if left == {"meta": {"key": "secmark"}}:
            return {"secmark": found}
        return {"mangle": {"key": left, "value": found}}
    if tokens.accept("vmap"):
        return {"vmap": {"key": left, "data": map_data(tokens, kind, VERDICT)}}
    operator = _RELATIONS.get(tokens.peek(), "")
    if operator:
        tokens.next()
    right = right_side(tokens, kind)
    if tokens.accept("/"):
        masked = {"&": [left, right_side(tokens, kind)]}
        return {"match": {"op": operator or "==", "left": masked, "right": right}}
    if not operator:
        listed = (isinstance(right, dict) and "set" in right) or (isinstance(right, str) and right[:1] == "@")
        operator = "in" if kind in FLAG_TYPES and not listed and "&" not in left else "=="
    return {"match": {"op": operator, "left": left, "right": right}}


def _ct_statement(tokens: Tokens) -> Statement | None:
    """`ct helper set`, `ct timeout set`, `ct expectation set`; None for what `ct` is otherwise."""
    key = tokens.peek(1)
    if key in ("helper", "timeout", "expectation") and tokens.peek(2) == "set":
        tokens.accept("ct", key, "set")
        return {f"ct {key}": object_reference(tokens)}
    return None


def _reject(tokens: Tokens, family: str) -> Json:
    if not tokens.accept("with"):
        kind = _REFUSALS.get(family)
        return {"type": kind, "expr": "port-unreachable"} if kind else None
    if tokens.accept("tcp", "reset"):
        return {"type": "tcp reset"}
    kind = tokens.next()
    if kind not in ("icmp", "icmpv6", "icmpx"):
        raise NotUnderstoodError(f"unknown answer {kind!r}")
    tokens.accept("type")
    return {"type": kind, "expr": constant(tokens.next(), f"{kind}_code")}


# ---- translation


def _nat(tokens: Tokens, word: str) -> Statement:
    found: dict[str, Json] = {}
    if tokens.peek() in ("ip", "ip6") and tokens.peek(1) in ("to", "prefix", "interval", "addr"):
        found["family"] = tokens.next()
    prefix = tokens.accept("prefix")
    if not prefix and not tokens.accept("interval"):
        tokens.accept("addr", ".", "port")
    if tokens.accept("to"):
        _destination(tokens, found, ports_first=word in ("masquerade", "redirect"))
    flags = ["netmap"] if prefix else []
    while tokens.peek() in _NAT_FLAGS:
        flags.append(tokens.next())
        if not tokens.accept(","):
            break
    if flags:
        found["flags"] = flags[0] if len(flags) == 1 else flags
    if prefix:
        found["type_flags"] = "prefix"
    if not found and word in ("snat", "dnat"):
        raise NotUnderstoodError(f"{word} without an address")
    return {word: found or None}


def _destination(tokens: Tokens, found: dict[str, Json], ports_first: bool = False) -> None:
    """Where to: an address, a port, both, or a map that gives them."""
    word = tokens.peek()
    if word[:1] != ":" and not tokens.quoted() and starts_expression(tokens):
        address = mapped(tokens, " . inet_service")
        if ports_first:
            raise NotUnderstoodError("a port was expected")
        found["addr"] = address
        word = tokens.peek()
        if word[:1] == ":":
            found["port"] = _port_behind_colon(tokens)
        return
    if word[:1] == ":" and not word.startswith("::"):
        found["port"] = _port_behind_colon(tokens)
        return
    tokens.next()
    address, port = _address_and_port(word)
    if word[-1] == ":" and not port and tokens.quoted() and word[-2:] != "::":
        address, port = address.rstrip(":"), tokens.next()  # services by name: 1.2.3.4:"http"
    found["addr"] = constant(address)
    if port:
        found["port"] = constant(port, "inet_service")
    if not isinstance(found["addr"], dict) and not re.search("[.:]", str(found["addr"])):
        raise NotUnderstoodError(f"{word!r} is no address")


def _port_behind_colon(tokens: Tokens) -> Json:
    word = tokens.next()[1:]
    if word:
        place = tokens.place - 1
        if word[:1].isdigit():
            return constant(word, "inet_service")
        tokens.words[place] = word
        tokens.place = place
    if starts_expression(tokens):
        return mapped(tokens, "inet_service")
    return constant(tokens.next(), "inet_service")


def _address_and_port(word: str) -> tuple[str, str]:
    """`1.2.3.4:80`, `[fe80::1]:80`, ranges of both, or an address alone."""
    if word[:1] == "[":
        address, bracket, port = word.rpartition("]")
        if bracket and (not port or port[0] == ":"):
            return address.replace("[", "").replace("]", ""), port[1:]
        raise NotUnderstoodError(f"{word!r} is no address")
    if word.count(":") == 1:
        address, _, port = word.partition(":")
        return address, port
    return word, ""


def _tproxy(tokens: Tokens, word: str) -> Statement:
    found: dict[str, Json] = {}
    if tokens.peek() in ("ip", "ip6"):
        found["family"] = tokens.next()
    tokens.expect("to")
    _destination(tokens, found)
    return {word: found}


def _duplicate(tokens: Tokens, word: str) -> Statement:
    tokens.expect("to")
    found = {"addr": _device(tokens)}
    if tokens.accept("device"):
        found["dev"] = _device(tokens)
    return {word: found}


def _forward(tokens: Tokens, word: str) -> Statement:
    if tokens.accept("to"):
        return {word: {"dev": _device(tokens)}}
    family = tokens.next()
    if family not in ("ip", "ip6"):
        raise NotUnderstoodError(f"unknown family {family!r}")
    tokens.expect("to")
    address = _device(tokens)
    tokens.expect("device")
    return {word: {"dev": _device(tokens), "family": family, "addr": address}}


def _device(tokens: Tokens) -> Json:
    return mapped(tokens, "") if starts_expression(tokens) else constant(tokens.next())


# ---- others


def _log(tokens: Tokens, word: str) -> Statement:
    found: dict[str, Json] = {}
    flags: list[str] = []
    while True:
        option = tokens.peek()
        if option in ("prefix", "level"):
            tokens.next()
            found[option] = tokens.string()
        elif option in ("group", "snaplen", "queue-threshold"):
            tokens.next()
            found[option] = tokens.integer()
        elif option == "flags":
            tokens.next()
            flags += _log_flags(tokens)
        else:
            break
    if flags:
        found["flags"] = flags[0] if len(flags) == 1 else flags
    return {word: found or None}


def _log_flags(tokens: Tokens) -> list[str]:
    kind = tokens.next()
    if kind in ("all", "skuid", "ether"):
        return [kind]
    known = {"tcp": ("sequence", "options"), "ip": ("options",)}.get(kind, ())
    found = []
    while tokens.peek() in known:
        found.append(f"{kind} {tokens.next()}")
        if not tokens.accept(","):
            break
    if not found:
        raise NotUnderstoodError(f"unknown flag {kind!r}")
    return found


def _queue(tokens: Tokens, word: str) -> Statement:
    found: dict[str, Json] = {}
    flags: list[str] = []

    def read_flags() -> None:
        while tokens.peek() in ("bypass", "fanout"):
            flags.append(tokens.next())
            tokens.accept(",")

    if tokens.accept("flags"):
        read_flags()
    if tokens.accept("to") or tokens.accept("num"):
        found["num"] = mapped(tokens, "integer") if starts_expression(tokens) else constant(tokens.next(), "integer")
    read_flags()
    if flags:
        found["flags"] = flags[0] if len(flags) == 1 else flags
    return {word: found or None}


def _synproxy(tokens: Tokens, word: str) -> Statement:
    if tokens.accept("name"):
        return {word: object_reference(tokens)}
    return {word: synproxy_options(tokens) or None}


def synproxy_options(tokens: Tokens) -> dict[str, Json]:
    """`mss N wscale N timestamp sack-perm`; zeros are left out, as nft -j does."""
    found: dict[str, Json] = {}
    flags = []
    while True:
        option = tokens.peek()
        if option in ("mss", "wscale"):
            tokens.next()
            amount = tokens.integer()
            if amount:
                found[option] = amount
        elif option in ("timestamp", "sack-perm"):
            flags.append(tokens.next())
        else:
            break
    if flags:
        found["flags"] = flags[0] if len(flags) == 1 else flags
    return found


def _dynamic_set(tokens: Tokens, word: str) -> Statement:
    """`add @set { key [timeout T] [statements] [: data] }`."""
    name = tokens.next()
    if name[:1] != "@" or "," in name:
        raise NotUnderstoodError(f"{name!r} is no set")
    tokens.expect("{")
    elem, statements = _dynamic_element(tokens)
    data = None
    is_map = tokens.accept(":")
    if is_map:
        if starts_expression(tokens):
            data = mapped(tokens, "")
        else:
            data = constants(tokens, " . inet_service")
    tokens.expect("}")
    found: dict[str, Json] = {"op": word, "elem": elem}
    found |= {"data": data, "map": name} if is_map else {"set": name}
    if statements:
        found["stmt"] = statements
    return {"map" if is_map else "set": found}


def _dynamic_element(tokens: Tokens) -> tuple[Json, list[Statement]]:
    key = expression(tokens)[0] if starts_expression(tokens) else constants(tokens, "")
    options: dict[str, Json] = {}
    statements: list[Statement] = []
    while tokens.peek() not in ("}", ":", ""):
        found = stateful(tokens)
        if found is not None:
            statements.append(found)
        else:
            element_option(tokens, options)
    return ({"elem": {"val": key, **options}} if options else key), statements


def _meter(tokens: Tokens, word: str) -> Statement:
    found: dict[str, Json] = {"name": unquote(tokens.next())}
    if tokens.accept("size"):
        found["size"] = tokens.integer()
    tokens.expect("{")
    found["key"], statements = _dynamic_element(tokens)
    tokens.expect("}")
    if len(statements) != 1:
        raise NotUnderstoodError("a meter has one statement")
    return {word: {**found, "stmt": statements[0]}}


def _flow(tokens: Tokens, word: str) -> Statement:
    if not tokens.accept("add"):
        tokens.expect("offload")
    name = tokens.next()
    if name[:1] != "@":
        raise NotUnderstoodError(f"{name!r} is no flowtable")
    return {word: {"op": "add", "flowtable": name}}


def _xt(tokens: Tokens, word: str) -> Statement:
    kind = tokens.next()
    if kind not in ("match", "target", "watcher"):
        raise NotUnderstoodError(f"unknown xt {kind!r}")
    return {word: {"type": kind, "name": tokens.string()}}


def _reset(tokens: Tokens, word: str) -> Statement:
    found, _ = expression(tokens)
    if "tcp option" not in found:
        raise NotUnderstoodError("only a TCP option can be reset")
    return {word: found}


def _notrack(tokens: Tokens, word: str) -> Statement:
    return {word: None}


_STATEMENTS: dict[str, Callable[[Tokens, str], Statement]] = {
    "snat": _nat, "dnat": _nat, "masquerade": _nat, "redirect": _nat, "tproxy": _tproxy, "dup": _duplicate, "fwd": _forward, "log": _log,
    "queue": _queue, "synproxy": _synproxy, "add": _dynamic_set, "update": _dynamic_set, "delete": _dynamic_set, "meter": _meter,
    "flow": _flow, "xt": _xt, "reset": _reset, "notrack": _notrack,
}  # fmt: skip
