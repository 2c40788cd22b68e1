"""Rules of iptables, compiled when first met; and an index from a packet to the rules of a chain that can match it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from glassnet.net import address
from glassnet.net.tristate import Answer
from glassnet.ruleset.model import Chain, Rule, XtRule, uncollected
from glassnet.ruleset.parse_iptables import comment_of, parse_rule
from glassnet.tracer.evaluate.xt_fields import Test
from glassnet.tracer.evaluate.xt_matches import compile_match
from glassnet.tracer.evaluate.xt_targets import Action, compile_target
from glassnet.tracer.machine import Machine
from glassnet.tracer.packet import Packet

_SMALL = 24  # chains below this size are read through
_EXACT = re.compile(
    r"(?:\[\d+:\d+\] )?-A \S+ (?:(?P<srcneg>! )?-s (?P<src>[\da-f.:]+)(?P<srclen>/\d+)? )?(?:(?P<dstneg>! )?-d (?P<dst>[\da-f.:]+)(?P<dstlen>/\d+)? )?"
).match
_PORT = re.compile(r"(?<!! )--dport (\d+)(?: |$)").search
_FULL = ("/32", "/128", None)


@functools.lru_cache(maxsize=16384)
def _questions(text: str) -> tuple[XtRule, str, list[Test]]:
    """A rule's text taken apart, its comment, its questions. The nodes of a cluster have most rules in common."""
    body = parse_rule(text)
    return body, comment_of(body), [compile_match(part) for part in body.matches if part.name != "comment"]


@functools.lru_cache(maxsize=16384)
def _action(text: str, is_jump: bool) -> Action:
    """What a rule does; `is_jump` tells that its target is a chain of its table."""
    body = _questions(text)[0]
    names = {body.target.name} if body.target is not None and is_jump else set()
    return compile_target(body.target, names, body.goto)


class Compiled:
    """A rule ready to run: its questions, cheapest first as written, and its action."""

    __slots__ = ("act", "tests")

    def __init__(self, rule: Rule) -> None:
        rule.body, rule.comment, self.tests = _questions(rule.text)
        target = rule.body.target
        self.act = _action(rule.text, target is not None and target.name in rule.chain.table.chains)

    def answers(self, packet: Packet, machine: Machine) -> Iterable[Answer]:
        """What each match says."""
        for test in self.tests:
            yield test(packet, machine)


class Index:
    """Positions of a chain's rules by the one exact value they ask for: destination, else destination port, else source."""

    def __init__(self, chain: Chain, lines: list[str]) -> None:
        self.by_destination: dict[int, list[int]] = {}
        self.by_port: dict[int, list[int]] = {}
        self.by_source: dict[int, list[int]] = {}
        self.others: list[int] = []
        numbers: dict[str, int] = {}
        for position, number in enumerate(chain.raw):
            line = lines[number]
            found = _EXACT(line)
            dst = found["dst"] if found and found["dstneg"] is None and found["dstlen"] in _FULL else None
            if dst:
                value = numbers.get(dst)
                if value is None:
                    value = numbers[dst] = address.number(dst)
                self.by_destination.setdefault(value, []).append(position)
                continue
            port = _PORT(line)
            if port and line.find(" -j ") > port.start():
                self.by_port.setdefault(int(port[1]), []).append(position)
            elif found and found["src"] and found["srcneg"] is None and found["srclen"] in _FULL:
                self.by_source.setdefault(address.number(found["src"]), []).append(position)
            else:
                self.others.append(position)

    def positions(self, packet: Packet, start: int) -> list[int]:
        """Positions from `start` on of rules that can match, in order."""
        found = [
            *self.by_destination.get(packet.dst, ()),
            *self.by_port.get(packet.dport, ()),
            *self.by_source.get(packet.src, ()),
            *self.others,
        ]
        return sorted(p for p in found if p >= start)


def candidates(chain: Chain, packet: Packet, start: int) -> Iterable[int]:
    """Positions of the rules a packet has to be held against, from `start` on."""
    if len(chain.raw) < _SMALL:
        return range(start, len(chain.raw))
    if chain.index is None:
        assert chain.make is not None
        with uncollected():
            chain.index = Index(chain, chain.make.__self__.lines)  # type: ignore[attr-defined]
    index: Index = chain.index
    return index.positions(packet, start)
