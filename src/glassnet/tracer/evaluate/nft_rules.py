"""Rules of nft, compiled when first met: matches to questions, statements to changes and verdicts.

Source: nft(8), libnftables-json(5), net/netfilter/nft_*.c of Linux. A statement that is not known ends the rule as unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from glassnet.net.errors import ParseError
from glassnet.net.tristate import Answer, Chance, Unknown
from glassnet.ruleset.model import Rule, Table
from glassnet.ruleset.parse_nft import expressions
from glassnet.tracer.evaluate import verdicts as v
from glassnet.tracer.evaluate.nft_sets import SetIndex, named_index
from glassnet.tracer.evaluate.nft_values import FLAG_KINDS, NotUnderstood, Source, Spread, literal, source
from glassnet.tracer.evaluate.verdicts import Effect, Translation, Verdict
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import Packet

Result = Answer | Effect | Spread | None
Operation = Callable[[Packet, Machine], Any]
_PASS = frozenset(
    ("counter", "log", "last", "limit pass", "ct helper", "ct timeout", "ct expectation", "flow", "secmark", "dup")
)
_VERDICTS = {"accept": v.ACCEPT, "drop": v.DROP, "return": v.RETURN}


class Compiled:
    """A rule ready to run: operations in order. `is_test` tells questions from what changes the packet or decides."""

    __slots__ = ("operations",)

    def __init__(self, rule: Rule) -> None:
        table = rule.chain.table
        self.operations: list[tuple[bool, Operation]] = []
        try:
            body = rule.body = expressions(rule)
        except ParseError as error:
            self.operations.append((False, _end(str(error))))
            return
        if not rule.text:
            from glassnet.ruleset.nft_print import rule_text

            rule.text = rule_text(body, rule.comment)
        for statement in body if isinstance(body, list) else [body]:
            try:
                if not isinstance(statement, dict) or len(statement) != 1:
                    raise NotUnderstood(f"statement {statement}")
                ((name, words),) = statement.items()
                self._add(name, words, table)
            except (
                NotUnderstood,
                KeyError,
                ValueError,
                TypeError,
                IndexError,
                AttributeError,
                RecursionError,
            ) as error:
                self.operations.append((False, _end(str(error) or repr(error))))
                return

    def _add(self, name: str, body: Any, table: Table) -> None:
        if name in _PASS:
            return
        if name == "match":
            self.operations.append((True, _match(body, table)))
        elif name == "xt":
            test = _xt(body)
            if test is not None:
                self.operations.append((True, test))
        elif name == "limit":
            reason = f"limit rate {body.get('rate', '')}/{body.get('per', '')}: depends on how many packets came before"
            self.operations.append((True, lambda packet, machine: Chance(None, reason)))
        elif name == "quota" or name == "ct count":
            self.operations.append((True, lambda packet, machine: Chance(None, f"{name}: depends on what came before")))
        else:
            self.operations.append((False, _statement(name, body, table)))


def _end(reason: str) -> Operation:
    verdict = Verdict(v.UNKNOWN, f"not understood: {reason}")
    return lambda packet, machine: verdict


def _xt(body: dict[str, Any]) -> Operation | None:
    """What iptables-nft left in a listing of nft: the module's name, without its options."""
    name = body.get("name", "") if isinstance(body, dict) else str(body)
    if name == "comment":
        return None
    answer = Unknown(f"xt {name}", "nft does not print the options of iptables' modules: add iptables-save to the dump")
    return lambda packet, machine: answer


# -- matches


def _match(body: dict[str, Any], table: Table) -> Operation:
    left = source(body["left"]) if not _random_share(body["left"]) else None
    if left is None:
        return _share(body)
    operator, right = body.get("op", "=="), body["right"]
    found = _index(right, left.kinds, table)
    if found is not None:
        return _membership(left, found, operator == "!=")
    if isinstance(right, dict) and not ({"prefix", "range", "|", "elem", "concat"} & set(right)):
        return _comparison(left, operator, source(right))
    if len(left.kinds) > 1:
        return _membership(left, lambda machine: SetIndex([right], left.kinds, False), operator == "!=")
    low, high = literal(left.kinds[0], right)
    return _bounds(left, operator, low, high)


def _random_share(left: Any) -> bool:
    return isinstance(left, dict) and left.get("&", [{}])[0] == {"meta": {"key": "random"}}


def _share(body: dict[str, Any]) -> Operation:
    """`meta random & 2147483647 < N`: how nft shows iptables' statistic."""
    share = int(body["right"]) / (int(body["left"]["&"][1]) + 1)
    return lambda packet, machine: Chance(share, f"a share of {share:.3g} of the packets, at random")


def _index(right: Any, kinds: tuple[str, ...], table: Table) -> Callable[[Machine], SetIndex] | None:
    """The set a match or map refers to, or None. Raises NotUnderstood."""
    if isinstance(right, str) and right.startswith("@"):
        named = table.sets.get(right[1:])
        if named is None:
            raise NotUnderstood(f"set {right[1:]}, which the listing of table {table.name} does not have")
        return lambda machine: named_index(named, kinds)
    if isinstance(right, dict) and "set" in right:
        elements = right["set"]
        made = SetIndex(elements if isinstance(elements, list) else [elements], kinds, False)
        return lambda machine: made
    return None


def _each(value: Any, test: Callable[[Any], bool]) -> Answer:
    """A question about a value that may be missing, unknown or the kernel's choice."""
    if value is None:
        return False
    if isinstance(value, Unknown):
        return value
    if isinstance(value, Spread):
        share = sum(weight for weight, each in value.values if test(each))
        return Chance(share, value.reason) if 0 < share < 1 - 1e-9 else share > 0
    return test(value)


def _open(found: Callable[[Machine], SetIndex], machine: Machine) -> SetIndex | Unknown:
    """The index of a set, or why there is none."""
    try:
        return found(machine)
    except (NotUnderstood, ParseError, KeyError, ValueError, TypeError) as error:
        return Unknown("elements of a set", str(error) or repr(error))


def _membership(left: Source, found: Callable[[Machine], SetIndex], negated: bool) -> Operation:
    def test(packet: Packet, machine: Machine) -> Answer:
        index = _open(found, machine)
        if isinstance(index, Unknown):
            return index
        return _each(left.read(packet, machine), lambda value: (index.find(value) is not None) != negated)

    return test


def _comparison(left: Source, operator: str, right: Source) -> Operation:
    def test(packet: Packet, machine: Machine) -> Answer:
        other = right.read(packet, machine)
        if other is None:
            return False
        if isinstance(other, Unknown):
            return other
        return _each(left.read(packet, machine), lambda value: _compare(operator, value, other, other, False))

    return test


def _bounds(left: Source, operator: str, low: Any, high: Any) -> Operation:
    flags = left.kinds[0] in FLAG_KINDS
    if isinstance(low, str) and low.endswith("*") and left.kinds[0] == "ifname":
        start, wanted = low[:-1], operator != "!="
        return lambda packet, machine: _each(
            left.read(packet, machine), lambda value: value.startswith(start) == wanted
        )
    return lambda packet, machine: _each(
        left.read(packet, machine), lambda value: _compare(operator, value, low, high, flags)
    )


def _compare(operator: str, value: Any, low: Any, high: Any, flags: bool) -> bool:
    match operator:
        case "==":
            return bool(low <= value <= high)
        case "!=":
            return not low <= value <= high
        case "in":
            return bool(value & low) if flags else bool(low <= value <= high)
        case "<":
            return bool(value < low)
        case ">":
            return bool(value > high)
        case "<=":
            return bool(value <= low)
        case ">=":
            return bool(value >= high)
    raise NotUnderstood(f"operator {operator}")


# -- statements


def _statement(name: str, body: Any, table: Table) -> Operation:
    if name in _VERDICTS:
        verdict = Verdict(_VERDICTS[name])
        return lambda packet, machine: verdict
    if name == "continue":
        return lambda packet, machine: None
    if name in ("jump", "goto"):
        verdict = Verdict(v.JUMP if name == "jump" else v.GOTO, body["target"])
        return lambda packet, machine: verdict
    maker = _STATEMENTS.get(name)
    if maker is None:
        raise NotUnderstood(f"statement {name}")
    return maker(body, table)


def _verdict_of(data: Any) -> Verdict:
    """A verdict as an element of a verdict map has it."""
    if isinstance(data, str):
        data = {data: None}
    ((name, body),) = data.items()
    if name in ("jump", "goto"):
        return Verdict(v.JUMP if name == "jump" else v.GOTO, body["target"])
    if name == "continue":
        return Verdict(v.CONTINUE)
    return Verdict(_VERDICTS[name])


def _lookup(body: dict[str, Any], table: Table) -> tuple[Source, Callable[[Machine], SetIndex]]:
    key, data = source(body["key"]), body["data"]
    if isinstance(data, str) and data.startswith("@"):
        named = table.sets.get(data[1:])
        if named is None:
            raise NotUnderstood(f"map {data[1:]}, which the listing of table {table.name} does not have")
        return key, lambda machine: named_index(named, key.kinds)
    elements = data["set"] if isinstance(data, dict) and "set" in data else data
    made = SetIndex(elements, key.kinds, True)
    return key, lambda machine: made


def _vmap(body: dict[str, Any], table: Table) -> Operation:
    key, found = _lookup(body, table)

    def decide(packet: Packet, machine: Machine) -> Any:
        value = key.read(packet, machine)
        if value is None or isinstance(value, Unknown):
            return value if value is not None else False
        index = _open(found, machine)
        if isinstance(index, Unknown):
            return index
        if isinstance(value, Spread):
            return Spread(
                tuple((share, _verdict_or_no(index.find(each))) for share, each in value.values), value.reason
            )
        return _verdict_or_no(index.find(value))

    return decide


def _verdict_or_no(data: Any) -> Any:
    if data is None:
        return False
    verdict = _verdict_of(data)
    return None if verdict.kind == v.CONTINUE else verdict


def _value(expression: Any, table: Table) -> Callable[[Packet, Machine], Any]:
    """A value to set or to translate to: a literal, an expression, a lookup in a map."""
    if isinstance(expression, dict) and "map" in expression:
        key, found = _lookup(expression["map"], table)

        def read(packet: Packet, machine: Machine) -> Any:
            value = key.read(packet, machine)
            if value is None or isinstance(value, Unknown):
                return value
            index = _open(found, machine)
            if isinstance(index, Unknown):
                return index
            if isinstance(value, Spread):
                return Spread(tuple((share, _data(index.find(each))) for share, each in value.values), value.reason)
            return _data(index.find(value))

        return read
    if isinstance(expression, dict) and ({"range", "prefix", "concat"} & set(expression)):
        fixed = _data(expression)
        return lambda packet, machine: fixed
    if isinstance(expression, dict):
        return source(expression).read
    fixed = _data(expression)
    return lambda packet, machine: fixed


def _data(data: Any) -> Any:
    """Data of a map or a literal: a number, a (low, high) pair in a `Range`, a tuple of parts."""
    if data is None:
        return None
    if isinstance(data, dict) and "concat" in data:
        return tuple(_data(part) for part in data["concat"])
    low, high = literal("", data)
    return low if low == high else Range(low, high)


class Range(NamedTuple):
    """A range of values to choose from."""

    low: Any
    high: Any


def _mangle(body: dict[str, Any], table: Table) -> Operation:
    ((kind, words),) = body["key"].items()
    read = _value(body["value"], table)
    key = str(words.get("key", words.get("field", ""))) if isinstance(words, dict) else ""
    if kind == "ct" and key == "zone":
        raise NotUnderstood("ct zone: connection tracking zones are not modelled")

    def change(packet: Packet, machine: Machine) -> Any:
        value = read(packet, machine)
        if value is None:
            return False
        if isinstance(value, Unknown):
            return Verdict(v.UNKNOWN, f"{kind} {key} set to a value that is not known: {value}")
        if isinstance(value, Spread):
            return Spread(tuple((share, Setting(kind, key, each)) for share, each in value.values), value.reason)
        return apply_setting(packet, kind, key, value)

    return change


class Setting(NamedTuple):
    """A change of a field whose value the kernel chose."""

    kind: str
    key: str
    value: Any


def apply_setting(packet: Packet, kind: str, key: str, value: Any) -> None:
    """Write a field of the packet. Fields that rules cannot see are left alone."""
    if kind == "meta" and key == "mark":
        packet.mark = value & 0xFFFFFFFF
    elif kind == "ct" and key == "mark":
        if packet.connection is not None:
            packet.connection.mark = value & 0xFFFFFFFF
    elif kind == "payload" and key in ("saddr", "daddr", "sport", "dport", "ttl", "hoplimit", "dscp"):
        name = {"saddr": "src", "daddr": "dst", "hoplimit": "ttl"}.get(key, key)
        setattr(packet, name, value)


def _nat(body: Any, table: Table, is_source: bool, own: bool = False) -> Operation:
    body = body or {}
    place = _value(body["addr"], table) if "addr" in body else None
    port = _value(body["port"], table) if "port" in body else None
    flags = body.get("flags", [])
    flags = [flags] if isinstance(flags, str) else flags
    random = "random" in flags or "fully-random" in flags

    def translate(packet: Packet, machine: Machine) -> Any:
        target = place(packet, machine) if place else None
        ports = port(packet, machine) if port else None
        for value in (target, ports):
            if isinstance(value, Unknown):
                return Verdict(v.UNKNOWN, f"the address to translate to is not known: {value}")
        if place is not None and target is None:
            return False
        if isinstance(target, Spread):
            return Spread(
                tuple(
                    (share, _translation(is_source, each, ports, own, random) if each is not None else False)
                    for share, each in target.values
                ),
                target.reason,
            )
        return _translation(is_source, target, ports, own, random)

    return translate


def _translation(is_source: bool, target: Any, ports: Any, own: bool, random: bool) -> Translation:
    if isinstance(target, tuple) and not isinstance(target, Range):
        target, ports = target
    low, high = target if isinstance(target, Range) else (target, target)
    first, last = ports if isinstance(ports, Range) else (ports, ports)
    return Translation(is_source, low, high, first, last, own, random)


def _reject(body: Any, table: Table) -> Operation:
    body = body or {}
    kind = body.get("type", "icmpx")
    words = "tcp-reset" if kind == "tcp reset" else f"{kind} {body.get('expr', 'port-unreachable')}"
    verdict = Verdict(v.REJECT, words)
    return lambda packet, machine: verdict


def _notrack(body: Any, table: Table) -> Operation:
    def act(packet: Packet, machine: Machine) -> None:
        if packet.connection is None:
            packet.state = "untracked"

    return act


def _queue(body: Any, table: Table) -> Operation:
    verdict = Verdict(v.QUEUE, f"queue {(body or {}).get('num', 0)}")
    return lambda packet, machine: verdict


def _tproxy(body: dict[str, Any], table: Table) -> Operation:
    def act(packet: Packet, machine: Machine) -> None:
        packet.local_socket = True

    return act


def _nothing(body: Any, table: Table) -> Operation:
    return lambda packet, machine: None


_STATEMENTS: dict[str, Callable[[Any, Table], Operation]] = {
    "vmap": _vmap,
    "mangle": _mangle,
    "dnat": lambda body, table: _nat(body, table, False),
    "snat": lambda body, table: _nat(body, table, True),
    "masquerade": lambda body, table: _nat(body, table, True, True),
    "redirect": lambda body, table: _nat(body, table, False, True),
    "reject": _reject,
    "notrack": _notrack,
    "queue": _queue,
    "tproxy": _tproxy,
    "set": _nothing,
    "map": _nothing,
    "meter": _nothing,
    "reset": _nothing,
}
