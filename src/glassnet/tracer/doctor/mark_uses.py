"""Who uses which bits of the packet mark: every rule of iptables and nft, and every routing rule, that sets or tests it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from glassnet.net.errors import ParseError
from glassnet.ruleset.model import NFT, Rule, Table, XtPart
from glassnet.ruleset.nft_print import rule_text
from glassnet.ruleset.parse_iptables import parse_rule
from glassnet.ruleset.parse_nft import expressions
from glassnet.tracer.doctor.blame import place
from glassnet.tracer.evaluate.xt_targets import mark_change
from glassnet.tracer.explain import owner_of
from glassnet.tracer.machine import Machine

ALL = 0xFFFFFFFF
SET, TEST = "set", "test"


class Use(NamedTuple):
    """One use of the mark. `bits` are those it sets, clears, copies or tests, `clears` those it may clear. `owner` "": nobody's we know."""

    owner: str
    kind: str
    bits: int
    clears: int
    text: str
    rule: Rule | None = None

    @property
    def masked(self) -> bool:
        """False for a write to all bits at once."""
        return self.bits != ALL


def uses_of(machine: Machine) -> list[Use]:
    """All uses on one machine, rules with the same owner and bits once."""
    seen: dict[tuple[object, ...], Use] = {}
    for use in _all(machine):
        chain = use.rule.chain if use.rule is not None else None
        key = (use.owner, use.kind, use.bits, use.clears, chain.where if chain is not None and use.clears else "")
        seen.setdefault(key, use)
    return list(seen.values())


def _all(machine: Machine) -> Iterator[Use]:
    for table in machine.ruleset.tables:
        for rule in _marking(table):
            yield from use_of_rule(rule)
    for each in machine.stack.rules:
        if each.mask or each.mark:
            yield Use(
                "", TEST, each.mark if each.mask == ALL else each.mask, 0, f"ip rule: {each.text or each.priority}"
            )


def _marking(table: Table) -> Iterator[Rule]:
    """Rules that have the word in them."""
    for chain in table.chains.values():
        for index in range(len(chain)):
            if table.tool == NFT:
                raw = chain.raw[index]
                if "mark" in raw.text or b'"mark"' in bytes(raw.expr):
                    yield chain.rule(index)
            elif "mark" in (rule := chain.rule(index)).text or "MARK" in rule.text:
                yield rule


def use_of_rule(rule: Rule) -> list[Use]:
    """What one rule does with the mark."""
    owner = owner_of(rule.chain)[0]
    if rule.chain.table.tool != NFT:
        return list(_iptables(rule, owner))
    try:
        body = expressions(rule)
    except ParseError:
        return []
    if not rule.text:
        rule.text = rule_text(body, rule.comment)
    return list(_nft(rule, owner, body if isinstance(body, list) else []))


# ---- iptables


def _iptables(rule: Rule, owner: str) -> Iterator[Use]:
    parsed = parse_rule(rule.text)
    for part in parsed.matches:
        if part.name == "mark" and part.get("mark"):
            value, mask = _pair(part.get("mark"))
            yield Use(owner, TEST, value if mask == ALL else mask, 0, place(rule), rule)
    target = parsed.target
    if target is None:
        return
    try:
        change = _change(target)
    except ValueError:
        return
    if change is not None:
        bits, clears = effect(change)
        if bits:
            yield Use(owner, SET, bits, clears, place(rule), rule)


def _change(target: XtPart) -> Callable[[int], int] | None:
    """How a target changes the packet's mark. Raises ValueError for words it does not know."""
    if target.name == "MARK":
        return mark_change(target)
    if target.name == "CONNMARK" and any(option.name == "restore-mark" for option in target.options):
        mask = int(target.get("nfmask") or target.get("mask") or str(ALL), 0)
        return lambda mark: mark & ~mask & ALL
    if target.name == "TPROXY" and target.get("tproxy-mark"):
        value, mask = _pair(target.get("tproxy-mark"))
        return lambda mark: (mark & ~mask & ALL) ^ value
    return None


def effect(change: Callable[[int], int]) -> tuple[int, int]:
    """(bits that a change of the mark may alter, bits it may clear), told from what it makes of no bits and of all."""
    none, every = change(0) & ALL, change(ALL) & ALL
    return none | (~every & ALL), ~every & ALL


def _pair(text: str) -> tuple[int, int]:
    try:
        value, _, mask = text.partition("/")
        return int(value, 0), int(mask, 0) if mask else ALL
    except ValueError:
        return 0, 0


# ---- nft


def _nft(rule: Rule, owner: str, body: list[Any]) -> Iterator[Use]:
    for statement in body:
        if not isinstance(statement, dict):
            continue
        mangle, match = statement.get("mangle"), statement.get("match")
        if isinstance(mangle, dict) and _is_mark(mangle.get("key")):
            bits, clears = effect(partial(_evaluate, mangle.get("value")))
            if bits:
                yield Use(owner, SET, bits, clears, place(rule), rule)
        elif isinstance(match, dict):
            bits = _tested(match)
            if bits:
                yield Use(owner, TEST, bits, 0, place(rule), rule)


def _is_mark(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("meta"), dict) and value["meta"].get("key") == "mark"


def _evaluate(value: Any, mark: int) -> int:
    """An expression with the mark in it; what is not a number there (ct mark, a map) takes all bits: as if it cleared them."""
    if isinstance(value, int):
        return value
    if _is_mark(value):
        return mark
    if isinstance(value, dict) and len(value) == 1:
        ((sign, sides),) = value.items()
        if sign in ("|", "&", "^") and isinstance(sides, list) and len(sides) >= 2:
            found = _evaluate(sides[0], mark)
            for side in sides[1:]:
                other = _evaluate(side, mark)
                found = found | other if sign == "|" else found & other if sign == "&" else found ^ other
            return found
    return 0


def _tested(match: dict[str, Any]) -> int:
    left, right = match.get("left"), match.get("right")
    if _is_mark(left):
        return right if isinstance(right, int) else 0
    if isinstance(left, dict) and isinstance(left.get("&"), list) and len(left["&"]) == 2:
        first, second = left["&"]
        return second if _is_mark(first) and isinstance(second, int) else 0
    return 0
