"""Checks of the packet mark: two programs that use the same bits, and writes that take away another's between marking and use."""

from __future__ import annotations

import re
from collections.abc import Iterator

from glassnet.ruleset.model import NFT, Chain
from glassnet.tracer.doctor.blame import culprit
from glassnet.tracer.doctor.case import Case
from glassnet.tracer.doctor.finding import CRITICAL, WARNING, Finding, lines
from glassnet.tracer.doctor.mark_uses import SET, Use, use_of_rule, uses_of
from glassnet.tracer.explain import DROPS_MARKED, MARKS_TO_DROP
from glassnet.tracer.machine import Machine
from glassnet.tracer.trace import Way

_PROXIES = ("kube-proxy", "glassnet")  # one bit, one meaning
# who shares a bit by agreement; KUBE-MARK-DROP and KUBE-FIREWALL are one mechanism, whoever of the two writes which
_TOGETHER = (frozenset(_PROXIES), frozenset((DROPS_MARKED, MARKS_TO_DROP)))
_LAST = 100  # the priority at which source translation looks at the mark
_FIRST = -100  # the one at which Services are translated, and packets marked


def mark_clash(case: Case) -> Iterator[Finding]:
    """One finding for each node and pair of owners that get into each other's way."""
    for node in case.nodes:
        uses = uses_of(node)
        owners = {use.owner for use in uses if use.owner}
        writers = sorted((use for use in uses if use.kind == SET), key=lambda use: use.owner in _PROXIES)
        done: set[tuple[str, str]] = set()
        for write in writers:
            for owner in sorted(owners - {write.owner}):
                theirs = [use for use in uses if use.owner == owner and use.bits & write.bits and use.masked]
                pair = (write.owner or write.text, owner)
                agreed = any({write.owner, owner} <= group for group in _TOGETHER)
                if not theirs or agreed or pair in done or tuple(reversed(pair)) in done:
                    continue
                if not write.masked and not (write.clears & _union(theirs) and between(write)):
                    continue
                done.add(pair)
                yield _finding(case, node, write, theirs, uses)
        for write in (use for use in writers if use.owner and use.masked):
            for other in uses:
                pair = (write.owner, other.owner or other.text)
                if other.owner or other.kind == SET or not other.bits & write.bits or pair in done:
                    continue
                done.add(pair)
                yield _finding(case, node, other, [write], uses)


def _union(uses: list[Use]) -> int:
    bits = 0
    for use in uses:
        bits |= use.bits
    return bits


def _finding(case: Case, node: Machine, write: Use, theirs: list[Use], uses: list[Use]) -> Finding:
    bits = write.bits & _union(theirs)
    who = write.owner or "a rule of nobody known"
    victims = [
        probe.title
        for (_, name), probe in case.node_port_probes.items()
        if name == node.name
        and any(write.text in _texts(mark_thieves(way)) and culprit(way, case.world) for way in probe.trace.ways)
    ]
    owner = theirs[0].owner
    verb = "writes" if write.kind == SET else "tests"
    title = (
        f"{who} {verb} bit{'s' if bits.bit_count() > 1 else ''} {bits:#x} of the packet mark on {node.name}, which {owner} uses"
        if write.masked or write.kind != SET
        else f"{who} overwrites the whole packet mark on {node.name} before {owner} has used bit{'s' if bits.bit_count() > 1 else ''} {bits:#x}"
    )
    return Finding(
        "mark-clash",
        CRITICAL if victims else WARNING,
        node.name,
        title,
        (
            write.text,
            *(use.text for use in theirs[:3]),
            *(f"{use.owner or 'nobody known'}: {use.kind} {use.bits:#010x}" for use in uses[:12]),
            *lines([f"loses its mark: {title}" for title in victims], 3),
        ),
        _remedy(write, bits),
        node.name,
    )


def _remedy(write: Use, bits: int) -> tuple[str, ...]:
    if write.rule is not None and write.rule.chain.table.tool != NFT:
        mask = ~bits & 0xFFFFFFFF
        how = f"write only its own bits: -j MARK --set-xmark VALUE/MASK, with a MASK within {mask:#010x}"
    elif write.rule is not None:
        how = f"write only its own bits: meta mark set meta mark | VALUE, without {bits:#x}"
    else:
        how = f"test other bits than {bits:#x}"
    return (how, "or give the Service proxy another bit: iptables.masqueradeBit, nftables.masqueradeBit")


def mark_thieves(way: Way) -> list[Use]:
    """Rules that took the Service proxy's mark from a packet on its way, before the source was translated."""
    marked = 0
    found: list[Use] = []
    for step in way.steps:
        if step.kind == "receive":
            marked = 0
        if step.rule is None or "mark" not in step.rule.text.lower():
            continue
        for use in use_of_rule(step.rule):
            if use.kind != SET:
                continue
            if use.owner in _PROXIES:
                marked = marked & ~use.clears | use.bits & ~use.clears
            elif marked & use.clears:
                found.append(use)
                marked &= ~use.clears
    return found


def _texts(uses: list[Use]) -> list[str]:
    return [use.text for use in uses]


def between(write: Use) -> bool:
    """Whether a rule runs after Services' packets are marked and before source translation looks at the mark."""
    if write.rule is None:
        return False
    return any(_behind(chain) for chain in _bases(write.rule.chain))


def _behind(chain: Chain) -> bool:
    if chain.hook in ("prerouting", "output"):
        return chain.priority > _FIRST
    return chain.hook in ("forward", "input") or (chain.hook == "postrouting" and chain.priority < _LAST)


def _bases(chain: Chain) -> list[Chain]:
    """The base chains from which a chain is reached."""
    found: dict[str, Chain] = {}
    waiting = [chain]
    seen = {chain.name}
    while waiting:
        each = waiting.pop()
        if each.hook:
            found[each.name] = each
        for other in chain.table.chains.values():
            if other.name not in seen and _jumps(other, each.name):
                seen.add(other.name)
                waiting.append(other)
    return list(found.values())


def _jumps(chain: Chain, target: str) -> bool:
    if chain.table.tool == NFT:
        word = f'"{target}"'.encode()
        said = re.compile(rf"(?:jump|goto) {re.escape(target)}\b")
        return any(word in bytes(raw.expr) or said.search(raw.text) for raw in chain.raw)
    said = re.compile(rf"-[jg] {re.escape(target)}(?: |$)")
    return any(said.search(rule.text) for rule in chain.rules())
